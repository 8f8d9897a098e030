"""Three colour channels to one, where they show the same gray."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xray_batch.errors import ReasonCode, RejectedInputError

#: Largest difference between the channels of one pixel, of 255, that still counts as gray.  A gray picture
#: stored as colour JPEG keeps its channels exactly equal.  Where colour management has moved them by up to 2
#: beforehand, they come out of a JPEG of quality 95 up to 8 apart (measured on radiographs).
GRAY_TOLERANCE: Final = 8


#: Rows compared at once; all of them would take as much memory as the picture.
_BLOCK: Final = 64


def to_single_channel(
    samples: npt.NDArray[np.unsignedinteger[Any]],
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the green channel of a picture whose colour channels agree.

    Parameters
    ----------
    samples
        Shape (rows, columns, 3 or more): red, green, blue and what follows; all bits of the type are used.

    Returns
    -------
    numpy.ndarray
        Shape (rows, columns), the type of `samples`.

    Raises
    ------
    RejectedInputError
        COLOR_IMAGE, if the channels of a pixel differ by more than :data:`GRAY_TOLERANCE`.
    """
    spread = max(_spread(samples[start : start + _BLOCK]) for start in range(0, len(samples), _BLOCK))
    largest = spread * 255 / int(np.iinfo(samples.dtype).max)
    if largest > GRAY_TOLERANCE:
        raise RejectedInputError(
            ReasonCode.COLOR_IMAGE,
            f"The colour channels differ by up to {largest:.0f} of 255; a grayscale picture is accepted, "
            f"or a colour one whose channels differ by no more than {GRAY_TOLERANCE}.",
        )
    return samples[..., 1]


def _spread(samples: npt.NDArray[np.unsignedinteger[Any]]) -> int:
    """Return the largest difference between two colour channels of one pixel."""
    red, green, blue = samples[..., 0], samples[..., 1], samples[..., 2]
    # The larger minus the smaller never wraps in unsigned arithmetic.
    return int((np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)).max())
