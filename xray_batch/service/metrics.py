"""The figures of a running service, for Prometheus.

Names and labels are relied on by dashboards and alarms.  No label names a file, a patient or a UID.
"""

import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from xray_batch.errors import ReasonCode
from xray_batch.intake import WatchMode
from xray_batch.records import Outcome

#: What the service does one after the other: scan and claim; decode and classify, per file; store; file away.
STAGES: Final = ("claim", "process", "store", "file_away")

#: Whether an attempt was held against its file.
RETRY_CLASSES: Final = ("counted", "transient")


class Metrics:
    """All figures of one service, safe to read from other threads.

    Counters begin at 0 with the process; every series that is known beforehand is there from the start, so that its
    first increase is seen.
    """

    def __init__(self) -> None:
        # For all of the process; when each series began is known: with it.
        disable_created_metrics()  # type: ignore[no-untyped-call] # no annotation published
        self.registry = CollectorRegistry()
        self.files = self._counter("files", "Files that ended with an outcome", "outcome", Outcome)
        self.rejected = self._counter(
            "quarantined", "Files that were not analysed, by reason code", "reason", ReasonCode
        )
        self.duplicates = self._counter("duplicates", "Files with the bytes of another")
        self.retries = self._counter("retries", "Attempts to be repeated", "class", RETRY_CLASSES)
        self.expired = self._counter("lease_expired", "Files taken over from a service that died")
        self.rearmed = self._counter("watch_rearmed", "Times that a watch which had died was set anew")
        self.stages = Histogram("xray_stage_seconds", "Time of one step of the work", ["stage"], registry=self.registry)
        for stage in STAGES:
            self.stages.labels(stage)
        self.queue = self._gauge("queue_depth", "Contents in the database that wait for their answer", "state")
        self.waiting_since: float | None = None  #: monotonic; of the oldest file without an answer, None if none waits
        oldest = self._gauge("oldest_unprocessed_seconds", "Age of the oldest file without an answer")
        # By the clock, not by the loop: it goes on growing while a database is away or the loop stands still.
        oldest.set_function(lambda: 0.0 if self.waiting_since is None else time.monotonic() - self.waiting_since)
        self.inbox = self._gauge("inbox_files", "Files in the inbox that are ours to take")
        self.ignored = self._gauge("ignored_old_files", "Files ignored for their name for more than a day")
        self.watch_mode = self._gauge("watch_mode", "1 for how the service learns of new files", "mode")
        self.canary = self._gauge("canary_age_seconds", "Time since an event of the file system last came through")
        self.scan = self._gauge("scan_seconds", "Time that the last scan of the inbox took")
        self.scan_age = self._gauge("scan_age_seconds", "Time since the last scan of the inbox ended")
        self.disk_free = self._gauge("disk_free_bytes", "Room on the disk that has least to spare")
        self.database = self._gauge("db_up", "Whether the database answered when last used")
        self.breaker = self._gauge("breaker_open", "Whether nearly every attempt fails, and nothing is taken up")
        self.claiming = self._gauge("claiming", "Whether files are taken in; not while the disk is nearly full")
        self.unbalanced = self._gauge("unbalanced_arrivals", "Arrivals that the account misses")
        self.model = self._gauge("model_info", "1 for the model in use", "model_id", "sha256")
        for mode in WatchMode:
            self.watch_mode.labels(mode.value)
        for state in ("queued", "leased"):
            self.queue.labels(state)
        scanned_at = time.monotonic()
        self.scan_age.set_function(lambda: time.monotonic() - scanned_at)

    def _counter(self, name: str, text: str, label: str | None = None, values: Iterable[str] = ()) -> Counter:
        counter = Counter(f"xray_{name}", text, [label] if label else [], registry=self.registry)
        for value in values:
            counter.labels(str(value))
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"xray_{name}", text, labels, registry=self.registry)

    def scanned(self, seconds: float) -> None:
        """Take note of a scan that has just ended."""
        scanned_at = time.monotonic()
        self.scan.set(seconds)
        self.scan_age.set_function(lambda: time.monotonic() - scanned_at)

    def exposition(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        return generate_latest(self.registry)
