"""A process that works on files which may be hostile, and the memory that it shares, seen from its parent."""

import math
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from xray_batch.errors import DecoderDiedError
from xray_batch.pipeline.environment import worker_environment
from xray_batch.pipeline.sandbox import READY
from xray_batch.processes import end_first
from xray_batch.settings import Settings

R = TypeVar("R")

#: A worker is replaced after so many files: what a codec leaks does not grow for ever.
FILES_PER_WORKER: Final = 200

_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 5
_REPLY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What one worker may use."""

    seconds: float  #: for one file, from request to reply
    address_space: int  #: bytes

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return what the settings allow a decode worker."""
        return cls(seconds=settings.decode_seconds, address_space=settings.decode_memory_mb << 20)


class WorkerProcess:
    """One worker process, for one request at a time.

    Parameters
    ----------
    module
        Run with ``python -P -m``; it is told `--connection` and `--memory`, two descriptors, and `--address-space`.
    memory_bytes
        Of the shared memory, where it leaves pixels.
    arguments
        Further ones, for it alone.
    share
        Of the files that a worker is good for, in (0, 1]: several that start together end one after the other with
        shares that differ.

    Raises
    ------
    DecoderDiedError
        If it does not start.
    """

    def __init__(
        self,
        module: str,
        limits: WorkerLimits,
        memory_bytes: int,
        arguments: Sequence[str] = (),
        *,
        share: float = 1.0,
    ) -> None:
        self._limits = limits
        self._files = 0
        self._files_at_most = math.ceil(share * FILES_PER_WORKER)
        with ExitStack() as shared:  # should it not even be started, nothing stays open
            self._descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC)
            shared.callback(os.close, self._descriptor)
            os.ftruncate(self._descriptor, memory_bytes)
            self._memory = shared.enter_context(mmap.mmap(self._descriptor, memory_bytes))
            self._errors = shared.enter_context(tempfile.TemporaryFile())
            ours, theirs = socket.socketpair()
            self._connection = shared.enter_context(Connection(ours.detach()))
            with theirs:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", module),
                        *("--connection", str(theirs.fileno()), "--memory", str(self._descriptor)),
                        *("--address-space", str(limits.address_space)),
                        *arguments,
                    ],
                    pass_fds=(theirs.fileno(), self._descriptor),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env=worker_environment(os.environ),
                    start_new_session=True,  # Ctrl-C is for the parent, which then lets the workers finish
                )
            end_first(self._process.pid)
            self._shared = shared.pop_all()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        with suppress(EOFError, OSError):
            if self._connection.poll(_START_SECONDS) and self._connection.recv_bytes() == READY:
                return
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
        self.close()
        raise DecoderDiedError(f"a decode worker did not start: {lines[-1]}")

    @property
    def is_used_up(self) -> bool:
        """Whether the next file is for another worker: this one has done its share, or is dead."""
        return self._files >= self._files_at_most or self._process.poll() is not None

    def retire(self) -> bool:
        """Leave the next file to another worker; tell whether this one had any before its last."""
        had_others = self._files > 1
        self._files_at_most = 0
        return had_others

    def ask(self, request: bytes, reply: TypeAdapter[R]) -> R:
        """Have one file worked on, and return what the worker says, as far as that is a reply at all.

        Raises
        ------
        DecoderDiedError
            If the worker died or took too long; it is to be killed and closed then.
        """
        self._files += 1
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(self._limits.seconds):
                raise DecoderDiedError(f"decoding took longer than {self._limits.seconds:g} s")
            return reply.validate_json(self._connection.recv_bytes(_REPLY_BYTES))
        except (EOFError, OSError, ValidationError) as error:
            raise DecoderDiedError("a decode worker ended in the middle of a file") from error

    def close(self) -> None:
        """End the process and free what was shared with it."""
        self._connection.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._shared.close()

    def kill(self) -> None:
        """End the process at once; whoever waits for its reply gets a :class:`DecoderDiedError`."""
        self._process.kill()
        self._process.wait()
