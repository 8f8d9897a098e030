"""The range that a picture without a window is shown in, where its bits are fewer than it says."""

from typing import Final

#: So many leading bits without use make a picture nearly black, and cannot be meant.
_UNUSED_BITS: Final = 2

#: The fewest bits that a picture is taken to have.
_FEWEST_BITS: Final = 8


def can_be_narrowed(bits: int) -> bool:
    """Whether :func:`find_used_range` may find less than `bits` bits in use."""
    return bits - _FEWEST_BITS >= _UNUSED_BITS


def find_used_range(low: int, high: int, bits: int) -> tuple[int, int] | None:
    """Return the ends of the range to show, where two or more leading bits are without use; else None.

    Some systems write films of 10 or 12 bits as 16 and no window, DICOM and PNG alike.  The result is the
    range of a whole number of bits, so that it is the one that the same film has where its depth is right.

    Parameters
    ----------
    low, high
        The smallest and largest value of the picture, without padding.
    bits
        That the picture says it has.
    """
    if low >= 0:
        used = max(_FEWEST_BITS, high.bit_length())
        ends = (0, (1 << used) - 1)
    else:
        used = max(_FEWEST_BITS, 1 + max(high.bit_length(), (-low - 1).bit_length()))
        ends = (-(1 << (used - 1)), (1 << (used - 1)) - 1)
    return ends if bits - used >= _UNUSED_BITS else None
