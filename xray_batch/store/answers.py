"""Answers into the tables `model`, `instance` and `result`, and the helpers all writers share."""

import datetime as dt
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, aliased

from xray_batch.records import (
    PROBABILITY_COLUMNS,
    Computation,
    Disposition,
    Finished,
    ImageHeader,
    ImageWarning,
    ModelIdentity,
    Outcome,
    Prediction,
    Rejection,
)
from xray_batch.schema import ArrivalRow, Base, ContentRow, EventRow, InstanceRow, ModelRow, ResultRow, UtcDateTime

Insert = postgresql.Insert | sqlite.Insert

#: Values of `content.priority`: what has just arrived is not kept waiting by what is answered once more.  Urgent is
#: what arrived so; queued once more it is not, for it has an answer.
URGENT: Final = -1
ARRIVED: Final = 0
REQUEUED: Final = 1


def insert(connection: sa.Connection, table: type[Base]) -> Insert:
    """Return the INSERT of this engine, which knows ON CONFLICT."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def database_now(connection: sa.Connection) -> dt.datetime:
    """Return the database's clock: hosts that share a database may disagree about the time."""
    if connection.dialect.name == "sqlite":
        # SQLite has milliseconds; stored times have microseconds.
        clock = sa.func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcDateTime)
    else:
        clock = sa.func.clock_timestamp(type_=UtcDateTime)
    return connection.execute(sa.select(clock)).scalar_one()


