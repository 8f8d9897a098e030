"""The films that a model was most wrong about, to be looked at."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xray_batch.bundle import Manifest
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.errors import RejectedInputError, TransientError
from xray_batch.overlay import overlay
from xray_batch.records import GrayscaleImage
from xray_batch.standardize import prepare, resize, trim
from xray_batch.training.evaluation.predictions import Analysed, FilmPrediction, Verdict, verdict
from xray_batch.training.evaluation.statistics import log_loss
from xray_batch.training.evaluation.style import FOOTNOTE
from xray_batch.training.stress import Film

#: Longer side of a picture in the report, in pixels.
_SIDE: Final = 384

_CAPTION_ROWS: Final = 20

#: Draws one more picture of a film: where the model is sensitive.
HeatPicture = Callable[[GrayscaleImage], Image.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLoss:
    """One film, what the bundle said of it, and how wrong that was."""

    film: FilmPrediction
    verdict: Verdict
    loss: float  #: -log of the probability given to what the label says, natural logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """How a film looks in the report."""

    film: Image.Image
    heat: Image.Image


def top_losses(films: Analysed, manifest: Manifest, count: int) -> list[TopLoss]:
    """Return the films with the largest losses of pneumonia against normal, the largest first."""
    said = [found for film in films.films if (found := verdict(film, films.classes, manifest))]
    losses = log_loss(films.positive, np.array([found.p_pneumonia for found in said]))
    order = np.argsort(-losses, kind="stable")[:count]
    return [TopLoss(film=films.films[index], verdict=said[index], loss=float(losses[index])) for index in order]


def heat_of(ensemble: Ensemble) -> HeatPicture:
    """Return a function that draws over a film where `ensemble` is sensitive."""

    def draw(image: GrayscaleImage) -> Image.Image:
        spec = ensemble.manifest.input_spec
        explanation = ensemble.explain(prepare(image, spec))
        return overlay(_small(trim(image.pixels, spec)), explanation.heat_map.average)

    return draw


def draw_pictures(path: Path, heat: HeatPicture) -> Pictures | None:
    """Decode a film once more and draw it; None where the file cannot be read any more."""
    try:
        image = decode_file(path)
    except (RejectedInputError, TransientError):
        return None
    return Pictures(film=_captioned(draw_film(_small(image.pixels))), heat=_captioned(heat(image)))


def draw_film(pixels: Film) -> Image.Image:
    """Draw a film in 256 grays; `pixels` has the shape (rows, columns), values in [0, 1]."""
    return Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8))


def _small(pixels: Film) -> Film:
    factor = _SIDE / max(pixels.shape)
    rows, columns = (max(1, round(factor * side)) for side in pixels.shape)
    return resize(pixels, rows, columns)


def _captioned(picture: Image.Image) -> Image.Image:
    """Put the footnote of all drawings under a picture."""
    width, height = picture.size
    canvas = Image.new("RGB", (width, height + _CAPTION_ROWS), "white")
    canvas.paste(picture.convert("RGB"), (0, 0))
    ImageDraw.Draw(canvas).text((4, height + 3), FOOTNOTE, "#767676", ImageFont.load_default(size=11))
    return canvas
