"""Tables, views and triggers of the database: the only source for Alembic.

SQLAlchemy describes the tables; the views and triggers, which it cannot describe, are the SQL
texts at the end.  A change here needs a new file in `migrations/versions`.

Times are aware UTC.  SQLite keeps them as ISO text without an offset, in UTC, so that they sort.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, event
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from xray_batch.records import RESULT_COLUMNS

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

#: SQLite counts only in INTEGER primary keys, PostgreSQL should not stop at 2**31.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

SHA256 = sa.String(64)


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """An aware time in UTC, on engines with and without time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Refuse a naive time: nobody could say which instant it names."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time for the database has no time zone, expected an aware one")
        return value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Give back an aware time, whatever the driver returned."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class Base(DeclarativeBase):
    """Common metadata of all tables."""

    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this class attribute, nobody changes it
        str: sa.Text(),
        float: sa.Double(),
        dt.datetime: UtcDateTime(),
        dt.date: sa.Date(),
        uuid.UUID: sa.Uuid(),
    }


class ContentRow(Base):
    """One distinct sequence of bytes, named by its SHA-256, and how far its work has come."""

    __tablename__ = "content"
    __table_args__ = (
        CheckConstraint("length(content_sha256) = 64", name="sha256"),
        CheckConstraint("size >= 0", name="size"),
        CheckConstraint("state IN ('queued', 'leased', 'done')", name="state"),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint(
            "(state = 'leased' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state <> 'leased' AND lease_token IS NULL AND lease_until IS NULL)",
            name="lease",
        ),
        # Only open work: stays small however many contents are done.
        Index(
            "ix_content_open",
            "queued_at",
            "content_sha256",
            sqlite_where=sa.text("state <> 'done'"),
            postgresql_where=sa.text("state <> 'done'"),
        ),
    )

    content_sha256: Mapped[str] = mapped_column(SHA256, primary_key=True)
    size: Mapped[int] = mapped_column(sa.BigInteger())
    state: Mapped[str] = mapped_column(sa.String(8))
    attempts: Mapped[int] = mapped_column(sa.Integer())
    #: The arrival worked now or last: its spool folder holds the bytes, its name goes to the result.
    #: No foreign key, because `arrival` already refers to this table.
    held_by: Mapped[uuid.UUID]
    queued_at: Mapped[dt.datetime]  #: `received_at` of that arrival: the oldest is worked first
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[dt.datetime | None]
    next_try_at: Mapped[dt.datetime | None]


class ArrivalRow(Base):
    """One file seen, whether or not its bytes were seen before."""

    __tablename__ = "arrival"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        CheckConstraint("disposition IN ('work', 'duplicate')", name="disposition"),
        CheckConstraint("origin IN ('inbox', 'in_place')", name="origin"),
        CheckConstraint("filed_path IS NULL OR filed_at IS NOT NULL", name="filed"),
        Index("ix_arrival_content_sha256", "content_sha256"),
        Index(
            "ix_arrival_unfiled",
            "arrival_id",
            sqlite_where=sa.text("filed_at IS NULL AND origin = 'inbox'"),
            postgresql_where=sa.text("filed_at IS NULL AND origin = 'inbox'"),
        ),
    )

    arrival_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source_name: Mapped[str]  #: bytes that are no text are escaped as `\\udcXX`, NUL as `\\x00`
    content_sha256: Mapped[str] = mapped_column(SHA256, ForeignKey("content.content_sha256"))
    size: Mapped[int] = mapped_column(sa.BigInteger())
    received_at: Mapped[dt.datetime]
    disposition: Mapped[str] = mapped_column(sa.String(9))
    origin: Mapped[str] = mapped_column(sa.String(8))
    filed_at: Mapped[dt.datetime | None]
    filed_path: Mapped[str | None]  #: relative to the home folder


