"""A thread of its own for what touches the folders: a share that hangs must not hang the loop with it.

A file server that is gone leaves calls to its files without an end, and no signal reaches who made them (`hard` in
nfs(5)).  The loop hands such calls over and waits: it beats meanwhile, says what it waits for, and can be told to stop.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, ParamSpec, TypeVar

from xray_batch.errors import FoldersHangError
from xray_batch.logs import get_logger

P = ParamSpec("P")
T = TypeVar("T")

#: Of a call that takes longer something is said: it hangs, or reads a file of gigabytes.
_LONG_SECONDS: Final = 10.0

#: Between two beats while a call lasts.
_BEAT_SECONDS: Final = 1.0


class DiskThread:
    """Does one call after the other, and nothing but what it is told to wait for.

    Parameters
    ----------
    beat
        Called about once a second while a call lasts.
    hangs
        Called once, when a call takes very long.
    stop_at
        When nobody waits any longer, on the clock of :func:`time.monotonic`; asked again and again.
    hang_seconds
        For :meth:`hung_within`: a call that takes longer hangs.
    """

    def __init__(
        self,
        beat: Callable[[], None],
        hangs: Callable[[], None],
        stop_at: Callable[[], float],
        hang_seconds: float = float("inf"),
    ) -> None:
        self._beat = beat
        self._hangs = hangs
        self._stop_at = stop_at
        self._hang_seconds = hang_seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)  # one that hangs cannot be joined
        self._given_up = False
        self._hung_at = float("-inf")
        self._log = get_logger()

    def stop(self) -> None:
        """End the thread, which began with the first call, and take no more; one that hangs goes with the process."""
        self._given_up = True
        self._calls.put(None)

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the thread, and return or raise what it does, however long that takes.

        Raises
        ------
        FoldersHangError
            If the service is to stop and cannot wait any longer, and at every call after that.  What the function has
            begun is as if the process had died there.
        """
        if self._given_up:
            raise FoldersHangError("the folders do not answer")
        answer: Future[T] = Future()

        def call() -> None:
            try:
                answer.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                answer.set_exception(error)

        if self._thread.ident is None:
            self._thread.start()
        begun = time.monotonic()
        self._calls.put(call)
        says_so_at = begun + _LONG_SECONDS
        while not self._comes(answer):
            now = time.monotonic()
            self._beat()
            if now > begun + self._hang_seconds:
                self._hung_at = now
            if now > says_so_at:
                self._log.error("the folders do not answer", seconds=round(now - begun))
                self._hangs()
                says_so_at = float("inf")
            if now > self._stop_at():
                self._given_up = True
                raise FoldersHangError("the folders do not answer, and the service is to stop")
        if says_so_at == float("inf"):
            self._log.info("the folders answer again", seconds=round(time.monotonic() - begun))
        return answer.result()

    def hung_within(self, seconds: float) -> bool:
        """Tell whether a call hung, for so long that it told, at some time within the last so many seconds."""
        return time.monotonic() - self._hung_at < seconds

    @staticmethod
    def _comes(answer: Future[T]) -> bool:
        try:
            answer.exception(_BEAT_SECONDS)
        except TimeoutError:
            return answer.done()
        return True

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
