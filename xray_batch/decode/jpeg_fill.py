"""JPEG pictures whose compressed data end before they do.

Where a stream has its End Of Image and too little before it, libjpeg-turbo warns, to nobody here, and shows the rest
of the picture as the gray in the middle of the range, as if it were film; of a progressive one, without its detail.
So it does with each part between two restart markers (T.81 E.1.4): many radiographs have one for each row of blocks.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode.codestream import check_all_scans, find_restarts, find_scan_ends, is_arithmetic, is_progressive
from xray_batch.errors import ReasonCode, RejectedInputError

#: Compressed data of no meaning: nearly all bytes but 0xFF, mixed, for each restart marker (T.81 E.1.4).  The zero in
#: front makes data of a 0xFF that a cut has left alone (T.81 F.1.2.3).
_MORE_DATA: Final = b"".join(
    bytes(37 * place % 0xFF for place in range(0xFF)) + bytes((0xFF, marker)) for marker in range(0xD0, 0xD8)
)

#: Likewise, for a part that ends with a restart marker; there may be hundreds of thousands of them.
_MORE_OF_A_PART: Final = bytes(89 * place % 0xFF for place in range(16))


def check_not_filled(
    stream: bytes, samples: npt.NDArray[Any], precision: int, decode: Callable[[bytes], npt.NDArray[Any]]
) -> None:
    """Refuse a JPEG picture of which the decoder has made something up.

    A picture without its end ends in the gray of the middle.  One that does so, any progressive one and any with
    restart markers is decoded again with more data at the end of each scan and before each of these markers: they
    change nothing where the picture was complete, and are taken for what is missing where it was not.

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
    restarts = find_restarts(stream)
    if is_progressive(stream):
        check_all_scans(stream)
    elif not restarts and (samples[-1, -1] != 1 << (precision - 1)).any():
        return
    if is_arithmetic(stream):  # encoders leave out zeros at the end, and decoders put them there again (T.81 D.1.8)
        return
    if not np.array_equal(decode(_with_more_data(stream, restarts)), samples):
        raise RejectedInputError(
            ReasonCode.TRUNCATED, "The JPEG stream has too few data for its picture; a complete one is accepted."
        )


def _with_more_data(stream: bytes, restarts: list[int]) -> bytes:
    more = dict.fromkeys(restarts, _MORE_OF_A_PART) | dict.fromkeys(find_scan_ends(stream), _MORE_DATA)
    places = sorted(more)
    parts = (more[place] + stream[place:after] for place, after in pairwise([*places, len(stream)]))
    return b"".join((stream[: places[0]], *parts))
