"""What kind of file system a folder is on.

Below intake and database, which both must know: other hosts' changes raise no event on a network file system,
and its locks cannot be trusted with a SQLite database (https://www.sqlite.org/howtocorrupt.html, section 2.1).
"""

import os
import re
from pathlib import Path
from typing import Final

#: One line per mount, see proc(5).
MOUNT_TABLE = Path("/proc/self/mountinfo")

#: Types of network file systems, as the kernel names them.
_NETWORK_TYPES: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs"})


def is_network(path: Path) -> bool:
    """Tell whether `path` is on a network file system.

    What a program or a virtual machine's host provides (FUSE, 9P, virtiofs) counts as local: it may be either.
    """
    return _type_of(path) in _NETWORK_TYPES


def _type_of(path: Path) -> str:
    """Return the type of the file system that `path` is on: that of the mount point nearest above; "" if unknown.

    Of several mounts on one point the last is on top.
    """
    place = path.resolve()
    nearest, kind = 0, ""
    try:
        lines = MOUNT_TABLE.read_bytes().splitlines()
    except OSError:
        return ""
    for line in lines:
        facts, _, rest = line.partition(b" - ")
        point = Path(os.fsdecode(_unescape(facts.split()[4])))
        if place.is_relative_to(point) and len(point.parts) >= nearest:
            nearest, kind = len(point.parts), rest.split()[0].decode("ascii", "replace")
    return kind


def _unescape(name: bytes) -> bytes:
    """Undo the kernel's octal escapes of blanks and backslashes."""
    return re.sub(rb"\\([0-7]{3})", lambda escape: bytes([int(escape[1], 8)]), name)
