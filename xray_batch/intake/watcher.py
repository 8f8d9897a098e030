"""Wake the service when something happens in the inbox.

Events are hints: the kernel drops them when its queue is full, network mounts have none, and the threads
that read them can die unnoticed (reliability.md, section 1.1).  The periodic scan finds every file without
them; they only make it come sooner.  So is what they tell of a file that came by a rename: one that is
missed makes the file wait as others do, and one that is wrong hands on nothing that is not whole.
"""

import enum
import os
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver

from xray_batch.intake.inbox import is_ignored
from xray_batch.mounts import is_network

#: How long to wait for the threads of an observer to end; they are daemon threads.
STOP_SECONDS = 5.0


#: Between two canaries, and how long one may take to be heard.
CANARY_SECONDS = 30.0
DEAF_SECONDS = 5.0

#: How long watchdog holds the event of a file that leaves the inbox, and all events behind it, to see whether it
#: comes to another place in there.  Its own half second would hold up every file that arrives soon after a claim.
#: Both halves of a rename come from the kernel together; torn apart all the same, the file seems to come from outside.
_PAIRING_SECONDS = 0.02

#: Names kept between two scans at most, so that a drop of any size costs no memory.
_RENAMED_AT_MOST = 10_000

_CANARY = ".xray-batch-canary-"


class WatchMode(enum.StrEnum):
    """How the service learns of new files."""

    INOTIFY = "inotify"  #: Events wake it, the periodic scan makes sure.
    POLLING = "polling"  #: The periodic scan alone: a network file system, no watch can be set, or a thread has died.


class _Waker(FileSystemEventHandler):
    """Sets an event, notes a name and does nothing else: an exception in a handler ends watchdog's thread for good.

    Not for modified, opened and closed-without-writing: a large file being written would wake us all the
    time, and so would our own looking for writers.
    """

    def __init__(self, inbox: Path, wake: threading.Event) -> None:
        self._prefix = os.fspath(inbox) + os.sep
        self._wake = wake
        self.heard_at = time.monotonic()  #: when an event last came through, the canary's included
        self.renamed: set[str] = set()  #: relative to the inbox

    def on_created(self, event: DirCreatedEvent | FileCreatedEvent) -> None:
        """Wake for a new name."""
        self._hear(event)

    def on_moved(self, event: DirMovedEvent | FileMovedEvent) -> None:
        """Wake for what is moved into the inbox, or within it; one without a source comes from outside.

        One without a destination has left the inbox, by our own claim for instance.
        """
        self.heard_at = time.monotonic()
        if not event.dest_path:
            return
        if isinstance(event, FileMovedEvent) and len(self.renamed) < _RENAMED_AT_MOST:
            source, target = (
                os.fsdecode(path).removeprefix(self._prefix) for path in (event.src_path, event.dest_path)
            )
            if not source or any(is_ignored(name) for name in Path(source).parts):
                self.renamed.add(target)
        self._wake.set()

    def on_closed(self, event: FileClosedEvent) -> None:
        """Wake when a writer is done."""
        self._hear(event)

    def _hear(self, event: FileSystemEvent) -> None:
        self.heard_at = time.monotonic()
        if _CANARY not in os.fsdecode(event.src_path):
            self._wake.set()


