"""Turn a grayscale image into a model input, by the facts stored in a bundle.

Third stage: intake -> decode -> standardize -> classify -> store.
May import: numpy, Pillow, and ``errors`` and ``records`` of this package.

Training and service call these same functions.  Nothing is measured on the image itself:
mean and standard deviation are those of the training split.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from xray_batch.errors import ConfigurationError
from xray_batch.records import GrayscaleImage, InputSpec, ModelInput

#: The one resize rule: both axes scaled on their own to the target, aspect ratio not kept, with a
#: triangle filter as wide as one target pixel (Pillow ``BILINEAR``).  It is how the training set was made.
SQUASH_BILINEAR_ANTIALIAS = "squash-bilinear-antialias"

#: Side of the picture that sharpness is measured on.  The training films have no more.
SHARPNESS_SIDE: Final = 224

_SHARPNESS_MARGIN: Final = 8  #: pixels at each side that the filters have carried over from the other side


def resize(pixels: npt.NDArray[np.float32], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Squash an image to `rows` x `columns`, antialiased.

    Parameters
    ----------
    pixels
        Shape (Rows, Columns), values in [0, 1].

    Returns
    -------
    numpy.ndarray
        Shape (rows, columns), float32, values in [0, 1]; an image of that size already comes back unchanged.
    """
    image = Image.fromarray(pixels)  # float32 becomes mode F: no rounding to 8 bits
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))


def standardize(pixels: npt.NDArray[np.float32], mean: float, std: float) -> npt.NDArray[np.float32]:
    """Return ``(pixels - mean) / std``, float32 of the same shape.

    Parameters
    ----------
    pixels
        Any shape, values in [0, 1].
    mean, std
        Of the training split, stored in the bundle; `std` is positive.
    """
    return (pixels - np.float32(mean)) / np.float32(std)


def measure_sharpness(pixels: npt.NDArray[np.float32]) -> float:
    """Tell how much finest detail a picture has, beside detail four times as coarse.

    The natural logarithm of the ratio of two levels' root mean squares in the à trous wavelet transform of
    the picture at :data:`SHARPNESS_SIDE` pixels a side at most (Starck and Murtagh, "Astronomical Image and
    Data Analysis", 2006, section 2.2; here with the filter 1 2 1).  Exposure and contrast do not change it.
    Chest films have about -1.1 (-1.6 to -0.3); a blur with a standard deviation of 0.75 % of the width has
    less than -2.0 (measured on 900 films).

    Parameters
    ----------
    pixels
        Shape (Rows, Columns), values in [0, 1].
    """
    rows, columns = (min(side, SHARPNESS_SIDE) for side in pixels.shape)
    smooth = resize(pixels, rows, columns)
    levels = []
    for step in (1, 2, 4):
        smoother = _average(_average(smooth, step, axis=0), step, axis=1)
        detail = (smooth - smoother)[_SHARPNESS_MARGIN:-_SHARPNESS_MARGIN, _SHARPNESS_MARGIN:-_SHARPNESS_MARGIN]
        levels.append(float(np.sqrt(np.mean(detail**2))) + np.finfo(np.float32).eps)
        smooth = smoother
    return float(np.log(levels[0] / levels[2]))


def _average(pixels: npt.NDArray[np.float32], step: int, axis: int) -> npt.NDArray[np.float32]:
    """Average each pixel with its neighbours at a distance of `step`; the ends of an axis meet."""
    neighbours = np.roll(pixels, step, axis) + np.roll(pixels, -step, axis)
    return np.float32(0.25) * neighbours + np.float32(0.5) * pixels


def prepare(image: GrayscaleImage, spec: InputSpec) -> ModelInput:
    """Resize and standardize one image as the bundle that holds `spec` requires.

    Returns
    -------
    ModelInput
        ``pixels`` of shape (spec.rows, spec.columns), float32.

    Raises
    ------
    ConfigurationError
        If `spec` names a resize rule that this version does not have.
    """
    check_resize_rule(spec)
    resized = resize(image.pixels, spec.rows, spec.columns)
    return ModelInput(
        header=image.header,
        pixels=standardize(resized, spec.mean, spec.std),
        sharpness=measure_sharpness(image.pixels),
        rendering=image.rendering,
        warnings=image.warnings,
    )


def check_resize_rule(spec: InputSpec) -> None:
    """Refuse a bundle whose resize rule this version does not have.

    Raises
    ------
    ConfigurationError
        Naming both.
    """
    if spec.resize != SQUASH_BILINEAR_ANTIALIAS:
        message = f"the bundle's resize rule is {spec.resize!r}, this version has {SQUASH_BILINEAR_ANTIALIAS!r}"
        raise ConfigurationError(message)


def preprocess_sha256(spec: InputSpec) -> str:
    """Identify the preprocessing of a result: SHA-256 of the facts in `spec`, 64 hex digits."""
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()
