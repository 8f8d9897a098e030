"""What the database tells."""

import datetime as dt
import enum
from dataclasses import astuple, dataclass, fields

from xray_batch.records.answers import Computation, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """Where every arrival is; the view `accounting`."""

    arrivals: int  #: files seen
    results: int  #: of them, analysed
    rejected: int  #: of them, not analysed
    duplicates: int
    pending: int  #: queued or being worked on
    lost: int  #: in none of these states; always 0

    @property
    def balances(self) -> bool:
        """Whether every arrival is in exactly one state."""
        accounted = self.results + self.rejected + self.duplicates + self.pending
        return self.lost == 0 and self.arrivals == accounted

    def differs_by(self, other: "Accounting") -> int:
        """Return the largest difference between two counts of the same; 0 when they are equal."""
        differences: list[int] = [abs(one - two) for one, two in zip(astuple(self), astuple(other), strict=True)]
        return max(differences)


ACCOUNTING_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Accounting))
"""Column names of the view `accounting`, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """How much work waits."""

    queued: int  #: contents waiting, also for a later try
    leased: int  #: contents being worked on
    oldest_received_at: dt.datetime | None  #: of those that `requeue` did not queue; aware, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentResults:
    """What was answered of late."""

    last_at: dt.datetime | None  #: `classified_at` of the newest result of all; aware, UTC
    outcomes: dict[Outcome, int]  #: how many results of the time asked for, for each outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What keeps the tables."""

    name: str  #: `SQLite` or `PostgreSQL`
    version: str
    journal_mode: str | None  #: of SQLite: `wal` or `delete`
    revision: str | None  #: of the schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long something took, in seconds: of all those that were measured, half and 95 % no longer than this."""

    median: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HourFigures:
    """The results of one hour."""

    begins_at: dt.datetime  #: a full hour; aware, UTC
    outcomes: dict[Outcome, int]
    processing: Times  #: `processing_seconds`
    answering: Times | None  #: from received to answered; None where all were requeued, and so asked for much later


class ResultOrder(enum.StrEnum):
    """What comes first; among equals the id decides, in the same direction.  Results without the value come last."""

    NEWEST = "newest"  #: by `classified_at`
    OLDEST = "oldest"
    MOST_SUSPICIOUS = "most_suspicious"  #: by `p_normal`, the least first
    LEAST_SUSPICIOUS = "least_suspicious"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultQuery:
    """Which results to read, and in which order; None does not restrict."""

    outcome: Outcome | None = None
    since: dt.datetime | None = None  #: `classified_at` at or after this aware time
    until: dt.datetime | None = None  #: `classified_at` before this aware time
    patient_id: str | None = None
    study_instance_uid: str | None = None
    content_sha256: str | None = None
    identifier: str | None = None  #: part of `patient_id` or `accession_number`; upper and lower case are the same
    modality: str | None = None
    view_position: str | None = None
    reason_code: str | None = None
    min_probability: float | None = None  #: `p_pneumonia` at or above this; drops `not_analysed`
    max_probability: float | None = None  #: `p_pneumonia` at or below this; drops `not_analysed`
    order: ResultOrder = ResultOrder.NEWEST
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageKey:
    """The row that a page of results begins behind, or ends before: what its order goes by, and its id."""

    value: dt.datetime | float | None
    result_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeCounts:
    """How many results of a query, its outcome left aside, have each outcome."""

    outcomes: dict[Outcome, int]
    is_complete: bool  #: False: there are more, and nobody has counted of which outcome

    @property
    def total(self) -> int:
        """Of all outcomes; at least so many where the counts are not complete."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPage:
    """Some consecutive results of a query, in its order."""

    records: tuple["ResultRecord", ...]
    previous: PageKey | None  #: to be continued before this; None: nothing comes before
    next: PageKey | None  #: to be continued behind this; None: nothing comes after
    counts: OutcomeCounts | None  #: of all results of the query, its outcome left aside; None: nobody asked for them


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """One row of the view `results`; fields are its columns in its order."""

    result_id: int
    outcome: Outcome
    reason_code: str | None
    reason: str | None
    p_pneumonia: float | None
    p_normal: float | None
    p_bacterial: float | None
    p_viral: float | None
    p_covid19: float | None
    threshold_low: float | None
    threshold_high: float | None
    disagreement: float | None
    warnings: str  #: `ImageWarning` codes separated by commas; empty when there are none
    model_id: str
    model_sha256: str
    preprocess_sha256: str
    source_name: str  #: of the arrival that was worked
    content_sha256: str
    format: str | None  #: `dicom`, `png` or `jpeg`; None where the file could not be read that far
    transfer_syntax_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    patient_id: str | None
    accession_number: str | None
    study_date: dt.date | None
    modality: str | None
    view_position: str | None
    received_at: dt.datetime  #: of the arrival that was worked; aware, UTC
    classified_at: dt.datetime  #: aware, UTC
    processing_seconds: float
    heat_in_thorax: float | None  #: share of the heat in the middle of the film; None where there is none
    member_probabilities: dict[str, float] | None  #: P(pneumonia) by architecture; None where it is not recorded
    input_mean: float | None  #: of the pixels of the model input in [0, 1]; None where it is not recorded
    input_std: float | None  #: likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """One result with what is needed to recompute it."""

    record: ResultRecord
    computation: Computation | None  #: None where that is not recorded
    filed_paths: tuple[str, ...]  #: where its content was filed, relative to the home folder, newest first
    in_place_names: tuple[str, ...]  #: names under which its content was classified in place, newest first


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One entry of the audit trail about one content."""

    at: dt.datetime  #: aware, UTC
    kind: str  #: `arrived`, `leased`, `finished`, `filed`, `viewed`, ...
    detail: str | None  #: a short code, or of `viewed` who looked; never patient data


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTrail:
    """What the audit trail has about one content."""

    events: tuple[AuditEvent, ...]  #: the newest ones, oldest first
    is_complete: bool  #: False: there are older ones


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """One bundle that gave answers."""

    model_id: str
    model_sha256: str
    manifest: str  #: as the file was, JSON
    first_used_at: dt.datetime  #: aware, UTC


RESULT_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(ResultRecord))
"""Column names of the view `results`, in its order."""
