"""The loop of the service.

One thread does everything in turn: take files in, lease and classify them, record the answers, file the
originals away.  What touches the folders is done by another, for which it waits: a share may hang.  Which
step a file is at is read from the spool and the database, never from memory, so that a crash at any point
is mended by the next turn of any process::

    inbox --claim--> spool --hash, record--> queued --lease, classify, record--> done --file away--> filed
                                               ^                                                       |
                                               +-------------------- `xray-batch requeue` -------------+

Events of the file system only make the next scan come sooner.

It is longer than other modules: its steps share the leases in hand, the breaker and when to stop, so that to part them
would only pass these around; what can be told without them is in the modules beside it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from types import FrameType
from typing import Final

from xray_batch.errors import (
    ConfigurationError,
    DatabaseRefusedError,
    DatabaseUnavailableError,
    FoldersHangError,
    ServiceFailedError,
    TransientError,
)
from xray_batch.intake import Folders, InboxWatcher, find_original
from xray_batch.logs import get_logger, own_frames
from xray_batch.pipeline.engine import Answered, Failure, Job, Pipeline, give_up, is_given_up
from xray_batch.records import Finished, Lease, Prediction
from xray_batch.service.archives import Archives
from xray_batch.service.breaker import CircuitBreaker
from xray_batch.service.disk_thread import DiskThread
from xray_batch.service.faults import why
from xray_batch.service.filing import Filing
from xray_batch.service.health import Vitals
from xray_batch.service.intake import Intake
from xray_batch.service.lanes import in_turn
from xray_batch.service.leases import Leases
from xray_batch.service.reporting import Reporting
from xray_batch.settings import Settings
from xray_batch.store import ANY_ATTEMPTS, Store
from xray_batch.systemd import notify

#: Between two signs of life while the service waits, and two looks whether it is to stop.
_BEAT_SECONDS: Final = 0.5

#: Between an event and the scan that it asks for: a program that renames a file and then sets its mode or times at once
#: still finds it, and what comes at the same moment is seen together.
_EVENT_SECONDS: Final = 0.01

#: Between two scans that events ask for while there is work, and at least so many times what the last one took: a scan
#: of a full inbox takes as long as a film, one of 100,000 files a second.
_SCANS_APART_SECONDS: Final = 0.25
_EVENT_SCANS_APART: Final = 4.0

#: Before the service goes on after the database or the disk failed; doubled while it goes on failing.
_BACK_OFF_SECONDS: Final = 1.0
_BACK_OFF_SECONDS_AT_MOST: Final = 10.0

#: For so long after the folders hung, and that which a decode worker may take, no attempt counts: a worker that waited
#: for them is ended like one that does not end by itself.
_AFTER_A_HANG_SECONDS: Final = 60.0

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
    vitals
        Where the service says how it is.
    """

    def __init__(self, folders: Folders, pipeline: Pipeline, store: Store, settings: Settings, vitals: Vitals) -> None:
        self._folders = folders
        self._pipeline = pipeline
        self._store = store
        self._settings = settings
        self._disk = DiskThread(
            beat=lambda: self._reporting.beat(),
            hangs=lambda: self._reporting.folders_hang(),
            stop_at=lambda: self._stop_at,
            hang_seconds=settings.decode_seconds / 2,
        )
        self._archives = Archives(folders, settings, self._disk)
        self._metrics = vitals.metrics
        self._filing = Filing(folders, store, self._archives, self._metrics, self._disk)
        self._log = get_logger()
        self._wake = threading.Event()
        self._is_stopping = False
        self._stop_at = float("inf")
        self._next_scan = 0.0
        self._scanned_at = 0.0
        self._intake = Intake(
            folders,
            store,
            pipeline.model,
            self._archives,
            settings,
            self._metrics,
            disk=self._disk,
            keep_alive=self._keep_alive,
        )
        self._watcher = InboxWatcher(folders.inbox, self._wake)
        self._breaker = CircuitBreaker()
        self._is_registered = False  #: whether the database knows the model
        self._ready = False
        self._leases = Leases(store, self._metrics, lease_seconds=settings.lease_seconds)
        self._reporting = Reporting(
            folders,
            store,
            settings,
            vitals=vitals,
            intake=self._intake,
            watcher=self._watcher,
            breaker=self._breaker,
            disk=self._disk,
        )

    def run(self) -> None:
        """Work until :meth:`stop`, then finish what is in hand.

        Database outages, full disks, shares that hang and decode workers that do not start are waited out; they never
        end the service.

        Raises
        ------
        ServiceFailedError
            If nothing here can go on: a bug, or a GPU that has failed, which lasts for the life of a process.
        """
        model = self._pipeline.model
        device = str(self._pipeline.device)
        self._reporting.start(device=device, model_id=model.model_id, model_sha256=model.model_sha256)
        try:
            with suppress(FoldersHangError):  # then it is to stop before it has begun
                self._disk.do(self._watcher.start)
            self._go_on()
        except ConfigurationError:  # a damaged database; to be started anew would not mend it
            raise
        except Exception as error:  # noqa: BLE001 - the process's own boundary: what it says may quote a file
            self._leases.abandon()  # a file that ends the service each time must be found out
            self._log.critical("ended by an error", error=type(error).__name__, at=own_frames(error))
            message = f"the service ended by an error ({type(error).__name__}); its log says where"
            raise ServiceFailedError(message) from None
        finally:
            self._leave()
        self._log.info("stopped")

    def _go_on(self) -> None:
        """Take turns; what the outside does to us is waited out, for longer each time."""
        back_off = _BACK_OFF_SECONDS
        while not self._is_stopping:
            try:
                self._turn()
            except (TransientError, OSError) as error:
                self._is_registered = False  # another database may have taken the place of one that was down
                self._intake.ask_again()
                self._reporting.interrupted(error)
                self._log.error("interrupted", why=why(error), retry_seconds=back_off)
                self._rest(time.monotonic() + back_off, time.sleep)
                back_off = min(2 * back_off, _BACK_OFF_SECONDS_AT_MOST)
            else:
                back_off = _BACK_OFF_SECONDS
                self._wait()

    def _leave(self) -> None:
        notify("STOPPING=1")
        self._stop_at = min(self._stop_at, time.monotonic() + self._settings.drain_seconds)  # for the folders, too
        with suppress(FoldersHangError):
            self._reporting.stop()
            self._disk.do(self._watcher.stop)
        self._disk.stop()
        with suppress(DatabaseUnavailableError):  # then the leases expire by themselves
            self._leases.give_back()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End :meth:`run` soon, told twice at once; also a signal handler.

        It takes no lock, that of an event least of all: a handler runs in the midst of what the loop does, which may
        hold it.
        """
        self._stop_at = 0.0 if self._is_stopping else time.monotonic() + self._settings.drain_seconds
        self._is_stopping = True

    def _wait(self) -> None:
        """Sleep until the next scan is due, or an event says that one is worth while."""
        self._rest(self._next_scan, self._wake.wait)
        if self._wake.is_set():
            time.sleep(_EVENT_SECONDS)

    def _rest(self, until: float, rest: Callable[[float], object]) -> None:
        """Rest some seconds at a time, beating, until `rest` says true or the service is to stop.

        A database or a disk that is down is no reason to be started again.
        """
        while not self._is_stopping and (seconds := until - time.monotonic()) > 0:
            self._reporting.beat()
            if rest(min(seconds, self._reporting.beat_seconds, _BEAT_SECONDS)):
                break

    def _turn(self) -> None:
        """Do all that can be done now."""
        self._reporting.beat()
        self._intake.look_for_room()  # first of all: a full disk may be why the database refuses what comes next
        self._leases.give_back()
        if not self._is_registered:
            self._store.register_model(self._pipeline.model)
            self._is_registered = True
        self._take_in()
        if not self._ready:
            self._reporting.look()
            notify("READY=1")
            self._log.info("ready", watch_mode=self._reporting.watch_mode, device=str(self._pipeline.device))
            self._ready = True
        while self._work() and not self._is_stopping:
            pass  # what must be leased alone comes one by one
        self._file_away()  # what was left of earlier, and duplicates: after the work, so that no film waits for it
        self._reporting.look()

    def _work(self) -> bool:
        """Answer what can be leased together; tell whether there was anything."""
        with closing(self._pipeline.run(self._lease_jobs())) as groups:
            for group in groups:
                self._record(group)
                self._keep_alive()
                if group:
                    self._file_away()
                if self._is_scan_due() and not self._is_stopping:
                    self._take_in()
                    self._reporting.look()
                if time.monotonic() > self._stop_at:
                    break
        return self._leases.has_taken()

    # -- in -----------------------------------------------------------------------------------------

    def _is_scan_due(self) -> bool:
        """Tell whether to scan in the midst of work: something urgent may have come."""
        now = time.monotonic()
        apart = max(_SCANS_APART_SECONDS, _EVENT_SCANS_APART * self._intake.scan_seconds)
        return now >= self._next_scan or (self._wake.is_set() and now - self._scanned_at >= apart)

    def _take_in(self) -> None:
        """Take in what has arrived."""
        self._wake.clear()
        seconds = self._intake.run(self._watcher.take_renamed())
        self._scanned_at = time.monotonic()
        self._next_scan = self._scanned_at + seconds
        self._disk.do(self._watcher.send_canary)

    # -- through ------------------------------------------------------------------------------------

    def _lease_jobs(self) -> Iterator[Job[Lease]]:
        """Lease contents some at a time, for as long as there are any and nobody says stop; or one suspect alone."""
        if not self._intake.room.for_work or self._breaker.pause_seconds:
            return
        if self._breaker.is_open:  # a file that has had no attempt yet tells best whether it was the files
            yield from self._jobs(self._leases.take(1, range(1)) or self._leases.take(1, ANY_ATTEMPTS))
            return
        suspect = self._leases.take(1, range(_LEASES_TOGETHER, ANY_ATTEMPTS.stop))
        yield from self._jobs(suspect)
        if not suspect:
            yield from self._jobs(in_turn(self._lease_more, self._settings.batch_size, self._intake.urgent_came))

    def _lease_more(self, limit: int, urgent: bool) -> list[Lease]:
        if self._is_stopping or self._breaker.is_open:
            return []
        return self._leases.take(limit, range(_LEASES_TOGETHER), urgent=urgent)

    def _jobs(self, leases: Iterable[Lease]) -> Iterator[Job[Lease]]:
        """Find the files of leased contents; what has none, or too many attempts, ends here."""
        for lease in leases:
            self._keep_alive()  # thousands may have none
            try:
                path = self._disk.do(find_original, self._folders, lease.original)
            except OSError as error:  # the disk's fault, for as long as it takes
                self._log.error("original cannot be read", arrival_id=str(lease.held_by), why=why(error))
                self._leases.retry(lease, counted=False)
                continue
            if lease.attempts > _LEASES_AT_MOST:
                self._give_up(lease, "the end of the service")
            elif path is None:
                self._log.error("content missing", arrival_id=str(lease.held_by))
                self._missing(lease)
            else:
                yield self._archives.job(path, lease)

    def _missing(self, lease: Lease) -> None:
        """Look again later; in the end, what was requeued keeps its answer: nothing better will come."""
        if lease.attempts >= self._settings.max_attempts and self._store.withdraw(lease):
            self._leases.ended(lease)
        else:
            self._leases.retry(lease, counted=True)

    def _record(self, group: Sequence[Answered[Lease]]) -> None:
        """Store a group's answers in one transaction; what failed is tried later."""
        finished: list[tuple[Lease, Finished]] = []
        for answered in group:
            lease, result = answered.job.context, answered.result
            if isinstance(result, Finished) and not self._may_be_stored(answered):
                self._not_now(answered)
            elif isinstance(result, Finished):
                finished.append((lease, result))
            else:
                counted = self._may_be_to_blame() and not result.transient
                if counted and lease.attempts >= self._settings.max_attempts:
                    finished.append((lease, give_up(result)))
                else:
                    self._log.warning("attempt failed", arrival_id=str(lease.held_by), error=result.error)
                    self._leases.retry(lease, counted=counted)
        self._finish(finished)

    def _may_be_to_blame(self) -> bool:
        """Take note of an attempt that ended abnormally; tell whether it is to be held against the file."""
        self._disk.do(os.statvfs, self._folders.home)  # a share that hangs holds this up, too
        if self._disk.hung_within(self._settings.decode_seconds + _AFTER_A_HANG_SECONDS):
            return False
        in_pause = self._breaker.pause_seconds > 0  # it was taken up before that began
        if self._breaker.failed():
            pause = round(self._breaker.pause_seconds)
            self._log.error("nearly every attempt fails: nothing is taken up", pause_seconds=pause)
        return not in_pause

    def _may_be_stored(self, answered: Answered[Lease]) -> bool:
        """Tell whether an answer is for the bytes that arrived, and the members of an archive are in the inbox."""
        if self._intake.is_for_recorded_bytes(answered):
            return self._archives.members_arrive(answered)
        if answered.unpacked is not None:
            self._disk.do(answered.unpacked.folder.remove)
        return False

    def _not_now(self, answered: Answered[Lease]) -> None:
        """Try again later: what is in the spool will settle; a filed original of other bytes was changed for good."""
        lease = answered.job.context
        if answered.job.path.is_relative_to(self._folders.spool):
            self._leases.retry(lease, counted=False)
        else:
            self._log.error("original is not what was filed", arrival_id=str(lease.held_by))
            self._missing(lease)

    def _finish(self, finished: Sequence[tuple[Lease, Finished]]) -> None:
        if not finished:
            return
        try:
            with self._metrics.stages.labels("store").time():
                accepted = self._store.finish(finished, self._pipeline.model)
        except DatabaseRefusedError as error:
            self._refused(finished, error)
            return
        tokens = {lease.token for lease in accepted}
        for lease, result in finished:
            self._leases.ended(lease)
            if lease.token in tokens:
                self._reporting.finished(result)
            if not is_given_up(result):
                self._breaker.succeeded()
            self._log.info(
                "finished" if lease.token in tokens else "finished by somebody else",
                arrival_id=str(lease.held_by),
                outcome=result.outcome,
                reason_code=result.reason_code,
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
        self._is_registered = False  # the database may be one that was restored
        counted = self._may_be_to_blame()
        if counted and isinstance(result.answer, Prediction) and lease.attempts >= self._settings.max_attempts:
            self._give_up(lease, type(error).__name__)
        else:
            self._leases.retry(lease, counted=counted)

    def _give_up(self, lease: Lease, error: str) -> None:
        self._finish([(lease, give_up(Failure(error=error, transient=False)))])

    def _keep_alive(self) -> None:
        """Say that the service gets on: to systemd, and to those who would take its leases for those of a dead one."""
        self._reporting.beat()
        self._leases.keep()

    # -- out ----------------------------------------------------------------------------------------

    def _file_away(self) -> None:
        for filed in self._filing.run():
            if self._intake.forget(filed):
                self._next_scan = 0.0
            self._keep_alive()
