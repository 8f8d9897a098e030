"""What the database tells of single results, accounting and the queue; :mod:`pages` has lists of results."""

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import fields
from typing import Final

import sqlalchemy as sa

from xray_batch.database import read_transaction
from xray_batch.records import (
    ACCOUNTING_COLUMNS,
    RESULT_COLUMNS,
    Accounting,
    AuditEvent,
    AuditTrail,
    Computation,
    EngineFacts,
    ModelIdentity,
    Outcome,
    QueueStatus,
    RecentResults,
    ResultRecord,
    StoredModel,
    StoredResult,
)
from xray_batch.revisions import revision_on
from xray_batch.schema import (
    ACCOUNTING,
    IS_OPEN,
    RESULTS,
    ArrivalRow,
    ContentRow,
    EventRow,
    ModelRow,
    ResultRow,
    TallyRow,
)
from xray_batch.store.pages import record_of

_CHUNK: Final = 500  #: numbers in one IN (...); engines limit them

_VIEW: Final = RESULTS.columns


def known_answers(engine: sa.Engine, content_sha256s: Sequence[str], model: ModelIdentity) -> dict[str, ResultRecord]:
    """Return stored answers by SHA-256."""
    known: dict[str, ResultRecord] = {}
    remaining = iter(content_sha256s)
    while chunk := list(itertools.islice(remaining, _CHUNK)):
        statement = sa.select(*(_VIEW[name] for name in RESULT_COLUMNS)).where(
            _VIEW.content_sha256.in_(chunk),
            _VIEW.model_sha256 == model.model_sha256,
            _VIEW.preprocess_sha256 == model.preprocess_sha256,
        )
        with read_transaction(engine) as connection:
            for row in connection.execute(statement).mappings():
                known[row["content_sha256"]] = record_of(row)
    return known


def stored_result(connection: sa.Connection, result_id: int) -> StoredResult | None:
    """Read one result, how it was computed, and where its content is."""
    view = sa.select(*(_VIEW[name] for name in RESULT_COLUMNS)).where(_VIEW.result_id == result_id)
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
        record=record_of(row),
        computation=None if computed.device is None else Computation(**dict(zip(names, computed, strict=True))),
        filed_paths=tuple(arrival.filed_path for arrival in arrivals if arrival.filed_path is not None),
        in_place_names=tuple(arrival.source_name for arrival in arrivals if arrival.origin == "in_place"),
    )


def audit_trail(connection: sa.Connection, content_sha256: str, most: int) -> AuditTrail:
    """Read the newest events of a content."""
    rows = connection.execute(
        sa.select(EventRow.at, EventRow.kind, EventRow.detail)
        .where(EventRow.content_sha256 == content_sha256)
        .order_by(EventRow.event_id.desc())
        .limit(most + 1)
    ).all()
    events = [AuditEvent(at=row.at, kind=row.kind, detail=row.detail) for row in rows[:most]]
    return AuditTrail(events=tuple(reversed(events)), is_complete=len(rows) <= most)


def stored_model(connection: sa.Connection, model_sha256: str) -> StoredModel | None:
    """Read what is stored of a bundle."""
    names = [field.name for field in fields(StoredModel)]
    row = connection.execute(
        sa.select(*(getattr(ModelRow, name) for name in names)).where(ModelRow.model_sha256 == model_sha256)
    ).one_or_none()
    return None if row is None else StoredModel(**dict(zip(names, row, strict=True)))


def accounting(connection: sa.Connection) -> Accounting:
    """Add up the tally."""
    sums = sa.select(TallyRow.standing, sa.cast(sa.func.sum(TallyRow.arrivals), sa.BigInteger()))
    counts = {name: count for name, count in connection.execute(sums.group_by(TallyRow.standing))}
    return Accounting(**dict.fromkeys(ACCOUNTING_COLUMNS, 0) | counts | {"arrivals": sum(counts.values())})


def recount(connection: sa.Connection) -> tuple[Accounting, Accounting]:
    """Read the view `accounting`, which counts rows, and the tally, both as of one moment."""
    counted = [sa.func.coalesce(ACCOUNTING.columns[name], 0).label(name) for name in ACCOUNTING_COLUMNS]
    tallied = [
        sa.select(sa.cast(sa.func.coalesce(sa.func.sum(TallyRow.arrivals), 0), sa.BigInteger()))
        .where(sa.true() if name == "arrivals" else TallyRow.standing == name)
        .scalar_subquery()
        .label(f"tallied_{name}")
        for name in ACCOUNTING_COLUMNS
    ]
    row = connection.execute(sa.select(*counted, *tallied)).mappings().one()
    return (
        Accounting(**{name: row[name] for name in ACCOUNTING_COLUMNS}),
        Accounting(**{name: row[f"tallied_{name}"] for name in ACCOUNTING_COLUMNS}),
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
