"""Originals that are to be filed away: from the spool, or once more after another answer."""

import uuid
from collections.abc import Mapping

import sqlalchemy as sa

from xray_batch.records import Disposition, Outcome, Unfiled
from xray_batch.schema import IS_UNFILED, ArrivalRow, ContentRow, ResultRow
from xray_batch.store.answers import add_events, database_now, newest_result_id, plain_text


def unfiled(connection: sa.Connection, limit: int, after: uuid.UUID | None) -> list[Unfiled]:
    """List what can be filed away; the spool keeps what is still queued or leased."""
    is_work = ArrivalRow.disposition == Disposition.WORK.value
    statement = (
        sa.select(
            ArrivalRow.arrival_id,
            ArrivalRow.source_name,
            ArrivalRow.content_sha256,
            ArrivalRow.received_at,
            ArrivalRow.previous_path,
            ArrivalRow.disposition,
            ResultRow.outcome,
            ResultRow.reason_code,
            ResultRow.reason,
        )
        .join(ContentRow, ContentRow.content_sha256 == ArrivalRow.content_sha256)
        .outerjoin(ResultRow, sa.and_(is_work, ResultRow.result_id == newest_result_id(ArrivalRow.content_sha256)))
        .where(IS_UNFILED, sa.or_(sa.not_(is_work), ContentRow.state == "done"))
        .order_by(ArrivalRow.arrival_id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(ArrivalRow.arrival_id > after)
    return [
        Unfiled(
            arrival_id=row.arrival_id,
            source_name=row.source_name,
            content_sha256=row.content_sha256,
            received_at=row.received_at,
            filed_path=row.previous_path,
            disposition=Disposition(row.disposition),
            outcome=None if row.outcome is None else Outcome(row.outcome),
            reason_code=row.reason_code,
            reason=row.reason,
        )
        for row in connection.execute(statement)
    ]


def mark_filed(connection: sa.Connection, paths: Mapping[uuid.UUID, str]) -> None:
    """Record where originals lie (TX4 of the crash table); a repeat changes nothing."""
    now = database_now(connection)
    rows = connection.execute(
        sa.select(ArrivalRow.arrival_id, ArrivalRow.content_sha256)
        .where(ArrivalRow.arrival_id.in_(list(paths)), ArrivalRow.filed_at.is_(None))
        .order_by(ArrivalRow.arrival_id)
        .with_for_update()
    ).all()
    if not rows:
        return
    connection.execute(
        sa.update(ArrivalRow)
        .where(ArrivalRow.arrival_id == sa.bindparam("filed_id"))
        .values(filed_at=sa.bindparam("now"), filed_path=sa.bindparam("path"), previous_path=None),
        [{"filed_id": row.arrival_id, "now": now, "path": plain_text(paths[row.arrival_id])} for row in rows],
    )
    add_events(connection, "filed", [(row.arrival_id, row.content_sha256, None) for row in rows], now)
