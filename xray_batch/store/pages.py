"""Lists of results: filtered, ordered, and read a page at a time by key, so that page 2,000 costs what page 1 does."""

import datetime as dt
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from xray_batch.database import read_transaction
from xray_batch.records import (
    RESULT_COLUMNS,
    Outcome,
    OutcomeCounts,
    PageKey,
    ResultOrder,
    ResultPage,
    ResultQuery,
    ResultRecord,
)
from xray_batch.schema import RESULTS, InstanceRow, ResultRow
from xray_batch.store.answers import plain_text

#: Rows of one transaction when all are read.
PAGE_ROWS: Final = 500

_VIEW: Final = RESULTS.columns

_COLUMNS: Final = tuple(_VIEW[name] for name in RESULT_COLUMNS)

#: By what an order goes, and whether the greatest comes first.
_ORDERS: Final[dict[ResultOrder, tuple[sa.ColumnElement[object], bool]]] = {
    ResultOrder.NEWEST: (_VIEW.classified_at, True),
    ResultOrder.OLDEST: (_VIEW.classified_at, False),
    ResultOrder.MOST_SUSPICIOUS: (_VIEW.p_normal, False),
    ResultOrder.LEAST_SUSPICIOUS: (_VIEW.p_normal, True),
}

#: Rounding of 1 - p, and more.
_ROUNDING: Final = 1e-9

#: Rows that are few: as many may be named in one statement, and sorted in no time.
_FEW: Final = 2000


def results(engine: sa.Engine, query: ResultQuery) -> Iterator[dict[str, object]]:
    """Yield rows of the view `results`, in pages of one short transaction each.

    Which ones is settled first: an answer that is replaced meanwhile has another place in the order, before what was
    read already or once more behind it.
    """
    with read_transaction(engine) as connection:
        ids = _find_ids(connection, query)
    # A column, not a condition: a plan for conditions may begin with all results that fit.
    still_fits = sa.and_(sa.true(), *_conditions(query)).label("still_fits")
    for start in range(0, len(ids), PAGE_ROWS):
        page_ids = ids[start : start + PAGE_ROWS].tolist()
        statement = sa.select(*_COLUMNS, still_fits).where(_VIEW.result_id.in_(page_ids))
        with read_transaction(engine) as connection:
            rows = {row["result_id"]: row for row in connection.execute(statement).mappings()}
        found = (rows[result_id] for result_id in page_ids if result_id in rows)
        yield from ({name: row[name] for name in RESULT_COLUMNS} for row in found if row["still_fits"])


def _find_ids(connection: sa.Connection, query: ResultQuery) -> "array[int]":
    """Return the ids of all results of a query in its order, in eight bytes each."""
    ids = array("q")
    for statement in _statements(query, list(_narrowed(connection, query)), None):
        ids.extend(connection.scalars(statement.limit(None if query.limit is None else query.limit - len(ids))))
    return ids


def page(
    connection: sa.Connection,
    query: ResultQuery,
    size: int,
    after: PageKey | None,
    before: PageKey | None,
    most: int | None,
) -> ResultPage:
    """Read `size` results behind `after`, or before `before`, or from the start; count all, unless `most` is None."""
    narrowed = list(_narrowed(connection, query))
    backwards = before is not None
    rows = _read(connection, query, narrowed, before or after, size + 1, backwards=backwards)
    has_more = len(rows) > size
    rows = rows[:size]
    if backwards:
        rows.reverse()
    first, last = (_key_of(rows[0], query.order), _key_of(rows[-1], query.order)) if rows else (None, None)
    has_previous, has_next = (has_more, True) if backwards else (after is not None, has_more)
    return ResultPage(
        records=tuple(record_of(row) for row in rows),
        previous=first if has_previous else None,
        next=last if has_next else None,
        counts=None if most is None else _count_outcomes(connection, query, narrowed, most),
    )


