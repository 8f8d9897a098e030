"""A pool of decode workers that survives what happens to them."""

import mmap
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from xray_batch.errors import DecoderDiedError, ReasonCode
from xray_batch.pipeline.environment import worker_environment
from xray_batch.pipeline.unpack import Unpacked, Unpacking
from xray_batch.pipeline.worker import INPUT_SPEC, READY, REPLY, Reply
from xray_batch.records import InputSpec

T = TypeVar("T")

#: A worker is replaced after so many files: what a codec leaks does not grow for ever.
FILES_PER_WORKER: Final = 200

_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 5
_REPLY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What one decode worker may use."""

    seconds: float  #: for one file, from request to reply
    address_space: int  #: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded(Generic[T]):
    """The end of one file's decoding."""

    job: T
    reply: Reply
    pixels: npt.NDArray[np.float32] | None  #: shape (rows, columns), standardized; None unless prepared
    unpacked: Unpacked | None = None  #: the members of an archive, which `reply` rejects all the same


class DecodeWorker:
    """One worker process, seen from its parent."""

    def __init__(
        self, spec: InputSpec, limits: WorkerLimits, *, least_side: int | None = None, measure: bool = False
    ) -> None:
        self._spec = spec
        self._limits = limits
        self._least_side = least_side
        self._measure = measure
        self._files = 0
        self._descriptor = os.memfd_create("model-input", os.MFD_CLOEXEC)
        size = spec.rows * spec.columns * 4
        os.ftruncate(self._descriptor, size)
        self._memory = mmap.mmap(self._descriptor, size)
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command(theirs.fileno()),
                    pass_fds=(theirs.fileno(), self._descriptor),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env=worker_environment(os.environ),
                    start_new_session=True,  # Ctrl-C is for the parent, which then lets the workers finish
                )
            except OSError:
                self._free()
                raise
        self._wait_until_ready()

    def _command(self, connection: int) -> list[str]:
        return [
            *(sys.executable, "-P", "-m", "xray_batch.pipeline.worker"),
            *("--connection", str(connection), "--memory", str(self._descriptor)),
            *("--spec", INPUT_SPEC.dump_json(self._spec).decode()),
            *("--address-space", str(self._limits.address_space)),
            *(() if self._least_side is None else ("--least-side", str(self._least_side))),
            *(("--measure",) if self._measure else ()),
        ]

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
        return self._files >= FILES_PER_WORKER or self._process.poll() is not None

    def decode(self, path: Path) -> tuple[Reply, npt.NDArray[np.float32] | None]:
        """Have one file decoded and prepared.

        Raises
        ------
        DecoderDiedError
            If the worker died or took too long; it is gone then.
        """
        self._files += 1
        try:
            self._connection.send_bytes(os.fsencode(path))
            if not self._connection.poll(self._limits.seconds):
                raise DecoderDiedError(f"decoding took longer than {self._limits.seconds:g} s")
            reply = REPLY.validate_json(self._connection.recv_bytes(_REPLY_BYTES))
        except (EOFError, OSError, ValidationError) as error:
            raise DecoderDiedError("a decode worker ended in the middle of a file") from error
        if reply.rendering is None:
            return reply, None
        shape = (self._spec.rows, self._spec.columns)
        return reply, np.frombuffer(self._memory, dtype=np.float32).reshape(shape).copy()

    def close(self) -> None:
        """End the process and free what was shared with it."""
        self._connection.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._free()

    def _free(self) -> None:
        self._connection.close()
        self._memory.close()
        os.close(self._descriptor)
        self._errors.close()

    def kill(self) -> None:
        """End the process at once; whoever waits for its reply gets a :class:`DecoderDiedError`."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request(Generic[T]):
    """One file on its way to a worker."""

    job: T
    path: Path
    unpack_in: Path | None


class DecodePool(Generic[T]):
    """Decode jobs in several processes; results come in the order in which they are ready.

    One thread per worker keeps it busy, replaces it when it is used up or dies, and hands results over.
    Memory is bounded by the caller: at most `submit` calls minus `take` results are inside.  With `least_side`
    a small copy in a file will do, see :meth:`xray_batch.decode.Source.render`.  `measure` has the rendered pictures
    measured too.
    """

    def __init__(
        self,
        workers: int,
        spec: InputSpec,
        limits: WorkerLimits,
        *,
        least_side: int | None = None,
        measure: bool = False,
    ) -> None:
        self._start_worker = partial(DecodeWorker, spec, limits, least_side=least_side, measure=measure)
        self._jobs: queue.SimpleQueue[_Request[T] | None] = queue.SimpleQueue()
        self._decoded: queue.SimpleQueue[Decoded[T] | DecoderDiedError] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._busy: set[DecodeWorker | Unpacking] = set()
        self._threads = [threading.Thread(target=self._serve, name=f"decode-{n}") for n in range(workers)]

    def __enter__(self) -> Self:
        """Start the workers; they are ready when the first result comes."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers; what is inside is given up."""
        self._closing.set()
        for _ in self._threads:
            self._jobs.put(None)
        for process in self._busy.copy():
            process.kill()
        for thread in self._threads:
            thread.join()

    def submit(self, job: T, path: Path, unpack_in: Path | None = None) -> None:
        """Hand over one file; its result comes from :meth:`take`.

        A zip archive is unpacked to a folder in `unpack_in`, if that is given.
        """
        self._jobs.put(_Request(job=job, path=path, unpack_in=unpack_in))

    def take(self, timeout: float) -> Decoded[T] | None:
        """Return the next result, or None if there is none within `timeout` seconds.

        Raises
        ------
        DecoderDiedError
            If workers cannot even be started: nothing can be decoded here.
        """
        try:
            decoded = self._decoded.get(timeout=timeout) if timeout else self._decoded.get_nowait()
        except queue.Empty:
            return None
        if isinstance(decoded, DecoderDiedError):
            raise decoded
        return decoded

    def _serve(self) -> None:
        worker: DecodeWorker | None = None
        try:
            worker = self._start_worker()
            while (request := self._jobs.get()) is not None and not self._closing.is_set():
                if worker.is_used_up:
                    worker.close()
                    worker = None  # a closed one must not be closed again, should the next not start
                    worker = self._start_worker()
                self._busy.add(worker)
                if self._closing.is_set():  # whoever set it may have looked at the busy ones just before
                    break
                try:
                    decoded = self._decode(request, worker)
                finally:
                    self._busy.discard(worker)
                rejection = decoded.reply.rejection
                if request.unpack_in and rejection and rejection.reason_code is ReasonCode.ZIP_ARCHIVE:
                    decoded = self._unpack(decoded, Unpacking(request.path, request.unpack_in))
                self._decoded.put(decoded)
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would leave its caller waiting
            self._decoded.put(DecoderDiedError(f"decode workers cannot be used: {error}"))
        finally:
            if worker is not None:
                worker.close()

    @staticmethod
    def _decode(request: _Request[T], worker: DecodeWorker) -> Decoded[T]:
        try:
            reply, pixels = worker.decode(request.path)
        except DecoderDiedError as error:
            worker.kill()
            reply, pixels = Reply(seconds=0.0, failure=type(error).__name__), None
        return Decoded(job=request.job, reply=reply, pixels=pixels)

    def _unpack(self, decoded: Decoded[T], unpacking: Unpacking) -> Decoded[T]:
        """Put the end of unpacking in place of the decoder's refusal."""
        self._busy.add(unpacking)
        if self._closing.is_set():
            unpacking.kill()
        try:
            end = unpacking.run()
        finally:
            self._busy.discard(unpacking)
        reply = Reply(
            seconds=decoded.reply.seconds + end.seconds,
            rejection=end.rejection,
            failure=end.failure,
            transient=end.transient,
        )
        return replace(decoded, reply=reply, unpacked=end.unpacked)
