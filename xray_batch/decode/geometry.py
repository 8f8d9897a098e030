"""Square pixels, and the patient upright with the left side at the right of the picture.

A viewer hangs a frontal chest film so; the header says where the pixels differ.  FieldOfViewRotation
and FieldOfViewHorizontalFlip tell what was done already and are left alone (PS3.3 C.8.11.4).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.limits import check_not_too_large
from xray_batch.errors import ReasonCode
from xray_batch.records import ImageWarning

#: Physical size of a pixel, best first: row spacing, then column spacing, in mm (PS3.3 10.7.1.3).
SPACING_KEYWORDS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")

#: Ratios this close to 1 are measurement noise of square pixels.
_SQUARE_TOLERANCE: Final = 0.01

#: Largest ratio of a pixel's sides.  Film digitizers had up to 2; more is a wrong header.
_LARGEST_RATIO: Final = 4.0

#: Directions of rows and columns in a frontal film that hangs as usual: to the patient's left, to the feet.
_UPRIGHT: Final = ("L", "F")

_OPPOSITE: Final = {"L": "R", "R": "L", "F": "H", "H": "F", "A": "P", "P": "A"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A picture with square pixels, hanging as a viewer hangs it, and what was done for that."""

    pixels: npt.NDArray[np.float32]  #: shape (rows, columns), values in [0, 1]
    steps: tuple[str, ...]
    warnings: tuple[ImageWarning, ...]


def place_upright(pixels: npt.NDArray[np.float32], attributes: Attributes) -> Placed:
    """Resample to square pixels, then mirror or turn as Patient Orientation asks.

    Parameters
    ----------
    pixels
        Shape (rows, columns), values in [0, 1]; not changed.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if the pixels' aspect ratio is impossible; TOO_LARGE, if the square ones are too many.
    """
    steps: list[str] = []
    warnings: list[ImageWarning] = []
    height, source = read_pixel_height(attributes)
    if height != 1.0:
        pixels = _make_square(pixels, height)
        steps.append(f"geometry: pixels are {height:.3f} times as high as wide ({source}); " + _size(pixels))
        warnings.append(ImageWarning.NOT_SQUARE)
    orientation = read_orientation(attributes)
    # Front and back are those of a lateral film; the gate has let it pass for a View Position that says frontal.
    if orientation is not None and orientation != _UPRIGHT and not set(orientation) & set("AP"):
        pixels = _turn(pixels, orientation)
        steps.append(f"geometry: Patient Orientation is {'/'.join(orientation)}; mirrored or turned to L/F")
        warnings.append(ImageWarning.ORIENTATION_CORRECTED)
    return Placed(pixels=pixels, steps=tuple(steps), warnings=tuple(warnings))


def read_pixel_height(attributes: Attributes) -> tuple[float, str]:
    """Return the height of a pixel divided by its width, and the attribute that says so.

    1.0 where the pixels are square or nothing is said.  The physical spacings count before Pixel Aspect
    Ratio, which is there for images without one (PS3.3 C.7.6.3.1.7).

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if the ratio is impossible.
    """
    for keyword in (*SPACING_KEYWORDS, "PixelAspectRatio"):
        values = attributes.numbers(keyword)
        if len(values) != 2 or min(values) <= 0:  # absent, or not measured
            continue
        height = values[0] / values[1]
        if not 1 / _LARGEST_RATIO <= height <= _LARGEST_RATIO:
            shown = "\\".join(f"{value:g}" for value in values)
            raise refusal(ReasonCode.PIXEL_DATA, keyword, shown, f"a ratio of at most {_LARGEST_RATIO:g}")
        return (1.0 if abs(height - 1) <= _SQUARE_TOLERANCE else height), keyword
    return 1.0, ""


def read_orientation(attributes: Attributes) -> tuple[str, str] | None:
    """Return the main directions of rows and columns, L, R, H, F, A or P; None where they are not said.

    (0020,0020) Patient Orientation, PS3.3 C.7.6.1.1.1: of several letters the first counts most.  Two
    directions along the same line say nothing.
    """
    texts = attributes.texts("PatientOrientation")
    if len(texts) != 2:
        return None
    row, column = (text.strip().upper()[:1] for text in texts)
    if row not in _OPPOSITE or column not in _OPPOSITE or column in (row, _OPPOSITE[row]):
        return None
    return row, column


def _make_square(pixels: npt.NDArray[np.float32], height: float) -> npt.NDArray[np.float32]:
    """Stretch the axis along which pixels are longer; nothing is lost."""
    rows, columns = pixels.shape
    rows, columns = (round(rows * height), columns) if height > 1 else (rows, round(columns / height))
    check_not_too_large(rows, columns)
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))


def _turn(pixels: npt.NDArray[np.float32], orientation: tuple[str, str]) -> npt.NDArray[np.float32]:
    """Return the picture, of a frontal film, with rows to the patient's left and columns to the feet."""
    row, column = orientation
    if row in "HF":
        pixels, row, column = pixels.T, column, row
    if row == "R":
        pixels = pixels[:, ::-1]
    if column == "H":
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _size(pixels: npt.NDArray[np.float32]) -> str:
    return "resampled to {} rows and {} columns".format(*pixels.shape)
