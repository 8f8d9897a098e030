"""Remove an original that was filed away; everything here may be repeated after a crash."""

import enum
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from xray_batch.intake.disk import GONE_ERRNOS, READ_FLAGS, is_single_file, open_folder
from xray_batch.intake.filing import content_sha256, read_reason, reason_path
from xray_batch.intake.folders import Folders
from xray_batch.intake.names import meant_by
from xray_batch.records import Original


class Found(enum.Enum):
    """What is where an original was filed."""

    ORIGINAL = enum.auto()
    CHANGED = enum.auto()  #: Another file, or other bytes, or no longer the only name of them: not ours to remove.
    NOTHING = enum.auto()


def look_at_filed(folders: Folders, original: Original, size: int, *, thorough: bool = True) -> Found:
    """Tell whether the original is where the database says.

    Parameters
    ----------
    size
        Bytes of the original.
    thorough
        Compare the SHA-256 too, not only the size.
    """
    found = Found.NOTHING
    for place in _places(folders, original):
        try:
            with open_folder(folders.home, *place[:-1]) as folder:
                descriptor = os.open(place[-1], READ_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno in GONE_ERRNOS:
                continue
            raise
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - opened by descriptor
            status = os.fstat(descriptor)
            same = is_single_file(status) and status.st_size == size
            if same and thorough:
                same = hashlib.file_digest(file, "sha256").hexdigest() == original.content_sha256
        if same:
            return Found.ORIGINAL
        found = Found.CHANGED  # unless the other of two names that look alike is the original's
    return found


def remove_filed(folders: Folders, original: Original) -> None:
    """Remove an original, its reason, and the folders that are empty then; no link is followed.

    The caller has looked at it.  What is gone already is no error.  Of two names that look alike at most one is
    removed: the other may be another original's.
    """
    places = _places(folders, original)
    its_own = places[:1]
    if len(places) > 1:
        with_its_bytes = [
            place for place in places if content_sha256(folders.home.joinpath(*place)) == original.content_sha256
        ]
        its_own = with_its_bytes[:1]
    for place in places:
        try:
            with open_folder(folders.home, *place[:-1]) as folder:
                if place in its_own:
                    with suppress(FileNotFoundError):
                        os.unlink(place[-1], dir_fd=folder)
                reason = reason_path(folders.home.joinpath(*place))
                if read_reason(reason, original.arrival_id) is not None:
                    os.unlink(reason.name, dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            if error.errno not in GONE_ERRNOS:
                raise
        _remove_empty_parents(folders.home, place)


def _places(folders: Folders, original: Original) -> list[tuple[str, ...]]:
    """Return where the original may lie, as names below the home folder; never outside the folders of filed files."""
    bases = {folder.name for folder in (folders.processed, folders.rejected, folders.duplicates)}
    places = [Path(text).parts for text in meant_by(original.filed_path or "")]
    return [place for place in places if len(place) > 1 and place[0] in bases and ".." not in place]


def _remove_empty_parents(home: Path, place: tuple[str, ...]) -> None:
    """Remove the folders above a file, up to that of the first name, until one is not empty."""
    for depth in range(len(place) - 1, 1, -1):
        try:
            with open_folder(home, *place[: depth - 1]) as folder:
                os.rmdir(place[depth - 1], dir_fd=folder)
        except OSError as error:
            if error.errno in GONE_ERRNOS:
                continue
            return  # not empty, or not ours
