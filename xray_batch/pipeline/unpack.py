"""Have a zip archive unpacked by a process of its own, and survive what happens to it."""

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from xray_batch.decode.limits import MAX_FILE_BYTES
from xray_batch.errors import ReasonCode, TransientError, UnpackerDiedError
from xray_batch.intake import UnpackFolder
from xray_batch.pipeline.environment import worker_environment
from xray_batch.pipeline.unpack_worker import MEMBER_NAME, UNPACK_LIMITS, UNPACK_REPLY, UnpackLimits, UnpackReply
from xray_batch.processes import end_first
from xray_batch.records import Rejection

#: A study on a CD has up to some hundred images; radiographs do not deflate to a tenth.
LIMITS: Final = UnpackLimits(
    members=2_000,
    total_bytes=2_000_000_000,
    member_bytes=MAX_FILE_BYTES,
    ratio=100,
    free_bytes=256 << 20,
    address_space=1 << 30,
    cpu_seconds=120,
)

#: From the start of the process to its reply.  The disk may be slow: all that is written is synced.
SECONDS: Final = 300.0

_REPLY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """The members of an archive, complete, in a folder that goes when nobody holds this any more."""

    folder: UnpackFolder
    files: Sequence[Path]  #: sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackEnd:
    """How unpacking one archive ended: with a rejection or a failure, never both."""

    seconds: float
    rejection: Rejection | None = None  #: for an archive that was unpacked too: no model sees it
    unpacked: Unpacked | None = None
    failure: str | None = None  #: name of an exception's class
    transient: bool = False  #: of a failure: the system's fault, not to be held against the archive


class Unpacking:
    """One archive on its way into a folder.

    Parameters
    ----------
    spool
        Where the folder is made.
    """

    def __init__(self, archive: Path, spool: Path, limits: UnpackLimits = LIMITS, seconds: float = SECONDS) -> None:
        self._archive = archive
        self._spool = spool
        self._limits = limits
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(self) -> UnpackEnd:
        """Unpack the archive; may take minutes."""
        start = time.perf_counter()
        try:
            folder = UnpackFolder(self._spool)
            reply = self._unpack_into(folder)
            if reply.rejection is None and reply.failure is None:
                unpacked = Unpacked(folder=folder, files=_check(folder.path, reply.members))
                return UnpackEnd(
                    seconds=time.perf_counter() - start, rejection=_explain(len(unpacked.files)), unpacked=unpacked
                )
            folder.remove()
        except UnpackerDiedError as error:
            reply = UnpackReply(failure=type(error).__name__)
        except (TransientError, OSError) as error:
            reply = UnpackReply(failure=type(error).__name__, transient=True)
        return UnpackEnd(
            seconds=time.perf_counter() - start,
            rejection=reply.rejection,
            failure=reply.failure,
            transient=reply.transient,
        )

    def kill(self) -> None:
        """End the process at once, from any thread; :meth:`run` then returns a failure."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def _unpack_into(self, folder: UnpackFolder) -> UnpackReply:
        ours, theirs = socket.socketpair()
        with Connection(ours.detach()) as connection:
            with theirs:
                archive = os.open(self._archive, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    self._process = self._start(theirs.fileno(), archive, folder.descriptor)
                    end_first(self._process.pid)
                finally:
                    os.close(archive)
            if self._killed:  # while it was being started
                self._process.kill()
            try:
                return self._receive(connection)
            finally:
                self._process.kill()
                self._process.wait()

    def _start(self, connection: int, archive: int, folder: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "xray_batch.pipeline.unpack_worker"),
                *("--connection", str(connection), "--archive", str(archive), "--folder", str(folder)),
                *("--limits", UNPACK_LIMITS.dump_json(self._limits).decode()),
            ],
            pass_fds=(connection, archive, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=worker_environment(os.environ),
            start_new_session=True,  # Ctrl-C is for the parent
        )

    def _receive(self, connection: Connection) -> UnpackReply:
        try:
            if not connection.poll(self._seconds):
                raise UnpackerDiedError(f"unpacking took longer than {self._seconds:g} s")
            return UNPACK_REPLY.validate_json(connection.recv_bytes(_REPLY_BYTES))
        except (EOFError, OSError, ValidationError) as error:
            raise UnpackerDiedError("the process that unpacks an archive ended in the middle") from error


def _check(folder: Path, members: int) -> list[Path]:
    """Return the files in a folder; they are what their writer says, and nothing but plain files is there.

    Raises
    ------
    UnpackerDiedError
        If they are not: something else than our code ran in that process.
    """
    files = sorted(folder.iterdir())
    statuses = [path.lstat() for path in files]
    plain = all(stat.S_ISREG(status.st_mode) and status.st_nlink == 1 for status in statuses)
    if len(files) != members or not plain or not all(MEMBER_NAME.fullmatch(path.name) for path in files):
        raise UnpackerDiedError("the process that unpacks an archive left something else than it said")
    return files


def _explain(members: int) -> Rejection:
    files = "no file" if not members else "1 file, which has a row of its own"
    if members > 1:
        files = f"{members:,} files, each of which has a row of its own"
    return Rejection(reason_code=ReasonCode.ZIP_ARCHIVE, reason=f"The zip archive was unpacked: it holds {files}.")