def plain_text(text: str) -> str:
    """Escape what a database cannot hold: bytes that were no text (surrogates), and NUL."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def add_events(
    connection: sa.Connection,
    kind: str,
    events: Iterable[tuple[uuid.UUID | None, str | None, str | None]],
    at: dt.datetime,
) -> None:
    """Append to the audit trail: arrival, content and a short code for each."""
    rows = [
        {"at": at, "kind": kind, "arrival_id": arrival_id, "content_sha256": sha256, "detail": detail}
        for arrival_id, sha256, detail in events
    ]
    if rows:
        connection.execute(sa.insert(EventRow), rows)


def lock_contents(connection: sa.Connection, sha256s: Iterable[str]) -> dict[str, sa.Row[Any]]:
    """Return the rows of contents by SHA-256, locked until the transaction ends.

    Everybody locks in the order of the SHA-256, so nobody waits in a circle.
    """
    rows = connection.execute(
        sa.select(*ContentRow.__table__.columns)
        .where(ContentRow.content_sha256.in_(sorted(set(sha256s))))
        .order_by(ContentRow.content_sha256)
        .with_for_update()
    )
    return {row.content_sha256: row for row in rows}


def answered_contents(connection: sa.Connection, sha256s: Iterable[str], model: ModelIdentity) -> set[str]:
    """Return those contents that have a result of this model and preprocessing."""
    return set(
        connection.scalars(
            sa.select(ResultRow.content_sha256).where(
                ResultRow.content_sha256.in_(list(sha256s)),
                ResultRow.model_sha256 == model.model_sha256,
                ResultRow.preprocess_sha256 == model.preprocess_sha256,
            )
        )
    )


def register_model(connection: sa.Connection, model: ModelIdentity) -> None:
    """Insert the model unless it is known."""
    connection.execute(
        insert(connection, ModelRow)
        .values(
            model_sha256=model.model_sha256,
            model_id=model.model_id,
            manifest=model.manifest,
            first_used_at=database_now(connection),
        )
        .on_conflict_do_nothing(index_elements=[ModelRow.model_sha256])
    )


def write_answers(
    connection: sa.Connection,
    answers: Sequence[tuple[str, uuid.UUID, Finished]],
    model: ModelIdentity,
    now: dt.datetime,
) -> None:
    """Write instances and results.

    An answer of the same model and preprocessing is replaced: only a content that is queued in spite of one has
    it, and its lease is what allows to write.

    Parameters
    ----------
    answers
        SHA-256, the arrival that was worked, and its answer; the contents are locked.
    """
    if not answers:
        return
    headers = [(sha256, answer.header) for sha256, _, answer in answers if answer.header is not None]
    conflicts = _uid_conflicts(connection, headers)
    _upsert_instances(connection, headers)
    rows = [
        {"content_sha256": sha256, "arrival_id": arrival_id, **_result_values(finished, model, conflicts[sha256])}
        for sha256, arrival_id, finished in answers
    ]
    statement, key = insert(connection, ResultRow), ("content_sha256", "model_sha256", "preprocess_sha256")
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in key}
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=replaced), rows)
    add_events(
        connection,
        "finished",
        [(arrival_id, sha256, _short_answer(finished)) for sha256, arrival_id, finished in answers],
        now,
    )
    add_events(
        connection,
        "uid_conflict",
        [(arrival_id, sha256, None) for sha256, arrival_id, _ in answers if conflicts[sha256]],
        now,
    )


def mark_done(connection: sa.Connection, sha256s: Sequence[str]) -> None:
    """End the work on contents whose answers were written."""
    _let_file_again(connection, sha256s)
    connection.execute(
        sa.update(ContentRow)
        .where(ContentRow.content_sha256.in_(sha256s))
        .values(state="done", priority=ARRIVED, lease_token=None, lease_until=None, next_try_at=None)
    )


def _uid_conflicts(
    connection: sa.Connection, headers: Sequence[tuple[str, ImageHeader]]
) -> Mapping[str, tuple[ImageWarning, ...]]:
    """Tell which contents have a SOP Instance UID that another content was answered under before; they are flagged.

    A UID names one object for ever (PS3.5 section 9); whoever sends other bytes under it has changed the object, or
    given one UID to two.  Which film is meant, nobody here can say: both are answered.
    """
    conflicts: defaultdict[str, tuple[ImageWarning, ...]] = defaultdict(tuple)
    uids = {sha256: plain_text(header.sop_instance_uid) for sha256, header in headers if header.sop_instance_uid}
    if not uids:
        return conflicts
    _lock_uids(connection, uids.values())
    known = connection.execute(
        sa.select(InstanceRow.sop_instance_uid, InstanceRow.content_sha256)
        .join(ResultRow, ResultRow.content_sha256 == InstanceRow.content_sha256)
        .where(InstanceRow.sop_instance_uid.in_(sorted(set(uids.values()))))
        .group_by(InstanceRow.sop_instance_uid, InstanceRow.content_sha256)
        .order_by(sa.func.min(ResultRow.result_id))
    )
    first: dict[str | None, str] = {}
    for uid, sha256 in [*known, *((uid, sha256) for sha256, uid in uids.items())]:
        first.setdefault(uid, sha256)
    for sha256, uid in uids.items():
        if first[uid] != sha256:
            conflicts[sha256] = (ImageWarning.UID_CONFLICT,)
    return conflicts


def _lock_uids(connection: sa.Connection, uids: Iterable[str]) -> None:
    """Let nobody else answer a content with one of these UIDs until the transaction ends: one of two is the first.

    In the order of their keys, and after the contents, so that nobody waits in a circle.  SQLite has one writer.
    """
    if connection.dialect.name == "postgresql":
        keys = sorted({int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], signed=True) for uid in uids})
        for key in keys:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def _let_file_again(connection: sa.Connection, sha256s: Sequence[str]) -> None:
    """Have the originals of requeued contents filed anew: the answer may send them to another folder."""
    requeued = sa.select(ContentRow.content_sha256).where(
        ContentRow.content_sha256.in_(sha256s), ContentRow.priority == REQUEUED
    )
    connection.execute(
        sa.update(ArrivalRow)
        .where(
            ArrivalRow.content_sha256.in_(requeued),
            ArrivalRow.disposition == Disposition.WORK.value,
            ArrivalRow.filed_path.is_not(None),
        )
        .values(previous_path=ArrivalRow.filed_path, filed_path=None, filed_at=None)
    )


def _upsert_instances(connection: sa.Connection, headers: Sequence[tuple[str, ImageHeader]]) -> None:
    """Insert what the files say; the same bytes read again by a newer version may say more."""
    if not headers:
        return
    statement = insert(connection, InstanceRow)
    columns = [column.name for column in InstanceRow.__table__.columns if not column.primary_key]
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[InstanceRow.content_sha256],
            set_={name: statement.excluded[name] for name in columns},
        ),
        [_instance_values(sha256, header) for sha256, header in headers],
    )


def _instance_values(sha256: str, header: ImageHeader) -> dict[str, object]:
    texts = {
        name: getattr(header, name)
        for name in (
            "transfer_syntax_uid",
            "sop_class_uid",
            "study_instance_uid",
            "series_instance_uid",
            "sop_instance_uid",
            "patient_id",
            "accession_number",
            "modality",
            "view_position",
        )
    }
    return {
        "content_sha256": sha256,
        "format": header.source_format.value,
        "study_date": header.study_date,
        **{name: None if text is None else plain_text(text) for name, text in texts.items()},
    }


def _result_values(
    finished: Finished, model: ModelIdentity, more_warnings: tuple[ImageWarning, ...]
) -> dict[str, object]:
    return {
        "model_sha256": model.model_sha256,
        "preprocess_sha256": model.preprocess_sha256,
        "rendering": finished.rendering,
        "warnings": ",".join(warning.value for warning in finished.warnings + more_warnings),
        "classified_at": finished.classified_at,
        "processing_seconds": finished.processing_seconds,
        **_computation_values(finished.computation),
        **_answer_values(finished.answer),
    }


def _computation_values(computation: Computation | None) -> dict[str, object]:
    return {field.name: getattr(computation, field.name, None) for field in fields(Computation)}


def _answer_values(answer: Prediction | Rejection) -> dict[str, object]:
    """Return every column that the kind of answer decides, so that all rows have the same keys."""
    values: dict[str, object] = dict.fromkeys(
        (
            *("outcome", "reason_code", "reason", *PROBABILITY_COLUMNS),
            *("threshold_low", "threshold_high", "disagreement", "heat_in_thorax"),
            *("member_probabilities", "input_mean", "input_std"),
        )
    )
    if isinstance(answer, Rejection):
        return values | {
            "outcome": Outcome.NOT_ANALYSED.value,
            "reason_code": answer.reason_code.value,
            "reason": plain_text(answer.reason),
        }
    # float(): the classifier may hand over numpy scalars, which no driver knows.
    return values | {
        "outcome": answer.outcome.value,
        **{name: float(answer.probabilities[finding]) for name, finding in PROBABILITY_COLUMNS.items()},
        "threshold_low": float(answer.threshold_low),
        "threshold_high": float(answer.threshold_high),
        "disagreement": float(answer.disagreement),
        "heat_in_thorax": None if answer.heat_in_thorax is None else float(answer.heat_in_thorax),
        "member_probabilities": {name: float(value) for name, value in answer.member_probabilities.items()},
        "input_mean": float(answer.input_mean),
        "input_std": float(answer.input_std),
    }


def _short_answer(finished: Finished) -> str:
    return (finished.reason_code or finished.outcome).value


def newest_result_ids() -> sa.Select[Any]:
    """Select the newest result of every content: other models may have answered before."""
    return sa.select(sa.func.max(ResultRow.result_id)).group_by(ResultRow.content_sha256)


def newest_result_id(content_sha256: InstrumentedAttribute[str]) -> sa.ScalarSelect[int]:
    """Return likewise the newest result of the one content that a row of the enclosing query names."""
    any_result = aliased(ResultRow)
    return (
        sa.select(sa.func.max(any_result.result_id))
        .where(any_result.content_sha256 == content_sha256)
        .correlate(content_sha256.class_)
        .scalar_subquery()
    )
