"""Originals that are removed because their time is over; the rows about them stay.

The event is committed before the file goes, and with it where the file is: whoever comes after a crash finds what
is left to remove, and nothing is removed of which the audit trail does not know::

    filed_path --begin_pruning--> previous_path --(the file is removed)--> end_pruning --> neither
"""

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from xray_batch.records import Original, Outcome
from xray_batch.schema import IS_PRUNING, ArrivalRow, ContentRow, ResultRow
from xray_batch.store.answers import add_events, database_now, lock_contents, newest_result_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSelection:
    """Which originals to remove."""

    filed_before: dt.datetime  #: aware time on the database's clock
    folders: tuple[str, ...]  #: names of the folders of the home folder in which they lie
    outcome: Outcome | None = None  #: of the content's newest answer; None does not restrict


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable(Original):
    """An original that was filed away, and may be removed."""

    size: int  #: bytes


def prunable(
    connection: sa.Connection, selection: PruneSelection, limit: int, after: uuid.UUID | None
) -> list[Prunable]:
    """List selected originals in the order of their arrival ids; not of contents that are queued or leased."""
    statement = (
        sa.select(*_columns(ArrivalRow.filed_path))
        .join(ContentRow, ContentRow.content_sha256 == ArrivalRow.content_sha256)
        .where(
            ContentRow.state == "done",
            ArrivalRow.filed_at < selection.filed_before,
            sa.or_(*(ArrivalRow.filed_path.startswith(f"{name}/", autoescape=True) for name in selection.folders)),
        )
        .order_by(ArrivalRow.arrival_id)
        .limit(limit)
    )
    if selection.outcome is not None:
        # One value for each original, not a join: that would begin with the answers of all of them.
        newest = sa.select(ResultRow.outcome).where(ResultRow.result_id == newest_result_id(ArrivalRow.content_sha256))
        statement = statement.where(newest.scalar_subquery() == selection.outcome.value)
    if after is not None:
        statement = statement.where(ArrivalRow.arrival_id > after)
    return _prunables(connection, statement)


def begun(connection: sa.Connection, limit: int, after: uuid.UUID | None) -> list[Prunable]:
    """List originals that an earlier run began to remove, in the order of their arrival ids."""
    statement = sa.select(*_columns(ArrivalRow.previous_path)).where(IS_PRUNING)
    if after is not None:
        statement = statement.where(ArrivalRow.arrival_id > after)
    return _prunables(connection, statement.order_by(ArrivalRow.arrival_id).limit(limit))


def begin(connection: sa.Connection, originals: Collection[Prunable]) -> set[uuid.UUID]:
    """Write the events, and note where the files are that are now to be removed."""
    contents = lock_contents(connection, (original.content_sha256 for original in originals))
    by_id = {
        original.arrival_id: original
        for original in originals
        if contents[original.content_sha256].state == "done"  # else somebody needs its bytes
    }
    rows = connection.execute(
        sa.select(ArrivalRow.arrival_id, ArrivalRow.filed_path)
        .where(ArrivalRow.arrival_id.in_(list(by_id)))
        .order_by(ArrivalRow.arrival_id)
        .with_for_update()
    )
    ids = [row.arrival_id for row in rows if row.filed_path == by_id[row.arrival_id].filed_path]
    connection.execute(
        sa.update(ArrivalRow)
        .where(ArrivalRow.arrival_id.in_(ids))
        .values(previous_path=ArrivalRow.filed_path, filed_path=None)
    )
    events = [
        (arrival_id, by_id[arrival_id].content_sha256, str(by_id[arrival_id].filed_path).partition("/")[0])
        for arrival_id in ids
    ]
    add_events(connection, "pruned", events, database_now(connection))
    return set(ids)


def end(connection: sa.Connection, arrival_ids: Collection[uuid.UUID]) -> None:
    """Note that these files are gone."""
    connection.execute(
        sa.update(ArrivalRow).where(ArrivalRow.arrival_id.in_(arrival_ids), IS_PRUNING).values(previous_path=None)
    )


def _columns(path: InstrumentedAttribute[str | None]) -> list[InstrumentedAttribute[Any] | sa.Label[Any]]:
    return [
        ArrivalRow.arrival_id,
        ArrivalRow.source_name,
        ArrivalRow.content_sha256,
        ArrivalRow.received_at,
        ArrivalRow.size,
        path.label("filed_path"),
    ]


def _prunables(connection: sa.Connection, statement: sa.Select[Any]) -> list[Prunable]:
    return [Prunable(**dict(row)) for row in connection.execute(statement).mappings()]
