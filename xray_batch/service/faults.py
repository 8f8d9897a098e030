"""What the service says of errors, and which of them are the disk's."""

import errno
import traceback
from typing import Final

from xray_batch.errors import TransientError

#: The disk is at fault, not the file: nothing else will work either.
DISK_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def why(error: TransientError | OSError) -> str:
    """Describe an error without any file name: our own words, or the name of the system's error."""
    return str(error) if isinstance(error, TransientError) else errno.errorcode.get(error.errno or 0, "OSError")


def own_frames(error: BaseException) -> list[str]:
    """Tell where in this package an error came by: no message and no value, which may quote a file."""
    package = f"{__package__.partition('.')[0]}/"
    return [
        f"{package}{frame.filename.rpartition(package)[2]}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if package in frame.filename
    ]
