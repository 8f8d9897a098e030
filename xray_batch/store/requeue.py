"""Answered contents queued once more; their answers stay until the next ones replace them."""

import datetime as dt
import enum
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from xray_batch.errors import ReasonCode
from xray_batch.records import Disposition, Original, Outcome
from xray_batch.schema import HAS_ORIGINAL, ArrivalRow, ContentRow, ModelRow, ResultRow
from xray_batch.store.answers import REQUEUED, add_events, database_now, lock_contents, newest_result_ids, plain_text


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSelection:
    """Which stored answers to give again; None does not restrict."""

    result_ids: tuple[int, ...] | None = None  #: None: of each content the newest answer
    since: dt.datetime | None = None  #: `classified_at` at or after this aware time
    until: dt.datetime | None = None  #: `classified_at` before this aware time
    outcome: Outcome | None = None
    reason_code: ReasonCode | None = None
    model_id: str | None = None


class Obstacle(enum.StrEnum):
    """Why a content cannot be queued once more."""

    IN_WORK = "in_work"  #: It is queued or leased already.
    IN_PLACE = "in_place"  #: No copy is in the home folder: `process` classified the file where it lay.
    PRUNED = "pruned"  #: The original was removed by `prune`.
    MISSING = "missing"  #: The original is not where it was filed: somebody removed or moved it.


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """A stored answer that is perhaps to be given again."""

    content_sha256: str
    code: str  #: reason code, or outcome where there is none
    originals: tuple[Original, ...]  #: that hold the bytes by the database's account, the most suitable first
    obstacle: Obstacle | None  #: why the content cannot be queued; None if it can


#: Numbers in one IN (...); engines limit them.
_IDS: Final = 1000


def select_answers(connection: sa.Connection, selection: AnswerSelection) -> list[int]:
    """Return the selected answers by their ids, one for each content, oldest first."""
    if selection.result_ids is not None:
        return _select_of_ids(connection, selection, selection.result_ids)
    statement = (
        sa.select(sa.func.max(ResultRow.result_id))
        .where(*_conditions(selection), ResultRow.result_id.in_(newest_result_ids()))
        .group_by(ResultRow.content_sha256)
        .order_by(sa.func.min(ResultRow.classified_at), sa.func.max(ResultRow.result_id))
    )
    return list(connection.scalars(statement))


def _select_of_ids(connection: sa.Connection, selection: AnswerSelection, ids: Sequence[int]) -> list[int]:
    """Select likewise of these ids alone, some at a time: two answers of one content may be far apart among them."""
    statement = (
        sa.select(ResultRow.content_sha256, sa.func.min(ResultRow.classified_at), sa.func.max(ResultRow.result_id))
        .where(*_conditions(selection))
        .group_by(ResultRow.content_sha256)
    )
    found: dict[str, tuple[dt.datetime, int]] = {}
    for start in range(0, len(ids), _IDS):
        some = ResultRow.result_id.in_(ids[start : start + _IDS])
        for sha256, classified_at, result_id in connection.execute(statement.where(some)):
            other_at, other_id = found.get(sha256, (classified_at, result_id))
            found[sha256] = (min(classified_at, other_at), max(result_id, other_id))
    return [result_id for _, result_id in sorted(found.values())]


def _conditions(selection: AnswerSelection) -> Iterator[sa.ColumnElement[bool]]:
    if selection.since is not None:
        yield ResultRow.classified_at >= selection.since
    if selection.until is not None:
        yield ResultRow.classified_at < selection.until
    if selection.outcome is not None:
        yield ResultRow.outcome == selection.outcome.value
    if selection.reason_code is not None:
        yield ResultRow.reason_code == selection.reason_code.value
    if selection.model_id is not None:
        models = sa.select(ModelRow.model_sha256).where(ModelRow.model_id == plain_text(selection.model_id))
        yield ResultRow.model_sha256.in_(models)


def unknown_results(connection: sa.Connection, result_ids: Sequence[int]) -> int:
    """Count the ids that no result has."""
    known = 0
    for start in range(0, len(result_ids), _IDS):
        ids = ResultRow.result_id.in_(result_ids[start : start + _IDS])
        known += connection.scalar(sa.select(sa.func.count()).select_from(ResultRow).where(ids)) or 0
    return len(result_ids) - known


