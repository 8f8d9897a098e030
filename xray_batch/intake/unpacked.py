"""Folders of unpacked archives: private while they fill, then part of the inbox by one rename.

::

    spool/<id>.unpacking/0001-a.dcm ...            filled by the process that unpacks, and locked as long as it,
      |                                            or whoever waits for it, lives
      | move_into_inbox     one rename, once every member is complete and on the disk
      v
    inbox/ward/study.zip.unpacked/0001-a.dcm ...   files like any others: they settle, are claimed, get their rows

Meanwhile the archive lies claimed in the spool, and its own answer is committed only after the rename:

| the process died | found | then |
|---|---|---|
| before the rename | a folder that nobody has locked; the archive, unanswered | folder removed; unpacked again |
| between rename and commit | members in the inbox or claimed; the archive, unanswered | unpacked again |
| after the commit | members likewise; the archive, answered | the archive is filed away |

In the second case every member comes twice.  It has the same bytes both times, so one of the two is a
duplicate and no result is doubled.  Nothing is lost in any case: the archive itself is kept.
"""

import errno
import fcntl
import os
import shutil
import threading
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from xray_batch.intake.disk import GONE_ERRNOS, open_folder, sync_folder
from xray_batch.intake.folders import FOLDER_MODE, Folders
from xray_batch.intake.names import free_choices

#: In the spool: being filled.  No claim has such a name.
UNPACKING_SUFFIX: Final = ".unpacking"
#: In the inbox, behind the archive's name: complete.  An archive below such a folder is not unpacked.
UNPACKED_SUFFIX: Final = ".unpacked"

#: Whoever removes or drops a folder waits so long at most until it is gone.
_REMOVE_SECONDS: Final = 5.0

#: This name cannot be had, the next one perhaps: it is taken, too long, or its folder is gone or not ours.
_NAME_ERRNOS: Final = GONE_ERRNOS | {
    *(errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EXDEV),
}


class UnpackFolder:
    """An empty folder for the members of one archive, locked.

    It is removed when nobody holds this object any more, unless it has moved into the inbox by then.  What a process
    still holds at its end stays, for :func:`remove_abandoned`: the folder may be on a share that hangs.

    Attributes
    ----------
    path
        Where the folder is.
    descriptor
        Of the folder.  A process that inherits it keeps the lock until it ends.
    """

    def __init__(self, spool: Path) -> None:
        spool.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        self.path = spool / f"{uuid.uuid4()}{UNPACKING_SUFFIX}"
        self.path.mkdir(FOLDER_MODE)
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._remove = weakref.finalize(self, _remove_aside, self.path, self.descriptor)
        self._remove.atexit = False
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the folder with all that is in it; harmless when it is gone."""
        self._remove()

    def move_into_inbox(self, folders: Folders, name: str, arrival_id: uuid.UUID) -> Path:
        """Give the folder a place in the inbox, and its final name.

        Parameters
        ----------
        name
            Of the archive, relative to the inbox.
        arrival_id
            Of the archive; in front of its name where that is taken.

        Returns
        -------
        pathlib.Path
            The folder, beside the archive's old place; directly in the inbox where that is gone.

        Raises
        ------
        OSError
            If the disk refuses; the folder is where it was.
        """
        *choices, last = free_choices(folders.inbox, f"{name}{UNPACKED_SUFFIX}", arrival_id, 0)
        for choice in choices:
            try:
                return self._move(choice, folders)
            except OSError as error:
                if error.errno not in _NAME_ERRNOS:
                    raise
        return self._move(last, folders)

    def _move(self, place: Path, folders: Folders) -> Path:
        *parents, name = place.relative_to(folders.inbox).parts
        with open_folder(folders.inbox, *parents) as target:
            os.rename(self.path, name, dst_dir_fd=target)  # replaces an empty folder at most
            self._remove.detach()
            os.close(self.descriptor)
            os.fsync(target)
        sync_folder(folders.spool)
        return place


def _remove_aside(path: Path, descriptor: int) -> None:
    """Remove a folder in a thread of its own: it may be the loop of the service that drops it, and a share may hang."""
    remover = threading.Thread(target=_remove, args=(path, descriptor), daemon=True)
    remover.start()
    remover.join(_REMOVE_SECONDS)


def _remove(path: Path, descriptor: int) -> None:
    with suppress(OSError):  # what cannot be removed now is removed by `remove_abandoned`
        shutil.rmtree(path)
    os.close(descriptor)


def remove_abandoned(spool: Path) -> None:
    """Remove what processes that are gone left half unpacked; a folder in use is locked and stays."""
    for path in spool.glob(f"*{UNPACKING_SUFFIX}"):
        with suppress(OSError):  # in use, or somebody else was faster; the next call tells
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


def is_unpacked(name: str) -> bool:
    """Tell whether a file of this name, relative to the inbox, came out of an archive."""
    return any(part.endswith(UNPACKED_SUFFIX) for part in Path(name).parts[:-1])