def _count_outcomes(
    connection: sa.Connection, query: ResultQuery, narrowed: Sequence[sa.ColumnElement[bool]], most: int
) -> OutcomeCounts:
    conditions = [*_conditions(replace(query, outcome=None)), *narrowed]
    if conditions:
        found = sa.select(_VIEW.outcome).where(*conditions).limit(most + 1).subquery()
        statement = sa.select(found.columns.outcome, sa.func.count()).group_by(found.columns.outcome)
    else:  # from an index alone, however many they are
        statement = sa.select(ResultRow.outcome, sa.func.count()).group_by(ResultRow.outcome)
    counts = {outcome: count for outcome, count in connection.execute(statement)}
    return OutcomeCounts(
        outcomes={outcome: counts.get(outcome.value, 0) for outcome in Outcome},
        is_complete=not conditions or sum(counts.values()) <= most,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """The results that have the value of an order, or those that have none."""

    condition: sa.ColumnElement[bool] | None
    column: sa.ColumnElement[object] | None  #: None: by id alone
    descending: bool


def _segments(order: ResultOrder) -> list[_Segment]:
    """Split an order so that each part of it is one index, read in one direction, whatever an engine does with NULL."""
    column, descending = _ORDERS[order]
    if column is _VIEW.classified_at:
        return [_Segment(condition=None, column=column, descending=descending)]
    return [
        _Segment(condition=column.is_not(None), column=column, descending=descending),
        _Segment(condition=column.is_(None), column=None, descending=descending),
    ]


def _read(
    connection: sa.Connection,
    query: ResultQuery,
    narrowed: Sequence[sa.ColumnElement[bool]],
    key: PageKey | None,
    size: int,
    *,
    backwards: bool,
) -> list[sa.RowMapping]:
    """Return rows behind a key, nearest first; before it if `backwards`."""
    rows: list[sa.RowMapping] = []
    for statement in _statements(query, narrowed, key, backwards=backwards):
        rows += connection.execute(statement.with_only_columns(*_COLUMNS).limit(size - len(rows))).mappings().all()
        if len(rows) == size:
            break
    return rows


def _statements(
    query: ResultQuery,
    narrowed: Sequence[sa.ColumnElement[bool]],
    key: PageKey | None,
    *,
    backwards: bool = False,
) -> Iterator[sa.Select[tuple[int]]]:
    """Yield selects of ids, one for each part of the order, to be read one after the other."""
    conditions = [*_conditions(query), *narrowed]
    segments = _segments(query.order)
    if key is not None and key.value is None and len(segments) > 1:
        segments = segments if backwards else segments[1:]
    elif key is not None and backwards:
        segments = segments[:1]
    if backwards:
        segments.reverse()
    for number, segment in enumerate(segments):
        descending = segment.descending is not backwards
        columns = [_VIEW.result_id] if segment.column is None else [segment.column, _VIEW.result_id]
        statement = (
            sa.select(_VIEW.result_id)
            .where(*conditions)
            .order_by(*(column.desc() if descending else column.asc() for column in columns))
        )
        if segment.condition is not None:
            statement = statement.where(segment.condition)
        if key is not None and number == 0:
            statement = statement.where(*_beyond(segment.column, key, descending))
        yield statement


def _beyond(
    column: sa.ColumnElement[object] | None, key: PageKey, descending: bool
) -> Iterator[sa.ColumnElement[bool]]:
    """Yield what is true behind a key."""
    further = _VIEW.result_id < key.result_id if descending else _VIEW.result_id > key.result_id
    if column is None:
        yield further
        return
    yield column <= key.value if descending else column >= key.value  # says nothing new, but lets the index be used
    yield sa.or_(column < key.value if descending else column > key.value, further)


def _narrowed(connection: sa.Connection, query: ResultQuery) -> Iterator[sa.ColumnElement[bool]]:
    """Look first for what few results have, and yield which ones those are.

    A database that reads results in their order until a page is full reads all of them where few fit.  Conditions on
    either of the two large tables that fit few rows are therefore resolved beforehand; others fill a page soon.
    """
    if query.reason_code is not None or query.min_probability is not None or query.max_probability is not None:
        conditions = _on_result(query)
        results = connection.scalars(sa.select(ResultRow.result_id).where(*conditions).limit(_FEW + 1)).all()
        if len(results) <= _FEW:
            yield _VIEW.result_id.in_(results)
            return
    on_instance = list(_on_instance(query))
    if on_instance:
        contents = connection.scalars(sa.select(InstanceRow.content_sha256).where(*on_instance).limit(_FEW + 1)).all()
        if len(contents) <= _FEW:
            yield _VIEW.content_sha256.in_(contents)


def _on_result(query: ResultQuery) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that an index on `result` answers; the exact ones are on the view."""
    if query.reason_code is not None:
        yield ResultRow.reason_code == query.reason_code
    if query.min_probability is not None:
        yield ResultRow.p_normal <= 1 - query.min_probability + _ROUNDING
    if query.max_probability is not None:
        yield ResultRow.p_normal >= 1 - query.max_probability - _ROUNDING


def _on_instance(query: ResultQuery) -> Iterator[sa.ColumnElement[bool]]:
    for name in ("patient_id", "study_instance_uid", "modality", "view_position"):
        value = getattr(query, name)
        if value is not None:
            yield getattr(InstanceRow, name) == plain_text(value)
    if query.identifier is not None:
        yield _has_identifier(InstanceRow.patient_id, InstanceRow.accession_number, query.identifier)


def _has_identifier(
    patient_id: sa.SQLColumnExpression[Any], accession_number: sa.SQLColumnExpression[Any], part: str
) -> sa.ColumnElement[bool]:
    columns = (patient_id, accession_number)
    return sa.or_(*(column.icontains(plain_text(part), autoescape=True) for column in columns))


def _conditions(query: ResultQuery) -> Iterator[sa.ColumnElement[bool]]:
    if query.outcome is not None:
        yield _VIEW.outcome == query.outcome.value
    if query.since is not None:
        yield _VIEW.classified_at >= query.since
    if query.until is not None:
        yield _VIEW.classified_at < query.until
    for name in ("patient_id", "study_instance_uid", "content_sha256", "modality", "view_position", "reason_code"):
        value = getattr(query, name)
        if value is not None:
            yield _VIEW[name] == plain_text(value)
    if query.identifier is not None:
        yield _has_identifier(_VIEW.patient_id, _VIEW.accession_number, query.identifier)
    # Of each two the second says nothing new, but lets the index be used.
    if query.min_probability is not None:
        yield _VIEW.p_pneumonia >= query.min_probability
        yield _VIEW.p_normal <= 1 - query.min_probability + _ROUNDING
    if query.max_probability is not None:
        yield _VIEW.p_pneumonia <= query.max_probability
        yield _VIEW.p_normal >= 1 - query.max_probability - _ROUNDING


def _key_of(row: sa.RowMapping, order: ResultOrder) -> PageKey:
    column, _ = _ORDERS[order]
    value: dt.datetime | float | None = row[str(column.key)]
    return PageKey(value=value, result_id=row["result_id"])


def record_of(row: sa.RowMapping) -> ResultRecord:
    """Return a row of the view `results`, all of its columns, as a record."""
    return ResultRecord(**(dict(row) | {"outcome": Outcome(row["outcome"])}))
