"""Files seen: from the inbox, to be worked, or in place, with their answers."""

import uuid
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from xray_batch.records import Arrival, Disposition, Finished, Lease, ModelIdentity
from xray_batch.schema import HAS_ORIGINAL, IS_OPEN, ArrivalRow, ContentRow
from xray_batch.store.answers import (
    ARRIVED,
    URGENT,
    add_events,
    answered_contents,
    database_now,
    insert,
    lock_contents,
    plain_text,
    write_answers,
)


def add_arrivals(
    connection: sa.Connection, arrivals: Sequence[Arrival], model: ModelIdentity, again: Collection[str]
) -> dict[uuid.UUID, Disposition]:
    """Record arrivals from the inbox and queue their contents (TX1 of the crash table)."""
    stored, new, holders = _begin(connection, arrivals, state="queued")
    answered = answered_contents(connection, holders, model).difference(again)
    added: dict[uuid.UUID, Disposition] = {}
    for arrival in new:
        sha256 = arrival.content_sha256
        if sha256 in answered or holders[sha256] not in (None, arrival.arrival_id):
            added[arrival.arrival_id] = Disposition.DUPLICATE
            continue
        added[arrival.arrival_id] = Disposition.WORK
        if holders[sha256] is None:
            _queue_again(connection, arrival)
            holders[sha256] = arrival.arrival_id
    if urgent := [arrival.content_sha256 for arrival in new if arrival.is_urgent]:
        _hurry(connection, urgent)
    _insert_arrivals(connection, new, added, "inbox")
    return stored | added


