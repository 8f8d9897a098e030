"""Decide when a file in the inbox is complete.

A file is complete when

- it has a size, and size, times and inode have not changed for the settle time,
- nobody has it open for writing, which the kernel knows and a lease asks (reliability.md, M9), and
- the end of its format is there, or it has been without it for long.

The settle time is left out for a file that came by a rename: whoever renames has written all, and says so.  The
kernel must say that nobody has it open for writing, and its format must be certain to have ended; where one of
these is not so, or a change was seen after the rename, it waits like any other.

It exists for: copies over the network that arrive in pieces and pause; scanners that open a file again and
again; senders that write under a temporary name and rename; files replaced or removed while we look.
"Not complete yet" is never final: such a file is looked at again at every scan, for ever.

What cannot be seen from here: a sender that closes a file before it is whole and stays silent for longer
than that.  Such a file is handed on, and decode finds it truncated.
"""

import enum
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xray_batch.intake.disk import GONE_ERRNOS, open_file
from xray_batch.intake.inbox import InboxFile, is_urgent
from xray_batch.mounts import is_network

#: How much longer than other files an empty one waits: most of them have only just been created.
EMPTY_FILE_FACTOR = 10
#: On a network file system a file waits at least so long: what its host says of size and times may be seconds old.
NETWORK_SETTLE_SECONDS = 10.0
#: How much longer a file waits where the kernel does not say whether somebody is writing.
UNKNOWN_WRITERS_FACTOR = 2


class Writers(enum.Enum):
    """Whether anybody has a file open for writing."""

    NONE = enum.auto()
    SOME = enum.auto()
    UNKNOWN = enum.auto()  #: A file of another user without CAP_LEASE, or a file system without leases.


def writers_of(descriptor: int) -> Writers:
    """Ask the kernel whether anybody has this file open for writing, by taking a read lease for a moment.

    Parameters
    ----------
    descriptor
        Of a regular file, open for reading only.
    """
    try:
        # Should a writer come at this very moment, the kernel holds it until the lease is given back, and
        # signals us: with SIGIO, which ends a process, unless another is chosen.  SIGURG is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Writers.SOME if error.errno == errno.EAGAIN else Writers.UNKNOWN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return Writers.NONE


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A file as first seen in its present shape."""

    file: InboxFile
    since: float  #: on the tracker's clock
    age: float  #: seconds for which it had been unchanged by then, on the file's clock
    renamed: bool  #: it came by a rename, and nothing was changed since


class SettleTracker:
    """Says which files of successive scans are complete; see the module's definition.

    Parameters
    ----------
    settle_seconds
        How long a file must not change; longer where the inbox is on a network file system.
    incomplete_seconds
        How long a file that `ends_early` must not change.
    ends_early
        Tells of the descriptor of a file whether the end of its format is missing.
    has_ended
        Likewise, whether the end of its format is there for certain.
    clock
        Monotonic: the wall clock may jump by a day, and a file neither becomes complete nor waits for it.  Only how old
        a file is when it is first seen is told by the wall clock.
    """

    def __init__(
        self,
        inbox: Path,
        settle_seconds: float,
        *,
        incomplete_seconds: float,
        ends_early: Callable[[int], bool],
        has_ended: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._incomplete_seconds = incomplete_seconds
        self._ends_early = ends_early
        self._has_ended = has_ended
        self._is_network = is_network(inbox)  # what a host there says of writers and size may be seconds old
        self._settle_seconds = max(settle_seconds, NETWORK_SETTLE_SECONDS if self._is_network else 0.0)
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}
        self._unreadable = 0

    @property
    def unreadable(self) -> int:
        """How many files of the last scan, so far, had waited long enough but could not be opened; tried again."""
        return self._unreadable

    @property
    def longest_wait(self) -> float:
        """For how many seconds the file that waits longest has been seen as it is; 0 if none waits."""
        since = min((sighting.since for sighting in self._sightings.values()), default=None)
        return 0.0 if since is None else self._clock() - since

    def complete(
        self,
        files: Iterable[InboxFile],
        renamed: Collection[str] = (),
        wanted: Callable[[InboxFile], bool] = lambda file: True,
    ) -> Iterator[InboxFile]:
        """Give the complete ones of a scan's files, urgent, then longest unchanged first; forget those that are gone.

        Parameters
        ----------
        renamed
            Names that files are said to have got by a rename, since the scan before or earlier.
        wanted
            Asked when a file's turn comes; others are not given, nor opened.

        Notes
        -----
        A file is given again after every scan that still finds it, until it is claimed.  Each is opened only when
        its turn comes: of a huge drop no more are than the caller takes.
        """
        now = self._clock()
        self._unreadable = 0
        sightings: dict[str, _Sighting] = {}
        for file in files:
            before = self._sightings.get(file.name)
            if before is None or before.file != file:
                # A service that was started anew has only the kernel's word for how long that was.
                before = _Sighting(file, now, age=max(0.0, time.time() - file.ctime_ns / 1e9), renamed=False)
            if file.name in renamed and not self._is_network:
                before = replace(before, renamed=True)
            sightings[file.name] = before
        self._sightings = sightings
        in_order = sorted(sightings.values(), key=lambda seen: (not is_urgent(seen.file.name), seen.since))
        return (seen.file for seen in in_order if wanted(seen.file) and self._is_complete(seen, now))

    def _is_complete(self, sighting: _Sighting, now: float) -> bool:
        needed = self._settle_seconds * (1 if sighting.file.size else EMPTY_FILE_FACTOR)
        quiet = now - sighting.since
        if quiet < needed and not sighting.renamed:
            return False
        try:
            with open_file(sighting.file.inbox, *Path(sighting.file.name).parts) as descriptor:
                return self._is_whole(descriptor, sighting, quiet, needed)
        except OSError as error:
            self._unreadable += error.errno not in GONE_ERRNOS
            return False

    def _is_whole(self, descriptor: int, sighting: _Sighting, quiet: float, needed: float) -> bool:
        """Look at a file that has not changed for `quiet` seconds, which are as many as `needed`, or was renamed."""
        file, status = sighting.file, os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (file.device, file.inode):  # another file by now
            return False
        writers = writers_of(descriptor)
        if quiet < needed:
            is_as_renamed = (status.st_size, status.st_ctime_ns) == (file.size, file.ctime_ns)
            return is_as_renamed and writers is Writers.NONE and self._has_ended(descriptor)
        if writers is Writers.SOME or (writers is Writers.UNKNOWN and quiet < needed * UNKNOWN_WRITERS_FACTOR):
            return False
        return sighting.age + quiet >= self._incomplete_seconds or not self._ends_early(descriptor)