class InboxWatcher:
    """Sets `wake` soon after a file was created, renamed or finished anywhere below the inbox.

    Subfolders beyond the kernel's limit of watches are not watched, without a word from watchdog; their
    files wait for the periodic scan.

    Parameters
    ----------
    wake
        For the service to wait on, and to clear before it scans.
    """

    def __init__(self, inbox: Path, wake: threading.Event) -> None:
        self._inbox = inbox
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._waker = _Waker(inbox, wake)
        self._canary_at: float | None = None  #: when the canary was last put into the inbox
        self.rearmed = 0  #: how many times a watch that had died was set anew
        self._watched: tuple[int, int] | None = None
        self._started = False

    def start(self) -> None:
        """Begin to watch; where that is impossible the mode is polling, and every look at it tries again."""
        # watchdog 7.1 warns, with paths, when a subfolder is filled while it begins to watch it.  It is
        # harmless, but names must not get into a log; where warnings are errors it would end the thread.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        with suppress(ImportError):  # watchdog 6 has no such class, and keeps its half second
            from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

            InotifyMoveEventGrouper.delay = _PAIRING_SECONDS
        self._started = True
        self._arm()

    @property
    def mode(self) -> WatchMode:
        """How the service learns of new files at this moment; a watch that has died is set again."""
        if self._started and not self._is_alive():
            self._rearm()
        return WatchMode.INOTIFY if self._is_alive() else WatchMode.POLLING

    def send_canary(self) -> None:
        """See to it that an event is under way: threads may live and hear nothing (watchdog's issue 663).

        A file that is made and removed at once, every so often; it wakes nobody.
        """
        now = time.monotonic()
        if self._observer is None or (self._canary_at is not None and now - self._canary_at < CANARY_SECONDS):
            return
        canary = self._inbox / f"{_CANARY}{os.getpid()}"
        try:
            canary.touch(exist_ok=False)
            canary.unlink()
        except OSError:  # an inbox that is full, read-only or away: no canary, and events will be missed by nobody
            self._canary_at = None
        else:
            self._canary_at = now

    @property
    def canary_age(self) -> float | None:
        """How many seconds ago an event last came through; None where no events are waited for."""
        return None if self._observer is None else time.monotonic() - self._waker.heard_at

    def take_renamed(self) -> set[str]:
        """Return the names, relative to the inbox, that files got by a rename since the last call: hints, no facts.

        Counted are files from outside the inbox, and from a name in it that every scan ignores.
        """
        taken = set()
        with suppress(KeyError):  # empty; the other thread only adds
            while True:
                taken.add(self._waker.renamed.pop())
        return taken

    def stop(self) -> None:
        """Stop watching."""
        self._started = False
        self._disarm()

    def _arm(self) -> None:
        if is_network(self._inbox):  # the kernel tells nothing of what other hosts write
            return
        observer: BaseObserver | None = None
        try:
            self._watched = self._identity()
            # Full events tell what was moved in from what was created, and what was moved out from what was removed.
            observer = InotifyObserver(generate_full_events=True)
            self._waker = _Waker(self._inbox, self._wake)
            self._canary_at = None
            observer.schedule(self._waker, os.fspath(self._inbox), recursive=True)
            observer.start()
        except (OSError, RuntimeError):
            # ENOSPC and EMFILE: a limit of the kernel.  ENOENT: no inbox.  RuntimeError: no more threads.
            if observer is not None:
                observer.stop()
            return
        self._observer = observer
        self._wake.set()  # what came before the watch was set raised no event

    def _rearm(self) -> None:
        was_armed = self._observer is not None
        self._disarm()
        self._arm()
        self.rearmed += was_armed

    def _disarm(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(STOP_SECONDS)
            self._observer = None

    def _is_alive(self) -> bool:
        """Tell whether all threads live and the watched folder is still the one at the inbox's path."""
        if self._observer is None or not self._observer.emitters or self._is_deaf():
            return False
        threads: list[threading.Thread] = [self._observer, *self._observer.emitters]
        # Since watchdog 7 a third thread reads from the kernel; it has no public name.
        reader = getattr(self._observer, "_inotify_fd", None)
        if isinstance(reader, threading.Thread):
            threads.append(reader)
        with suppress(OSError):
            return self._watched == self._identity() and all(thread.is_alive() for thread in threads)
        return False

    def _is_deaf(self) -> bool:
        """Tell whether the canary has been in the inbox for long, and nothing was heard since."""
        sent = self._canary_at
        return sent is not None and self._waker.heard_at < sent < time.monotonic() - DEAF_SECONDS

    def _identity(self) -> tuple[int, int]:
        status = self._inbox.stat()
        return status.st_dev, status.st_ino
