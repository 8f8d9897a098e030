"""Films that were measured, decoded once more in this process, to be changed or drawn."""

from pathlib import Path

from xray_batch.decode import decode_file
from xray_batch.decode.memory import limited_memory
from xray_batch.errors import RejectedInputError, TransientError
from xray_batch.records import GrayscaleImage


def decode_again(path: Path, address_space: int) -> GrayscaleImage | None:
    """Decode a file; None where it cannot be read any more, or takes too much memory.

    Parameters
    ----------
    address_space
        Bytes that decoding may take.
    """
    try:
        with limited_memory(address_space):
            return decode_file(path)
    except (RejectedInputError, TransientError, MemoryError):
        return None
