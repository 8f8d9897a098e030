"""How far the films of a site have moved from those that the bundle was measured on, week by week."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xray_batch.drift import LARGE_FROM, MODERATE_FROM, Band, Drift, least_results, measure_drift
from xray_batch.records import DRIFT_COLUMNS, DriftReference, Outcome, ReferenceBins, ResultQuery, Trend
from xray_batch.store import Store
from xray_batch.web.charts import Chart, Series, index_lines
from xray_batch.web.manifests import fact_of

#: What is compared, in words; the names are columns of the view `results`.
QUANTITIES: Final[Mapping[str, str]] = {
    "p_pneumonia": "P(pneumonia)",
    "input_mean": "mean of the model input",
    "input_std": "SD of the model input",
}


#: Weeks that are shown.
WEEKS: Final = 12

_WEEK: Final = dt.timedelta(days=7)

#: Values of the index that have a name.
_MARKS: Final[Mapping[str, float]] = {Band.MODERATE: MODERATE_FROM, Band.LARGE: LARGE_FROM}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPeriod:
    """One week, from Monday on; the last is not over."""

    begins_at: dt.datetime  #: aware; shown by this machine's clock
    results: int  #: analysed films
    drifts: Mapping[str, Drift]  #: by quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """What one model answered over time, against the films that its bundle was measured on."""

    model_id: str
    reference: str | None  #: what films those were; None where the bundle does not tell what they were like
    least_results: int | None  #: fewer in a period give no index; None: no number is enough
    marks: Mapping[str, float]  #: values of the index that have a name, such as `moderate`
    periods: tuple[TrendPeriod, ...]  #: the oldest first


def find_trends(store: Store, now: dt.datetime) -> Trends | None:
    """Compare the last weeks with the reference of the model that answered last; None before its first answer."""
    newest = store.page(ResultQuery(), 1).records
    if not newest:
        return None
    facts = fact_of(store.stored_model(newest[0].model_sha256), "drift_reference")
    if not isinstance(facts, Mapping):
        return Trends(model_id=newest[0].model_id, reference=None, least_results=None, marks=_MARKS, periods=())
    reference = _read_reference(facts)
    monday = now.astimezone().date() - dt.timedelta(days=now.astimezone().weekday())
    days = [monday - number * _WEEK for number in reversed(range(-1, WEEKS))]
    boundaries = [dt.datetime.combine(day, dt.time()).astimezone() for day in days]
    weeks = store.trends(boundaries, newest[0].model_sha256, reference)
    return Trends(
        model_id=newest[0].model_id,
        reference=facts["data"],
        least_results=least_results(facts["n"]),
        marks=_MARKS,
        periods=tuple(_period(week, reference) for week in weeks),
    )


def _read_reference(facts: Mapping[str, Any]) -> DriftReference:
    """Read the reference from a manifest that was checked when its bundle was loaded: here without loading torch."""
    return DriftReference(
        **{
            name: ReferenceBins(edges=facts[name]["edges"], shares=facts[name]["shares"], n=facts["n"])
            for name in DRIFT_COLUMNS
        }
    )


def _period(week: Trend, reference: DriftReference) -> TrendPeriod:
    drifts = {name: measure_drift(counts, getattr(reference, name)) for name, counts in week.counts.items()}
    analysed = sum(count for outcome, count in week.outcomes.items() if outcome is not Outcome.NOT_ANALYSED)
    return TrendPeriod(begins_at=week.since, results=analysed, drifts=drifts)


def draw_trends(trends: Trends) -> Chart:
    """Draw the index of each quantity, period by period."""
    series: Sequence[Series] = [
        Series(
            name=text,
            style=name.replace("_", "-"),
            values=[period.drifts[name].index for period in trends.periods],
        )
        for name, text in QUANTITIES.items()
    ]
    labels = [f"{period.begins_at.astimezone():%m-%d}" for period in trends.periods]
    return index_lines("trends", "Population stability index", labels, series, trends.marks)