def recorded(connection: sa.Connection, arrival_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Return which arrivals there are."""
    statement = sa.select(ArrivalRow.arrival_id).where(ArrivalRow.arrival_id.in_(arrival_ids))
    return set(connection.scalars(statement))


def record_in_place(
    connection: sa.Connection, finished: Sequence[tuple[Arrival, Finished]], model: ModelIdentity
) -> dict[uuid.UUID, Disposition]:
    """Record arrivals that stay where they are, each with its answer."""
    answers = {arrival.arrival_id: answer for arrival, answer in finished}
    stored, new, holders = _begin(connection, [arrival for arrival, _ in finished], state="done")
    answered = answered_contents(connection, holders, model)
    added: dict[uuid.UUID, Disposition] = {}
    worked: list[tuple[str, uuid.UUID, Finished]] = []
    for arrival in new:
        sha256 = arrival.content_sha256
        if sha256 in answered:
            added[arrival.arrival_id] = Disposition.DUPLICATE
            continue
        is_held = holders[sha256] is not None  # a service has it queued or leased, perhaps for another model
        added[arrival.arrival_id] = Disposition.DUPLICATE if is_held else Disposition.WORK
        worked.append((sha256, arrival.arrival_id, answers[arrival.arrival_id]))
        answered.add(sha256)
    _insert_arrivals(connection, new, added, "in_place")
    write_answers(connection, worked, model, database_now(connection))
    return stored | added


def record_duplicates(connection: sa.Connection, arrivals: Sequence[Arrival]) -> dict[uuid.UUID, Disposition]:
    """Record arrivals that stay where they are, of contents that are known."""
    # The same arrival may be recorded by somebody else at this moment.
    lock_contents(connection, [arrival.content_sha256 for arrival in arrivals])
    stored = _stored_dispositions(connection, arrivals)
    new = _distinct(arrivals, stored)
    added = {arrival.arrival_id: Disposition.DUPLICATE for arrival in new}
    _insert_arrivals(connection, new, added, "in_place")
    return stored | added


def rebind(connection: sa.Connection, lease: Lease, arrival: Arrival, model: ModelIdentity) -> Disposition | None:
    """Give an arrival other bytes; the content that it held is handed to one of its duplicates."""
    _insert_contents(connection, [arrival], state="done")
    contents = lock_contents(connection, (lease.content_sha256, arrival.content_sha256))
    if contents[lease.content_sha256].lease_token != lease.token:
        return None
    is_free = contents[arrival.content_sha256].state == "done"
    is_answered = bool(answered_contents(connection, [arrival.content_sha256], model))
    disposition = Disposition.WORK if is_free and not is_answered else Disposition.DUPLICATE
    connection.execute(
        sa.update(ArrivalRow)
        .where(ArrivalRow.arrival_id == arrival.arrival_id)
        .values(content_sha256=arrival.content_sha256, size=arrival.size, disposition=disposition.value)
    )
    if disposition is Disposition.WORK:
        _queue_again(connection, arrival)
    elif arrival.is_urgent:
        _hurry(connection, [arrival.content_sha256])
    _hand_over(connection, lease.content_sha256)
    now = database_now(connection)
    add_events(connection, "changed", [(arrival.arrival_id, lease.content_sha256, None)], now)
    add_events(connection, "arrived", [(arrival.arrival_id, arrival.content_sha256, disposition.value)], now)
    return disposition


def _hand_over(connection: sa.Connection, sha256: str) -> None:
    """Let a duplicate from the inbox hold a content; without one, nobody has these bytes any more."""
    heir = connection.execute(
        sa.select(ArrivalRow.arrival_id)
        .where(ArrivalRow.content_sha256 == sha256, ArrivalRow.origin == "inbox", HAS_ORIGINAL)
        .order_by(ArrivalRow.received_at)
        .limit(1)
    ).first()
    held = {"state": "done"} if heir is None else {"state": "queued", "held_by": heir.arrival_id}
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256 == sha256)
        .values(lease_token=None, lease_until=None, attempts=0, **held)
    )
    if heir is not None:
        connection.execute(
            sa.update(ArrivalRow)
            .where(ArrivalRow.arrival_id == heir.arrival_id)
            .values(
                disposition=Disposition.WORK.value,
                previous_path=sa.func.coalesce(ArrivalRow.filed_path, ArrivalRow.previous_path),
                filed_path=None,
                filed_at=None,  # where it goes depends on its answer
            )
        )


def _begin(
    connection: sa.Connection, arrivals: Sequence[Arrival], state: str
) -> tuple[dict[uuid.UUID, Disposition], list[Arrival], dict[str, uuid.UUID | None]]:
    """Make sure that all contents exist and are locked.

    Returns
    -------
    tuple
        Dispositions stored before; the other arrivals, each once; and for each content the arrival
        that holds it while it is queued or leased, None when it is done.  A content inserted here
        has `state`, and the first of its arrivals here holds it.
    """
    new = _distinct(arrivals, _stored_dispositions(connection, arrivals))
    first = {arrival.content_sha256: arrival for arrival in reversed(new)}
    _insert_contents(connection, [first[sha256] for sha256 in sorted(first)], state)
    holders = {
        sha256: None if row.state == "done" else row.held_by for sha256, row in lock_contents(connection, first).items()
    }
    # Looked up again: the same arrival may have been recorded while we waited for the lock.
    stored = _stored_dispositions(connection, arrivals)
    return stored, _distinct(new, stored), holders


def _distinct(arrivals: Sequence[Arrival], stored: dict[uuid.UUID, Disposition]) -> list[Arrival]:
    """Return each arrival once, in order, without those that are stored."""
    distinct = {arrival.arrival_id: arrival for arrival in arrivals if arrival.arrival_id not in stored}
    return list(distinct.values())


def _stored_dispositions(connection: sa.Connection, arrivals: Sequence[Arrival]) -> dict[uuid.UUID, Disposition]:
    rows = connection.execute(
        sa.select(ArrivalRow.arrival_id, ArrivalRow.disposition).where(
            ArrivalRow.arrival_id.in_([arrival.arrival_id for arrival in arrivals])
        )
    )
    return {arrival_id: Disposition(disposition) for arrival_id, disposition in rows}


def _insert_contents(connection: sa.Connection, arrivals: Sequence[Arrival], state: str) -> None:
    """Make sure that the contents of these arrivals exist; those that are inserted have `state`."""
    if arrivals:
        connection.execute(
            insert(connection, ContentRow).on_conflict_do_nothing(index_elements=[ContentRow.content_sha256]),
            [_content_values(arrival, state) for arrival in arrivals],
        )


def _content_values(arrival: Arrival, state: str) -> dict[str, object]:
    return {
        "content_sha256": arrival.content_sha256,
        "size": arrival.size,
        "state": state,
        "attempts": 0,
        "held_by": arrival.arrival_id,
        "queued_at": arrival.received_at,
        "priority": URGENT if arrival.is_urgent else ARRIVED,
    }


def _hurry(connection: sa.Connection, sha256s: Sequence[str]) -> None:
    """Make contents urgent that wait for their first answer: somebody has sent them again, as urgent."""
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256.in_(sha256s), IS_OPEN, ContentRow.priority == ARRIVED)
        .values(priority=URGENT)
    )


def _queue_again(connection: sa.Connection, arrival: Arrival) -> None:
    """Queue a content that only other models have answered."""
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256 == arrival.content_sha256)
        .values(**_content_values(arrival, "queued"))
    )


def _insert_arrivals(
    connection: sa.Connection,
    arrivals: Sequence[Arrival],
    dispositions: dict[uuid.UUID, Disposition],
    origin: str,
) -> None:
    if not arrivals:
        return
    # Sorted as everybody locks: the foreign key waits for the content's lock.
    ordered = sorted(arrivals, key=lambda arrival: (arrival.content_sha256, arrival.arrival_id))
    connection.execute(
        insert(connection, ArrivalRow).on_conflict_do_nothing(index_elements=[ArrivalRow.arrival_id]),
        [
            {
                "arrival_id": arrival.arrival_id,
                "source_name": plain_text(arrival.source_name),
                "content_sha256": arrival.content_sha256,
                "size": arrival.size,
                "received_at": arrival.received_at,
                "disposition": dispositions[arrival.arrival_id].value,
                "origin": origin,
            }
            for arrival in ordered
        ],
    )
    add_events(
        connection,
        "arrived",
        [(arrival.arrival_id, arrival.content_sha256, dispositions[arrival.arrival_id].value) for arrival in arrivals],
        database_now(connection),
    )
