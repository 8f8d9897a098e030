"""Open a file that somebody named, and nothing else that has a name."""

import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular_file(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        If it cannot be opened, or is a pipe, a socket, a device or a folder: reading one might never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return open(descriptor, "rb")  # noqa: PTH123 - opened by descriptor; the caller closes it
