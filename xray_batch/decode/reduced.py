"""Decode a JPEG 2000 film at half or a quarter of its resolution: the approximate mode of `decode = "fast"`.

A JPEG 2000 codestream holds ever smaller copies of its picture (T.800 F.3).  To stop at one of them saves most of the
work.  It is the low-pass band of a wavelet transform, whose pixels lie where every second or fourth of the picture's
do; they are brought to the middle of the blocks that they stand for.

Whatever depends on single stored values is left to the exact decoder, and so is every refusal.  imagecodecs cannot
stop early, Pillow can; both wrap OpenJPEG.
"""

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from pydicom import uid

from xray_batch.decode.attributes import Attributes
from xray_batch.decode.codecs import PILLOW_ERRORS
from xray_batch.decode.codestream import StreamSize
from xray_batch.decode.depth import can_be_narrowed
from xray_batch.decode.geometry import read_pixel_height
from xray_batch.decode.grayscale import has_tables
from xray_batch.decode.part10 import DicomFile
from xray_batch.decode.pixel_data import Cells, PixelLayout, StoredValues, keep_stored_bits, read_codestream

_TRANSFER_SYNTAXES: Final = frozenset({uid.JPEG2000Lossless, uid.JPEG2000})

#: A quarter of the resolution; at an eighth, probabilities move by more than 0.02.
_MOST_HALVINGS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedValues:
    """A small copy of a frame, and how small it is."""

    stored: StoredValues
    divisor: int  #: 2 or 4: what rows and columns are divided by


def read_reduced_values(file: DicomFile, layout: PixelLayout, least_side: int) -> ReducedValues | None:
    """Decode the smallest copy of the frame that is a quarter at least and has no side shorter than `least_side`.

    Returns
    -------
    ReducedValues or None
        None where there is none, where it cannot be decoded, or where the rendering asks for exact stored values.

    Raises
    ------
    RejectedInputError
        As the exact decoder does, before it decodes.
    """
    if file.transfer_syntax_uid not in _TRANSFER_SYNTAXES:
        return None
    stream, size = read_codestream(file, layout)
    halvings = count_halvings(size.rows, size.columns, least_side)
    if not halvings or not _is_plain(stream) or _needs_exact_values(size, layout, file.attributes):
        return None
    cells = decode_reduced(stream, size, halvings)
    if cells is None:
        return None
    stored = keep_stored_bits(cells, layout, size, file.transfer_syntax_uid)
    return ReducedValues(stored=stored, divisor=1 << halvings)


def count_halvings(rows: int, columns: int, least_side: int) -> int:
    """Return how often the resolution may be halved, 0 to 2.

    OpenJPEG rounds the sides of the small copy up and Pillow to the nearest; it decodes where that is the same.
    """
    for halvings in range(_MOST_HALVINGS, 0, -1):
        half = 1 << (halvings - 1)
        is_rounded_alike = all((side + half) >> halvings == _reduce(side, halvings) for side in (rows, columns))
        if is_rounded_alike and _reduce(min(rows, columns), halvings) >= least_side:
            return halvings
    return 0


def decode_reduced(stream: bytes, size: StreamSize, halvings: int) -> Cells | None:
    """Decode a picture whose size has been checked at a lower resolution.

    Returns
    -------
    numpy.ndarray or None
        The cells that :func:`xray_batch.decode.codecs.decode_stream` gives, with each side divided by two as often as
        `halvings` says and rounded up; None where Pillow cannot decode them so, and where a pixel has several samples.
    """
    try:
        image = Jpeg2KImageFile(io.BytesIO(stream))
        image.reduce = halvings
        image.load()
        samples = np.asarray(image)
    except PILLOW_ERRORS:
        return None
    container = 8 if size.precision <= 8 else 16
    if samples.shape != (_reduce(size.rows, halvings), _reduce(size.columns, halvings)):
        return None
    if samples.dtype != np.dtype(f"u{container // 8}"):
        return None
    # Pillow shifts samples to the top of 8 or 16 bits, and makes signed ones unsigned by adding half the range.
    samples = _move_to_centers(samples >> (container - size.precision), 1 << halvings)
    if size.is_signed:
        samples = samples - samples.dtype.type(1 << (size.precision - 1))
    return samples


def _move_to_centers(samples: npt.NDArray[Any], divisor: int) -> npt.NDArray[Any]:
    """Move a small copy by nearly half a pixel, from the first corner of its blocks to their middle.

    Pixel k of it lies at pixel k x divisor (T.800 F.3.7), and the middle of its block (divisor - 1) / 2 further on.
    Between two pixels the average by distance is taken.  Of all filters of two taps these weights estimate the block's
    average best, too (least squares, a picture with a correlation of 0.995 from pixel to pixel).
    """
    padded = np.pad(samples, ((0, 1), (0, 1)), mode="edge").astype(np.uint32)
    near, far = divisor + 1, divisor - 1
    rows = near * padded[:-1] + far * padded[1:]
    sums = near * rows[:, :-1] + far * rows[:, 1:]  # of weights that are 4 x divisor x divisor together
    return ((sums + 2 * divisor**2) // (4 * divisor**2)).astype(samples.dtype)


def _reduce(side: int, halvings: int) -> int:
    return -(-side >> halvings)


def _is_plain(stream: bytes) -> bool:
    """Whether this is a bare codestream whose picture begins at the origin of its grid and fills it (T.800 A.5.1).

    Elsewhere a pixel of the small copy does not stand for a whole block of the picture's.  A stream with fewer samples
    than its grid has points is the exact decoder's to refuse.
    """
    return stream.startswith(b"\xff\x4f") and stream[16:24] == bytes(8) and stream[43:45] == b"\1\1"


def _needs_exact_values(size: StreamSize, layout: PixelLayout, attributes: Attributes) -> bool:
    """Whether something hangs on single stored values, of which a small copy has none: it has averages."""
    return (
        # Padding is a value, or a range of them.
        attributes.raw("PixelPaddingValue") is not None
        # Bits that are no part of the stored value: overlays, or anything (PS3.5 section 8.1.1).
        or size.precision > layout.bits_stored
        # Two's complement in an unsigned stream: -1 is the neighbour of 0, and its average with it is not.
        or size.is_signed != layout.is_signed
        # Without a window, the largest value may say which range is shown.
        or (can_be_narrowed(min(size.precision, layout.bits_stored)) and not has_tables(attributes))
        # The square picture may be too large, which would be a refusal.
        or read_pixel_height(attributes)[0] != 1.0
    )