class InstanceRow(Base):
    """What a content says about itself: the DICOM identity of one SOP Instance."""

    __tablename__ = "instance"
    __table_args__ = (
        CheckConstraint("format IN ('dicom', 'png', 'jpeg')", name="format"),
        Index("ix_instance_study_instance_uid", "study_instance_uid"),
        Index("ix_instance_sop_instance_uid", "sop_instance_uid"),
        Index("ix_instance_patient_id", "patient_id"),
    )

    content_sha256: Mapped[str] = mapped_column(SHA256, ForeignKey("content.content_sha256"), primary_key=True)
    format: Mapped[str] = mapped_column(sa.String(8))
    transfer_syntax_uid: Mapped[str | None]
    sop_class_uid: Mapped[str | None]
    study_instance_uid: Mapped[str | None]
    series_instance_uid: Mapped[str | None]
    sop_instance_uid: Mapped[str | None]
    patient_id: Mapped[str | None]
    accession_number: Mapped[str | None]
    study_date: Mapped[dt.date | None]
    modality: Mapped[str | None]
    view_position: Mapped[str | None]


class ModelRow(Base):
    """One model bundle that gave answers."""

    __tablename__ = "model"
    __table_args__ = (CheckConstraint("length(model_sha256) = 64", name="sha256"),)

    model_sha256: Mapped[str] = mapped_column(SHA256, primary_key=True)
    model_id: Mapped[str]
    manifest: Mapped[str]
    first_used_at: Mapped[dt.datetime]


class ResultRow(Base):
    """One answer: per content, model and preprocessing.

    A content that was not analysed has its answer under the model that was active: the gate and
    the reason belong to that version, and a newer one may accept the file.
    """

    __tablename__ = "result"
    __table_args__ = (
        UniqueConstraint("content_sha256", "model_sha256", "preprocess_sha256", name="uq_result_answer"),
        CheckConstraint("outcome IN ('pneumonia', 'normal', 'indeterminate', 'not_analysed')", name="outcome"),
        CheckConstraint(
            "(outcome = 'not_analysed' AND reason_code IS NOT NULL AND reason IS NOT NULL"
            " AND p_normal IS NULL AND p_bacterial IS NULL AND p_viral IS NULL AND p_covid19 IS NULL"
            " AND threshold_low IS NULL AND threshold_high IS NULL AND disagreement IS NULL)"
            " OR (outcome <> 'not_analysed' AND reason_code IS NULL AND reason IS NULL"
            " AND p_normal IS NOT NULL AND p_bacterial IS NOT NULL AND p_viral IS NOT NULL"
            " AND p_covid19 IS NOT NULL AND threshold_low IS NOT NULL AND threshold_high IS NOT NULL"
            " AND disagreement IS NOT NULL)",
            name="answer",
        ),
        CheckConstraint("p_normal >= 0 AND p_normal <= 1", name="p_normal"),
        CheckConstraint("p_bacterial >= 0 AND p_bacterial <= 1", name="p_bacterial"),
        CheckConstraint("p_viral >= 0 AND p_viral <= 1", name="p_viral"),
        CheckConstraint("p_covid19 >= 0 AND p_covid19 <= 1", name="p_covid19"),
        # float32 rounding of a softmax stays below 1e-6.
        CheckConstraint("abs(p_normal + p_bacterial + p_viral + p_covid19 - 1) <= 0.000001", name="p_sum"),
        CheckConstraint(
            "threshold_low >= 0 AND threshold_low <= threshold_high AND threshold_high <= 1",
            name="thresholds",
        ),
        CheckConstraint("disagreement >= 0 AND disagreement <= 1", name="disagreement"),
        CheckConstraint("length(preprocess_sha256) = 64", name="preprocess_sha256"),
        CheckConstraint("processing_seconds >= 0", name="processing_seconds"),
        Index("ix_result_classified_at", "classified_at", "result_id"),
        {"sqlite_autoincrement": True},  # an id is never used twice
    )

    result_id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True)
    content_sha256: Mapped[str] = mapped_column(SHA256, ForeignKey("content.content_sha256"))
    model_sha256: Mapped[str] = mapped_column(SHA256, ForeignKey("model.model_sha256"))
    preprocess_sha256: Mapped[str] = mapped_column(SHA256)
    arrival_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("arrival.arrival_id"))  #: that was worked
    outcome: Mapped[str] = mapped_column(sa.String(13))
    reason_code: Mapped[str | None] = mapped_column(sa.String(64))
    reason: Mapped[str | None]
    p_normal: Mapped[float | None]
    p_bacterial: Mapped[float | None]
    p_viral: Mapped[float | None]
    p_covid19: Mapped[float | None]
    threshold_low: Mapped[float | None]
    threshold_high: Mapped[float | None]
    disagreement: Mapped[float | None]
    rendering: Mapped[str | None]
    warnings: Mapped[str]  #: codes separated by commas; empty when there are none
    classified_at: Mapped[dt.datetime]
    processing_seconds: Mapped[float]
    #: Also NULL in rows from before revision 0002.  Its constraint is the column's: SQLite added both in place.
    heat_in_thorax: Mapped[float | None] = mapped_column(
        CheckConstraint(
            "heat_in_thorax IS NULL OR (outcome <> 'not_analysed' AND heat_in_thorax >= 0 AND heat_in_thorax <= 1)",
            name="heat_in_thorax",
        )
    )
    #: The computation, see `records.Computation`; NULL where it is not known.
    device: Mapped[str | None]
    precision: Mapped[str | None]
    libraries: Mapped[str | None]
    batch_images: Mapped[int | None] = mapped_column(sa.Integer())


