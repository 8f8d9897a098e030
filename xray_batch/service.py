"""The service: watch the inbox until told to stop.

One thread does everything in turn: take files in, lease and classify them, record the answers, file the
originals away.  Which step a file is at is read from the spool and the database, never from memory, so
that a crash at any point is mended by the next turn of any process::

    inbox --claim--> spool --hash, record--> queued --lease, classify, record--> done --file away--> filed

Events of the file system only make the next scan come sooner.
"""

import datetime as dt
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Final

from xray_batch.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    LostFileError,
    TransientError,
)
from xray_batch.intake import (
    Claimed,
    Folders,
    InboxWatcher,
    SettleTracker,
    claim,
    claimed_file,
    claims_in_spool,
    file_away,
    hash_claimed,
    printable,
    remove_empty_subfolders,
    scan,
)
from xray_batch.logs import get_logger
from xray_batch.pipeline.engine import Answered, Failure, Job, Pipeline
from xray_batch.pipeline.in_place import give_up
from xray_batch.records import (
    Arrival,
    Finished,
    Lease,
    Outcome,
    Prediction,
    Rejection,
)
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Files recorded, or filed away, in one transaction.
_GROUP: Final = 64

_SCAN_SECONDS_AT_LEAST: Final = 0.1

#: Before a file is tried again; doubled with each attempt.
_RETRY_SECONDS: Final = 5.0
_RETRY_SECONDS_AT_MOST: Final = 900.0

#: Before the service goes on after the database or the disk failed; doubled while it goes on failing.
_BACK_OFF_SECONDS: Final = 1.0
_BACK_OFF_SECONDS_AT_MOST: Final = 60.0

