"""Files are hashed some way ahead of those who decode them."""

import datetime as dt
import hashlib
import os
import queue
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final

from xray_batch.intake import printable
from xray_batch.pipeline.regular_file import open_regular_file
from xray_batch.records import Arrival
from xray_batch.resources import usable_cores

#: Threads at most: on many cores one, or none beside that of the networks, keeps the decode workers waiting.
_THREADS: Final = 4

Hashed = tuple[Arrival, tuple[int, ...]]  #: and the shape of the file then

_Order = tuple[Future[Hashed], Callable[[], Hashed]]


class Hashers:
    """Threads that hash files, four or as many as there are cores for.

    Those of an executor hold up the end of the process until they are done: whoever breaks a run off would wait for a
    file of a terabyte, or a share that hangs.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"hash-{number}", daemon=True)
            for number in range(min(_THREADS, usable_cores()))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, name: Path, path: Path, family: uuid.UUID, key: str) -> Future[Hashed]:
        """Have a file hashed; the parameters are those of :func:`hash_file`."""
        hashed: Future[Hashed] = Future()
        self._orders.put((hashed, partial(hash_file, name, path, family, key)))
        return hashed

    def close(self) -> None:
        """Take up no more; what is in hand ends by itself, or with the process."""
        self._is_closed = True
        for _ in self._threads:
            self._orders.put(None)

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None and not self._is_closed:
            hashed, hash_it = order
            try:
                hashed.set_result(hash_it())
            except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
                hashed.set_exception(error)


def hash_file(name: Path, path: Path, family: uuid.UUID, key: str) -> Hashed:
    """Hash a file.

    Parameters
    ----------
    name, path
        As people know it, and where it is.
    family, key
        What the arrival's id is made of, beside the bytes: the run or the archive, and the file's place there.

    Raises
    ------
    OSError, ValueError
        If it cannot be read; if no file can have such a name.
    """
    with open_regular_file(path) as file:
        status = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    arrival = Arrival(
        arrival_id=uuid.uuid5(family, f"{key} {digest}"),
        source_name=printable(os.fspath(name)),
        content_sha256=digest,
        size=status.st_size,
        received_at=dt.datetime.now(dt.UTC),
    )
    return arrival, _shape(status)


def shape_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does; None if it is not there."""
    try:
        return _shape(path.stat())
    except OSError:
        return None


def _shape(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