class EventRow(Base):
    """One change of state; append-only.

    No foreign keys: an audit trail outlives what it tells about.
    """

    __tablename__ = "event"
    __table_args__ = (
        Index("ix_event_content_sha256", "content_sha256"),
        {"sqlite_autoincrement": True},
    )

    event_id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True)
    at: Mapped[dt.datetime]
    kind: Mapped[str] = mapped_column(sa.String(16))
    arrival_id: Mapped[uuid.UUID | None]
    content_sha256: Mapped[str | None] = mapped_column(SHA256)
    detail: Mapped[str | None] = mapped_column(sa.String(64))  #: a short code, never patient data


#: Conditions of the partial indexes; queries use them, with their literals, to use those indexes.
IS_OPEN = ContentRow.state != sa.literal_column("'done'")
IS_UNFILED = sa.and_(ArrivalRow.filed_at.is_(None), ArrivalRow.origin == sa.literal_column("'inbox'"))

VIEWS: dict[str, str] = {
    "results": """\
SELECT result.result_id, result.outcome, result.reason_code, result.reason,
       1 - result.p_normal AS p_pneumonia, result.p_normal, result.p_bacterial, result.p_viral,
       result.p_covid19, result.threshold_low, result.threshold_high, result.disagreement,
       result.warnings, model.model_id, result.model_sha256, result.preprocess_sha256,
       arrival.source_name, result.content_sha256, instance.format, instance.transfer_syntax_uid,
       instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid,
       instance.patient_id, instance.accession_number, instance.study_date, instance.modality,
       instance.view_position, arrival.received_at, result.classified_at, result.processing_seconds,
       result.heat_in_thorax
FROM result
JOIN model ON model.model_sha256 = result.model_sha256
JOIN arrival ON arrival.arrival_id = result.arrival_id
LEFT JOIN instance ON instance.content_sha256 = result.content_sha256""",
    # Every count is taken from the rows by itself, so that a broken state shows up as `lost`.
    "accounting": """\
SELECT arrivals, results, rejected, duplicates, pending,
       arrivals - results - rejected - duplicates - pending AS lost
FROM (
    SELECT count(*) AS arrivals,
           count(CASE WHEN arrival.disposition = 'work' AND content.state = 'done'
                       AND result.outcome <> 'not_analysed' THEN 1 END) AS results,
           count(CASE WHEN arrival.disposition = 'work' AND content.state = 'done'
                       AND result.outcome = 'not_analysed' THEN 1 END) AS rejected,
           count(CASE WHEN arrival.disposition = 'duplicate' THEN 1 END) AS duplicates,
           count(CASE WHEN arrival.disposition = 'work'
                       AND content.state IN ('queued', 'leased') THEN 1 END) AS pending
    FROM arrival
    LEFT JOIN content ON content.content_sha256 = arrival.content_sha256
    LEFT JOIN (SELECT content_sha256, max(result_id) AS result_id
               FROM result GROUP BY content_sha256) AS latest
           ON latest.content_sha256 = arrival.content_sha256
    LEFT JOIN result ON result.result_id = latest.result_id
) AS counted""",
}
"""Name to SELECT; the outside relies on these."""

SQLITE_TRIGGERS: dict[str, str] = {
    "event_no_update": """\
CREATE TRIGGER event_no_update BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
    "event_no_delete": """\
CREATE TRIGGER event_no_delete BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
}

