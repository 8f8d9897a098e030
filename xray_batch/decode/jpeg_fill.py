"""JPEG pictures whose compressed data end before they do.

Where a stream has its End Of Image and too little before it, libjpeg-turbo warns, to nobody here, and shows the rest
of the picture as the gray in the middle of the range, as if it were film; of a progressive one, without its detail.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode.codestream import check_all_scans, find_jpeg_end, is_progressive
from xray_batch.errors import ReasonCode, RejectedInputError

#: Compressed data of no meaning: nearly all bytes but 0xFF, mixed, for each restart marker (T.81 E.1.4).  The zero in
#: front makes data of a 0xFF that a cut has left alone (T.81 F.1.2.3).
_MORE_DATA: Final = b"".join(
    bytes(37 * place % 0xFF for place in range(0xFF)) + bytes((0xFF, marker)) for marker in range(0xD0, 0xD8)
)


def check_not_filled(
    stream: bytes, samples: npt.NDArray[Any], precision: int, decode: Callable[[bytes], npt.NDArray[Any]]
) -> None:
    """Refuse a JPEG picture whose end the decoder has made up.

    Such a picture ends in the gray of the middle.  One that does so, and any progressive one, is decoded again with
    more data before its End Of Image: they change nothing where the picture was complete, and are taken for its rest
    where it was not.

    Parameters
    ----------
    stream
        That has an End Of Image.
    samples
        What `decode` made of it: shape (rows, columns) or (rows, columns, channels).
    precision
        Bits of one sample.

    Raises
    ------
    RejectedInputError
        TRUNCATED.
    """
    if is_progressive(stream):
        check_all_scans(stream)
    elif (samples[-1, -1] != 1 << (precision - 1)).any():
        return
    end = find_jpeg_end(stream)
    if not np.array_equal(decode(stream[:end] + _MORE_DATA + stream[end:]), samples):
        raise RejectedInputError(
            ReasonCode.TRUNCATED, "The JPEG stream ends before its picture does; a complete one is accepted."
        )
