"""Limits that a file must keep, checked before memory is allocated or anything is decompressed."""

from typing import Final

from xray_batch.errors import ReasonCode, RejectedInputError

#: Largest file read.  The largest digital radiography detectors give about 60 MB uncompressed.
MAX_FILE_BYTES: Final = 500_000_000

#: Largest Rows or Columns.  A 43 cm plate at 50 micrometres, finer than any chest system, has 8,600.
MAX_SIDE: Final = 16_384

#: Largest Rows x Columns.  Bounds one rendering to about 1 GB of memory, all copies together.
MAX_PIXELS: Final = 100_000_000

#: Largest deflated data set after inflating (PS3.5 A.5).  Deflate reaches 1:1000: file size says nothing.
MAX_INFLATED_BYTES: Final = 256_000_000

#: Smallest Rows or Columns.  Below it a lung field is less than about 25 pixels wide and shows no texture;
#: such images are icons, thumbnails and test patterns.
MIN_SIDE: Final = 64


def check_not_too_large(rows: int, columns: int) -> None:
    """Refuse an image with more pixels than a chest radiograph can have.

    Raises
    ------
    RejectedInputError
        TOO_LARGE, naming both numbers and the limits.
    """
    if max(rows, columns) > MAX_SIDE or rows * columns > MAX_PIXELS:
        raise RejectedInputError(
            ReasonCode.TOO_LARGE,
            f"The image has {rows} rows and {columns} columns; at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS:,} pixels are accepted.",
        )


def check_not_too_small(rows: int, columns: int) -> None:
    """Refuse an image that is too small to be a radiograph.

    Raises
    ------
    RejectedInputError
        TOO_SMALL, naming both numbers and the limit.
    """
    if min(rows, columns) < MIN_SIDE:
        raise RejectedInputError(
            ReasonCode.TOO_SMALL,
            f"The image has {rows} rows and {columns} columns; at least {MIN_SIDE} of each are needed.",
        )