POSTGRESQL_FUNCTION_BODY = """
BEGIN
    RAISE EXCEPTION 'event is append-only';
END
"""

POSTGRESQL_TRIGGER: tuple[str, ...] = (
    f"CREATE FUNCTION event_append_only() RETURNS trigger LANGUAGE plpgsql AS $${POSTGRESQL_FUNCTION_BODY}$$",
    """\
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
FOR EACH STATEMENT EXECUTE FUNCTION event_append_only()""",
)

_RESULT_TYPES: dict[str, sa.types.TypeEngine[Any]] = {  # the other columns are text
    "result_id": BIG_KEY,
    **dict.fromkeys(("p_pneumonia", "p_normal", "p_bacterial", "p_viral", "p_covid19"), sa.Double()),
    **dict.fromkeys(("threshold_low", "threshold_high", "disagreement"), sa.Double()),
    "study_date": sa.Date(),
    **dict.fromkeys(("received_at", "classified_at"), UtcDateTime()),
    **dict.fromkeys(("processing_seconds", "heat_in_thorax"), sa.Double()),
}

#: The view `results` for typed selects; not part of the metadata, since it is no table.
RESULTS = sa.table("results", *(sa.column(name, _RESULT_TYPES.get(name, sa.Text())) for name in RESULT_COLUMNS))

#: The view `accounting`, likewise.
ACCOUNTING = sa.table(
    "accounting",
    *(
        sa.column(name, sa.BigInteger())
        for name in ("arrivals", "results", "rejected", "duplicates", "pending", "lost")
    ),
)


def create_view(name: str) -> str:
    """Return the statement that creates a view."""
    return f"CREATE VIEW {name} AS\n{VIEWS[name]}"


def _create_views_and_triggers(target: sa.MetaData, connection: sa.Connection, **_: object) -> None:
    """Complete `metadata.create_all` with what SQLAlchemy cannot describe."""
    triggers: Sequence[str] = (
        tuple(SQLITE_TRIGGERS.values()) if connection.dialect.name == "sqlite" else POSTGRESQL_TRIGGER
    )
    for statement in (*(create_view(name) for name in VIEWS), *triggers):
        connection.execute(sa.text(statement))


event.listen(Base.metadata, "after_create", _create_views_and_triggers)


def missing_views_and_triggers(connection: sa.Connection) -> list[str]:
    """Return the statements that create the views and triggers which are absent or differ.

    Alembic compares tables only; `migrations/env.py` adds these to its comparison.
    """
    if connection.dialect.name == "sqlite":
        return _missing_in_sqlite(connection)
    return _missing_in_postgresql(connection)


def _missing_in_sqlite(connection: sa.Connection) -> list[str]:
    """SQLite keeps the text of each statement as it was given."""
    found = set(connection.scalars(sa.text("SELECT sql FROM sqlite_master WHERE type IN ('view', 'trigger')")))
    expected = [*(create_view(name) for name in VIEWS), *SQLITE_TRIGGERS.values()]
    return [statement for statement in expected if statement not in found]


def _missing_in_postgresql(connection: sa.Connection) -> list[str]:
    """PostgreSQL rewrites a view's text, so it is asked to rewrite the expected text as well."""
    missing = []
    for name, select in VIEWS.items():
        with connection.begin_nested() as savepoint:
            connection.execute(sa.text(f"CREATE TEMPORARY VIEW expected_{name} AS {select}"))
            same = connection.scalar(
                sa.text("SELECT pg_get_viewdef(to_regclass(:found)) = pg_get_viewdef(to_regclass(:expected))"),
                {"found": name, "expected": f"expected_{name}"},
            )
            savepoint.rollback()
        if not same:
            missing.append(create_view(name))
    trigger = connection.scalar(
        sa.text(
            "SELECT proc.prosrc = :body AND pg_trigger.tgenabled = 'O' FROM pg_trigger"
            " JOIN pg_proc AS proc ON proc.oid = pg_trigger.tgfoid"
            " WHERE pg_trigger.tgname = 'event_append_only' AND tgrelid = to_regclass('event')"
        ),
        {"body": POSTGRESQL_FUNCTION_BODY},
    )
    return missing if trigger else [*missing, *POSTGRESQL_TRIGGER]
