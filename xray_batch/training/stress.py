"""The stress set: films changed as other departments and other copies change them, and shortcut controls.

A stress leaves the lungs readable, so the answer must stay.  A control takes the lungs, or all detail, away:
what a model still recognises then, it reads from something else (Maguolo and Nanni, "A Critic Evaluation of
Methods for COVID-19 Automatic Detection from X-Ray Images", 2020, arXiv 2004.12823).

All functions take and return float32 (224, 224) in [0, 1], larger is brighter; sizes are pixels of that
picture.  They draw nothing at random but the noise, which is the same for every film.
"""

import io
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from xray_batch.standardize import resize

Film: TypeAlias = npt.NDArray[np.float32]

#: Rows and columns of the films that the sizes below are meant for.
STRESS_SIDE: Final = 224

_BORDER: Final = 20
_CENTER: Final = 144


def keep(film: Film) -> Film:
    """Leave the film as it is."""
    return film


def black_border(film: Film) -> Film:
    """Cover 20 pixels at each side with black, as a narrow collimation does."""
    return _outside(film, 0.0)


def gray_border(film: Film) -> Film:
    """Cover 20 pixels at each side with mid-gray."""
    return _outside(film, 0.5)


def blur(film: Film) -> Film:
    """Gaussian blur with a standard deviation of 1.5 pixels."""
    blurred: Film = ndimage.gaussian_filter(film, 1.5)
    return blurred


def jpeg(film: Film) -> Film:
    """Compress as JPEG of quality 40."""
    stream = io.BytesIO()
    Image.fromarray(np.round(film * 255).astype(np.uint8)).save(stream, "JPEG", quality=40)
    return np.asarray(Image.open(stream), dtype=np.float32) / np.float32(255)


def noise(film: Film) -> Film:
    """Add Gaussian noise with a standard deviation of 8 of 255 gray levels."""
    grain = np.random.default_rng(0).normal(0, 8 / 255, film.shape)
    return np.clip(film + grain, 0, 1).astype(np.float32)


def brighter_gamma(film: Film) -> Film:
    """Raise to the power of 0.7."""
    return film ** np.float32(0.7)


def darker_gamma(film: Film) -> Film:
    """Raise to the power of 1.4."""
    return film ** np.float32(1.4)


def low_contrast(film: Film) -> Film:
    """Multiply the distance from mid-gray by 0.7."""
    return (film - np.float32(0.5)) * np.float32(0.7) + np.float32(0.5)


def brighter(film: Film) -> Film:
    """Add 25 of 255 gray levels, saturating."""
    saturated: Film = np.minimum(film + np.float32(25 / 255), np.float32(1))
    return saturated


def wider(film: Film) -> Film:
    """Stretch the width by 1.2 and keep the middle: another aspect ratio before the squash."""
    margin = round(STRESS_SIDE * (1 - 1 / 1.2) / 2)
    return resize(np.ascontiguousarray(film[:, margin : STRESS_SIDE - margin]), STRESS_SIDE, STRESS_SIDE)


def border_only(film: Film) -> Film:
    """Keep nothing but the outer 20 pixels."""
    middle = film.copy()
    middle[_BORDER:-_BORDER, _BORDER:-_BORDER] = 0.0
    return middle


def center_black(film: Film) -> Film:
    """Cover the central 144 x 144 pixels: the lungs are gone."""
    margin = (STRESS_SIDE - _CENTER) // 2
    hollow = film.copy()
    hollow[margin:-margin, margin:-margin] = 0.0
    return hollow


def low_pass(film: Film) -> Film:
    """Gaussian blur with a standard deviation of 8 pixels: no texture is left."""
    blurred: Film = ndimage.gaussian_filter(film, 8.0)
    return blurred


def _outside(film: Film, gray: float) -> Film:
    covered = np.full_like(film, gray)
    covered[_BORDER:-_BORDER, _BORDER:-_BORDER] = film[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return covered


#: Changes under which the answer must stay, by name.
STRESSES: Final[dict[str, Callable[[Film], Film]]] = {
    "as they are": keep,
    "black border, 20 px": black_border,
    "gray border, 20 px": gray_border,
    "blur, 1.5 px": blur,
    "JPEG quality 40": jpeg,
    "noise, SD 8": noise,
    "gamma 0.7": brighter_gamma,
    "gamma 1.4": darker_gamma,
    "contrast x 0.7": low_contrast,
    "brightness + 25": brighter,
    "aspect x 1.2": wider,
}

#: Of these, those that do change the film.
CHANGES: Final[dict[str, Callable[[Film], Film]]] = {
    name: change for name, change in STRESSES.items() if change is not keep
}

#: Changes that take the evidence away, by name.
CONTROLS: Final[dict[str, Callable[[Film], Film]]] = {
    "border only, 20 px": border_only,
    "centre black, 144 px": center_black,
    "low pass, 8 px": low_pass,
}
