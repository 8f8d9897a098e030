"""What the service says of itself while it works: health, figures, and the file that `xray-batch status` reads."""

import datetime as dt
import math
import time
from contextlib import suppress
from typing import Final

from xray_batch.errors import DatabaseUnavailableError, TransientError
from xray_batch.intake import Folders, InboxWatcher, WatchMode
from xray_batch.logs import get_logger
from xray_batch.records import Finished
from xray_batch.service.breaker import CircuitBreaker
from xray_batch.service.faults import DISK_ERRNOS
from xray_batch.service.health import Vitals
from xray_batch.service.host import Watchdog
from xray_batch.service.intake import Intake
from xray_batch.service.state import write_state
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Between two looks at the whole account, which reads the table of all arrivals.
_ACCOUNT_SECONDS: Final = 600.0


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
    ) -> None:
        self._folders = folders
        self._store = store
        self._health = vitals.health
        self._metrics = vitals.metrics
        self._intake = intake
        self._watcher = watcher
        self._breaker = breaker
        self._log = get_logger()
        self._watchdog = Watchdog()
        self._account_at = 0.0
        self._rearmed = 0
        self._model: dict[str, str] = {}

    def start(self, *, device: str, model_id: str, model_sha256: str) -> None:
        """Say which model is loaded, and on what."""
        self._model = {"device": device, "model_id": model_id}
        self._metrics.model.labels(model_id, model_sha256).set(1)
        self._health.report(model=True)

    def stop(self) -> None:
        """Leave nothing that a dead service would seem to say."""
        with suppress(OSError):
            self._folders.service_state.unlink(missing_ok=True)

    @property
    def beat_seconds(self) -> float:
        """How long the loop may be silent at most while it waits."""
        return self._watchdog.seconds

    def beat(self) -> None:
        """Say that the loop gets on."""
        self._watchdog.beat()
        self._health.beat()

    def interrupted(self, error: TransientError | OSError) -> None:
        """Say what the loop waits for."""
        has_database = not isinstance(error, DatabaseUnavailableError)
        has_disk = isinstance(error, TransientError) or error.errno not in DISK_ERRNOS
        self._health.report(database=has_database, disk=has_disk)
        self._metrics.database.set(has_database)
        if self._metrics.waiting_since is None:  # what comes now waits, and nobody can count it
            self._metrics.waiting_since = time.monotonic()

    def finished(self, result: Finished) -> None:
        """Count a file that has its outcome."""
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
        self._look_at_queue()
        self._look_at_intake()
        if time.monotonic() > self._account_at:
            self._account_at = time.monotonic() + _ACCOUNT_SECONDS
            accounting = self._store.accounting()
            self._metrics.unbalanced.set(abs(accounting.lost))
            if not accounting.balances:
                self._log.critical("the account does not balance", lost=accounting.lost)
        with suppress(OSError):
            write_state(
                self._folders.service_state,
                watch_mode=self._watcher.mode,
                **self._model,
                watch_rearmed=self._watcher.rearmed,
                canary_age_seconds=self._watcher.canary_age,
                claiming=self._intake.room.for_claims,
                breaker_open=self._breaker.is_open,
            )

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
        room, metrics, mode = self._intake.room, self._metrics, self._watcher.mode
        self._health.report(disk=room.for_claims, inbox=self._intake.can_read_inbox)
        metrics.disk_free.set(room.free_bytes)
        metrics.claiming.set(room.for_claims)
        metrics.breaker.set(self._breaker.is_open)
        for known in WatchMode:
            metrics.watch_mode.labels(known).set(known is mode)
        metrics.canary.set(math.nan if self._watcher.canary_age is None else self._watcher.canary_age)
        metrics.rearmed.inc(self._watcher.rearmed - self._rearmed)
        self._rearmed = self._watcher.rearmed
