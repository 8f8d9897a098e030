"""What the service says of errors, and which of them are the disk's."""

import errno
from typing import Final

from xray_batch.errors import TransientError

#: The disk is at fault, not the file: nothing else will work either.
DISK_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def why(error: TransientError | OSError) -> str:
    """Describe an error without any file name: our own words, or the name of the system's error."""
    return str(error) if isinstance(error, TransientError) else errno.errorcode.get(error.errno or 0, "OSError")
