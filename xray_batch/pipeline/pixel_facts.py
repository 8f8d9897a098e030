"""What the pixels of an image are like: range, mean, standard deviation, histogram."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

#: Equal parts of the range of values that pixels are counted in.
HISTOGRAM_BINS: Final = 64

#: Pixels looked at at once: no second array as large as the picture is made, which may have 400 MB.
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFacts:
    """What the pixels of one image are like."""

    rows: int
    columns: int
    smallest: float
    largest: float
    mean: float
    std: float
    histogram: tuple[int, ...]  #: pixels in each of equal parts of the range that values can have

    @property
    def count(self) -> int:
        """Number of pixels."""
        return self.rows * self.columns


def measure_pixels(pixels: npt.NDArray[np.float32], lowest: float, highest: float) -> PixelFacts:
    """Measure an image.

    Parameters
    ----------
    pixels
        Shape (rows, columns).
    lowest, highest
        Ends of the histogram; what lies beyond is counted in its first or last part.
    """
    flat = np.ascontiguousarray(pixels).reshape(-1)
    total = squares = 0.0
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        total += float(block.sum())
        squares += float(block @ block)
        parts = ((block - lowest) * (HISTOGRAM_BINS / (highest - lowest))).astype(np.int64)
        counts += np.bincount(np.clip(parts, 0, HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)
    mean = total / flat.size
    return PixelFacts(
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        smallest=float(flat.min()),
        largest=float(flat.max()),
        mean=mean,
        std=max(0.0, squares / flat.size - mean**2) ** 0.5,
        histogram=tuple(counts.tolist()),
    )