def stored_answers(connection: sa.Connection, result_ids: Sequence[int]) -> list[StoredAnswer]:
    """Return answers in the order of their ids, each with where its bytes are."""
    rows = connection.execute(
        sa.select(
            ResultRow.result_id,
            ResultRow.content_sha256,
            sa.func.coalesce(ResultRow.reason_code, ResultRow.outcome).label("code"),
            ContentRow.state,
            ContentRow.held_by,
        )
        .join(ContentRow, ContentRow.content_sha256 == ResultRow.content_sha256)
        .where(ResultRow.result_id.in_(result_ids))
    ).mappings()
    by_id = {row["result_id"]: row for row in rows}
    arrivals = _arrivals(connection, {row["content_sha256"] for row in by_id.values()})
    found = (by_id[result_id] for result_id in result_ids if result_id in by_id)
    return [_stored_answer(row, arrivals[row["content_sha256"]]) for row in found]


def _arrivals(connection: sa.Connection, sha256s: set[str]) -> Mapping[str, list[sa.RowMapping]]:
    """Return the arrivals from the inbox of each content."""
    rows = connection.execute(
        sa.select(
            ArrivalRow.arrival_id,
            ArrivalRow.source_name,
            ArrivalRow.content_sha256,
            ArrivalRow.received_at,
            ArrivalRow.disposition,
            sa.func.coalesce(ArrivalRow.filed_path, ArrivalRow.previous_path).label("filed_path"),
            HAS_ORIGINAL.label("has_original"),
        ).where(ArrivalRow.content_sha256.in_(sha256s), ArrivalRow.origin == "inbox")
    ).mappings()
    by_content: dict[str, list[sa.RowMapping]] = defaultdict(list)
    for row in rows:
        by_content[row["content_sha256"]].append(row)
    return by_content


def _stored_answer(row: sa.RowMapping, arrivals: Sequence[sa.RowMapping]) -> StoredAnswer:
    def suitability(arrival: sa.RowMapping) -> tuple[bool, bool, dt.datetime]:
        """Prefer the one worked last, then those that were worked, then the newest: the result shows its name."""
        worked = arrival["disposition"] == Disposition.WORK.value
        return arrival["arrival_id"] == row["held_by"], worked, arrival["received_at"]

    names = ("arrival_id", "source_name", "content_sha256", "received_at", "filed_path")
    originals = tuple(
        Original(**{name: arrival[name] for name in names})
        for arrival in sorted(arrivals, key=suitability, reverse=True)
        if arrival["has_original"]
    )
    obstacle = None
    if row["state"] != "done":
        obstacle = Obstacle.IN_WORK
    elif not originals:
        obstacle = Obstacle.PRUNED if arrivals else Obstacle.IN_PLACE
    return StoredAnswer(content_sha256=row["content_sha256"], code=row["code"], originals=originals, obstacle=obstacle)


def requeue(connection: sa.Connection, chosen: Sequence[tuple[StoredAnswer, uuid.UUID]], user: str | None) -> set[str]:
    """Queue those contents that are still done, each for an arrival whose original is still there."""
    contents = lock_contents(connection, (answer.content_sha256 for answer, _ in chosen))
    arrivals = connection.execute(
        sa.select(ArrivalRow.arrival_id, ArrivalRow.received_at).where(
            ArrivalRow.arrival_id.in_([arrival_id for _, arrival_id in chosen]), HAS_ORIGINAL
        )
    )
    received = {row.arrival_id: row.received_at for row in arrivals}
    queued = {
        answer.content_sha256: (answer.code, arrival_id)
        for answer, arrival_id in chosen
        if contents[answer.content_sha256].state == "done" and arrival_id in received
    }
    for sha256, (_, arrival_id) in queued.items():
        connection.execute(
            sa.update(ContentRow)
            .where(ContentRow.content_sha256 == sha256)
            .values(
                state="queued",
                attempts=0,
                held_by=arrival_id,
                queued_at=received[arrival_id],
                next_try_at=None,
                priority=REQUEUED,
            )
        )
    events = [(arrival_id, sha256, code) for sha256, (code, arrival_id) in queued.items()]
    now = database_now(connection)
    add_events(connection, "requeued", events, now)
    if user is not None:
        add_events(connection, "requested", [(arrival_id, sha256, user) for arrival_id, sha256, _ in events], now)
    return set(queued)
