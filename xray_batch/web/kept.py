"""A value that takes long to find out, kept for a while."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Finds a value out anew when it is asked for and older than `seconds`; whoever asks meanwhile waits for it."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._found: tuple[float, T] | None = None

    def get(self, find_out: Callable[[], T]) -> T:
        """Return the value; what `find_out` raises is raised, and tried again the next time."""
        with self._lock:
            if self._found is None or self._clock() - self._found[0] >= self._seconds:
                self._found = (self._clock(), find_out())
            return self._found[1]
