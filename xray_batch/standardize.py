"""Turn a grayscale image into a model input, by the facts stored in a bundle.

Third stage: intake -> decode -> standardize -> classify -> store.
May import: numpy, Pillow, and ``errors`` and ``records`` of this package.

Training and service call these same functions.  Nothing is measured on the image itself:
mean and standard deviation are those of the training split.
"""

import hashlib
import json
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
from PIL import Image

from xray_batch.errors import ConfigurationError
from xray_batch.records import GrayscaleImage, InputSpec, ModelInput

#: The one resize rule: both axes scaled on their own to the target, aspect ratio not kept, with a
#: triangle filter as wide as one target pixel (Pillow ``BILINEAR``).  It is how the training set was made.
SQUASH_BILINEAR_ANTIALIAS = "squash-bilinear-antialias"


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
