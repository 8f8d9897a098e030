"""What the service says of itself while it works: health, figures, and the file that `xray-batch status` reads."""

import datetime as dt
import math
import time
from contextlib import suppress
from typing import Final

from xray_batch.errors import DatabaseUnavailableError, DecoderDiedError, FoldersHangError, TransientError
from xray_batch.intake import Folders, InboxWatcher, WatchMode
from xray_batch.logs import get_logger
from xray_batch.pipeline.engine import is_given_up
from xray_batch.pipeline.service_state import write_service_state
from xray_batch.records import Finished
from xray_batch.service.breaker import CircuitBreaker
from xray_batch.service.disk_thread import DiskThread
from xray_batch.service.health import Vitals
from xray_batch.service.host import Watchdog
from xray_batch.service.intake import Intake
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Between two counts of all arrivals, which read them; the first is not at the start, that should not wait for it.
_RECOUNT_SECONDS: Final = 600.0


class Reporting:
    """Puts down what others may ask for at any time; see :mod:`health` for who reads it."""

    def __init__(
        self,
        folders: Folders,
        store: Store,
        settings: Settings,
        *,
        vitals: Vitals,
        intake: Intake,
        watcher: InboxWatcher,
        breaker: CircuitBreaker,
        disk: DiskThread,
    ) -> None:
        self._folders = folders
        self._store = store
        self._health = vitals.health
        self._metrics = vitals.metrics
        self._intake = intake
        self._watcher = watcher
        self._breaker = breaker
        self._disk = disk
        self.watch_mode = WatchMode.POLLING  #: at the last look
        self._log = get_logger()
        self._watchdog = Watchdog()
        self._recount_at = time.monotonic() + _RECOUNT_SECONDS
        self._lost = 0  #: arrivals that the account missed at the last look
        self._mistallied = 0  #: arrivals by which the tally was wrong at the last count
        self._rearmed = 0
        self._model: dict[str, str] = {}

    def start(self, *, device: str, model_id: str, model_sha256: str) -> None:
        """Say which model is loaded, and on what."""
        self._model = {"device": device, "model_id": model_id}
        self._metrics.model.labels(model_id, model_sha256).set(1)
        self._health.report(model=True, decoders=True)

    def stop(self) -> None:
        """Leave nothing that a dead service would seem to say."""
        with suppress(OSError):
            self._disk.do(self._folders.service_state.unlink, missing_ok=True)

    @property
    def beat_seconds(self) -> float:
        """How long the loop may be silent at most while it waits."""
        return self._watchdog.seconds

    def beat(self) -> None:
        """Say that the loop gets on."""
        self._watchdog.beat()
        self._health.beat()

    def interrupted(self, error: TransientError | OSError) -> None:
        """Say what the loop waits for; a disk that has become full may be why, whatever the error says."""
        with suppress(OSError, FoldersHangError):
            self._intake.look_for_room()
        has_database = not isinstance(error, DatabaseUnavailableError)
        has_disk = isinstance(error, TransientError)  # else folders full, read-only, gone; or no descriptor left
        self._report_room()
        self._health.report(database=has_database, disk=has_disk and self._intake.room.for_claims)
        self._metrics.database.set(has_database)
        if isinstance(error, DecoderDiedError):  # of one file it is the file's matter: here no worker can be started
            self._health.report(decoders=False)
        self._begin_to_wait()

    def folders_hang(self) -> None:
        """Say that the folders do not answer; the next look says that they do."""
        self._health.report(inbox=False)
        self._begin_to_wait()

    def _begin_to_wait(self) -> None:
        """Count from now at the latest how long the oldest waits: what comes now waits, and nobody can count it."""
        if self._metrics.waiting_since is None:
            self._metrics.waiting_since = time.monotonic()

    def finished(self, result: Finished) -> None:
        """Count a file that has its outcome."""
        if not is_given_up(result):
            self._health.report(decoders=True)
        self._metrics.stages.labels("process").observe(result.processing_seconds)
        if result.reason_code is not None:
            self._metrics.rejected.labels(result.reason_code).inc()
        self._metrics.files.labels(result.outcome).inc()

    def look(self) -> None:
        """Put down how things are, after each scan of the inbox.

        Raises
        ------
        DatabaseUnavailableError
            If the queue cannot be counted.
        """
        self.watch_mode = self._disk.do(self._look_at_watcher)
        self._look_at_queue()
        self._look_at_intake()
        self._look_at_account()
        with suppress(OSError):
            self._disk.do(
                write_service_state,
                self._folders.service_state,
                watch_mode=self.watch_mode,
                **self._model,
                watch_rearmed=self._watcher.rearmed,
                canary_age_seconds=self._watcher.canary_age,
                claiming=self._intake.room.for_claims,
                breaker_open=self._breaker.is_open,
            )

    def _look_at_watcher(self) -> WatchMode:
        return self._watcher.mode  # sets a watch that has died anew

    def _look_at_account(self) -> None:
        """Read the tally each time, and now and then whether it is what there is."""
        accounting = self._store.accounting()
        if time.monotonic() > self._recount_at:
            self._recount_at = time.monotonic() + _RECOUNT_SECONDS
            accounting, tallied = self._store.recount()
            self._mistallied = tallied.differs_by(accounting)
            if self._mistallied:
                self._log.critical("the tally is not what there is", arrivals=self._mistallied)
        if not accounting.balances and accounting.lost != self._lost:
            self._log.critical("the account does not balance", lost=accounting.lost)
        self._lost = accounting.lost
        self._metrics.unbalanced.set(max(abs(accounting.lost), self._mistallied))

    def _look_at_queue(self) -> None:
        queue = self._store.queue_status()
        self._metrics.database.set(1)
        self._health.report(database=True)
        self._metrics.queue.labels("queued").set(queue.queued)
        self._metrics.queue.labels("leased").set(queue.leased)
        received = queue.oldest_received_at
        waiting = (dt.datetime.now(dt.UTC) - received).total_seconds() if received else 0.0
        longest = max(waiting, self._intake.longest_wait)
        self._metrics.waiting_since = time.monotonic() - longest if longest else None

    def _look_at_intake(self) -> None:
        metrics = self._metrics
        self._report_room()
        self._health.report(disk=self._intake.room.for_claims, inbox=self._intake.can_read_inbox)
        metrics.breaker.set(self._breaker.is_open)
        for known in WatchMode:
            metrics.watch_mode.labels(known).set(known is self.watch_mode)
        metrics.canary.set(math.nan if self._watcher.canary_age is None else self._watcher.canary_age)
        metrics.rearmed.inc(self._watcher.rearmed - self._rearmed)
        self._rearmed = self._watcher.rearmed

    def _report_room(self) -> None:
        room = self._intake.room
        self._metrics.disk_free.set(room.free_bytes)
        self._metrics.claiming.set(room.for_claims)
