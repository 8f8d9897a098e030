"""What the service has to do with its host: one at a time, and systemd."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xray_batch.errors import ConfigurationError
from xray_batch.intake import Folders
from xray_batch.systemd import notify


@contextmanager
def only_service(folders: Folders) -> Iterator[None]:
    """Hold the home folder for one service; a SQLite database must not have two.

    Raises
    ------
    ConfigurationError
        If another process holds it.
    """
    descriptor = os.open(folders.home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        message = f"another xray-batch service works in {folders.home}; with SQLite there can be only one"
        raise ConfigurationError(message) from error
    try:
        yield
    finally:
        os.close(descriptor)


class Watchdog:
    """Tells systemd that the service gets on with its work; see `WatchdogSec=` in systemd.service(5).

    Whoever gets on says so himself: a thread of its own would only prove that the interpreter runs.
    """

    def __init__(self) -> None:
        """Ask the environment how often systemd wants to be told; without a watchdog nothing is ever said."""
        allowed = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
        mine = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self.seconds = allowed / 4 if allowed and mine else float("inf")  #: between two beats
        self._next = time.monotonic() + self.seconds

    def beat(self) -> None:
        """Say so, unless that was said a moment ago."""
        if time.monotonic() >= self._next:
            notify("WATCHDOG=1")
            self._next = time.monotonic() + self.seconds
