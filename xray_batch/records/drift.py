"""What the films that a bundle was measured on were like, and what those of a site are like over time."""

import datetime as dt
from dataclasses import dataclass, fields

from xray_batch.records.answers import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceBins:
    """How one number is spread over the reference films.

    A value below the first edge is in the first bin, one at an edge in the bin above it.
    """

    edges: tuple[float, ...]  #: between the bins, in order, the deciles of the reference films; equal ones are possible
    shares: tuple[float, ...]  #: of the reference films, one for each bin, summing to 1
    n: int  #: reference films


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReference:
    """What drift is measured against; each field is a column of the view `results`."""

    p_pneumonia: ReferenceBins
    input_mean: ReferenceBins
    input_std: ReferenceBins


#: Columns of the view `results` whose drift is measured.
DRIFT_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(DriftReference))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What one model answered in one span of time."""

    since: dt.datetime  #: `classified_at` at or after this aware time
    until: dt.datetime  #: and before this one
    outcomes: dict[Outcome, int]  #: every outcome
    counts: dict[str, tuple[int, ...]]
    """By a name of :data:`DRIFT_COLUMNS`, the analysed results in each bin; empty without a reference.

    Results of before revision 0006 of the database have no mean and SD, and are in no bin of these.
    """
