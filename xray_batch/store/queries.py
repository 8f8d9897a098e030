"""What the database tells: results, accounting and the queue."""

import datetime as dt
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Final

import sqlalchemy as sa

from xray_batch.database import read_transaction, revision_on
from xray_batch.records import (
    RESULT_COLUMNS,
    Accounting,
    Computation,
    EngineFacts,
    ModelIdentity,
    Outcome,
    QueueStatus,
    RecentResults,
    ResultQuery,
    ResultRecord,
    StoredResult,
)
from xray_batch.schema import ACCOUNTING, IS_OPEN, RESULTS, ArrivalRow, ContentRow, ModelRow, ResultRow, TallyRow

PAGE_ROWS = 500

VIEW = RESULTS.columns

_STANDINGS: Final = ("results", "rejected", "duplicates", "pending", "lost")


def results(engine: sa.Engine, query: ResultQuery) -> Iterator[dict[str, object]]:
    """Yield rows of the view `results`, newest first, in pages of one short transaction each."""
    statement = (
        sa.select(*(VIEW[name] for name in RESULT_COLUMNS))
        .where(*_conditions(query))
        .order_by(VIEW.classified_at.desc(), VIEW.result_id.desc())
    )
    page = statement
    wanted = query.limit
    while wanted is None or wanted > 0:
        size = PAGE_ROWS if wanted is None else min(PAGE_ROWS, wanted)
        with read_transaction(engine) as connection:
            rows = connection.execute(page.limit(size)).mappings().all()
        yield from (dict(row) for row in rows)
        if len(rows) < size:
            return
        wanted = None if wanted is None else wanted - size
        last = rows[-1]
        page = statement.where(
            VIEW.classified_at <= last["classified_at"],  # says nothing new, but lets the index be used
            sa.or_(VIEW.classified_at < last["classified_at"], VIEW.result_id < last["result_id"]),
        )


def _conditions(query: ResultQuery) -> Iterator[sa.ColumnElement[bool]]:
    if query.outcome is not None:
        yield VIEW.outcome == query.outcome.value
    if query.since is not None:
        yield VIEW.classified_at >= query.since
    if query.until is not None:
        yield VIEW.classified_at < query.until
    if query.patient_id is not None:
        yield VIEW.patient_id == query.patient_id
    if query.study_instance_uid is not None:
        yield VIEW.study_instance_uid == query.study_instance_uid
    if query.min_probability is not None:
        yield VIEW.p_pneumonia >= query.min_probability


def known_answers(engine: sa.Engine, content_sha256s: Sequence[str], model: ModelIdentity) -> dict[str, ResultRecord]:
    """Return stored answers by SHA-256."""
    known: dict[str, ResultRecord] = {}
    remaining = iter(content_sha256s)
    while chunk := list(itertools.islice(remaining, PAGE_ROWS)):
        statement = sa.select(*(VIEW[name] for name in RESULT_COLUMNS)).where(
            VIEW.content_sha256.in_(chunk),
            VIEW.model_sha256 == model.model_sha256,
            VIEW.preprocess_sha256 == model.preprocess_sha256,
        )
        with read_transaction(engine) as connection:
            for row in connection.execute(statement).mappings():
                known[row["content_sha256"]] = _record(row)
    return known


def _record(row: sa.RowMapping) -> ResultRecord:
    return ResultRecord(**(dict(row) | {"outcome": Outcome(row["outcome"])}))


def stored_result(connection: sa.Connection, result_id: int) -> StoredResult | None:
    """Read one result, how it was computed, and where its content is."""
    view = sa.select(*(VIEW[name] for name in RESULT_COLUMNS)).where(VIEW.result_id == result_id)
    row = connection.execute(view).mappings().one_or_none()
    if row is None:
        return None
    names = [field.name for field in fields(Computation)]
    computed = connection.execute(
        sa.select(*(getattr(ResultRow, name) for name in names)).where(ResultRow.result_id == result_id)
    ).one()
    arrivals = connection.execute(
        sa.select(
            ArrivalRow.origin,
            ArrivalRow.source_name,
            sa.func.coalesce(ArrivalRow.filed_path, ArrivalRow.previous_path).label("filed_path"),
        )
        .where(ArrivalRow.content_sha256 == row["content_sha256"])
        .order_by(ArrivalRow.received_at.desc())
    ).all()
    return StoredResult(
        record=_record(row),
        computation=None if computed.device is None else Computation(**dict(zip(names, computed, strict=True))),
        filed_paths=tuple(arrival.filed_path for arrival in arrivals if arrival.filed_path is not None),
        in_place_names=tuple(arrival.source_name for arrival in arrivals if arrival.origin == "in_place"),
    )