#: The disk is at fault, not the file: nothing else will work either.
_DISK_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class Service:
    """One `xray-batch watch`.

    Parameters
    ----------
    pipeline
        With its model loaded.
    """

    def __init__(self, folders: Folders, pipeline: Pipeline, store: Store, settings: Settings) -> None:
        self._folders = folders
        self._pipeline = pipeline
        self._store = store
        self._settings = settings
        self._log = get_logger()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stop_at = float("inf")
        self._next_scan = 0.0
        self._tracker = SettleTracker(settings.settle_seconds)
        self._watcher = InboxWatcher(folders.inbox, self._wake)
        self._ready = False
        self._left_alone: Counter[str] = Counter()
        self._recorded: set[uuid.UUID] = set()
        self._leased: dict[str, Lease] = {}
        self._extend_at = float("inf")

    def run(self) -> None:
        """Work until :meth:`stop`, then finish what is in hand.

        Database outages, full disks and decode workers that do not start are waited out; they never end the
        service.
        """
        self._watcher.start()
        back_off = _BACK_OFF_SECONDS
        try:
            while not self._stopping.is_set():
                try:
                    self._turn()
                except (TransientError, OSError) as error:
                    self._log.error("interrupted", why=_why(error), retry_seconds=back_off)
                    self._stopping.wait(back_off)
                    back_off = min(2 * back_off, _BACK_OFF_SECONDS_AT_MOST)
                else:
                    back_off = _BACK_OFF_SECONDS
                    self._wait()
        finally:
            notify("STOPPING=1")
            self._watcher.stop()
            with suppress(DatabaseUnavailableError):  # then the leases expire by themselves
                self._give_back()
            self._folders.service_state.unlink(missing_ok=True)
        self._log.info("stopped")

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End :meth:`run` soon; also a signal handler."""
        self._stop_at = time.monotonic() + self._settings.drain_seconds
        self._stopping.set()
        self._wake.set()

    def _wait(self) -> None:
        """Sleep until the next scan is due, or an event says that one is worth while."""
        self._wake.wait(max(0.0, self._next_scan - time.monotonic()))
        if self._wake.is_set() and not self._stopping.is_set():
            self._wake.clear()
            self._next_scan = 0.0

    def _turn(self) -> None:
        """Do all that can be done now."""
        self._give_back()
        self._store.register_model(self._pipeline.model)
        self._take_in()
        if not self._ready:
            notify("READY=1")
            self._log.info("ready", watch_mode=self._watcher.mode, device=str(self._pipeline.device))
            self._ready = True
        self._file_away()
        with closing(self._pipeline.run(self._lease_jobs())) as groups:
            for group in groups:
                self._record(group)
                self._extend_leases()
                if group:
                    self._file_away()
                if time.monotonic() >= self._next_scan and not self._stopping.is_set():
                    self._take_in()
                if time.monotonic() > self._stop_at:
                    break

    # -- in -----------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Claim what is complete in the inbox, and record everything in the spool that is not recorded.

        An inbox that cannot be read, a share that is down for instance, stops nothing else.
        """
        waiting = False
        try:
            waiting = self._claim_complete()
        except OSError as error:
            self._log.error("inbox cannot be read", why=_why(error))
        group: list[Arrival] = []
        for claimed in claims_in_spool(self._folders):
            arrival = self._arrival(claimed)
            if arrival is not None:
                group.append(arrival)
            if len(group) == _GROUP:
                self._record_arrivals(group)
                group = []
        self._record_arrivals(group)
        settings = self._settings
        # A file that has not settled is looked at again as soon as it may have.
        seconds = min(settings.settle_seconds, settings.scan_seconds) if waiting else settings.scan_seconds
        self._next_scan = time.monotonic() + max(seconds, _SCAN_SECONDS_AT_LEAST)
        self._write_state()

    def _claim_complete(self) -> bool:
        """Claim the complete files of the inbox; tell whether there are others, still incomplete."""
        found = scan(self._folders.inbox)
        complete = self._tracker.complete(found.files)
        refused: Counter[str] = Counter()
        for file in complete:
            try:
                claim(file, self._folders)
            except OSError as error:
                if error.errno in _DISK_ERRNOS:
                    raise
                refused[_why(error)] += 1
        remove_empty_subfolders(self._folders.inbox)
        left = +Counter({str(kind): count for kind, count in found.left_alone.items()}) + refused
        if left != self._left_alone:
            self._log.warning("files left in the inbox", **left)
            self._left_alone = left
        return len(found.files) > len(complete)

    def _arrival(self, claimed: Claimed) -> Arrival | None:
        return None if claimed.arrival_id in self._recorded else hash_claimed(claimed)

    def _record_arrivals(self, group: Sequence[Arrival]) -> None:
        if not group:
            return
        dispositions = self._store.add_arrivals(group, self._pipeline.model)
        self._recorded.update(dispositions)
        for arrival in group:
            disposition = dispositions[arrival.arrival_id]
            self._log.info("arrived", arrival_id=str(arrival.arrival_id), disposition=disposition, size=arrival.size)

    # -- through ------------------------------------------------------------------------------------

    def _lease_jobs(self) -> Iterator[Job[Lease]]:
        """Lease contents a batch at a time, for as long as there are any and nobody says stop."""
        while not self._stopping.is_set():
            leases = self._store.lease(limit=self._settings.batch_size, lease_seconds=self._settings.lease_seconds)
            if not leases:
                return
            self._leased |= {lease.content_sha256: lease for lease in leases}
            self._extend_at = time.monotonic() + self._settings.lease_seconds / 3
            for lease in leases:
                path = claimed_file(self._folders, lease.held_by)
                if path is None:
                    self._log.error("content missing", arrival_id=str(lease.held_by))
                    self._retry(lease)
                elif lease.attempts > self._settings.max_attempts:
                    self._exhaust(lease)
                else:
                    yield Job(path=path, context=lease)

    def _record(self, group: Sequence[Answered[Lease]]) -> None:
        """Store a group's answers in one transaction; what failed is tried later."""
        finished: list[tuple[Lease, Finished]] = []
        for answered in group:
            lease, result = answered.job.context, answered.result
            if isinstance(result, Finished):
                finished.append((lease, result))
            elif lease.attempts >= self._settings.max_attempts and not result.transient:
                finished.append((lease, give_up(result)))
            else:
                self._log.warning("attempt failed", arrival_id=str(lease.held_by), error=result.error)
                self._retry(lease)
        self._finish(finished)

    def _finish(self, finished: Sequence[tuple[Lease, Finished]]) -> None:
        if not finished:
            return
        accepted = self._store.finish(finished, self._pipeline.model)
        tokens = {lease.token for lease in accepted}
        for lease, result in finished:
            self._leased.pop(lease.content_sha256, None)
            answer = result.answer
            self._log.info(
                "finished" if lease.token in tokens else "finished by somebody else",
                arrival_id=str(lease.held_by),
                outcome=answer.outcome if isinstance(answer, Prediction) else Outcome.NOT_ANALYSED,
                reason_code=answer.reason_code if isinstance(answer, Rejection) else None,
                seconds=round(result.processing_seconds, 3),
            )

    def _retry(self, lease: Lease) -> None:
        delay = min(_RETRY_SECONDS * 2 ** (lease.attempts - 1), _RETRY_SECONDS_AT_MOST)
        self._store.retry_later(lease, delay)
        self._leased.pop(lease.content_sha256, None)

    def _exhaust(self, lease: Lease) -> None:
        """Give up a content that was leased too often: each time, the process that had it came to an end."""
        self._finish([(lease, give_up(Failure(error="the end of the service", transient=False)))])

    def _extend_leases(self) -> None:
        if time.monotonic() > self._extend_at and self._leased:
            held = self._store.extend(list(self._leased.values()), self._settings.lease_seconds)
            self._leased = {lease.content_sha256: lease for lease in held}
            self._extend_at = time.monotonic() + self._settings.lease_seconds / 3

    def _give_back(self) -> None:
        """Return what is leased and will not be finished; the attempt does not count."""
        if self._leased:
            self._store.release(list(self._leased.values()))
            self._leased.clear()

    # -- out ----------------------------------------------------------------------------------------

    def _file_away(self) -> None:
        """Move the originals of everything that is done to where people look for them."""
        after: uuid.UUID | None = None
        while done := self._store.unfiled(_GROUP, after):
            after = done[-1].arrival_id
            filed: dict[uuid.UUID, str] = {}
            for unfiled in done:
                try:
                    path = file_away(self._folders, unfiled)
                except LostFileError:
                    self._log.critical("file lost", arrival_id=str(unfiled.arrival_id))
                except OSError as error:
                    self._log.error("file cannot be moved", why=_why(error))
                else:
                    filed[unfiled.arrival_id] = printable(os.fspath(path.relative_to(self._folders.home)))
            self._store.mark_filed(filed)
            self._recorded.difference_update(filed)

    def _write_state(self) -> None:
        """Say what only this process knows, for `xray-batch status`."""
        state = {
            "pid": os.getpid(),
            "watch_mode": self._watcher.mode,
            "device": str(self._pipeline.device),
            "model_id": self._pipeline.model.model_id,
            "scanned_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        partial = self._folders.service_state.with_suffix(".partial")
        partial.write_text(json.dumps(state), encoding="utf-8")
        partial.replace(self._folders.service_state)


def _why(error: TransientError | OSError) -> str:
    """Describe an error without any file name: our own words, or the name of the system's error."""
    return str(error) if isinstance(error, TransientError) else errno.errorcode.get(error.errno or 0, "OSError")


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


def notify(state: str) -> None:
    """Tell systemd; without `Type=notify` nobody listens, and nothing happens.  See sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # abstract socket
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)
