"""Heat maps as pictures: over the film, and beside it with what the model says.

May import: numpy, Pillow, and ``heat_map`` of this package; no torch, so that a report or a web page can use it.

The colours are those of `inferno` (van der Walt and Smith, 2015, CC0), in which hotter is brighter for everybody,
colour-blind people included, and in print without colours.
"""

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from xray_batch.heat_map import THORAX

#: Stands in the pixels of every picture with a heat map that is written to a file; :func:`overlay` leaves it out.
CAPTION: Final = "Where the model is sensitive, not where disease is. Research use only."

#: Every fifteenth of the 256 colours, red, green and blue, from no heat to the hottest point; those between are
#: interpolated.
INFERNO: Final = np.array(
    [
        *((0x00, 0x00, 0x04), (0x0A, 0x07, 0x22), (0x1E, 0x0C, 0x45), (0x38, 0x09, 0x62), (0x51, 0x0E, 0x6C)),
        *((0x69, 0x16, 0x6E), (0x80, 0x1F, 0x6C), (0x98, 0x27, 0x66), (0xB0, 0x31, 0x5B), (0xC6, 0x3D, 0x4D)),
        *((0xD9, 0x4D, 0x3D), (0xE9, 0x61, 0x2B), (0xF4, 0x79, 0x18), (0xFA, 0x94, 0x07), (0xFC, 0xB0, 0x14)),
        *((0xF8, 0xCD, 0x37), (0xF2, 0xEA, 0x69), (0xFC, 0xFF, 0xA4)),
    ],
    dtype=np.float32,
)

#: Share of the colour in a pixel of the overlay at the hottest point; the film stays visible.
_OPACITY: Final = 0.6

_SIDE: Final = 768  #: longer side of each of the two films, in pixels
_MARGIN: Final = 24
_FONT_SIZE: Final = 20
_LINE_HEIGHT: Final = 28
_LETTER_WIDTH: Final = 10  #: of the font at this size, on average
_LEAST_WIDTH: Final = 900  #: so that the caption has room beside narrow films
_BACKGROUND: Final = (16, 16, 16)
_TEXT: Final = (235, 235, 235)


def overlay(film: npt.NDArray[np.floating], heat: npt.NDArray[np.floating]) -> Image.Image:
    """Draw a heat map over a film.

    Parameters
    ----------
    film
        Shape (rows, columns), values in [0, 1], larger is brighter.
    heat
        Shape (any rows, any columns) over the same field of view, values in [0, 1], as of a
        :class:`xray_batch.records.HeatMap`; it is interpolated to the size of the film.

    Returns
    -------
    PIL.Image.Image
        RGB, of the film's size.  The film in gray, and the more of the colour the hotter a pixel is: where there is
        no heat the film is as it was.
    """
    enlarged = Image.fromarray(heat.astype(np.float32)).resize(film.shape[::-1], Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(enlarged), 0, 1)
    steps = np.linspace(0, 1, len(INFERNO))
    color = np.stack([np.interp(share, steps, INFERNO[:, channel]) for channel in range(3)], axis=-1)
    opacity = _OPACITY * share[..., None]
    gray = 255 * np.clip(film, 0, 1)[..., None]
    return Image.fromarray(np.rint((1 - opacity) * gray + opacity * color).astype(np.uint8))


def draw_explanation(
    film: npt.NDArray[np.floating], heat: npt.NDArray[np.floating], title: str, lines: Sequence[str]
) -> Image.Image:
    """Draw a film beside itself with its heat map, with a scale, text below, and :data:`CAPTION`.

    Parameters
    ----------
    film, heat
        As for :func:`overlay`.  The film is scaled to a longer side of 768 pixels.
    title
        Stands over the heat map: whose it is.
    lines
        What the model says; broken where they are too long.  They must hold nothing about the patient.

    Returns
    -------
    PIL.Image.Image
        RGB.  A thin frame shows :data:`xray_batch.heat_map.THORAX`.
    """
    factor = _SIDE / max(film.shape)
    rows, columns = (max(1, round(factor * side)) for side in film.shape)
    small = np.asarray(Image.fromarray(film.astype(np.float32)).resize((columns, rows), Image.Resampling.BILINEAR))
    width = max(_LEAST_WIDTH, 2 * columns + 3 * _MARGIN)
    broken = [
        part for line in (*lines, CAPTION) for part in textwrap.wrap(line, (width - 2 * _MARGIN) // _LETTER_WIDTH)
    ]
    below = 2 * _MARGIN + _LINE_HEIGHT + rows
    canvas = Image.new("RGB", (width, below + (len(broken) + 2) * _LINE_HEIGHT + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=_FONT_SIZE)
    right, top = width - _MARGIN - columns, _MARGIN + _LINE_HEIGHT
    draw.text((_MARGIN, _MARGIN), "film", _TEXT, font)
    # Over a narrow film the title begins further left, to have room.
    draw.text((min(right, width - _MARGIN - draw.textlength(title, font)), _MARGIN), title, _TEXT, font)
    canvas.paste(overlay(small, np.zeros((1, 1))), (_MARGIN, top))
    canvas.paste(overlay(small, heat), (right, top))
    frame = (right + THORAX.left * columns, top + THORAX.top * rows)
    draw.rectangle((*frame, right + THORAX.right * columns, top + THORAX.bottom * rows), outline=_TEXT)
    _draw_scale(canvas, (_MARGIN, below), font)
    for number, line in enumerate(broken):
        draw.text((_MARGIN, below + (number + 1.5) * _LINE_HEIGHT), line, _TEXT, font)
    return canvas


def _draw_scale(
    canvas: Image.Image, corner: tuple[int, int], font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> None:
    """Draw what the colours mean, on a gray film."""
    draw, (x, y) = ImageDraw.Draw(canvas), corner
    ramp = np.linspace(0, 1, 256)[None]
    draw.text((x, y), "no heat", _TEXT, font)
    x += round(draw.textlength("no heat  ", font))
    canvas.paste(overlay(np.full((_FONT_SIZE, 256), 0.5), ramp), (x, y))
    draw.text((x + 256, y), "  hottest point of this film; frame: middle of the film", _TEXT, font)