def accounting(connection: sa.Connection) -> Accounting:
    """Add up the tally."""
    sums = sa.select(TallyRow.standing, sa.cast(sa.func.sum(TallyRow.arrivals), sa.BigInteger()))
    counts = {name: count for name, count in connection.execute(sums.group_by(TallyRow.standing))}
    return Accounting(arrivals=sum(counts.values()), **dict.fromkeys(_STANDINGS, 0) | counts)


def recount(connection: sa.Connection) -> tuple[Accounting, Accounting]:
    """Read the view `accounting`, which counts rows, and the tally, both as of one moment."""
    counted = [sa.func.coalesce(ACCOUNTING.columns[name], 0).label(name) for name in ("arrivals", *_STANDINGS)]
    tallied = [
        sa.select(sa.cast(sa.func.coalesce(sa.func.sum(TallyRow.arrivals), 0), sa.BigInteger()))
        .where(sa.true() if name == "arrivals" else TallyRow.standing == name)
        .scalar_subquery()
        .label(f"tallied_{name}")
        for name in ("arrivals", *_STANDINGS)
    ]
    row = connection.execute(sa.select(*counted, *tallied)).mappings().one()
    names = ("arrivals", *_STANDINGS)
    return (
        Accounting(**{name: row[name] for name in names}),
        Accounting(**{name: row[f"tallied_{name}"] for name in names}),
    )


def queue_status(connection: sa.Connection) -> QueueStatus:
    """Count the open contents."""
    arrived_at = sa.case((ContentRow.priority <= 0, ContentRow.queued_at))
    rows = connection.execute(
        sa.select(ContentRow.state, sa.func.count(), sa.func.min(arrived_at)).where(IS_OPEN).group_by(ContentRow.state)
    ).all()
    counts = {state: count for state, count, _ in rows}
    return QueueStatus(
        queued=counts.get("queued", 0),
        leased=counts.get("leased", 0),
        oldest_received_at=min((oldest for _, _, oldest in rows if oldest is not None), default=None),
    )


def recent_results(connection: sa.Connection, since: dt.datetime) -> RecentResults:
    """Count results by outcome."""
    recent = ResultRow.classified_at >= since
    counts = [  # one by one, each a range of `ix_result_outcome`
        sa.select(sa.func.count()).where(ResultRow.outcome == outcome.value, recent).scalar_subquery()
        for outcome in Outcome
    ]
    last_at = sa.select(sa.func.max(ResultRow.classified_at)).scalar_subquery()
    found = connection.execute(sa.select(last_at, *counts)).one()
    return RecentResults(last_at=found[0], outcomes=dict(zip(Outcome, found[1:], strict=True)))


def describe_engine(connection: sa.Connection) -> EngineFacts:
    """Ask the database what it is."""
    version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
    revision = revision_on(connection)
    if connection.dialect.name == "sqlite":
        journal = connection.scalar(sa.text("PRAGMA journal_mode"))
        return EngineFacts(name="SQLite", version=version, journal_mode=journal, revision=revision)
    return EngineFacts(name="PostgreSQL", version=version, journal_mode=None, revision=revision)


def check_writable(connection: sa.Connection) -> None:
    """Write nothing, in a way that needs all that writing needs: a primary server, the privilege, the file."""
    columns = [ModelRow.model_sha256, ModelRow.model_id, ModelRow.manifest, ModelRow.first_used_at]
    nothing = sa.select(*columns).where(sa.false())
    connection.execute(sa.insert(ModelRow).from_select([column.key for column in columns], nothing))
