"""Move a finished file from the spool to where people look for it.

Called after the commit that says how the file ended, and again after any crash, until it returns:

| the process died after | found | then |
|---|---|---|
| (nothing yet) | file in the spool | moved |
| writing the reason | file in the spool, reason in rejected/ | moved beside it |
| the move | file in its place, an empty claim folder | folder removed |
| ``link`` of the fallback of the move | both names of one file | the spool's removed |
"""

import datetime as dt
import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from xray_batch.errors import LostFileError
from xray_batch.intake.claims import claimed_file
from xray_batch.intake.disk import (
    GONE_ERRNOS,
    make_folders,
    move,
    open_file,
    remove_empty_folders,
    sync_folder,
    write_new_file,
)
from xray_batch.intake.folders import FILE_MODE, Folders
from xray_batch.intake.names import free_choices, meant_by
from xray_batch.records import Disposition, Outcome, Unfiled

#: Behind the whole name of a rejected file: the file that says why.
REASON_SUFFIX: Final = ".reason.json"


def file_away(folders: Folders, unfiled: Unfiled) -> Path:
    """Move a finished file out of the spool; call it again after any failure.

    Returns
    -------
    pathlib.Path
        Where the file is now.  Nothing there was replaced: if the name was taken, the arrival id is in front.

    Raises
    ------
    LostFileError
        If the file is neither in the spool nor in any of its places.
    OSError
        If the disk refuses; the file is still in the spool, or already in its place.
    """
    claim_folder = folders.spool / str(unfiled.arrival_id)
    claimed = claimed_file(folders, unfiled.arrival_id)
    target = _already_filed(folders, unfiled) if claimed is None else _move_from(claimed, folders, unfiled)
    remove_empty_folders(claim_folder)
    return target


def _base(folders: Folders, unfiled: Unfiled) -> Path:
    """Return the folder below which the file goes."""
    if unfiled.disposition is Disposition.DUPLICATE:
        return folders.duplicates
    return folders.rejected if unfiled.outcome is Outcome.NOT_ANALYSED else _processed_on_day(folders, unfiled)


def _processed_on_day(folders: Folders, unfiled: Unfiled) -> Path:
    return folders.processed / unfiled.received_at.astimezone(dt.UTC).strftime("%Y/%m/%d")


def _choices(base: Path, name: str, folders: Folders, unfiled: Unfiled) -> list[Path]:
    reserved = len(REASON_SUFFIX) if base == folders.rejected else 0
    return free_choices(base, name, unfiled.arrival_id, reserved)


def _already_filed(folders: Folders, unfiled: Unfiled) -> Path:
    """Find where an earlier attempt put the file: at one of its names, with its bytes.

    Looked for in every place: a newer model may have answered otherwise since then.
    """
    bases = dict.fromkeys(
        (_base(folders, unfiled), _processed_on_day(folders, unfiled), folders.rejected, folders.duplicates)
    )
    names = meant_by(unfiled.source_name)
    choices = [choice for base in bases for name in names for choice in _choices(base, name, folders, unfiled)]
    certain = [choice for choice in choices if choice.name.startswith(str(unfiled.arrival_id))]
    for choice in [*certain, *choices]:
        if _content_sha256(choice) == unfiled.content_sha256:
            sync_folder(choice.parent)
            return choice
    raise LostFileError(f"Arrival {unfiled.arrival_id} is neither in the spool nor where it would be filed.")


def _content_sha256(path: Path) -> str | None:
    """Return the hash of a file's bytes; None if there is no such file."""
    try:
        with open_file(path.parent, path.name) as descriptor, open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno in GONE_ERRNOS | {errno.EISDIR, errno.ENAMETOOLONG}:
            return None
        raise


def _move_from(claimed: Path, folders: Folders, unfiled: Unfiled) -> Path:
    """Move the file to the best of its names that is free."""
    with suppress(PermissionError):  # a sender's file stays the sender's
        claimed.chmod(FILE_MODE)
    name = os.fspath(claimed.relative_to(folders.spool / str(unfiled.arrival_id)))
    choices = _choices(_base(folders, unfiled), name, folders, unfiled)
    for target in choices:
        try:
            make_folders(target.parent, folders.home)
            if _place(claimed, target, folders, unfiled):
                return target
        except OSError as error:
            # A file has the name of a folder that is needed, or the path is too long: the next choice.
            if error.errno not in (errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(choices[-1]))


def _place(claimed: Path, target: Path, folders: Folders, unfiled: Unfiled) -> bool:
    """Give the file this name if it is free, its reason first; tell whether it has it now.

    The reason comes first so that a rejected file never lies there unexplained.  It also reserves the name:
    after a crash it is found again, and the file goes beside it.
    """
    if os.path.lexists(target):
        return _finish_link(claimed, target)
    rejected = target.is_relative_to(folders.rejected)
    if rejected and not _explain(target, folders, unfiled):
        return False
    try:
        move(claimed, target)
    except FileExistsError:
        if rejected:
            _reason_path(target).unlink()
        return False
    return True


def _finish_link(claimed: Path, target: Path) -> bool:
    """Remove the spool's name of a file that already has its final one; False if that is another file's."""
    if not os.path.samestat(claimed.lstat(), target.lstat()):
        return False
    sync_folder(target.parent)
    claimed.unlink()
    return True


def _explain(target: Path, folders: Folders, unfiled: Unfiled) -> bool:
    """Write the reason beside a rejected file; False if its name is taken by something else."""
    path = _reason_path(target)
    scratch = folders.spool / f"{unfiled.arrival_id}.tmp"
    try:
        write_new_file(path, _reason(unfiled), scratch)
    except FileExistsError:
        # Ours, from an earlier attempt?  By the arrival id: a database may round the times it gives back.
        ours = str(unfiled.arrival_id).encode()
        return path.is_file() and not path.is_symlink() and ours in path.read_bytes()
    return True


def _reason_path(target: Path) -> Path:
    return target.with_name(target.name + REASON_SUFFIX)


def _reason(unfiled: Unfiled) -> bytes:
    facts = {
        "reason_code": unfiled.reason_code,
        "reason": unfiled.reason,
        "source_name": unfiled.source_name,
        "content_sha256": unfiled.content_sha256,
        "received_at": unfiled.received_at.astimezone(dt.UTC).isoformat(),
        "arrival_id": str(unfiled.arrival_id),
    }
    return json.dumps(facts, indent=2).encode("ascii") + b"\n"
