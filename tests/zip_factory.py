"""Zip archives, good and hostile."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path


def make_zip(
    path: Path,
    members: Mapping[str, bytes],
    *,
    method: int = zipfile.ZIP_DEFLATED,
    twist: Callable[[list[zipfile.ZipInfo]], None] | None = None,
) -> Path:
    """Write an archive; `twist` may change what its central directory will say of the members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if twist is not None:
            twist(archive.filelist)
    return path


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a good archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def set_of_all(**attributes: object) -> Callable[[list[zipfile.ZipInfo]], None]:
    """Return a twist that makes the central directory lie about every member."""

    def twist(members: list[zipfile.ZipInfo]) -> None:
        for member in members:
            for name, value in attributes.items():
                setattr(member, name, value)

    return twist


def repeat_first(members: list[zipfile.ZipInfo]) -> None:
    """Twist: the same bytes are two members."""
    members.append(members[0])
