"""Move a finished file from the spool to where people look for it, and on to another place after another answer.

Called after the commit that says how the file ended, and again after any crash, until it returns:

| the process died after | found | then |
|---|---|---|
| (nothing yet) | file in the spool | moved |
| writing the reason | file in the spool, reason in rejected/ | moved beside it |
| the move | file in its place, an empty claim folder | folder removed |
| ``link`` of the fallback of the move | both names of one file | the spool's removed |

The file of a content that was queued once more is not in the spool: it lies where it was filed.  If the new answer
sends it from rejected/ to processed/, or back, it is moved there, else it stays:

| the process died after | found | then |
|---|---|---|
| (nothing yet) | file where it was filed | moved, or left |
| writing the reason | file in processed/, reason in rejected/ | moved beside it |
| replacing the reason | file in rejected/ with its new reason | left |
| the move | file in its new place, or under both names | found by name and bytes; the old name removed |
| the move out of rejected/ | file in processed/, its old reason in rejected/ | reason removed |

Only then is the new place committed; until then the database tells the old one.
"""

import datetime as dt
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable
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
    replace_file,
    sync_folder,
    write_new_file,
)
from xray_batch.intake.folders import FILE_MODE, Folders
from xray_batch.intake.names import free_choices, meant_by
from xray_batch.records import Disposition, Original, Outcome, Unfiled

#: Behind the whole name of a rejected file: the file that says why.
REASON_SUFFIX: Final = ".reason.json"

#: More than any reason has.
_REASON_BYTES: Final = 1 << 20


def file_away(folders: Folders, unfiled: Unfiled) -> Path:
    """Move a finished file to its place, out of the spool or from its earlier place; call it again after any failure.

    Returns
    -------
    pathlib.Path
        Where the file is now.  Nothing there was replaced: if the name was taken, the arrival id is in front.

    Raises
    ------
    LostFileError
        If the file is neither in the spool nor in any of its places.
    OSError
        If the disk refuses; the file is still where it was, or already in its place.
    """
    claimed = claimed_file(folders, unfiled.arrival_id)
    if claimed is not None:
        name = os.fspath(claimed.relative_to(folders.spool / str(unfiled.arrival_id)))
        target = _move_from(claimed, name, folders, unfiled)
    else:
        target = _file_again(folders, unfiled)
    if unfiled.outcome is not None and not target.is_relative_to(folders.rejected):
        _withdraw_reasons(folders, unfiled)
    remove_empty_folders(folders.spool / str(unfiled.arrival_id))
    return target


def find_original(folders: Folders, original: Original) -> Path | None:
    """Return where the file of an arrival is: in the spool, where it was filed, or where it would have been filed.

    None if it is in none of these places.  Where the database tells its place, and only one name can be meant, only a
    regular file is asked for; elsewhere it must have the arrival's bytes.
    """
    return (
        claimed_file(folders, original.arrival_id)
        or _filed_as_recorded(folders, original)
        or _filed_unrecorded(_places(folders, original), folders, original)
    )


def _file_again(folders: Folders, unfiled: Unfiled) -> Path:
    """Leave a file that was filed before where it is, or move it where another answer sends it."""
    base = _base(folders, unfiled)
    filed = _filed_as_recorded(folders, unfiled)
    if filed is not None and not filed.is_relative_to(base):
        return _move_from(filed, _name_of(filed, folders, unfiled), folders, unfiled)
    # What is found by name and bytes alone is not moved: it might be another arrival's, with the same bytes.
    found = filed or _filed_unrecorded(dict.fromkeys((base, *_places(folders, unfiled))), folders, unfiled)
    if found is None:
        raise LostFileError(f"Arrival {unfiled.arrival_id} is neither in the spool nor where it would be filed.")
    if filed is not None and base == folders.rejected:
        _explain(filed, folders, unfiled)
    sync_folder(found.parent)
    return found


def _base(folders: Folders, unfiled: Unfiled) -> Path:
    """Return the folder below which the file goes."""
    if unfiled.disposition is Disposition.DUPLICATE:
        return folders.duplicates
    return folders.rejected if unfiled.outcome is Outcome.NOT_ANALYSED else _processed_on_day(folders, unfiled)


def _processed_on_day(folders: Folders, original: Original) -> Path:
    return folders.processed / original.received_at.astimezone(dt.UTC).strftime("%Y/%m/%d")


def _choices(base: Path, name: str, folders: Folders, original: Original) -> list[Path]:
    reserved = len(REASON_SUFFIX) if base == folders.rejected else 0
    return free_choices(base, name, original.arrival_id, reserved)


def _places(folders: Folders, original: Original) -> tuple[Path, ...]:
    """Return every folder below which a file may have been filed: another answer may have moved it."""
    return _processed_on_day(folders, original), folders.rejected, folders.duplicates


