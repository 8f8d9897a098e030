"""The process that unpacks one zip archive, and ends.

Like a decode worker it has no database, no secret and no torch, and limits on memory, CPU time, files and
processes; it writes only new files into the one folder whose descriptor it was given.  Nothing that the
archive declares is trusted: bytes are counted as they come out, and what was declared must agree with them.

A member's name is never a path here.  The file's name is the member's number, counted from 1, and behind it
for people what is left of its path when only ASCII letters, digits, dots, dashes and underscores are kept:
``../IM 1.dcm``, the seventh, becomes ``0007-IM_1.dcm``.

Started by :mod:`xray_batch.pipeline.unpack`, as ``python -P -m xray_batch.pipeline.unpack_worker``.
"""

import argparse
import errno
import os
import re
import resource
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO, Final

from pydantic import TypeAdapter

from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.intake import is_ignored
from xray_batch.records import Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """What one archive may hold, and what unpacking it may use."""

    members: int  #: files, those with ignored names not counted
    total_bytes: int  #: of all members, unpacked; also of the archive itself
    member_bytes: int  #: of one member, unpacked
    ratio: int  #: of the bytes unpacked to those of the archive
    free_bytes: int  #: of the disk that are left to others
    address_space: int  #: bytes
    cpu_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackReply:
    """What the process says at its end."""

    members: int = 0  #: files in the folder, where there is neither rejection nor failure
    rejection: Rejection | None = None
    failure: str | None = None  #: name of an exception's class
    transient: bool = False  #: of a failure: the disk's fault, not to be held against the archive


UNPACK_LIMITS: Final = TypeAdapter(UnpackLimits)
UNPACK_REPLY: Final = TypeAdapter(UnpackReply)

#: Every file in the folder has such a name.
MEMBER_NAME: Final = re.compile(r"\d{4,}(-[A-Za-z0-9._-]{1,100})?")
_KEPT_LENGTH: Final = 100

_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
#: General purpose bits (APPNOTE.TXT 4.4.4): encrypted, strongly encrypted, masked headers.
_ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13

#: What zipfile raises for an archive that contradicts itself.
_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError)

#: The disk, or the system, is at fault.
_SYSTEM_ERRNOS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT, errno.ENOMEM, errno.EMFILE}
)

_LOCAL_HEADER_BYTES: Final = 30  #: at least (APPNOTE.TXT 4.3.7)
_CHUNK_BYTES: Final = 1 << 20
_OPEN_FILES: Final = 32
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE: Final = 0o640


def main() -> None:
    """Unpack the archive behind one descriptor into the folder behind another, and say how it went."""
    parser = argparse.ArgumentParser()
    for name in ("--connection", "--archive", "--folder"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--limits", required=True)
    options = parser.parse_args()
    limits = UNPACK_LIMITS.validate_json(options.limits)
    connection = Connection(options.connection)
    _limit(limits)
    with open(options.archive, "rb") as archive:  # noqa: PTH123 - opened by descriptor
        connection.send_bytes(UNPACK_REPLY.dump_json(answer(archive, options.folder, limits)))


def answer(archive: IO[bytes], folder: int, limits: UnpackLimits) -> UnpackReply:
    """Unpack an archive, or say why not.  What is in the folder then is worth nothing."""
    try:
        return UnpackReply(members=unpack(archive, folder, limits))
    except RejectedInputError as error:
        return UnpackReply(rejection=Rejection.of(error))
    except MemoryError:
        reason = "Unpacking the zip archive takes more memory than it may."
        return UnpackReply(rejection=Rejection(reason_code=ReasonCode.TOO_LARGE, reason=reason))
    except OSError as error:
        return UnpackReply(failure=type(error).__name__, transient=error.errno in _SYSTEM_ERRNOS)
    except Exception as error:  # noqa: BLE001 - the job boundary: a bug costs one attempt of one archive
        return UnpackReply(failure=type(error).__name__)


def unpack(archive: IO[bytes], folder: int, limits: UnpackLimits) -> int:
    """Write every member to a new file in a folder; return how many.

    Raises
    ------
    RejectedInputError
        TOO_LARGE, TRUNCATED, UNREADABLE_FILE, or ZIP_ARCHIVE where it is encrypted or packed in another way
        than by deflate.
    """
    meter = _Meter(os.fstat(archive.fileno()).st_size, folder, limits)
    if not zipfile.is_zipfile(archive):
        raise RejectedInputError(ReasonCode.TRUNCATED, "The zip archive ends before its central directory does.")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, limits)
            for number, member in enumerate(members, 1):
                _write(opened, member, file_name(number, member.filename), folder, meter)
    except _DAMAGE as error:
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE, f"The zip archive is damaged: {str(error)[:200]}."
        ) from error
    except NotImplementedError as error:
        message = "The zip archive needs a feature of the format that is not supported."
        raise RejectedInputError(ReasonCode.ZIP_ARCHIVE, message) from error
    os.fsync(folder)
    return len(members)


