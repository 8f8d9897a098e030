"""The tables, and what queries share of them.

Times are aware UTC.  SQLite keeps them as ISO text without an offset, in UTC, so that they sort.
"""

import datetime as dt
import uuid

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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

#: Text in SQLite, jsonb in PostgreSQL: `->>` reads a member in both, and rows can still be told apart by DISTINCT.
JSON_OBJECT = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _partial_index(name: str, *columns: str, where: str) -> Index:
    """Return an index of some rows alone, on both engines."""
    return Index(name, *columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


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
        _partial_index("ix_content_open", "priority", "queued_at", "content_sha256", where="state <> 'done'"),
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
    #: The least is worked first: -1 for what is urgent, 0 for what arrived, 1 for what `requeue` queued once more.
    priority: Mapped[int] = mapped_column(sa.SmallInteger(), server_default=sa.text("0"))


class ArrivalRow(Base):
    """One file seen, whether or not its bytes were seen before."""

    __tablename__ = "arrival"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        CheckConstraint("disposition IN ('work', 'duplicate')", name="disposition"),
        CheckConstraint("origin IN ('inbox', 'in_place')", name="origin"),
        CheckConstraint("filed_path IS NULL OR filed_at IS NOT NULL", name="filed"),
        Index("ix_arrival_content_sha256", "content_sha256"),
        _partial_index("ix_arrival_unfiled", "arrival_id", where="filed_at IS NULL AND origin = 'inbox'"),
        _partial_index("ix_arrival_pruning", "arrival_id", where="filed_at IS NOT NULL AND previous_path IS NOT NULL"),
    )

    arrival_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source_name: Mapped[str]  #: bytes that are no text are escaped as `\\udcXX`, NUL as `\\x00`
    content_sha256: Mapped[str] = mapped_column(SHA256, ForeignKey("content.content_sha256"))
    size: Mapped[int] = mapped_column(sa.BigInteger())
    received_at: Mapped[dt.datetime]
    disposition: Mapped[str] = mapped_column(sa.String(9))
    origin: Mapped[str] = mapped_column(sa.String(8))
    filed_at: Mapped[dt.datetime | None]
    filed_path: Mapped[str | None]  #: relative to the home folder; NULL again once `prune` has taken the original
    #: Where the original was filed, and lies until it is filed anew (no `filed_at`) or removed (with `filed_at`).
    #: Its constraint is the column's: SQLite added both in place.
    previous_path: Mapped[str | None] = mapped_column(
        CheckConstraint("previous_path IS NULL OR filed_path IS NULL", name="previous_path")
    )


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
        Index("ix_result_outcome", "outcome", "classified_at", "result_id"),
        Index("ix_result_p_normal", "p_normal", "result_id"),
        Index("ix_result_outcome_p_normal", "outcome", "p_normal", "result_id"),
        _partial_index(
            "ix_result_reason_code", "reason_code", "classified_at", "result_id", where="reason_code IS NOT NULL"
        ),
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
    #: NULL too in rows from before revision 0006; constraints as that of `heat_in_thorax`.
    member_probabilities: Mapped[dict[str, float] | None] = mapped_column(
        JSON_OBJECT,
        CheckConstraint(
            "member_probabilities IS NULL OR outcome <> 'not_analysed'",
            name="member_probabilities",
        ),
    )
    input_mean: Mapped[float | None] = mapped_column(
        CheckConstraint(
            "input_mean IS NULL OR (outcome <> 'not_analysed' AND input_mean >= 0 AND input_mean <= 1)",
            name="input_mean",
        )
    )
    input_std: Mapped[float | None] = mapped_column(
        CheckConstraint(
            "input_std IS NULL OR (outcome <> 'not_analysed' AND input_std >= 0 AND input_std <= 1)",
            name="input_std",
        )
    )


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
    detail: Mapped[str | None] = mapped_column(sa.String(64))  #: a short code, or who asked; never patient data


class TallyRow(Base):
    """How many arrivals are where: a part of it, the whole is the sum of all rows with a `standing`.

    Triggers keep it, in the transaction that moves an arrival, whoever that is.  On PostgreSQL each transaction
    adds to a row that no other is adding to, and makes one where there is none: nobody ever waits here.
    """

    __tablename__ = "tally"
    __table_args__ = (
        CheckConstraint("standing IN ('results', 'rejected', 'duplicates', 'pending', 'lost')", name="standing"),
    )

    tally_id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True)
    standing: Mapped[str] = mapped_column(sa.String(10))
    arrivals: Mapped[int] = mapped_column(sa.BigInteger())  #: may be negative: arrivals leave where others added them


#: Conditions of the partial indexes; queries use them, with their literals, to use those indexes.
IS_OPEN = ContentRow.state != sa.literal_column("'done'")
#: Whether the database knows of an arrival's original: filed away, or on the way there.
HAS_ORIGINAL = sa.or_(ArrivalRow.filed_at.is_(None), ArrivalRow.filed_path.is_not(None))
IS_UNFILED = sa.and_(ArrivalRow.filed_at.is_(None), ArrivalRow.origin == sa.literal_column("'inbox'"))
#: The event is written, the file perhaps not yet removed.
IS_PRUNING = sa.and_(ArrivalRow.filed_at.is_not(None), ArrivalRow.previous_path.is_not(None))
