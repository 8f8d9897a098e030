"""Turn a grayscale image into a model input, by the facts stored in a bundle.

Third stage: intake -> decode -> standardize -> classify -> store.
May import: numpy, Pillow, and ``errors`` and ``records`` of this package.

Training and service call these same functions.  Mean and standard deviation are those of the training
split.  Where the bundle says so, what differs between departments and says nothing about the lungs is taken
away first: one-gray borders, the ends of the gray scale, and the finest detail.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from xray_batch.errors import ConfigurationError
from xray_batch.records import GrayscaleImage, ImageWarning, InputSpec, ModelInput

Film: TypeAlias = npt.NDArray[np.float32]

#: The one resize rule: both axes scaled on their own to the target, aspect ratio not kept, with a
#: triangle filter as wide as one target pixel (Pillow ``BILINEAR``).  It is how the training set was made.
SQUASH_BILINEAR_ANTIALIAS = "squash-bilinear-antialias"

#: Side of the picture that borders, gray levels and sharpness are measured on.  The training films have no more.
WORKING_SIDE: Final = 224

_GRAY_TOLERANCE: Final = 5 / 255  #: gray levels so close to a border's are the same, but for JPEG's ringing
_BORDER_SHARE: Final = 0.98  #: of a row or column, that must be one gray
_LEAST_KEPT: Final = 0.25  #: of the height and of the width, whatever is around it
_WIDE_BORDER: Final = 0.125  #: of the height or width, cut off in all: worth a warning

#: Narrowest range of gray levels that is stretched to the whole scale: more would show nothing but noise.
_LEAST_RANGE: Final = 1 / 16

_SHARPNESS_MARGIN: Final = 8  #: pixels at each side that the filters have carried over from the other side


def resize(pixels: Film, rows: int, columns: int) -> Film:
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
    return _resize_content(pixels, Content(), rows, columns)


def standardize(pixels: Film, mean: float, std: float) -> Film:
    """Return ``(pixels - mean) / std``, float32 of the same shape.

    Parameters
    ----------
    pixels
        Any shape, values in [0, 1].
    mean, std
        Of the training split, stored in the bundle; `std` is positive.
    """
    return (pixels - np.float32(mean)) / np.float32(std)


def measure_input(picture: Film) -> tuple[float, float]:
    """Return mean and SD of the pixels of a picture from :func:`make_picture`, 0 to 1: other devices move them.

    Where the bundle stretches gray levels, exposure is gone from them, and what is left is how the levels are spread.
    """
    return float(picture.mean(dtype=np.float64)), float(picture.std(dtype=np.float64))


def measure_sharpness(pixels: Film) -> float:
    """Tell how much finest detail a picture has, beside detail four times as coarse.

    The natural logarithm of the ratio of two levels' root mean squares in the à trous wavelet transform of
    the picture at :data:`WORKING_SIDE` pixels a side at most (Starck and Murtagh, "Astronomical Image and
    Data Analysis", 2006, section 2.2; here with the filter 1 2 1).  Exposure and contrast do not change it.
    Chest films have about -1.1 (-1.6 to -0.3); a blur with a standard deviation of 0.75 % of the width has
    less than -2.0 (measured on 900 films).

    Parameters
    ----------
    pixels
        Shape (Rows, Columns), values in [0, 1].
    """
    smooth = _working_copy(pixels)
    levels = []
    for step in (1, 2, 4):
        smoother = _average(_average(smooth, step, axis=0), step, axis=1)
        detail = (smooth - smoother)[_SHARPNESS_MARGIN:-_SHARPNESS_MARGIN, _SHARPNESS_MARGIN:-_SHARPNESS_MARGIN]
        levels.append(float(np.sqrt(np.mean(detail**2))) + np.finfo(np.float32).eps)
        smooth = smoother
    return float(np.log(levels[0] / levels[2]))


def _average(pixels: Film, step: int, axis: int) -> Film:
    """Average each pixel with its neighbours at a distance of `step`; the ends of an axis meet."""
    neighbours = np.roll(pixels, step, axis) + np.roll(pixels, -step, axis)
    return np.float32(0.25) * neighbours + np.float32(0.5) * pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Where a picture is inside its borders, as shares of its height and width from the top left corner."""

    top: float = 0.0
    bottom: float = 1.0
    left: float = 0.0
    right: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether there is no border."""
        return self == Content()

    @property
    def has_wide_borders(self) -> bool:
        """Whether more than an eighth of the height or of the width is border."""
        return min(self.bottom - self.top, self.right - self.left) < 1 - _WIDE_BORDER


def find_content(pixels: Film) -> Content:
    """Find what is left of a picture without the borders of one gray: collimation, padding, air.

    A row or column at the edge is border while 98 % of it is one gray, give or take 2 % of the scale; so is
    the one next to it.  Nearly a quarter of the height and of the width is always left.

    Parameters
    ----------
    pixels
        Shape (Rows, Columns), values in [0, 1].
    """
    film = resize(pixels, WORKING_SIDE, WORKING_SIDE)
    least = round(WORKING_SIDE * _LEAST_KEPT)
    top, bottom, left, right = 0, WORKING_SIDE, 0, WORKING_SIDE
    is_moving = True
    while is_moving:
        before = (top, bottom, left, right)
        top += bottom - top > least and _is_one_gray(film[top, left:right])
        bottom -= bottom - top > least and _is_one_gray(film[bottom - 1, left:right])
        left += right - left > least and _is_one_gray(film[top:bottom, left])
        right -= right - left > least and _is_one_gray(film[top:bottom, right - 1])
        is_moving = before != (top, bottom, left, right)
    # The row or column next to a border may be half border itself.
    return Content(
        top=(top + (top > 0)) / WORKING_SIDE,
        bottom=(bottom - (bottom < WORKING_SIDE)) / WORKING_SIDE,
        left=(left + (left > 0)) / WORKING_SIDE,
        right=(right - (right < WORKING_SIDE)) / WORKING_SIDE,
    )


def _is_one_gray(line: Film) -> bool:
    return bool((np.abs(line - np.median(line)) <= _GRAY_TOLERANCE).mean() >= _BORDER_SHARE)


def make_picture(pixels: Film, spec: InputSpec) -> Film:
    """Bring a picture to the size of the model input, without what the bundle wants taken away.

    Borders are cut off, the gray levels between two percentiles are stretched to the whole scale, and the
    picture is smoothed with the filter 1 2 1 (SD 0.7 pixels), each where `spec` says so.  The last two are
    done at 224 pixels a side, or that of the model input if it is larger, so that a film and its small copy
    come to the same.

    Parameters
    ----------
    pixels
        Shape (Rows, Columns), values in [0, 1].

    Returns
    -------
    numpy.ndarray
        Shape (spec.rows, spec.columns), float32, values in [0, 1]; not yet standardized.
    """
    working = _working_copy(pixels)
    return _picture_of(pixels, working, spec, _content(working, spec))


def trim(pixels: Film, spec: InputSpec) -> Film:
    """Return the part of a picture that becomes the model input, at its own size: all of it, or without borders."""
    content = _content(_working_copy(pixels), spec)
    rows, columns = pixels.shape
    top, bottom = round(content.top * rows), round(content.bottom * rows)
    left, right = round(content.left * columns), round(content.right * columns)
    return pixels[top:bottom, left:right]


def _working_copy(pixels: Film) -> Film:
    """Make the small copy that borders and sharpness are measured on; a small picture is its own."""
    rows, columns = (min(side, WORKING_SIDE) for side in pixels.shape)
    return resize(pixels, rows, columns)


def _content(working: Film, spec: InputSpec) -> Content:
    return find_content(working) if spec.trim_borders else Content()


def _picture_of(pixels: Film, working: Film, spec: InputSpec, content: Content) -> Film:
    if spec.stretch is None and not spec.smooth:
        return _resize_content(pixels, content, spec.rows, spec.columns)
    shape = (max(WORKING_SIDE, spec.rows), max(WORKING_SIDE, spec.columns))
    film = working if content.is_whole and working.shape == shape else _resize_content(pixels, content, *shape)
    if spec.stretch is not None:
        low, high = np.percentile(film, spec.stretch)
        film = np.clip((film - np.float32(low)) / np.float32(max(high - low, _LEAST_RANGE)), 0, 1)
    if spec.smooth:
        film = _smooth(_smooth(film).T).T
    return resize(np.ascontiguousarray(film), spec.rows, spec.columns)


def _resize_content(pixels: Film, content: Content, rows: int, columns: int) -> Film:
    height, width = pixels.shape
    box = (content.left * width, content.top * height, content.right * width, content.bottom * height)
    image = Image.fromarray(pixels)  # float32 becomes mode F: no rounding to 8 bits
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, box=box))


def _smooth(film: Film) -> Film:
    """Average each pixel with its neighbours above and below, the edges repeated outwards."""
    padded = np.pad(film, ((1, 1), (0, 0)), mode="edge")
    return np.float32(0.25) * (padded[:-2] + padded[2:]) + np.float32(0.5) * film


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
    working = _working_copy(image.pixels)
    content = _content(working, spec)
    picture = _picture_of(image.pixels, working, spec, content)
    input_mean, input_std = measure_input(picture)
    return ModelInput(
        header=image.header,
        pixels=standardize(picture, spec.mean, spec.std),
        sharpness=measure_sharpness(working),
        input_mean=input_mean,
        input_std=input_std,
        rendering=image.rendering,
        warnings=image.warnings + ((ImageWarning.BORDER_TRIMMED,) if content.has_wide_borders else ()),
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


def find_least_side(spec: InputSpec) -> int:
    """Return the shortest side of a picture in which everything that :func:`prepare` looks at is still there.

    Twice that of the largest picture made on the way to the model input; more where borders may be cut off, by as much
    as may go.
    """
    side = 2 * max(spec.rows, spec.columns, WORKING_SIDE)
    return round(side / _LEAST_KEPT) if spec.trim_borders else side


def preprocess_sha256(spec: InputSpec, least_side: int | None = None) -> str:
    """Identify the preprocessing of a result: SHA-256 of the facts in `spec`, 64 hex digits.

    `least_side` is that down to which a small copy is decoded instead of the whole picture, None for never: another
    preprocessing, also of those files that have no such copy.
    """
    facts = asdict(spec) | ({} if least_side is None else {"least_side": least_side})
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
