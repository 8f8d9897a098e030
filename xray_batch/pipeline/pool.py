"""A pool of decode workers that survives what happens to them."""

import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from xray_batch.errors import DecoderDiedError, ReasonCode
from xray_batch.pipeline.unpack import Unpacked, Unpacking
from xray_batch.pipeline.worker import INPUT_SPEC, REPLY, Reply
from xray_batch.pipeline.worker_process import WorkerLimits, WorkerProcess
from xray_batch.records import InputSpec

T = TypeVar("T")
L = TypeVar("L")

#: Of one wait for a result; whoever waits for all of them waits again.
_WAIT_SECONDS: Final = 1.0

#: Longer than the end of a worker takes.
_JOIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded(Generic[T]):
    """The end of one file's decoding."""

    job: T
    reply: Reply
    pixels: npt.NDArray[np.float32] | None  #: shape (rows, columns), standardized; None unless prepared
    unpacked: Unpacked | None = None  #: the members of an archive, which `reply` rejects all the same


class DecodeWorker(WorkerProcess):
    """One decode worker, seen from its parent."""

    def __init__(
        self,
        spec: InputSpec,
        limits: WorkerLimits,
        *,
        least_side: int | None = None,
        measure: bool = False,
        share: float = 1.0,
    ) -> None:
        self._spec = spec
        arguments = [
            *("--spec", INPUT_SPEC.dump_json(spec).decode()),
            *(() if least_side is None else ("--least-side", str(least_side))),
            *(("--measure",) if measure else ()),
        ]
        super().__init__("xray_batch.pipeline.worker", limits, spec.rows * spec.columns * 4, arguments, share=share)

    def decode(self, path: Path) -> tuple[Reply, npt.NDArray[np.float32] | None]:
        """Have one file decoded and prepared.

        Raises
        ------
        DecoderDiedError
            As :meth:`ask`.
        """
        reply = self.ask(os.fsencode(path), REPLY)
        if reply.rendering is None:
            return reply, None
        shape = (self._spec.rows, self._spec.columns)
        return reply, np.frombuffer(self._memory, dtype=np.float32).reshape(shape).copy()


class _Line(Generic[L]):
    """A queue in which the urgent go first, and otherwise first come is first served.

    Every step is one call of C: a Ctrl-C can come between two of them, but none leaves a lock held, as it does in the
    Python of :class:`queue.PriorityQueue`, so that whoever puts or gets after it would wait for ever.
    """

    def __init__(self) -> None:
        self._urgent: deque[L] = deque()
        self._others: deque[L] = deque()
        self._ready: queue.SimpleQueue[None] = queue.SimpleQueue()  #: one for each item of the two

    def put(self, item: L, *, urgent: bool) -> None:
        (self._urgent if urgent else self._others).append(item)
        self._ready.put(None)

    def get(self, timeout: float | None = None) -> L:
        """Wait for the next, without end if `timeout` is None, not at all if it is 0; else raise queue.Empty."""
        self._ready.get(block=timeout != 0, timeout=timeout)
        try:
            return self._urgent.popleft()
        except IndexError:
            return self._others.popleft()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request(Generic[T]):
    """One file on its way to a worker."""

    job: T
    path: Path
    unpack_in: Path | None
    urgent: bool


class DecodePool(Generic[T]):
    """Decode jobs in several processes; results come in the order in which they are ready, urgent ones first.

    One thread per worker keeps it busy, replaces it when it is used up or dies, and hands results over.  The first
    starts with the pool, each other one when more files are inside than there are workers: one file takes one worker,
    however large the machine is.
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
        self._jobs: _Line[_Request[T] | None] = _Line()  #: None ends a thread
        self._decoded: _Line[Decoded[T] | DecoderDiedError] = _Line()
        self._closing = threading.Event()
        self._busy: set[DecodeWorker | Unpacking] = set()
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._inside = 0  #: files submitted and not taken

    def __enter__(self) -> Self:
        """Start the first worker; it is ready when the first result comes."""
        self._start_thread()
        return self

    def _start_thread(self) -> None:
        number = len(self._threads)
        share = 1 - number / (2 * self._workers)  # so that they are not used up together
        thread = threading.Thread(target=self._serve, args=(share,), name=f"decode-{number}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers; what is inside is given up, and so is a thread that waits for a share that hangs."""
        self._closing.set()
        for _ in self._threads:
            self._jobs.put(None, urgent=True)
        for process in self._busy.copy():
            process.kill()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def submit(self, job: T, path: Path, unpack_in: Path | None = None, *, urgent: bool = False) -> None:
        """Hand over one file; its result comes from :meth:`take`.

        A zip archive is unpacked to a folder in `unpack_in`, if that is given.  What is urgent is decoded, and
        taken, before what was handed over earlier and still waits.
        """
        self._inside += 1
        if len(self._threads) < min(self._inside, self._workers):
            self._start_thread()
        self._jobs.put(_Request(job=job, path=path, unpack_in=unpack_in, urgent=urgent), urgent=urgent)

    def take(self, timeout: float) -> Decoded[T] | None:
        """Return the next result, or None if there is none within `timeout` seconds.

        Raises
        ------
        DecoderDiedError
            If workers cannot even be started: nothing can be decoded here.
        """
        try:
            decoded = self._decoded.get(timeout)
        except queue.Empty:
            return None
        if isinstance(decoded, DecoderDiedError):
            raise decoded
        self._inside -= 1
        return decoded

    def drain(self) -> Iterator[Decoded[T]]:
        """Yield the results of all that is inside, as they come; raises what :meth:`take` does."""
        while self._inside:
            decoded = self.take(_WAIT_SECONDS)
            if decoded is not None:
                yield decoded

    def _serve(self, share: float) -> None:
        worker: DecodeWorker | None = None
        request: _Request[T] | None = None
        try:
            worker = self._start_worker(share=share)
            while not self._closing.is_set():
                if worker.is_used_up:  # before it takes a file, which another worker may have while the next one starts
                    worker.close()
                    worker = self._start_worker()
                request = request or self._jobs.get()
                if request is None:
                    break
                if worker.is_used_up:  # it has died since
                    continue
                decoded = self._decode(request, worker)
                if decoded.reply.short_of_memory and worker.retire():
                    continue  # with a new worker: others may be used, too
                rejection = decoded.reply.rejection
                if request.unpack_in and rejection and rejection.reason_code is ReasonCode.ZIP_ARCHIVE:
                    decoded = self._unpack(decoded, Unpacking(request.path, request.unpack_in))
                self._decoded.put(decoded, urgent=request.urgent)
                request = None
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would leave its caller waiting
            self._decoded.put(DecoderDiedError(f"decode workers cannot be used: {error}"), urgent=True)
        finally:
            if worker is not None:
                worker.close()

    def _decode(self, request: _Request[T], worker: DecodeWorker) -> Decoded[T]:
        self._busy.add(worker)
        if self._closing.is_set():  # whoever set it may have looked at the busy ones just before
            worker.kill()
        try:
            reply, pixels = worker.decode(request.path)
        except DecoderDiedError as error:
            worker.kill()
            reply, pixels = Reply(seconds=0.0, failure=type(error).__name__, cause=str(error)), None
        finally:
            self._busy.discard(worker)
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
