"""How much was answered, how fast, and what was refused; each a range of one index."""

import datetime as dt
import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from xray_batch.records import HourFigures, Outcome, Times
from xray_batch.schema import ArrivalRow, EventRow, ResultRow

_HOUR_SECONDS: Final = 3600

#: Julian day of 1970-01-01 00:00 UTC.
_JULIAN_EPOCH: Final = 2440587.5


def hourly_figures(connection: sa.Connection, since: dt.datetime) -> list[HourFigures]:
    """Read the results since a time, and sum them up by the hour.

    Percentiles are taken here: window functions over the same rows take an embedded database three times as long.
    """
    hour = sa.func.floor(sa.extract("epoch", ResultRow.classified_at) / _HOUR_SECONDS)
    wait = _epoch(connection, ResultRow.classified_at) - _epoch(connection, ArrivalRow.received_at)
    requeued = sa.exists().where(EventRow.content_sha256 == ResultRow.content_sha256, EventRow.kind == "requeued")
    rows = connection.execute(
        sa.select(
            sa.cast(hour, sa.Integer()),
            ResultRow.outcome,
            ResultRow.processing_seconds,
            sa.case((~requeued, wait)),
        )
        .join(ArrivalRow, ArrivalRow.arrival_id == ResultRow.arrival_id)
        .where(ResultRow.classified_at >= since)
        .order_by(ResultRow.classified_at)
    )
    figures = (tuple(row) for row in rows)
    return [_sum_up(hour, list(group)) for hour, group in itertools.groupby(figures, key=operator.itemgetter(0))]


def _epoch(connection: sa.Connection, column: sa.SQLColumnExpression[dt.datetime]) -> sa.ColumnElement[float]:
    """Return a time as seconds since 1970 with a fraction, which `extract` drops on SQLite; good for differences.

    It is off by some 10**-5 s there, which may be another hour.
    """
    if connection.dialect.name == "sqlite":
        return (sa.func.julianday(column, type_=sa.Double()) - _JULIAN_EPOCH) * (24 * _HOUR_SECONDS)
    return sa.cast(sa.extract("epoch", column), sa.Double())


def _sum_up(hour: int, rows: Sequence[tuple[int, str, float, float | None]]) -> HourFigures:
    counts = Counter(outcome for _, outcome, _, _ in rows)
    waits = [max(wait, 0.0) for _, _, _, wait in rows if wait is not None]  # clocks of two machines may differ
    return HourFigures(
        begins_at=dt.datetime.fromtimestamp(hour * _HOUR_SECONDS, dt.UTC),
        outcomes={outcome: counts[outcome.value] for outcome in Outcome},
        processing=_times([processing for _, _, processing, _ in rows]),
        answering=_times(waits) if waits else None,
    )


def _times(seconds: list[float]) -> Times:
    """Take percentiles by nearest rank: each is a time that was measured."""
    seconds.sort()
    return Times(median=seconds[(len(seconds) - 1) // 2], p95=seconds[-(-95 * len(seconds) // 100) - 1])


def count_reasons(connection: sa.Connection, since: dt.datetime | None) -> dict[str, int]:
    """Count refusals from an index alone."""
    count = sa.func.count()
    statement = sa.select(ResultRow.reason_code, count).where(ResultRow.reason_code.is_not(None))
    if since is not None:
        statement = statement.where(ResultRow.classified_at >= since)
    rows = connection.execute(statement.group_by(ResultRow.reason_code).order_by(count.desc(), ResultRow.reason_code))
    return {code: number for code, number in rows if code is not None}
