"""The loop of the service.

One thread does everything in turn: take files in, lease and classify them, record the answers, file the
originals away.  Which step a file is at is read from the spool and the database, never from memory, so
that a crash at any point is mended by the next turn of any process::

    inbox --claim--> spool --hash, record--> queued --lease, classify, record--> done --file away--> filed

Events of the file system only make the next scan come sooner.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from types import FrameType
from typing import Final

from xray_batch.errors import (
    DatabaseRefusedError,
    DatabaseUnavailableError,
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
    hash_claimed,
    scan,
)
from xray_batch.logs import get_logger
from xray_batch.pipeline.engine import Answered, Failure, Job, Pipeline, give_up
from xray_batch.records import (
    Arrival,
    Finished,
    Lease,
    Outcome,
    Prediction,
    Rejection,
)
from xray_batch.service.archives import Archives
from xray_batch.service.faults import DISK_ERRNOS, why
from xray_batch.service.filing import Filing
from xray_batch.service.host import Watchdog, notify
from xray_batch.service.state import write_state
from xray_batch.settings import Settings
from xray_batch.store import ANY_ATTEMPTS, Store

#: Files recorded in one transaction.
_GROUP: Final = 64

_SCAN_SECONDS_AT_LEAST: Final = 0.1

#: Before a file is tried again; doubled with each attempt.
_RETRY_SECONDS: Final = 5.0
_RETRY_SECONDS_AT_MOST: Final = 900.0

#: Before the service goes on after the database or the disk failed; doubled while it goes on failing.
_BACK_OFF_SECONDS: Final = 1.0
_BACK_OFF_SECONDS_AT_MOST: Final = 10.0

#: Files in the spool at most; the others wait in the inbox.
_SPOOL_FILES: Final = 1024

#: A content leased so often without an end may be what ended the service, and is leased alone from then on: decoding
#: cannot end the service, so most or all of what it had in hand each time was innocent.
_LEASES_TOGETHER: Final = 5

#: Leased so often, most of them alone, a content has ended the service, and is given up.
_LEASES_AT_MOST: Final = 20


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
        self._archives = Archives(folders, settings)
        self._filing = Filing(folders, store, self._archives)
        self._log = get_logger()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stop_at = float("inf")
        self._next_scan = 0.0
        self._tracker = SettleTracker(folders.inbox, settings.settle_seconds)
        self._watcher = InboxWatcher(folders.inbox, self._wake)
        self._watchdog = Watchdog()
        self._ready = False
        self._left_alone: Counter[str] = Counter()
        self._recorded: set[uuid.UUID] = set()  #: arrivals in the spool that the database knows
        self._leased: dict[str, Lease] = {}
        self._found_work = False  #: whether anything was leased since the last look
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
                    self._log.error("interrupted", why=why(error), retry_seconds=back_off)
                    self._wait_for(self._stopping, time.monotonic() + back_off)
                    back_off = min(2 * back_off, _BACK_OFF_SECONDS_AT_MOST)
                else:
                    back_off = _BACK_OFF_SECONDS
                    self._wait()
        finally:
            notify("STOPPING=1")
            self._watcher.stop()
            with suppress(DatabaseUnavailableError):  # then the leases expire by themselves
                self._give_back()
            with suppress(OSError):
                self._folders.service_state.unlink(missing_ok=True)
        self._log.info("stopped")

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End :meth:`run` soon, told twice at once; also a signal handler."""
        self._stop_at = 0.0 if self._stopping.is_set() else time.monotonic() + self._settings.drain_seconds
        self._stopping.set()
        self._wake.set()

    def _wait(self) -> None:
        """Sleep until the next scan is due, or an event says that one is worth while."""
        self._wait_for(self._wake, self._next_scan)
        if self._wake.is_set() and not self._stopping.is_set():
            self._wake.clear()
            self._next_scan = 0.0

    def _wait_for(self, event: threading.Event, until: float) -> None:
        """Wait, beating; a database or a disk that is down is no reason to be started again."""
        while not event.is_set() and (seconds := until - time.monotonic()) > 0:
            self._watchdog.beat()
            event.wait(min(seconds, self._watchdog.seconds))

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
        while self._work() and not self._stopping.is_set():
            pass  # what must be leased alone comes one by one

    def _work(self) -> bool:
        """Answer what can be leased together; tell whether there was anything."""
        self._found_work = False
        with closing(self._pipeline.run(self._lease_jobs())) as groups:
            for group in groups:
                self._record(group)
                self._keep_alive()
                if group:
                    self._file_away()
                if time.monotonic() >= self._next_scan and not self._stopping.is_set():
                    self._take_in()
                if time.monotonic() > self._stop_at:
                    break
        return self._found_work

    # -- in -----------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Claim what is complete in the inbox, and record what is in the spool and not recorded.

        One group at a time, so that neither a huge drop nor a full spool keeps the service from its work.
        An inbox that cannot be read, a share that is down for instance, stops nothing else.
        """
        more = waiting = False
        try:
            more, waiting = self._claim_complete()
        except OSError as error:
            if error.errno in DISK_ERRNOS:
                raise
            self._log.error("inbox cannot be read", why=why(error))
        more |= self._record_claims()
        settings = self._settings
        # A file that has not settled is looked at again as soon as it may have.
        seconds = min(settings.settle_seconds, settings.scan_seconds) if waiting else settings.scan_seconds
        self._next_scan = time.monotonic() + (0.0 if more else max(seconds, _SCAN_SECONDS_AT_LEAST))
        with suppress(OSError):
            write_state(
                self._folders.service_state,
                watch_mode=self._watcher.mode,
                device=str(self._pipeline.device),
                model_id=self._pipeline.model.model_id,
            )

    def _claim_complete(self) -> tuple[bool, bool]:
        """Claim complete files of the inbox; tell whether more can be claimed, and whether some are incomplete."""
        found = scan(self._folders.inbox)
        room = max(0, min(_GROUP, _SPOOL_FILES - len(self._recorded)))
        claimed = 0
        refused: Counter[str] = Counter()
        for file in self._tracker.complete(found.files):
            if claimed == room:  # of the others nothing is known
                return bool(room), True
            try:
                claim(file, self._folders)
                claimed += 1
            except OSError as error:
                if error.errno in DISK_ERRNOS:
                    raise
                refused[why(error)] += 1
        unreadable = self._tracker.unreadable
        left = Counter({str(kind): count for kind, count in found.left_alone.items()}) + refused
        left += Counter(unreadable=unreadable)
        if left != self._left_alone:
            self._log.warning("files left in the inbox", **left)
            self._left_alone = left
        return False, len(found.files) > claimed + refused.total() + unreadable

    def _record_claims(self) -> bool:
        """Record one group of what is in the spool and not recorded; tell whether there is more."""
        claims = list(claims_in_spool(self._folders))
        self._recorded &= {claimed.arrival_id for claimed in claims}  # others may have filed some away
        new = [claimed for claimed in claims if claimed.arrival_id not in self._recorded]
        for start in range(0, len(new), _GROUP):
            group = new[start : start + _GROUP]
            self._recorded |= self._store.recorded([claimed.arrival_id for claimed in group])
            self._record_arrivals([claimed for claimed in group if claimed.arrival_id not in self._recorded])
            if any(claimed.arrival_id in self._recorded for claimed in group):
                return len(new) > start + _GROUP
        return False

    def _arrival(self, claimed: Claimed) -> Arrival | None:
        """Learn what a claimed file is; None if that is not possible now."""
        self._keep_alive()
        try:
            return hash_claimed(claimed)
        except OSError as error:
            self._log.error("claimed file cannot be read", arrival_id=str(claimed.arrival_id), why=why(error))
            return None

    def _record_arrivals(self, claims: Sequence[Claimed]) -> None:
        group = [arrival for claimed in claims if (arrival := self._arrival(claimed)) is not None]
        if not group:
            return
        archives = {claimed.arrival_id for claimed in self._archives.to_unpack(claims)}
        again = {arrival.content_sha256 for arrival in group if arrival.arrival_id in archives}
        dispositions = self._store.add_arrivals(group, self._pipeline.model, again)
        self._recorded.update(dispositions)
        for arrival in group:
            disposition = dispositions[arrival.arrival_id]
            self._log.info("arrived", arrival_id=str(arrival.arrival_id), disposition=disposition, size=arrival.size)

    # -- through ------------------------------------------------------------------------------------

    def _lease_jobs(self) -> Iterator[Job[Lease]]:
        """Lease contents a batch at a time, for as long as there are any and nobody says stop; or one suspect alone."""
        suspect = self._lease(1, range(_LEASES_TOGETHER, ANY_ATTEMPTS.stop))
        yield from self._jobs(suspect)
        while not suspect and not self._stopping.is_set():
            leases = self._lease(self._settings.batch_size, range(_LEASES_TOGETHER))
            if not leases:
                return
            yield from self._jobs(leases)

    def _lease(self, limit: int, attempts: range) -> list[Lease]:
        """Lease contents that had so many attempts before."""
        leases = self._store.lease(limit=limit, lease_seconds=self._settings.lease_seconds, attempts=attempts)
        if leases and not self._leased:
            self._extend_at = time.monotonic() + self._settings.lease_seconds / 3
        self._leased |= {lease.content_sha256: lease for lease in leases}
        self._found_work |= bool(leases)
        return leases

    def _jobs(self, leases: Sequence[Lease]) -> Iterator[Job[Lease]]:
        """Find the files of leased contents; what has none, or too many attempts, ends here."""
        for lease in leases:
            try:
                path = claimed_file(self._folders, lease.held_by)
            except OSError as error:  # the disk's fault, for as long as it takes
                self._log.error("spool cannot be read", arrival_id=str(lease.held_by), why=why(error))
                self._retry(lease, counted=False)
                continue
            if lease.attempts > _LEASES_AT_MOST:
                self._give_up(lease, "the end of the service")
            elif path is None:
                self._log.error("content missing", arrival_id=str(lease.held_by))
                self._retry(lease, counted=True)
            else:
                yield self._archives.job(path, lease)

    def _record(self, group: Sequence[Answered[Lease]]) -> None:
        """Store a group's answers in one transaction; what failed is tried later."""
        finished: list[tuple[Lease, Finished]] = []
        for answered in group:
            lease, result = answered.job.context, answered.result
            if isinstance(result, Finished) and not self._archives.members_arrive(answered):
                self._retry(lease, counted=False)
            elif isinstance(result, Finished):
                finished.append((lease, result))
            elif lease.attempts >= self._settings.max_attempts and not result.transient:
                finished.append((lease, give_up(result)))
            else:
                self._log.warning("attempt failed", arrival_id=str(lease.held_by), error=result.error)
                self._retry(lease, counted=not result.transient)
        self._finish(finished)

    def _finish(self, finished: Sequence[tuple[Lease, Finished]]) -> None:
        if not finished:
            return
        try:
            accepted = self._store.finish(finished, self._pipeline.model)
        except DatabaseRefusedError as error:
            self._refused(finished, error)
            return
        tokens = {lease.token for lease in accepted}
        for lease, result in finished:
            self._forget(lease)
            answer = result.answer
            self._log.info(
                "finished" if lease.token in tokens else "finished by somebody else",
                arrival_id=str(lease.held_by),
                outcome=answer.outcome if isinstance(answer, Prediction) else Outcome.NOT_ANALYSED,
                reason_code=answer.reason_code if isinstance(answer, Rejection) else None,
                seconds=round(result.processing_seconds, 3),
            )

    def _refused(self, finished: Sequence[tuple[Lease, Finished]], error: DatabaseRefusedError) -> None:
        """Store a group that the database refused one by one, so that one wrong answer takes no other with it."""
        if len(finished) > 1:
            for answer in finished:
                self._finish([answer])
            return
        ((lease, result),) = finished
        self._log.error("answer refused", arrival_id=str(lease.held_by), why=str(error))
        if isinstance(result.answer, Prediction) and lease.attempts >= self._settings.max_attempts:
            self._give_up(lease, type(error).__name__)
        else:
            self._retry(lease, counted=True)

    def _give_up(self, lease: Lease, error: str) -> None:
        self._finish([(lease, give_up(Failure(error=error, transient=False)))])

    def _retry(self, lease: Lease, *, counted: bool) -> None:
        delay = min(_RETRY_SECONDS * 2 ** min(lease.attempts - 1, 10), _RETRY_SECONDS_AT_MOST)
        self._store.retry_later(lease, delay, counted=counted)
        self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        if self._leased.get(lease.content_sha256) == lease:
            del self._leased[lease.content_sha256]

    def _keep_alive(self) -> None:
        """Say that the service gets on: to systemd, and to those who would take its leases for those of a dead one."""
        self._watchdog.beat()
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
        for filed in self._filing.run():
            self._recorded.difference_update(filed)
            self._keep_alive()
