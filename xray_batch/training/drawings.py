"""Pictures of anything but a chest, drawn: other parts of the body, test patterns, text, noise.

Not to be lifelike, but to differ from films in as many ways as real pictures do; a gate that was fitted to
them refused real hips, tibias, slices and photographs, too (see the bundle's model card).

Every drawing is float (side, side), made from a NumPy generator, and clipped to [0, 1] by :func:`draw`.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Drawing: TypeAlias = npt.NDArray[np.float64]


def draw(name: str, side: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return one drawing, shape (side, side), in [0, 1]; a fifth of them inverted, a third with another gamma."""
    drawing = np.clip(DRAWINGS[name](side, random), 0, 1)
    if random.random() < 0.2:
        drawing = 1 - drawing
    if random.random() < 0.3:
        drawing = drawing ** np.exp(random.uniform(-0.6, 0.6))
    return drawing.astype(np.float32)


def _grid(side: int) -> tuple[Drawing, Drawing]:
    """Return y and x from -1 to 1."""
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    return y, x


def _cloud(side: int, random: np.random.Generator, slope: float) -> Drawing:
    """Return noise in [0, 1] whose spectrum falls with the power `slope` of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(random.normal(size=(side, side))) / frequency**slope
    cloud = np.fft.irfft2(spectrum, s=(side, side))
    return np.asarray((cloud - cloud.min()) / np.ptp(cloud))


def _ellipse(side: int, center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Drawing:
    """Return 1 inside an ellipse; coordinates and radii run from -1 to 1, y first."""
    y, x = _grid(side)
    y, x = y - center[0], x - center[1]
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    return np.asarray((along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1, dtype=np.float64)


def _rod(side: int, start: tuple[float, float], end: tuple[float, float], width: float) -> Drawing:
    """Return what a round rod between two points absorbs: 1 in its middle, 0 outside."""
    y, x = _grid(side)
    dy, dx = end[0] - start[0], end[1] - start[1]
    along = np.clip(((y - start[0]) * dy + (x - start[1]) * dx) / (dy**2 + dx**2 + 1e-9), 0, 1)
    distance = np.hypot(y - start[0] - along * dy, x - start[1] - along * dx)
    return np.asarray(np.sqrt(np.clip(1 - (distance / width) ** 2, 0, None)))


def _finish(drawing: Drawing, random: np.random.Generator) -> Drawing:
    """Soften and add noise, as a detector does."""
    soft = ndimage.gaussian_filter(drawing, random.uniform(0.5, 1.5))
    return np.asarray(soft + random.normal(0, random.uniform(0, 0.03), drawing.shape))


def _noise(side: int, random: np.random.Generator) -> Drawing:
    low, high = np.sort(random.random(2))
    return np.asarray(_cloud(side, random, random.uniform(0, 2.5)) * max(high - low, 0.15) + 0.8 * low)


def _flat(side: int, random: np.random.Generator) -> Drawing:
    gray = np.full((side, side), random.choice([0.0, 1.0, random.random()]))
    return np.asarray(gray + random.uniform(0, 0.1) * _cloud(side, random, 2.0) + random.normal(0, 0.01, gray.shape))


def _gradient(side: int, random: np.random.Generator) -> Drawing:
    y, x = _grid(side)
    angle = random.uniform(0, 2 * np.pi)
    is_linear = random.random() < 0.6
    ramp = np.cos(angle) * x + np.sin(angle) * y if is_linear else np.hypot(x - random.uniform(-0.5, 0.5), y)
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    steps = random.integers(4, 16)
    return np.asarray(np.floor(ramp * steps) / steps if random.random() < 0.3 else ramp)


def _stripes(side: int, random: np.random.Generator) -> Drawing:
    y, x = np.mgrid[:side, :side]
    count = random.integers(2, 32)
    stripes = (x * count // side) % 2
    if random.random() < 0.5:
        stripes = (stripes + y * count // side) % 2  # a checkerboard
    elif random.random() < 0.5:
        stripes = x * count // side / count  # a step wedge
    return np.asarray(np.rot90(stripes, int(random.integers(2))) * random.uniform(0.3, 1), dtype=np.float64)


def _lines(side: int, random: np.random.Generator) -> Drawing:
    gray = random.random()
    drawing = np.full((side, side), gray)
    for position in np.linspace(0, side - 1, random.integers(4, 20)).astype(int):
        drawing[position] = drawing[:, position] = 1 - gray
    return drawing


def _test_pattern(side: int, random: np.random.Generator) -> Drawing:
    """Draw a ring of gray squares on a lined field, as in the patterns of SMPTE and AAPM TG 18."""
    drawing = np.full((side, side), random.uniform(0.3, 0.6))
    for position in np.linspace(0, side - 1, random.integers(6, 14)).astype(int):
        drawing[position] = drawing[:, position] = 0.8
    count = random.integers(8, 20)
    half = side // (count + 8)
    for number in range(count):
        angle = 2 * np.pi * number / count
        row, column = (side / 2 + side * 0.33 * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        drawing[row - half : row + half, column - half : column + half] = number / (count - 1)
    fine = side // 5
    for row, column in ((0, 0), (0, -fine), (-fine, 0), (-fine, -fine)):
        corner = np.arange(fine) // random.integers(1, 4) % 2
        drawing[row : row + fine or None, column : column + fine or None] = corner if row else corner[:, None]
    return drawing


def _slice(side: int, random: np.random.Generator) -> Drawing:
    """Draw a slice through head, chest or abdomen: ellipses within an ellipse, air around."""
    tissue = random.uniform(0.35, 0.6)
    height, width = random.uniform(0.5, 0.95), random.uniform(0.6, 0.95)
    drawing = _ellipse(side, (0, 0), (height, width)) * tissue
    choice = random.integers(3)
    if choice == 0:  # a skull around it
        drawing += (_ellipse(side, (0, 0), (height, width)) - _ellipse(side, (0, 0), (0.9 * height, 0.9 * width))) * 0.5
    elif choice == 1:  # lungs
        for way in (-1, 1):
            center = (random.uniform(-0.1, 0.1), way * width * 0.45)
            drawing -= _ellipse(side, center, (height * 0.6, width * 0.35)) * tissue * 0.9
    for _ in range(random.integers(3, 9)):
        center = (random.uniform(-0.6, 0.6) * height, random.uniform(-0.6, 0.6) * width)
        radii = (random.uniform(0.05, 0.3), random.uniform(0.05, 0.3))
        drawing += _ellipse(side, center, radii, random.uniform(0, 3)) * tissue * random.uniform(-0.4, 0.4)
    drawing += _ellipse(side, (height * 0.65, 0), (0.12, 0.14)) * 0.5
    return _finish(drawing, random)


def _limb(side: int, random: np.random.Generator) -> Drawing:
    """Draw one or two long bones in soft tissue, with a joint or without."""
    angle = random.uniform(-0.5, 0.5) + (np.pi / 2 if random.random() < 0.25 else 0)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    center, width = random.uniform(-0.25, 0.25, 2), random.uniform(0.1, 0.25)

    def rod(offset: Drawing, start: float, end: float, thickness: float) -> Drawing:
        first, last = center + offset + start * along, center + offset + end * along
        return _rod(side, (first[0], first[1]), (last[0], last[1]), thickness)

    drawing = rod(0 * across, -2, 2, width * random.uniform(2, 4)) * random.uniform(0.3, 0.5)
    count = random.choice([1, 2, 2])
    has_joint = random.random() < 0.6
    bones = np.zeros((side, side))
    for number in range(count):
        offset = across * (number - (count - 1) / 2) * width * 1.9
        parts = [(-2.0, -0.06), (0.06, 2.0)] if has_joint else [(-2.0, 2.0)]
        for start, end in parts:
            bones = np.maximum(bones, rod(offset, start, end, width * random.uniform(0.75, 1.2)))
    return _finish(drawing + bones * random.uniform(0.3, 0.6), random)


def _hand(side: int, random: np.random.Generator) -> Drawing:
    """Draw five rows of short bones that spread from a wrist; turned in two fifths of the drawings."""
    wrist = (random.uniform(0.7, 0.95), random.uniform(-0.2, 0.2))
    soft = _rod(side, (wrist[0] - 0.4, wrist[1]), (wrist[0] + 1.5, wrist[1]), 0.32)
    bones = np.maximum(
        *(_rod(side, (wrist[0], wrist[1] + way), (wrist[0] + 1.5, wrist[1] + way), 0.1) for way in (-0.1, 0.1))
    )
    for angle in (*(np.linspace(-0.5, 0.5, 4) + random.uniform(-0.15, 0.15)), -random.uniform(0.9, 1.3)):
        row, column = wrist[0] - 0.15, wrist[1]
        for length in random.uniform([0.5, 0.3, 0.2, 0.14], [0.6, 0.4, 0.26, 0.2]):
            end = (row - np.cos(angle) * length, column + np.sin(angle) * length)
            bones = np.maximum(bones, _rod(side, (row, column), end, 0.055))
            soft = np.maximum(soft, _rod(side, (row, column), end, 0.11))
            row, column = end
    drawing = soft * random.uniform(0.25, 0.45) + bones * random.uniform(0.25, 0.5)
    return _finish(np.rot90(drawing, int(random.choice([0, 0, 0, 1, 2, 3]))), random)


def _pelvis(side: int, random: np.random.Generator) -> Drawing:
    """Draw a spine, two wings and two femora in soft tissue."""
    top = random.uniform(-0.2, 0.1)
    drawing = random.uniform(0.2, 0.4) + 0.25 * _cloud(side, random, 2.2)
    drawing += _rod(side, (-1.5, 0), (top, 0), 0.18) * random.uniform(0.15, 0.3)
    for way in (-1, 1):
        drawing += _ellipse(side, (top - 0.35, way * 0.5), (0.42, 0.36), way * 0.5) * random.uniform(0.12, 0.25)
        drawing += _rod(side, (top + 0.2, way * 0.5), (top + 0.3, way * 0.72), 0.17) * random.uniform(0.2, 0.35)
        drawing += _rod(side, (top + 0.3, way * 0.75), (top + 2, way * 0.62), 0.15) * random.uniform(0.2, 0.4)
        drawing -= _ellipse(side, (top + 0.5, way * 0.2), (0.14, 0.13)) * random.uniform(0.1, 0.2)
    return _finish(drawing, random)


def _skull(side: int, random: np.random.Generator) -> Drawing:
    """Draw a shell with sockets, on a neck."""
    height, width = random.uniform(0.6, 0.9), random.uniform(0.5, 0.85)
    row, column = random.uniform(-0.15, 0.15, 2)
    head = _ellipse(side, (row, column), (height, width))
    drawing = head * 0.9 - _ellipse(side, (row, column), (height * 0.92, width * 0.93)) * random.uniform(0.3, 0.5)
    for way in (-1, 1):
        drawing -= _ellipse(side, (row + 0.1, column + way * 0.3 * width), (0.14, 0.16)) * random.uniform(0.1, 0.25)
    drawing += _rod(side, (0.6, column), (1.5, column), 0.15) * 0.3 + _cloud(side, random, 1.8) * 0.15 * head
    return _finish(drawing, random)


def _text(side: int, random: np.random.Generator) -> Drawing:
    """Draw lines of small dark blocks with gaps, as a page of text looks from afar."""
    page = np.ones((side, side))
    height = random.integers(3, 7)
    for top in range(random.integers(2, 20), side - height, 2 * height):
        width = int(side * random.uniform(0.3, 0.95))
        letters = (random.random((height, width // 2)) < 0.5) & (random.random(width // 2) < 0.85)
        page[top : top + height, 4 : 4 + 2 * (width // 2)][letters.repeat(2, axis=1)[:, : side - 4]] = 0
    return page


def _shapes(side: int, random: np.random.Generator) -> Drawing:
    """Draw overlapping patches of gray with texture, as a photograph has them."""
    drawing = np.full((side, side), random.random())
    for _ in range(random.integers(3, 30)):
        radii = (random.uniform(0.05, 0.5), random.uniform(0.05, 0.5))
        patch = _ellipse(side, (random.uniform(-1, 1), random.uniform(-1, 1)), radii, random.uniform(0, 3)) > 0
        if random.random() < 0.5:
            rows, columns = np.sort(random.integers(0, side, (2, 2)), axis=1)
            patch = np.zeros((side, side), np.bool_)
            patch[rows[0] : rows[1] + 3, columns[0] : columns[1] + 3] = True
        drawing[patch] = random.random()
    drawing += _cloud(side, random, random.uniform(0.5, 2)) * random.uniform(0, 0.6) - 0.15
    return np.asarray(ndimage.gaussian_filter(drawing, random.uniform(0, 2)))


def _phantom(side: int, random: np.random.Generator) -> Drawing:
    """Draw a square array of disks of growing size and contrast."""
    gray, count = random.uniform(0.2, 0.8), random.integers(3, 10)
    drawing = np.full((side, side), gray)
    for row in range(count):
        for column in range(count):
            center = (-1 + 2 * (row + 0.5) / count, -1 + 2 * (column + 0.5) / count)
            radius = 0.6 / count * (row + 1) / count
            contrast = (column + 1) / count * 0.4 * (1 if gray < 0.5 else -1)
            drawing += _ellipse(side, center, (radius, radius)) * contrast
    return _finish(drawing, random)


DRAWINGS: Final[dict[str, Callable[[int, np.random.Generator], Drawing]]] = {
    "noise": _noise,
    "flat": _flat,
    "gradient": _gradient,
    "stripes": _stripes,
    "lines": _lines,
    "test_pattern": _test_pattern,
    "slice": _slice,
    "limb": _limb,
    "hand": _hand,
    "pelvis": _pelvis,
    "skull": _skull,
    "text": _text,
    "shapes": _shapes,
    "phantom": _phantom,
}
