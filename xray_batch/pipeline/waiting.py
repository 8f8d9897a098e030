"""Files of the home folder that are not done yet, counted by whoever looks at an installation from outside."""

import os
from contextlib import suppress
from dataclasses import dataclass

from xray_batch.intake import Folders, scan


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingFiles:
    """How many files wait; None where a folder cannot be read."""

    inbox: int | None  #: to be taken
    left_alone: int | None  #: in the inbox, for their names or what they are
    spool: int | None  #: taken, not yet filed away


def count_waiting(folders: Folders) -> WaitingFiles:
    """Count the files in inbox and spool; nothing is opened, moved or removed."""
    inbox = left_alone = None
    with suppress(OSError):
        found = scan(folders.inbox)
        inbox, left_alone = len(found.files), found.left_alone.total()
    return WaitingFiles(inbox=inbox, left_alone=left_alone, spool=count_spool(folders))


def count_spool(folders: Folders) -> int | None:
    """Count the files that are taken and not yet filed away."""
    if not os.access(folders.spool, os.R_OK | os.X_OK):
        return None
    return sum(len(names) for _, _, names in os.walk(folders.spool))