def _filed_as_recorded(folders: Folders, original: Original) -> Path | None:
    """Return where the database says that a file was filed; None if it does not, or the file is not there.

    Of two names that look alike (:func:`meant_by`) the other may be another arrival's: then the bytes tell.
    """
    names = meant_by(original.filed_path or "")
    for path in (folders.home / name for name in names):
        is_there = path.is_file() and not path.is_symlink()
        if is_there and (len(names) == 1 or content_sha256(path) == original.content_sha256):
            return path
    return None


def _filed_unrecorded(bases: Iterable[Path], folders: Folders, original: Original) -> Path | None:
    """Find where an attempt put a file before the database knew: at one of its names, with its bytes."""
    names = meant_by(original.source_name)
    choices = [choice for base in bases for name in names for choice in _choices(base, name, folders, original)]
    certain = [choice for choice in choices if choice.name.startswith(str(original.arrival_id))]
    return next((choice for choice in [*certain, *choices] if content_sha256(choice) == original.content_sha256), None)


def _name_of(filed: Path, folders: Folders, unfiled: Unfiled) -> str:
    """Return the name, relative to the inbox, under which a file was filed: `filed` is one of its choices."""
    names = meant_by(unfiled.source_name)
    bases = _places(folders, unfiled)
    return next(
        (name for name in names if any(filed in _choices(base, name, folders, unfiled) for base in bases)), names[0]
    )


def content_sha256(path: Path) -> str | None:
    """Return the hash of a file's bytes; None if there is no such file."""
    try:
        with open_file(path.parent, path.name) as descriptor, open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno in GONE_ERRNOS | {errno.EISDIR, errno.ENAMETOOLONG}:
            return None
        raise


def _move_from(source: Path, name: str, folders: Folders, unfiled: Unfiled) -> Path:
    """Move the file, `name` relative to the inbox, to the best of its places that is free."""
    with suppress(PermissionError):  # a sender's file stays the sender's
        source.chmod(FILE_MODE)
    choices = _choices(_base(folders, unfiled), name, folders, unfiled)
    for target in choices:
        try:
            make_folders(target.parent, folders.home)
            if _place(source, target, folders, unfiled):
                return target
        except OSError as error:
            # A file has the name of a folder that is needed, or the path is too long: the next choice.
            if error.errno not in (errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(choices[-1]))


def _place(source: Path, target: Path, folders: Folders, unfiled: Unfiled) -> bool:
    """Give the file this name if it is free, its reason first; tell whether it has it now.

    The reason comes first so that a rejected file never lies there unexplained.  It also reserves the name:
    after a crash it is found again, and the file goes beside it.
    """
    if os.path.lexists(target):
        return _finish_link(source, target)
    rejected = target.is_relative_to(folders.rejected)
    if rejected and not _explain(target, folders, unfiled):
        return False
    try:
        move(source, target)
    except FileExistsError:
        if rejected:
            reason_path(target).unlink()
        return False
    return True


def _finish_link(source: Path, target: Path) -> bool:
    """Remove the old name of a file that already has its new one; False if that is another file's."""
    if not os.path.samestat(source.lstat(), target.lstat()):
        return False
    sync_folder(target.parent)
    source.unlink()
    return True


def _explain(target: Path, folders: Folders, unfiled: Unfiled) -> bool:
    """Write the reason beside a rejected file; False if its name is taken by something else."""
    path, reason = reason_path(target), _reason(unfiled)
    scratch = folders.spool / f"{unfiled.arrival_id}.tmp"
    try:
        write_new_file(path, reason, scratch)
    except FileExistsError:
        # Ours, from an earlier attempt or an earlier answer?
        found = read_reason(path, unfiled.arrival_id)
        if found is not None and found != reason:
            replace_file(path, reason, scratch)
        return found is not None
    return True


def _withdraw_reasons(folders: Folders, unfiled: Unfiled) -> None:
    """Remove the reason of an answer that has been replaced by one without."""
    for name in meant_by(unfiled.source_name):
        for choice in _choices(folders.rejected, name, folders, unfiled):
            path = reason_path(choice)
            if read_reason(path, unfiled.arrival_id) is not None:
                path.unlink()
                sync_folder(path.parent)


def reason_path(target: Path) -> Path:
    """Return the name of the file that says why another was rejected."""
    return target.with_name(target.name + REASON_SUFFIX)


def read_reason(path: Path, arrival_id: uuid.UUID) -> bytes | None:
    """Return the reason that was written for an arrival; None if there is none, or `path` is another file.

    Told by the arrival id: a database may round the times it gives back.
    """
    try:
        with open_file(path.parent, path.name) as descriptor:
            found = os.read(descriptor, _REASON_BYTES)
    except OSError as error:
        if error.errno in GONE_ERRNOS | {errno.EISDIR, errno.ENAMETOOLONG}:
            return None
        raise
    return found if str(arrival_id).encode() in found else None


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
