"""Room on the disks: before they are full, the service takes nothing more in, and then nothing up."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xray_batch.database import sqlite_path
from xray_batch.settings import Settings

#: Of a small disk the floor is this share: 5 GB of a disk that has 20 would be a quarter.
_SHARE_AT_MOST: Final = 0.05

#: File systems that have a number of files once and for all must have room for so many more, or for this share of all:
#: the folders of a full spool, with those that its files had in the inbox, and the reasons beside what is rejected.
_INODES_AT_MOST: Final = 4096

#: Below this share of the floor nothing is classified either: the database needs the rest to tell of it.
_LAST_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left on the disk that has least to spare."""

    free_bytes: int
    floor_bytes: int
    free_inodes: int = 0  #: as the floor, 0 where the file system makes them as they are needed
    floor_inodes: int = 0

    @property
    def for_claims(self) -> bool:
        """Whether files may be taken in."""
        return self.free_bytes >= self.floor_bytes and self.free_inodes >= self.floor_inodes

    @property
    def for_work(self) -> bool:
        """Whether files that were taken in may be classified."""
        return self.free_bytes >= self.floor_bytes * _LAST_SHARE


def disks_of(settings: Settings) -> list[Path]:
    """Return the folders whose disks the service fills: home, and that of an embedded database."""
    database = sqlite_path(settings.resolved_database_url)
    return [settings.home.absolute(), *([] if database is None else [database.absolute().parent])]


def look_for_room(folders: Iterable[Path], floor_mb: int) -> Room:
    """Measure the disks of these folders.

    Parameters
    ----------
    floor_mb
        MiB that are to stay free; of a small disk 5 %.  Of inodes, where they are numbered, 4096 or 5 % are.

    Raises
    ------
    OSError
        If a folder is not there.
    """
    rooms = []
    for folder in folders:
        status = os.statvfs(folder)
        floor = min(floor_mb << 20, int(status.f_blocks * status.f_frsize * _SHARE_AT_MOST))
        rooms.append(
            Room(
                free_bytes=status.f_bavail * status.f_frsize,
                floor_bytes=floor,
                free_inodes=status.f_favail,
                floor_inodes=min(_INODES_AT_MOST, int(status.f_files * _SHARE_AT_MOST)),
            )
        )
    return min(rooms, key=lambda room: (room.for_claims, room.free_bytes - room.floor_bytes))
