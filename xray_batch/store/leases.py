"""Contents taken to be answered, and given back."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from xray_batch.records import Finished, Lease, ModelIdentity
from xray_batch.schema import IS_OPEN, ArrivalRow, ContentRow
from xray_batch.store.answers import (
    ARRIVED,
    REQUEUED,
    URGENT,
    add_events,
    database_now,
    lock_contents,
    mark_done,
    write_answers,
)

#: No delay is longer: a content that seems to wait for longer was queued before the clock was set back.
RETRY_SECONDS_AT_MOST: Final = 900.0


def lease(
    connection: sa.Connection, *, limit: int, lease_seconds: float, attempts: range, urgent: bool | None
) -> list[Lease]:
    """Take the oldest contents that are due and had so many attempts before (TX2 of the crash table)."""
    now = database_now(connection)
    token = uuid.uuid4()
    selected = connection.execute(
        sa.select(
            ContentRow.content_sha256,
            ContentRow.held_by,
            ContentRow.size,
            ContentRow.attempts,
            (ContentRow.state == "leased").label("expired"),
            (ContentRow.priority == URGENT).label("is_urgent"),
            ArrivalRow.source_name,
            ArrivalRow.received_at,
            sa.func.coalesce(ArrivalRow.filed_path, ArrivalRow.previous_path).label("filed_path"),
        )
        .join(ArrivalRow, ArrivalRow.arrival_id == ContentRow.held_by)
        .where(*_due(now), ContentRow.attempts >= attempts.start, ContentRow.attempts < attempts.stop)
        .where(*_of_lane(urgent))
        .order_by(ContentRow.priority, ContentRow.queued_at, ContentRow.content_sha256)
        .limit(limit)
        # Skips what others have locked just now; SQLite locks the whole file instead.
        .with_for_update(of=ContentRow, skip_locked=True)
    )
    rows = selected.mappings().all()
    if not rows:
        return []
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256.in_([row["content_sha256"] for row in rows]))
        .values(
            state="leased",
            attempts=ContentRow.attempts + 1,
            lease_token=token,
            lease_until=now + dt.timedelta(seconds=lease_seconds),
            next_try_at=None,
        )
    )
    leases = [Lease(**dict(row) | {"attempts": row["attempts"] + 1, "token": token}) for row in rows]
    _add_lease_events(connection, "leased", leases, now)
    return leases


def finish(connection: sa.Connection, finished: Sequence[tuple[Lease, Finished]], model: ModelIdentity) -> list[Lease]:
    """Store the answers of those leases that are still held (TX3 of the crash table)."""
    held = _still_held(connection, [lease for lease, _ in finished])
    answers = {(lease.content_sha256, lease.token): answer for lease, answer in finished}
    write_answers(
        connection,
        [(lease.content_sha256, lease.held_by, answers[lease.content_sha256, lease.token]) for lease in held],
        model,
        database_now(connection),
    )
    mark_done(connection, [lease.content_sha256 for lease in held])
    return held


def release(connection: sa.Connection, leases: Sequence[Lease]) -> list[Lease]:
    """Queue contents again as if they had not been taken."""
    held = _still_held(connection, leases)
    _queue(connection, held, attempts=ContentRow.attempts - 1)
    _add_lease_events(connection, "released", held, database_now(connection))
    return held


def retry_later(connection: sa.Connection, lease: Lease, delay_seconds: float, *, counted: bool) -> bool:
    """Queue a content again, not before the delay is over."""
    held = _still_held(connection, [lease])
    now = database_now(connection)
    attempts = ContentRow.attempts if counted else ContentRow.attempts - 1
    _queue(connection, held, next_try_at=now + dt.timedelta(seconds=delay_seconds), attempts=attempts)
    _add_lease_events(connection, "retried", held, now)
    return bool(held)


def withdraw(connection: sa.Connection, lease: Lease) -> bool:
    """Let a requeued content keep the answer that it has."""
    held = [
        content.content_sha256
        for content in lock_contents(connection, [lease.content_sha256]).values()
        if content.lease_token == lease.token and content.priority == REQUEUED
    ]
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256.in_(held))
        .values(state="done", priority=ARRIVED, lease_token=None, lease_until=None)
    )
    add_events(connection, "withdrawn", [(lease.held_by, sha256, None) for sha256 in held], database_now(connection))
    return bool(held)


def end_leases(connection: sa.Connection) -> int:
    """Queue every leased content again, its attempts as they are."""
    leased = sa.and_(IS_OPEN, ContentRow.state == "leased")
    rows = connection.execute(sa.select(ContentRow.content_sha256, ContentRow.held_by).where(leased)).all()
    connection.execute(sa.update(ContentRow).where(leased).values(state="queued", lease_token=None, lease_until=None))
    now = database_now(connection)
    add_events(connection, "released", [(row.held_by, row.content_sha256, "holder_gone") for row in rows], now)
    return len(rows)


def extend(connection: sa.Connection, leases: Sequence[Lease], lease_seconds: float) -> list[Lease]:
    """Move the end of leases; no change of state, so no event."""
    held = _still_held(connection, leases)
    until = database_now(connection) + dt.timedelta(seconds=lease_seconds)
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256.in_([lease.content_sha256 for lease in held]))
        .values(lease_until=until)
    )
    return held


def _due(now: dt.datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions of a content that can be taken."""
    queued = sa.and_(
        ContentRow.state == "queued",
        sa.or_(
            ContentRow.next_try_at.is_(None),
            ContentRow.next_try_at <= now,
            ContentRow.next_try_at > now + dt.timedelta(seconds=RETRY_SECONDS_AT_MOST),
        ),
    )
    expired = sa.and_(ContentRow.state == "leased", ContentRow.lease_until <= now)
    return (IS_OPEN, sa.or_(queued, expired))


def _of_lane(urgent: bool | None) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the condition of the urgent, or of the others; none for all."""
    if urgent is None:
        return ()
    return (ContentRow.priority == URGENT if urgent else ContentRow.priority > URGENT,)


def _still_held(connection: sa.Connection, leases: Sequence[Lease]) -> list[Lease]:
    """Return the leases whose token is still the content's, each once; the contents are locked."""
    contents = lock_contents(connection, (lease.content_sha256 for lease in leases))
    held: dict[str, Lease] = {}
    for lease in leases:
        content = contents.get(lease.content_sha256)
        if content is not None and content.lease_token == lease.token:
            held.setdefault(lease.content_sha256, lease)
    return list(held.values())


def _queue(connection: sa.Connection, held: Sequence[Lease], **changes: object) -> None:
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256.in_([lease.content_sha256 for lease in held]))
        .values(state="queued", lease_token=None, lease_until=None, **changes)
    )


def _add_lease_events(connection: sa.Connection, kind: str, leases: Sequence[Lease], now: dt.datetime) -> None:
    details = [(lease.held_by, lease.content_sha256, f"attempt_{lease.attempts}") for lease in leases]
    add_events(connection, kind, details, now)
