"""Size of a JPEG XL picture, read from its header before any decoder sees it (ISO/IEC 18181-1, 18181-2).

Fields are packed least significant bit first.  Only what DICOM allows is accepted: one frame, no
preview, no extra channels, upright.
"""

from typing import Final

from xray_batch.decode.codestream import StreamSize
from xray_batch.errors import ReasonCode, RejectedInputError

_CODESTREAM: Final = b"\xff\x0a"
_CONTAINER: Final = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"

#: Longest header looked at; size and metadata take less than 40 bytes.
_HEADER_BYTES: Final = 64

#: Boxes of a container that are looked at for the codestream.
_MOST_BOXES: Final = 64

#: Distributions of the U32 fields used: constant, or offset and number of bits.
_SIZE: Final = ((1, 9), (1, 13), (1, 18), (1, 30))
_BITS: Final = ((8, 0), (10, 0), (12, 0), (1, 6))
_EXTRA_CHANNELS: Final = ((0, 0), (1, 0), (2, 4), (1, 12))
_ENUM: Final = ((0, 0), (1, 0), (2, 4), (18, 6))

#: Width to height where it is not written: columns = rows * numerator // denominator.
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))

_GRAY: Final = 1  #: colour space


class _Fields:
    """Reader of packed fields."""

    def __init__(self, header: bytes) -> None:
        self._bits = int.from_bytes(header, "little")
        self._left = 8 * len(header)

    def take(self, count: int) -> int:
        """Return an unsigned number of `count` bits."""
        if count > self._left:
            raise _corrupt("no image size header")
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        self._left -= count
        return value

    def choose(self, distributions: tuple[tuple[int, int], ...]) -> int:
        """Return a U32 field: two bits choose how the number is written."""
        offset, bits = distributions[self.take(2)]
        return offset + self.take(bits)


def read_jpegxl_size(stream: bytes) -> StreamSize:
    """Read size, depth and number of colour channels of a JPEG XL picture, bare or in its container.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if there is no header, or it announces what DICOM does not allow.
    """
    fields = _Fields(_find_codestream(stream)[2 : 2 + _HEADER_BYTES])
    rows, columns = _read_size(fields)
    if fields.take(1):  # all default: 8 bits, colour
        return StreamSize(rows=rows, columns=columns, samples_per_pixel=3, precision=8)
    # Orientation, intrinsic size, preview, animation; of these only an upright orientation is accepted.
    if fields.take(1) and (fields.take(3), fields.take(1), fields.take(1), fields.take(1)) != (0, 0, 0, 0):
        raise _corrupt("an orientation, a preview or an animation")
    if fields.take(1):
        raise _corrupt("floating point samples")
    precision = fields.choose(_BITS)
    fields.take(1)  # whether 16-bit buffers suffice
    if fields.choose(_EXTRA_CHANNELS):
        raise _corrupt("channels beside the picture")
    fields.take(1)  # whether colours are XYB
    samples = 3
    if not fields.take(1) and not fields.take(1):  # neither the default colours nor an ICC profile
        samples = 1 if fields.choose(_ENUM) == _GRAY else 3
    return StreamSize(rows=rows, columns=columns, samples_per_pixel=samples, precision=precision)


def _find_codestream(stream: bytes) -> bytes:
    """Return the bytes from the codestream's start on."""
    if stream.startswith(_CODESTREAM):
        return stream
    offset = len(_CONTAINER)
    for _ in range(_MOST_BOXES):
        if not stream.startswith(_CONTAINER) or len(stream) < offset + 8:
            break
        length = int.from_bytes(stream[offset : offset + 4], "big")
        kind = stream[offset + 4 : offset + 8]
        start = offset + 8 + (4 if kind == b"jxlp" else 0)  # a part begins with its number
        if kind in (b"jxlc", b"jxlp") and stream[start : start + 2] == _CODESTREAM:
            return stream[start:]
        if length < 8:  # to the end, or with a 64-bit length that no film needs
            break
        offset += length
    raise _corrupt("no codestream")


def _read_size(fields: _Fields) -> tuple[int, int]:
    """Return rows and columns."""
    is_small = fields.take(1)
    rows = 8 * (1 + fields.take(5)) if is_small else fields.choose(_SIZE)
    ratio = fields.take(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio - 1]
        return rows, rows * numerator // denominator
    return rows, 8 * (1 + fields.take(5)) if is_small else fields.choose(_SIZE)


def _corrupt(what: str) -> RejectedInputError:
    return RejectedInputError(ReasonCode.PIXEL_DATA, f"The JPEG XL stream has {what}; one plain picture is accepted.")
