"""Try what the file system below the folders can do, with a file of our own that is gone again at once."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from xray_batch.intake.disk import READ_FLAGS, refuses_to_replace
from xray_batch.intake.settle import Writers, writers_of
from xray_batch.intake.watcher import InboxWatcher, WatchMode

#: An event takes milliseconds; a busy machine may need longer.
EVENT_SECONDS: Final = 5.0


@contextmanager
def _file_in(folder: Path) -> Iterator[Path]:
    """Make an empty file under a name that every scan ignores."""
    descriptor, name = tempfile.mkstemp(prefix=".xray-batch-probe-", dir=folder)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - the name that mkstemp gave


def can_lease(folder: Path) -> bool:
    """Tell whether the kernel says of a file of ours in `folder` whether it is open for writing.

    Raises
    ------
    OSError
        If no file can be made there.
    """
    with _file_in(folder) as path:
        descriptor = os.open(path, READ_FLAGS)
        try:
            return writers_of(descriptor) is Writers.NONE
        finally:
            os.close(descriptor)


def can_rename_no_replace(folder: Path) -> bool:
    """Tell whether renameat2 in `folder` moves a file in one step without replacing another.

    Raises
    ------
    OSError
        If no file can be made there.
    """
    with _file_in(folder) as source, _file_in(folder) as target:
        return refuses_to_replace(source, target)


def event_comes(inbox: Path) -> bool:
    """Tell whether a watch can be set on the inbox and an event comes when a file is made there.

    Raises
    ------
    OSError
        If no file can be made there.
    """
    wake = threading.Event()
    watcher = InboxWatcher(inbox, wake)
    watcher.start()
    try:
        if watcher.mode is WatchMode.POLLING:
            return False
        wake.clear()
        with _file_in(inbox):
            return wake.wait(EVENT_SECONDS)
    finally:
        watcher.stop()
