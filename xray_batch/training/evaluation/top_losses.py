"""The films that a model was most wrong about, to be looked at."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xray_batch.bundle import Manifest
from xray_batch.classify import Ensemble
from xray_batch.overlay import CAPTION, overlay
from xray_batch.standardize import prepare, resize, trim
from xray_batch.training.duplicates import ImageHashes
from xray_batch.training.evaluation.decode_again import decode_again, is_seen
from xray_batch.training.evaluation.predictions import Analysed, FilmPrediction, Verdict, verdict
from xray_batch.training.evaluation.style import FOOTNOTE, GRAY
from xray_batch.training.statistics import log_loss
from xray_batch.training.stress import Film

#: Longer side of a picture in the report, in pixels.
_SIDE: Final = 384

_CAPTION_SIZE: Final = 11
_CAPTION_ROWS: Final = 15  #: of one line
_LETTER_WIDTH: Final = 6  #: of the font at this size, on average
_LEAST_WIDTH: Final = 120  #: so that the longest word has room under a narrow film


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLoss:
    """One film, what the bundle said of it, and how wrong that was."""

    film: FilmPrediction
    verdict: Verdict
    loss: float  #: -log of the probability given to what the label says, natural logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """How a film looks in the report."""

    film: Image.Image  #: the part of it that the model sees, with the footnote of all drawings
    heat: Image.Image  #: the same with the heat map over it, and :data:`xray_batch.overlay.CAPTION`
    seen: bool | None  #: whether the ensemble was trained on the film, or on a copy of it; None: not known


def top_losses(films: Analysed, manifest: Manifest, count: int) -> list[TopLoss]:
    """Return the films with the largest losses of pneumonia against normal, the largest first."""
    said = [found for film in films.films if (found := verdict(film, films.classes, manifest))]
    losses = log_loss(films.positive, np.array([found.p_pneumonia for found in said]))
    order = np.argsort(-losses, kind="stable")[:count]
    return [TopLoss(film=films.films[index], verdict=said[index], loss=float(losses[index])) for index in order]


def draw_pictures(
    case: FilmPrediction, ensemble: Ensemble, known: ImageHashes | None, *, address_space: int
) -> Pictures | None:
    """Decode a film once more and draw the part that `ensemble` sees.

    Parameters
    ----------
    known
        Of the images that the ensemble was trained on; None: not recorded.
    address_space
        Bytes that decoding may take.

    Returns
    -------
    Pictures or None
        None where the file cannot be read any more, or the networks give no finite numbers for it.
    """
    image = decode_again(case.image.path, address_space)
    if image is None:
        return None
    spec = ensemble.manifest.input_spec
    film = _small(trim(image.pixels, spec))
    try:
        explanation = ensemble.explain(prepare(image, spec))
    except FloatingPointError:
        return None
    below = _lines(FOOTNOTE, film), _lines(CAPTION, film)
    rows = max(map(len, below))
    return Pictures(
        film=_captioned(draw_film(film), below[0], rows),
        heat=_captioned(overlay(film, explanation.heat_map.average), below[1], rows),
        seen=is_seen(case, image, known, spec),
    )


def draw_film(pixels: Film) -> Image.Image:
    """Draw a film in 256 grays; `pixels` has the shape (rows, columns), values in [0, 1]."""
    return Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8))


def _small(pixels: Film) -> Film:
    factor = _SIDE / max(pixels.shape)
    rows, columns = (max(1, round(factor * side)) for side in pixels.shape)
    return resize(pixels, rows, columns)


def _lines(text: str, film: Film) -> list[str]:
    """Break a text so that it fits under a film, shape (rows, columns)."""
    return textwrap.wrap(text, max(_LEAST_WIDTH, film.shape[1]) // _LETTER_WIDTH)


def _captioned(picture: Image.Image, lines: Sequence[str], rows: int) -> Image.Image:
    """Put text under a picture, on a white ground with room for so many rows of it."""
    width, height = picture.size
    canvas = Image.new("RGB", (max(_LEAST_WIDTH, width), height + _CAPTION_ROWS * rows + 6), "white")
    canvas.paste(picture.convert("RGB"), (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_CAPTION_SIZE)
    for number, line in enumerate(lines):
        draw.text((4, height + 3 + _CAPTION_ROWS * number), line, GRAY, font)
    return canvas
