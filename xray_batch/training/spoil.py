"""Films as other departments make them, and films spoilt in a known way: what the gate learns from.

All functions take and return float (rows, columns) in [0, 1], square, larger is brighter, and draw from a
NumPy generator.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xray_batch.gate import PictureKind
from xray_batch.standardize import resize

Picture: TypeAlias = npt.NDArray[np.float32]

#: Changes a picture at random; the same generator changes the same film at another size alike.
Spoiler: TypeAlias = Callable[[Picture, np.random.Generator], Picture]

#: Standard deviation of the gray around a padded film.
_UNEVEN: Final = 0.05


def vary(film: Picture, random: np.random.Generator) -> Picture:
    """Change what differs between departments, and leave an upright, whole, readable film.

    Wider than the augmentation of the networks: a film of an unknown system must still pass.
    """
    film = _pose(film, random)
    film = _expose(film, random)
    film = _sharpen(film, random)
    if random.random() < 0.4:
        (grain,) = random.spawn(1)  # what follows is drawn from `random`, whatever the size of the film
        film = film + grain.normal(0, random.uniform(0, 0.04), film.shape).astype(np.float32)
    if random.random() < 0.35:
        film = _collimate(film, random)
    if random.random() < 0.4:
        film = _mark(film, random)
    return np.clip(film, 0, 1).astype(np.float32)


def _pose(film: Picture, random: np.random.Generator) -> Picture:
    """Mirror half; rotate by 4 degrees (SD), scale by 0.89-1.16, change the aspect by 0.78-1.28, shift by 6 %."""
    if random.random() < 0.5:
        film = film[:, ::-1]
    angle = np.deg2rad(np.clip(random.normal(0, 4), -10, 10))
    scale, aspect = np.exp(random.uniform(-0.12, 0.15)), np.exp(random.uniform(-0.125, 0.125))
    matrix = np.array([[np.cos(angle) * aspect, -np.sin(angle)], [np.sin(angle), np.cos(angle) / aspect]]) / scale
    center = np.full(2, (len(film) - 1) / 2)
    offset = center + random.uniform(-0.06, 0.06, 2) * len(film) - matrix @ center
    mode = "constant" if random.random() < 0.5 else "nearest"
    turned: Picture = ndimage.affine_transform(film, matrix, offset=offset, order=1, mode=mode)
    return turned


def _expose(film: Picture, random: np.random.Generator) -> Picture:
    """Change gamma, contrast and brightness; then a curved window, the full range, or a part of it only."""
    film = np.clip(film, 0, 1) ** np.exp(random.uniform(-0.5, 0.5))
    film = (film - 0.5) * random.uniform(0.55, 1.35) + 0.5 + random.uniform(-0.15, 0.15)
    choice = random.random()
    if choice < 0.25:
        film = 1 / (1 + np.exp(-random.uniform(3, 8) * (film - random.uniform(0.35, 0.65))))
    elif choice < 0.4:
        low, high = np.percentile(film, [random.uniform(0, 3), random.uniform(97, 100)])
        film = (film - low) / max(high - low, 0.1)
    elif choice < 0.5:
        film = random.uniform(0.0, 0.4) + film * random.uniform(0.3, 0.6)
    return np.clip(film, 0, 1)


def _sharpen(film: Picture, random: np.random.Generator) -> Picture:
    """Blur by at most 0.6 % of the side, or sharpen as the processing of detectors does, or neither."""
    choice = random.random()
    if choice < 0.3:
        film = ndimage.gaussian_filter(film, random.uniform(0, 0.006) * len(film))
    elif choice < 0.5:
        blurred = ndimage.gaussian_filter(film, random.uniform(0.005, 0.03) * len(film))
        film = np.clip(film + random.uniform(0.2, 1.2) * (film - blurred), 0, 1)
    return film


def _collimate(film: Picture, random: np.random.Generator) -> Picture:
    """Cover at most 7 % at each side with one gray."""
    side = len(film)
    top, bottom, left, right = (random.uniform(0, 0.07, 4) * (random.random(4) < 0.6) * side).astype(int)
    covered = np.full_like(film, random.choice([0.0, 0.0, 1.0, random.random()]))
    inside = (slice(top, side - bottom), slice(left, side - right))
    covered[inside] = film[inside]
    return covered


def _mark(film: Picture, random: np.random.Generator) -> Picture:
    """Put a few small bright or dark bars where letters and markers stand."""
    marked = film.copy()
    side = len(film)
    for _ in range(random.integers(1, 6)):
        height, width = (random.uniform(0.01, 0.06, 2) * side).astype(int) + 1
        top, left = random.integers(0, side - height), random.integers(0, side - width)
        marked[top : top + height, left : left + width] = random.choice([1.0, 1.0, 0.0])
    return marked


def invert(film: Picture, random: np.random.Generator) -> Picture:
    """Exchange black and white."""
    return 1 - film


def turn_sideways(film: Picture, random: np.random.Generator) -> Picture:
    """Turn by 90 degrees, to either side."""
    return np.rot90(film, int(random.choice([1, 3])))


def turn_upside_down(film: Picture, random: np.random.Generator) -> Picture:
    """Turn by 180 degrees, or flip."""
    return np.rot90(film, 2) if random.random() < 0.5 else film[::-1]


def cut(film: Picture, random: np.random.Generator) -> Picture:
    """Keep 44 to 56 % of the height or width, at one end."""
    side = len(film)
    kept = int(side * random.uniform(0.44, 0.56))
    halves = [film[:kept], film[-kept:], film[:, :kept], film[:, -kept:]]
    return resize(np.ascontiguousarray(halves[random.integers(4)]), side, side)


def blur(film: Picture, random: np.random.Generator) -> Picture:
    """Blur with a standard deviation of 1.5 to 8 % of the side."""
    blurred: Picture = ndimage.gaussian_filter(film, np.exp(random.uniform(np.log(0.015), np.log(0.08))) * len(film))
    return blurred


def pad(film: Picture, random: np.random.Generator) -> Picture:
    """Shrink height, width or both by 25 to 60 % and put an uneven gray around; an even one may be trimmed."""
    side = len(film)
    inner = round(side * (1 - random.uniform(0.25, 0.6)))
    height, width = [(inner, side), (side, inner), (inner, inner)][random.choice([0, 1, 2, 2])]
    is_centered = random.random() < 0.7
    top = (side - height) // 2 if is_centered else random.integers(0, side - height + 1)
    left = (side - width) // 2 if is_centered else random.integers(0, side - width + 1)
    padded = np.full_like(film, random.choice([0.0, 0.0, 0.0, 1.0, random.random()]))
    padded = np.clip(padded + random.normal(0, _UNEVEN, padded.shape), 0, 1).astype(np.float32)
    padded[top : top + height, left : left + width] = resize(np.ascontiguousarray(film), height, width)
    return padded


#: What spoils a film, by the kind that the gate is to call it.
SPOILERS: Final[dict[PictureKind, Spoiler]] = {
    PictureKind.INVERTED: invert,
    PictureKind.SIDEWAYS: turn_sideways,
    PictureKind.UPSIDE_DOWN: turn_upside_down,
    PictureKind.CUT: cut,
    PictureKind.PADDED: pad,
    PictureKind.BLURRED: blur,
}
