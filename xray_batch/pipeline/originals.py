"""Where the bytes of a stored result are: in a recorded place, and only if they still are those bytes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from xray_batch.errors import ReplayError
from xray_batch.intake import meant_by
from xray_batch.pipeline.regular_file import open_regular_file
from xray_batch.records import StoredResult


def find_original(stored: StoredResult, home: Path, file: Path | None) -> Path:
    """Return a file that has the bytes of a result's content.

    Raises
    ------
    ReplayError
        If `file` has other bytes, or none of the recorded places has them.  The message names no place: a
        sender's file name may be that of a patient.
    """
    record = stored.record
    if file is not None:
        sha256 = _content_sha256(file)
        if sha256 != record.content_sha256:
            found = "given with --file " + ("cannot be read" if sha256 is None else f"has SHA-256 {sha256}")
            message = (
                f"the file {found}; result {record.result_id} is of the bytes with SHA-256 {record.content_sha256}"
            )
            raise ReplayError(message)
        return file
    for place in recorded_places(stored, home):
        if _content_sha256(place) == record.content_sha256:
            return place
    message = (
        f"the original of result {record.result_id} is not where it was filed or classified; name it with --file "
        f"(its SHA-256 is {record.content_sha256})"
    )
    raise ReplayError(message)


def recorded_places(stored: StoredResult, home: Path) -> Iterator[Path]:
    """Yield where the original may be: filed away, or left in place under a name given on a command line."""
    for text in stored.filed_paths:
        yield from (home / name for name in meant_by(text))
    for text in stored.in_place_names:
        yield from (Path(name) for name in meant_by(text))


def _content_sha256(path: Path) -> str | None:
    """Return the hash of a file's bytes; None if there is no file, or none that can be read to its end."""
    try:
        with open_regular_file(path) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return None
