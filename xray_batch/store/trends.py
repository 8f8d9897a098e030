"""What was answered over time, counted by the database."""

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import sqlalchemy as sa

from xray_batch.records import DRIFT_COLUMNS, DriftReference, Outcome, ReferenceBins, Trend
from xray_batch.schema import ResultRow

#: As the view `results` has them.
_VALUES: Final[dict[str, sa.SQLColumnExpression[Any]]] = {
    "p_pneumonia": 1 - ResultRow.p_normal,
    "input_mean": ResultRow.input_mean,
    "input_std": ResultRow.input_std,
}


def trends(
    connection: sa.Connection, boundaries: Sequence[dt.datetime], model_sha256: str, reference: DriftReference | None
) -> list[Trend]:
    """Count one span after the other, each a range of `ix_result_classified_at`."""
    bins = {name: getattr(reference, name) for name in DRIFT_COLUMNS} if reference else {}
    statement = sa.select(*_counts(bins)).where(
        ResultRow.classified_at >= sa.bindparam("since", type_=ResultRow.classified_at.type),
        ResultRow.classified_at < sa.bindparam("until", type_=ResultRow.classified_at.type),
        ResultRow.model_sha256 == model_sha256,
    )
    return [
        _trend(tuple(connection.execute(statement, {"since": since, "until": until}).one()), since, until, bins)
        for since, until in pairwise(boundaries)
    ]


def _counts(bins: dict[str, ReferenceBins]) -> Iterator[sa.ColumnElement[int]]:
    """Yield the outcomes, and for each value how many are below each edge and how many there are."""
    for outcome in Outcome:
        yield sa.func.count().filter(ResultRow.outcome == outcome.value)
    for name, each in bins.items():
        value = _VALUES[name]
        for edge in each.edges:
            yield sa.func.count().filter(value < edge)
        yield sa.func.count(value)


def _trend(row: Sequence[int], since: dt.datetime, until: dt.datetime, bins: dict[str, ReferenceBins]) -> Trend:
    found = iter(row)
    outcomes = {outcome: next(found) for outcome in Outcome}
    counts = {}
    for name, each in bins.items():
        below = [0, *(next(found) for _ in each.shares)]
        counts[name] = tuple(upper - lower for lower, upper in pairwise(below))
    return Trend(since=since, until=until, outcomes=outcomes, counts=counts)
