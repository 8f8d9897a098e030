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
        self._add_counters()
        self._add_stages()
        self._add_gauges_of_files()
        self._add_gauges_of_the_service()

    def _add_counters(self) -> None:
        self.files = self._counter("files", "Files that were answered, by outcome", "outcome", Outcome)
        self.rejected = self._counter(
            "quarantined", "Files that were answered as not analysed, by reason", "reason", ReasonCode
        )
        self.duplicates = self._counter(
            "duplicates", "Files with the same bytes as an earlier one; nothing is computed again"
        )
        self.retries = self._counter(
            "retries",
            "Attempts that failed and are tried again: counted against the file, or transient",
            "class",
            RETRY_CLASSES,
        )
        self.expired = self._counter("lease_expired", "Files taken over from a service that died or hung")
        self.rearmed = self._counter("watch_rearmed", "Times that the watch on the inbox had died and was set anew")

    def _add_stages(self) -> None:
        self.stages = Histogram(
            "xray_stage_seconds",
            "Time that one step of the work takes; process is decoding and classifying one file",
            ["stage"],
            registry=self.registry,
        )
        for stage in STAGES:
            self.stages.labels(stage)

    def _add_gauges_of_files(self) -> None:
        self.queue = self._gauge(
            "queue_depth", "Files in the database without an answer: queued, or leased and being answered", "state"
        )
        self.waiting_since: float | None = None  #: monotonic; of the oldest file without an answer, None if none waits
        oldest = self._gauge(
            "oldest_unprocessed_seconds",
            "How long the oldest file has waited for its answer; the figure to be woken by",
        )
        # By the clock, not by the loop: it goes on growing while a database is away or the loop stands still.
        oldest.set_function(lambda: 0.0 if self.waiting_since is None else time.monotonic() - self.waiting_since)
        self.inbox = self._gauge("inbox_files", "Files in the inbox that wait to be taken")
        self.ignored = self._gauge(
            "ignored_old_files", "Entries of the inbox left alone for their name for more than a day: broken transfers?"
        )
        self.unbalanced = self._gauge(
            "unbalanced_arrivals", "Files that the account misses; anything but 0 is an alarm"
        )
        for state in ("queued", "leased"):
            self.queue.labels(state)

    def _add_gauges_of_the_service(self) -> None:
        self.watch_mode = self._gauge(
            "watch_mode", "How the service learns of new files: 1 for inotify, or for polling by scans alone", "mode"
        )
        self.canary = self._gauge(
            "canary_age_seconds", "Time since the inbox last reported a change; not known while it is only scanned"
        )
        self.scan = self._gauge("scan_seconds", "Time that the last scan of the inbox took")
        self.scan_age = self._gauge("scan_age_seconds", "Time since the last scan of the inbox ended")
        self.disk_free = self._gauge(
            "disk_free_bytes", "Free space on the disk that has least to spare, of home folder and database"
        )
        self.database = self._gauge("db_up", "1 while the database answers, 0 while it is down")
        self.breaker = self._gauge("breaker_open", "1 while nearly every attempt fails and the service pauses, else 0")
        self.claiming = self._gauge("claiming", "1 while files are taken from the inbox, 0 while the disk is too full")
        self.model = self._gauge(
            "model_info",
            "The model in use, by id and SHA-256 of its manifest; the value is always 1",
            "model_id",
            "sha256",
        )
        for mode in WatchMode:
            self.watch_mode.labels(mode.value)
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
