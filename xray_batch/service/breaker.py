"""The circuit breaker: when nearly every attempt ends abnormally, it is not the files.

A model that cannot be run, a decoder that was upgraded to death or a database that refuses every answer would
otherwise give up a whole day's films, each after its few attempts.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

#: Attempts that are looked back at, and how many of them must have ended abnormally.
_WINDOW: Final = 50
_FAILURES: Final = 30

#: Before one file is tried again; doubled each time that fails too.
_PAUSE_SECONDS: Final = 15.0
_PAUSE_SECONDS_AT_MOST: Final = 900.0


class CircuitBreaker:
    """Says whether files may be taken up; to be told of the end of each attempt.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: deque[bool] = deque(maxlen=_WINDOW)  #: of the last attempts: whether it was abnormal
        self._pause = _PAUSE_SECONDS
        self._until: float | None = None  #: end of the pause; None: the circuit is closed

    @property
    def is_open(self) -> bool:
        """Whether the last attempts went so wrong that files are to be tried one at a time."""
        return self._until is not None

    @property
    def pause_seconds(self) -> float:
        """How long nothing is to be taken up yet; 0 when the circuit is closed, or one file is to be tried."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def succeeded(self) -> None:
        """Take note of an attempt that ended with an answer: if the circuit was open, it is closed."""
        if self._until is not None:
            self._until = None
            self._pause = _PAUSE_SECONDS
            self._ends.clear()
        self._ends.append(False)

    def failed(self) -> bool:
        """Take note of an attempt that ended abnormally; tell whether that began a pause."""
        self._ends.append(True)
        if self.pause_seconds or (self._until is None and sum(self._ends) < _FAILURES):
            return False
        if self._until is not None:  # this was the one file to be tried
            self._pause = min(2 * self._pause, _PAUSE_SECONDS_AT_MOST)
        self._until = self._clock() + self._pause
        return True
