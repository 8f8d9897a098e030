"""Take a complete file out of the inbox, and learn what it is.

The claim is one rename into a new folder of the spool.  That folder's name is the arrival id and its time
the time of arrival; the path inside is the one below the inbox.  Whoever finds the folder after a crash
knows all that the claimer knew, and recording the same arrival again changes nothing.

| the process died after | found in the spool | then |
|---|---|---|
| making the folder | no file | removed when older than a minute; the file is still in the inbox |
| the rename | a file | claimed: hashed and recorded (again) |
"""

import datetime as dt
import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xray_batch.intake.disk import (
    GONE_ERRNOS,
    is_single_file,
    make_folders,
    open_file,
    open_folder,
    remove_empty_folders,
    rename_no_replace,
    sync_folder,
    synced,
)
from xray_batch.intake.folders import Folders
from xray_batch.intake.inbox import InboxFile, is_urgent
from xray_batch.intake.names import printable, unique
from xray_batch.intake.settle import Writers, writers_of
from xray_batch.records import Arrival

#: An empty claim folder younger than this may belong to a process that is about to rename a file into it.
#: Removing it all the same would do no harm: that rename would fail, and the file stay in the inbox.
EMPTY_CLAIM_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A file in the spool that is ours alone; perhaps not recorded yet."""

    arrival_id: uuid.UUID
    path: Path  #: absolute, in the spool
    source_name: str  #: relative to the inbox, printable
    received_at: dt.datetime  #: aware, UTC

    @property
    def is_urgent(self) -> bool:
        """Whether it goes before others; the path in the spool says so, so that a crash changes nothing."""
        return is_urgent(self.source_name)


def claim(file: InboxFile, folders: Folders) -> Claimed | None:
    """Move one complete file from the inbox to the spool.

    Returns
    -------
    Claimed or None
        None if the file is gone, or is no longer the one that settled: then it is where it was, and the
        next scan decides.

    Raises
    ------
    OSError
        If the disk refuses.  The file is then in the inbox, or already in the spool, where
        :func:`claims_in_spool` finds it.
    """
    arrival_id = uuid.uuid4()
    claim_folder = folders.spool / str(arrival_id)
    *parents, name = Path(file.name).parts
    try:
        with open_folder(file.inbox, *parents) as inbox_folder:
            target = _take(file, inbox_folder, claim_folder)
            if not _is_still(file, target):
                _put_back(target, name, inbox_folder, arrival_id)
                remove_empty_folders(claim_folder)
                return None
            sync_folder(target.parent)
            os.fsync(inbox_folder)
    except OSError as error:
        with suppress(OSError):  # what matters is the error; an empty folder is removed later
            remove_empty_folders(claim_folder)
        if error.errno in GONE_ERRNOS and folders.spool.is_dir():
            return None
        raise
    return _claimed(claim_folder, target)


def _take(file: InboxFile, inbox_folder: int, claim_folder: Path) -> Path:
    """Rename the file into its claim folder, below the same subfolders unless that path gets too long."""
    name = Path(file.name).name
    target = claim_folder / file.name
    try:
        make_folders(target.parent, claim_folder.parent)
        os.rename(name, target, src_dir_fd=inbox_folder)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        remove_empty_folders(claim_folder)
        target = claim_folder / name
        make_folders(claim_folder, claim_folder.parent)
        os.rename(name, target, src_dir_fd=inbox_folder)
    return target


def _is_still(file: InboxFile, path: Path) -> bool:
    """Tell whether `path` is the very file that settled, unchanged, and has no other name."""
    status = os.lstat(path)
    seen = (file.device, file.inode, file.size, file.mtime_ns)  # without ctime: the rename has changed it
    return is_single_file(status) and seen == (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
    )


def _put_back(path: Path, name: str, inbox_folder: int, arrival_id: uuid.UUID) -> None:
    """Give back to the inbox what was not meant to be taken; under another name if its own is taken."""
    try:
        rename_no_replace(path, name, inbox_folder)
    except FileExistsError:
        rename_no_replace(path, unique(name, arrival_id, 0), inbox_folder)


def _claimed(claim_folder: Path, path: Path) -> Claimed:
    """Describe a claimed file by what lies in the spool alone, so that it is the same after a crash."""
    return Claimed(
        arrival_id=uuid.UUID(claim_folder.name),
        path=path,
        source_name=printable(os.fspath(path.relative_to(claim_folder))),
        received_at=dt.datetime.fromtimestamp(claim_folder.stat().st_mtime, dt.UTC),
    )


def hash_claimed(claimed: Claimed) -> Arrival | None:
    """Read a claimed file once, and say what arrived.

    Returns
    -------
    Arrival or None
        None for "not now": somebody still writes to the file, or it has a second name, or it is gone.
        The next sweep tries again.
    """
    try:
        with open_file(claimed.path.parent, claimed.path.name) as descriptor:
            before = os.fstat(descriptor)
            if not is_single_file(before) or writers_of(descriptor) is Writers.SOME:
                return None
            with synced(descriptor):  # before the database says that we have these bytes
                digest = _sha256(descriptor)
            after = os.fstat(descriptor)
    except OSError as error:
        if error.errno in GONE_ERRNOS:
            return None
        raise
    if _shape(before) != _shape(after):
        return None
    return Arrival(
        arrival_id=claimed.arrival_id,
        source_name=claimed.source_name,
        content_sha256=digest,
        size=after.st_size,
        received_at=claimed.received_at,
        is_urgent=claimed.is_urgent,
    )


def _shape(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink)


def _sha256(descriptor: int) -> str:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claimed_file(folders: Folders, arrival_id: uuid.UUID) -> Path | None:
    """Return where in the spool the file of an arrival is; None if it is filed away (or never was)."""
    files = _files_below(folders.spool / str(arrival_id))
    return files[0] if len(files) == 1 else None


def claimed_by(folders: Folders, arrival_id: uuid.UUID) -> Claimed | None:
    """Return the claim of an arrival whose file is in the spool; None if it is not there."""
    path = claimed_file(folders, arrival_id)
    return None if path is None else _claimed(folders.spool / str(arrival_id), path)


def claim_ids(folders: Folders) -> set[uuid.UUID]:
    """Return the arrival ids of all claims in the spool, told by name alone: nothing is looked into."""
    ids = set()
    for path in folders.spool.iterdir():
        with suppress(ValueError):
            ids.add(uuid.UUID(path.name))
    return ids


def claims_in_spool(folders: Folders, arrival_ids: Iterable[uuid.UUID] | None = None) -> Iterator[Claimed]:
    """Yield the files in the spool: what an earlier run left, and what this one is working on.

    Looked for are those of `arrival_ids`, else all.  Folders among them that hold no file are removed.
    """
    for arrival_id in sorted(claim_ids(folders) if arrival_ids is None else arrival_ids):
        claim_folder = folders.spool / str(arrival_id)
        if not claim_folder.is_dir() or claim_folder.is_symlink():
            continue
        with suppress(FileNotFoundError):  # filed away by another process since it was listed
            files = _files_below(claim_folder)
            if len(files) == 1 and files[0].is_file() and not files[0].is_symlink():
                yield _claimed(claim_folder, files[0])
            elif files:
                _give_back(claim_folder, folders)
            elif time.time() - claim_folder.stat().st_mtime > EMPTY_CLAIM_SECONDS:
                remove_empty_folders(claim_folder)


def _files_below(folder: Path) -> list[Path]:
    """Return everything below `folder` that is no folder; links are not followed."""
    files: list[Path] = []
    pending = [folder]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                (pending if entry.is_dir(follow_symlinks=False) else files).append(Path(entry.path))
    return files


def _give_back(claim_folder: Path, folders: Folders) -> None:
    """Return to the inbox what no claim of ours can have left.

    A sender who puts a link or a folder in place of a file at the moment of the claim gets it back at once;
    this is for the process that died between the two.
    """
    with open_folder(folders.inbox) as inbox:
        for entry in sorted(claim_folder.iterdir()):
            _put_back(entry, entry.name, inbox, uuid.UUID(claim_folder.name))
    remove_empty_folders(claim_folder)
