"""Look through the inbox: the scan is the truth about what is there; events are only hints."""

import enum
import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xray_batch.intake.disk import GONE_ERRNOS, open_folder

#: A name that starts like this is not ours, be it a file's or a folder's.
IGNORED_PREFIXES: Final = (
    ".",  # hidden: rsync's temporaries (.x.dcm.a8Xk2P), .DS_Store, Syncthing's .stfolder, macOS's ._*
)

#: A name that ends like this is not complete, or was never meant for us.  Case does not matter.
IGNORED_SUFFIXES: Final = (
    ".part",  # Firefox, and the custom of many DICOM routers: write x.dcm.part, then rename
    ".partial",  # rclone
    ".tmp",  # Windows programs; the same custom
    ".temp",  # likewise
    ".filepart",  # WinSCP
    ".crdownload",  # Chrome
    ".lftp",  # lftp
    ".!ut",  # uTorrent
    ".swp",  # vim
    "~",  # backup copies of editors
)

#: Files and folders that other systems leave in any folder they touch.  Case does not matter.
IGNORED_NAMES: Final = (
    "@eadir",  # Synology: thumbnails
    "__macosx",  # macOS: resource forks beside the content of a zip
    "thumbs.db",  # Windows Explorer
    "desktop.ini",  # Windows Explorer
)


#: What lies below this folder of the inbox goes first.
URGENT_FOLDER: Final = "urgent"

#: A larger file is not read, not even for its hash, for which all others would wait; of what is accepted, archives are
#: the largest, with 2 GB.
_MOST_BYTES: Final = 10_000_000_000

#: What is ignored for its name and older than this is not just about to get another name.
_LONG_SECONDS: Final = 86_400.0


class LeftAlone(enum.StrEnum):
    """Why something in the inbox is not taken; counted, never named."""

    IGNORED_NAME = "ignored_name"  #: Temporary or foreign by its name; a folder counts once.
    IGNORED_FOR_LONG = "ignored_for_long"  #: Likewise, and older than a day: perhaps a transfer that never ended.
    SYMBOLIC_LINK = "symbolic_link"  #: May lead to any file of this machine.
    HARD_LINK = "hard_link"  #: Has a second name, perhaps for a moment: some senders link, then unlink.
    SPECIAL_FILE = "special_file"  #: FIFO, socket or device.
    HUGE_FILE = "huge_file"  #: More than 10 GB: no film, and a sparse one of terabytes costs its sender nothing.
    OTHER_FILE_SYSTEM = "other_file_system"  #: Cannot be claimed by rename.
    UNREADABLE = "unreadable"  #: Permissions, a disk error, or a path longer than the system allows.


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxFile:
    """One regular file in the inbox, as it was when the scan looked."""

    inbox: Path
    name: str  #: relative to the inbox; undecodable bytes as surrogates (PEP 383)
    size: int  #: bytes
    device: int
    inode: int
    mtime_ns: int  #: the file's clock, only ever compared for equality
    ctime_ns: int  #: likewise; unlike mtime a sender cannot set it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one look through the inbox found."""

    files: tuple[InboxFile, ...]
    left_alone: Counter[LeftAlone]  #: how many of each kind; worth a log line when it changes


def scan(inbox: Path) -> Scan:
    """Look at everything below the inbox, at any depth; nothing is opened and no link followed.

    Raises
    ------
    OSError
        If the inbox itself cannot be read: that says nothing about the files in it.
    """
    left_alone: Counter[LeftAlone] = Counter()
    files = tuple(
        _inbox_file(inbox, name, status) for name, status in _walk(inbox, left_alone) if stat.S_ISREG(status.st_mode)
    )
    return Scan(files=files, left_alone=left_alone)


def _inbox_file(inbox: Path, name: str, status: os.stat_result) -> InboxFile:
    return InboxFile(
        inbox=inbox,
        name=name,
        size=status.st_size,
        device=status.st_dev,
        inode=status.st_ino,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def _walk(inbox: Path, left_alone: Counter[LeftAlone]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield relative name and lstat of the folders and files that are ours, parents first; count the rest."""
    device = inbox.stat().st_dev
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(inbox / folder) as entries:
                listed = list(entries)
        except OSError as error:
            if not folder:
                raise
            if error.errno not in GONE_ERRNOS:
                left_alone[LeftAlone.UNREADABLE] += 1
            continue
        for entry in listed:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since it was listed
                continue
            except OSError:
                left_alone[LeftAlone.UNREADABLE] += 1
                continue
            reason = _reason_to_leave(entry.name, status, device)
            if reason is not None:
                left_alone[reason] += 1
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
            yield name, status


def _reason_to_leave(name: str, status: os.stat_result, device: int) -> LeftAlone | None:
    """Say why this entry is none of ours; None for a single regular file and for a folder."""
    if is_ignored(name):
        is_old = time.time() - status.st_mtime > _LONG_SECONDS
        return LeftAlone.IGNORED_FOR_LONG if is_old else LeftAlone.IGNORED_NAME
    if stat.S_ISLNK(status.st_mode):
        return LeftAlone.SYMBOLIC_LINK
    if status.st_dev != device:
        return LeftAlone.OTHER_FILE_SYSTEM
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        return LeftAlone.SPECIAL_FILE
    if status.st_size > _MOST_BYTES:
        return LeftAlone.HUGE_FILE
    return None if status.st_nlink == 1 else LeftAlone.HARD_LINK


def is_ignored(name: str) -> bool:
    """Tell whether one file's or folder's name says that it is not, or not yet, for us."""
    lower = name.lower()
    return lower.startswith(IGNORED_PREFIXES) or lower.endswith(IGNORED_SUFFIXES) or lower in IGNORED_NAMES


def is_urgent(name: str) -> bool:
    """Tell whether a file of this name, relative to the inbox, goes before others."""
    return name.startswith(f"{URGENT_FOLDER}/")


def remove_empty_subfolders(inbox: Path, older_than_seconds: float = 3600) -> int:
    """Remove subfolders of the inbox that are empty and have not changed for that long; return how many.

    Only ``rmdir`` is used: a folder that just got a file stays.  The age is for senders who make a folder
    first and fill it later.  The folder for urgent files stays: senders count on it.
    """
    oldest = time.time() - older_than_seconds  # folder times are wall-clock times
    folders = [
        name
        for name, status in _walk(inbox, Counter())
        if stat.S_ISDIR(status.st_mode) and status.st_mtime < oldest and name != URGENT_FOLDER
    ]
    return sum(_remove_if_empty(inbox, name) for name in reversed(folders))  # children before their parents


def _remove_if_empty(inbox: Path, name: str) -> bool:
    *parents, last = Path(name).parts
    try:
        with open_folder(inbox, *parents) as folder:
            os.rmdir(last, dir_fd=folder)
    except OSError as error:
        if error.errno in GONE_ERRNOS | {errno.ENOTEMPTY, errno.EBUSY, errno.EACCES, errno.EPERM}:
            return False
        raise
    return True