def _members(archive: zipfile.ZipFile, limits: UnpackLimits) -> list[zipfile.ZipInfo]:
    """Return the members to unpack, none if that is nothing for us."""
    everything = archive.infolist()
    members = [member for member in everything if not _is_passed_over(member.filename)]
    if len(members) > limits.members:
        raise RejectedInputError(
            ReasonCode.TOO_LARGE,
            f"The zip archive holds {len(members):,} files; at most {limits.members:,} are accepted.",
        )
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise RejectedInputError(ReasonCode.ZIP_ARCHIVE, "The zip archive is encrypted; only plain ones are unpacked.")
    methods = sorted({member.compress_type for member in members} - _METHODS)
    if methods:
        raise RejectedInputError(
            ReasonCode.ZIP_ARCHIVE,
            f"The zip archive uses compression method {methods[0]}; stored (0) and deflate (8) are accepted.",
        )
    _check_apart(everything, archive.start_dir)
    return members


def _is_passed_over(name: str) -> bool:
    """Tell whether a member is a folder, or would be left alone in the inbox for its name."""
    parts = re.split(r"[/\\]", name)
    return not parts[-1] or any(is_ignored(part) for part in parts if part not in ("", ".", ".."))


def _check_apart(members: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Refuse members that share bytes: some archives multiply themselves like this."""
    for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
        if not 0 <= member.header_offset <= end - _LOCAL_HEADER_BYTES - member.compress_size:
            message = "members overlap"
            raise zipfile.BadZipFile(message)
        end = member.header_offset


def file_name(number: int, name: str) -> str:
    """Return the name of a member's file: its number, and what people recognise it by."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-_KEPT_LENGTH:].lstrip("._-")
    named = f"{number:04}-{plain}"
    return f"{number:04}" if not plain or is_ignored(named) else named


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, folder: int, meter: "_Meter") -> None:
    size = 0
    with (
        open(os.open(name, _NEW_FILE, _FILE_MODE, dir_fd=folder), "wb") as file,  # noqa: PTH123 - in the folder
        archive.open(member) as content,
    ):
        while chunk := content.read(_CHUNK_BYTES):
            size += len(chunk)
            meter.count(len(chunk), size)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if size != member.file_size:
        message = f"a member has {size:,} bytes instead of {member.file_size:,}"
        raise zipfile.BadZipFile(message)


class _Meter:
    """Counts what comes out of an archive."""

    def __init__(self, archive_bytes: int, folder: int, limits: UnpackLimits) -> None:
        self._archive_bytes = archive_bytes
        self._folder = folder
        self._limits = limits
        self._total = 0
        self._check(archive_bytes, limits.total_bytes, "The zip archive has")

    def count(self, new: int, member: int) -> None:
        """Take note of `new` bytes of a member that has now `member` bytes, before they are written.

        Raises
        ------
        RejectedInputError
            TOO_LARGE, if a limit is exceeded.
        OSError
            ENOSPC, if too little of the disk would be left.
        """
        self._total += new
        self._check(member, self._limits.member_bytes, "A file in the zip archive has")
        self._check(self._total, self._limits.total_bytes, "The files in the zip archive have")
        ratio = self._limits.ratio
        if self._total > ratio * self._archive_bytes:
            message = f"The zip archive unpacks to more than {ratio} times its size; at most that is accepted."
            raise RejectedInputError(ReasonCode.TOO_LARGE, message)
        disk = os.fstatvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._limits.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @staticmethod
    def _check(size: int, most: int, what: str) -> None:
        if size > most:
            raise RejectedInputError(ReasonCode.TOO_LARGE, f"{what} more than {most:,} bytes, which is the limit.")


def _limit(limits: UnpackLimits) -> None:
    """Give up what unpacking does not need; called once everything is imported."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.address_space, limits.address_space))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.member_bytes, limits.member_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
