"""Originals as pictures to look at: rendered by picture workers, and kept for a while."""

import enum
import errno
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xray_batch.errors import DecoderDiedError
from xray_batch.pipeline.picture import MEMORY_BYTES, PICTURE_REPLY, PIXEL_BYTES, PictureFacts, PictureReply
from xray_batch.pipeline.regular_file import open_regular_file
from xray_batch.pipeline.worker_process import WorkerLimits, WorkerProcess

#: So many at once; a film takes up to two seconds of a core, and up to a gigabyte.
WORKERS: Final = 2

#: Pictures that are kept, of up to 8 MiB each: a reader goes back and forth.
KEPT: Final = 8

#: And so long: an original that was removed meanwhile is not shown for ever.
KEPT_SECONDS: Final = 300.0

#: So many requests may wait for a picture; the page has threads for other things, too.
WAITERS: Final = 8

#: So long does somebody wait while all workers are busy.
PATIENCE_SECONDS: Final = 20.0

#: Somebody else's file, or one behind a wall.
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A film as it is shown: rendered (PS3.4 N.2), MONOCHROME2, before anything is done to it for the networks."""

    facts: PictureFacts
    pixels: bytes  #: `facts.rows` times `facts.columns` little-endian 16-bit values, row by row


class Absence(enum.StrEnum):
    """Why there is no picture."""

    GONE = "gone"  #: The original is in none of the recorded places.
    DENIED = "denied"  #: There is a file, but this process may not read it.
    CHANGED = "changed"  #: There is a file with other bytes.
    REFUSED = "refused"  #: The bytes are no picture that can be shown.
    DIED = "died"  #: The worker died of it, took too long, or had a bug.
    BUSY = "busy"  #: All workers have other films.


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPicture:
    """Why there is none."""

    absence: Absence
    reason: str | None = None  #: of REFUSED: one sentence for people; may quote the file, so never logged


class PictureWorker(WorkerProcess):
    """One picture worker, seen from its parent."""

    def __init__(self, limits: WorkerLimits) -> None:
        super().__init__("xray_batch.pipeline.picture_worker", limits, MEMORY_BYTES)

    def render(self, path: Path, sha256: str) -> tuple[PictureReply, bytes]:
        """Have one file rendered; the pixels are empty without a picture.

        Raises
        ------
        DecoderDiedError
            As :meth:`ask`.
        """
        reply = self.ask(sha256.encode("ascii") + os.fsencode(path), PICTURE_REPLY)
        facts = reply.picture
        return reply, self._memory[: facts.rows * facts.columns * PIXEL_BYTES] if facts else b""


class Pictures:
    """Renders originals in workers that are started when they are needed, for all threads of a process."""

    def __init__(self, limits: WorkerLimits, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._limits = limits
        self._patience_seconds = patience_seconds
        # Warm ones are taken first; None is one that has not been started, or is to be started anew.
        self._idle: queue.LifoQueue[PictureWorker | None] = queue.LifoQueue()
        for _ in range(WORKERS):
            self._idle.put(None)
        self._busy: set[PictureWorker] = set()
        self._kept: OrderedDict[str, tuple[float, Picture]] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(WAITERS)
        self._is_closing = False

    def render(self, sha256: str, places: Iterable[Path]) -> Picture | NoPicture:
        """Return the picture of a content, from the first of `places` that has its bytes."""
        with self._lock:
            kept_at, picture = self._kept.get(sha256, (0.0, None))
            if picture is not None and time.monotonic() - kept_at < KEPT_SECONDS:
                self._kept.move_to_end(sha256)
                return picture
        if not self._waiting.acquire(blocking=False):
            return NoPicture(absence=Absence.BUSY)
        try:
            rendered = self._look_in(places, sha256)
        finally:
            self._waiting.release()
        if isinstance(rendered, Picture):
            with self._lock:
                self._kept[sha256] = (time.monotonic(), rendered)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return rendered

    def close(self) -> None:
        """End the workers; whoever waits for one gets no picture, and nobody may ask for one any more."""
        self._is_closing = True
        for worker in self._busy.copy():
            worker.kill()
        for _ in range(WORKERS):
            idle = self._idle.get()
            if idle is not None:
                idle.close()

    def _look_in(self, places: Iterable[Path], sha256: str) -> Picture | NoPicture:
        absence = Absence.GONE
        for place in places:
            try:
                open_regular_file(place).close()
            except OSError as error:
                absence = Absence.DENIED if error.errno in _DENIED else absence
                continue
            found = self._render(place, sha256)
            if found is not None:
                return found
            absence = Absence.CHANGED
        return NoPicture(absence=absence)

    def _render(self, path: Path, sha256: str) -> Picture | NoPicture | None:
        """Have one file rendered; None if it has other bytes."""
        try:
            worker = self._idle.get(timeout=self._patience_seconds)
        except queue.Empty:
            return NoPicture(absence=Absence.BUSY)
        if self._is_closing:
            self._idle.put(worker)
            return NoPicture(absence=Absence.BUSY)
        try:
            if worker is not None and worker.is_used_up:
                worker.close()
                worker = None
            worker = worker or PictureWorker(self._limits)
            self._busy.add(worker)
            reply, pixels = worker.render(path, sha256)
        except (DecoderDiedError, OSError):
            if worker is not None:
                self._busy.discard(worker)
                worker.kill()
                worker.close()
                worker = None
            return NoPicture(absence=Absence.DIED)
        finally:
            if worker is not None:
                self._busy.discard(worker)
            self._idle.put(worker)
        if reply.picture is not None:
            return Picture(facts=reply.picture, pixels=pixels)
        if reply.rejection is not None:
            return NoPicture(absence=Absence.REFUSED, reason=reply.rejection.reason)
        return NoPicture(absence=Absence.DIED) if reply.failure else None
