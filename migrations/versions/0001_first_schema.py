"""First schema: tables, views and the append-only event log.

Revision 0001, after none, 2026-11-23.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

RESULTS_VIEW = """\
CREATE VIEW results AS
SELECT result.result_id, result.outcome, result.reason_code, result.reason,
       1 - result.p_normal AS p_pneumonia, result.p_normal, result.p_bacterial, result.p_viral,
       result.p_covid19, result.threshold_low, result.threshold_high, result.disagreement,
       result.warnings, model.model_id, result.model_sha256, result.preprocess_sha256,
       arrival.source_name, result.content_sha256, instance.format, instance.transfer_syntax_uid,
       instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid,
       instance.patient_id, instance.accession_number, instance.study_date, instance.modality,
       instance.view_position, arrival.received_at, result.classified_at, result.processing_seconds
FROM result
JOIN model ON model.model_sha256 = result.model_sha256
JOIN arrival ON arrival.arrival_id = result.arrival_id
LEFT JOIN instance ON instance.content_sha256 = result.content_sha256"""

ACCOUNTING_VIEW = """\
CREATE VIEW accounting AS
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
) AS counted"""

SQLITE_TRIGGERS = (
    """\
CREATE TRIGGER event_no_update BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
    """\
CREATE TRIGGER event_no_delete BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
)

POSTGRESQL_TRIGGER = (
    """\
CREATE FUNCTION event_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'event is append-only';
END
$$""",
    """\
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
FOR EACH STATEMENT EXECUTE FUNCTION event_append_only()""",
)


def upgrade() -> None:
    """Create everything."""
    create_content()
    create_arrival()
    create_instance()
    create_model()
    create_result()
    create_event()
    op.execute(RESULTS_VIEW)
    op.execute(ACCOUNTING_VIEW)
    for statement in SQLITE_TRIGGERS if op.get_bind().dialect.name == "sqlite" else POSTGRESQL_TRIGGER:
        op.execute(statement)


def create_content() -> None:
    """Create the table of distinct contents and their work."""
    op.create_table(
        "content",
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("held_by", sa.Uuid(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'leased' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state <> 'leased' AND lease_token IS NULL AND lease_until IS NULL)",
            name=op.f("ck_content_lease"),
        ),
        sa.CheckConstraint("state IN ('queued', 'leased', 'done')", name=op.f("ck_content_state")),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_content_attempts")),
        sa.CheckConstraint("length(content_sha256) = 64", name=op.f("ck_content_sha256")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_content_size")),
        sa.PrimaryKeyConstraint("content_sha256", name=op.f("pk_content")),
    )
    op.create_index(
        "ix_content_open",
        "content",
        ["queued_at", "content_sha256"],
        sqlite_where=sa.text("state <> 'done'"),
        postgresql_where=sa.text("state <> 'done'"),
    )


def create_arrival() -> None:
    """Create the table of files seen."""
    op.create_table(
        "arrival",
        sa.Column("arrival_id", sa.Uuid(), nullable=False),
        sa.Column("source_name", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disposition", sa.String(length=9), nullable=False),
        sa.Column("origin", sa.String(length=8), nullable=False),
        sa.Column("filed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("filed_path", sa.Text(), nullable=True),
        sa.CheckConstraint("disposition IN ('work', 'duplicate')", name=op.f("ck_arrival_disposition")),
        sa.CheckConstraint("origin IN ('inbox', 'in_place')", name=op.f("ck_arrival_origin")),
        sa.CheckConstraint("filed_path IS NULL OR filed_at IS NOT NULL", name=op.f("ck_arrival_filed")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_arrival_size")),
        sa.ForeignKeyConstraint(
            ["content_sha256"], ["content.content_sha256"], name=op.f("fk_arrival_content_sha256_content")
        ),
        sa.PrimaryKeyConstraint("arrival_id", name=op.f("pk_arrival")),
    )
    op.create_index("ix_arrival_content_sha256", "arrival", ["content_sha256"])
    op.create_index(
        "ix_arrival_unfiled",
        "arrival",
        ["arrival_id"],
        sqlite_where=sa.text("filed_at IS NULL AND origin = 'inbox'"),
        postgresql_where=sa.text("filed_at IS NULL AND origin = 'inbox'"),
    )


def create_instance() -> None:
    """Create the table of DICOM identities."""
    op.create_table(
        "instance",
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=8), nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=True),
        sa.Column("sop_class_uid", sa.Text(), nullable=True),
        sa.Column("study_instance_uid", sa.Text(), nullable=True),
        sa.Column("series_instance_uid", sa.Text(), nullable=True),
        sa.Column("sop_instance_uid", sa.Text(), nullable=True),
        sa.Column("patient_id", sa.Text(), nullable=True),
        sa.Column("accession_number", sa.Text(), nullable=True),
        sa.Column("study_date", sa.Date(), nullable=True),
        sa.Column("modality", sa.Text(), nullable=True),
        sa.Column("view_position", sa.Text(), nullable=True),
        sa.CheckConstraint("format IN ('dicom', 'png', 'jpeg')", name=op.f("ck_instance_format")),
        sa.ForeignKeyConstraint(
            ["content_sha256"], ["content.content_sha256"], name=op.f("fk_instance_content_sha256_content")
        ),
        sa.PrimaryKeyConstraint("content_sha256", name=op.f("pk_instance")),
    )
    op.create_index("ix_instance_patient_id", "instance", ["patient_id"])
    op.create_index("ix_instance_sop_instance_uid", "instance", ["sop_instance_uid"])
    op.create_index("ix_instance_study_instance_uid", "instance", ["study_instance_uid"])


def create_model() -> None:
    """Create the table of model bundles."""
    op.create_table(
        "model",
        sa.Column("model_sha256", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(model_sha256) = 64", name=op.f("ck_model_sha256")),
        sa.PrimaryKeyConstraint("model_sha256", name=op.f("pk_model")),
    )


def create_result() -> None:
    """Create the table of answers."""
    op.create_table(
        "result",
        sa.Column("result_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("model_sha256", sa.String(length=64), nullable=False),
        sa.Column("preprocess_sha256", sa.String(length=64), nullable=False),
        sa.Column("arrival_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.String(length=13), nullable=False),
        sa.Column("reason_code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("p_normal", sa.Double(), nullable=True),
        sa.Column("p_bacterial", sa.Double(), nullable=True),
        sa.Column("p_viral", sa.Double(), nullable=True),
        sa.Column("p_covid19", sa.Double(), nullable=True),
        sa.Column("threshold_low", sa.Double(), nullable=True),
        sa.Column("threshold_high", sa.Double(), nullable=True),
        sa.Column("disagreement", sa.Double(), nullable=True),
        sa.Column("rendering", sa.Text(), nullable=True),
        sa.Column("warnings", sa.Text(), nullable=False),
        sa.Column("classified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processing_seconds", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "(outcome = 'not_analysed' AND reason_code IS NOT NULL AND reason IS NOT NULL"
            " AND p_normal IS NULL AND p_bacterial IS NULL AND p_viral IS NULL AND p_covid19 IS NULL"
            " AND threshold_low IS NULL AND threshold_high IS NULL AND disagreement IS NULL)"
            " OR (outcome <> 'not_analysed' AND reason_code IS NULL AND reason IS NULL"
            " AND p_normal IS NOT NULL AND p_bacterial IS NOT NULL AND p_viral IS NOT NULL"
            " AND p_covid19 IS NOT NULL AND threshold_low IS NOT NULL AND threshold_high IS NOT NULL"
            " AND disagreement IS NOT NULL)",
            name=op.f("ck_result_answer"),
        ),
        sa.CheckConstraint(
            "outcome IN ('pneumonia', 'normal', 'indeterminate', 'not_analysed')",
            name=op.f("ck_result_outcome"),
        ),
        sa.CheckConstraint(
            "abs(p_normal + p_bacterial + p_viral + p_covid19 - 1) <= 0.000001", name=op.f("ck_result_p_sum")
        ),
        sa.CheckConstraint("disagreement >= 0 AND disagreement <= 1", name=op.f("ck_result_disagreement")),
        sa.CheckConstraint("length(preprocess_sha256) = 64", name=op.f("ck_result_preprocess_sha256")),
        sa.CheckConstraint("p_bacterial >= 0 AND p_bacterial <= 1", name=op.f("ck_result_p_bacterial")),
        sa.CheckConstraint("p_covid19 >= 0 AND p_covid19 <= 1", name=op.f("ck_result_p_covid19")),
        sa.CheckConstraint("p_normal >= 0 AND p_normal <= 1", name=op.f("ck_result_p_normal")),
        sa.CheckConstraint("p_viral >= 0 AND p_viral <= 1", name=op.f("ck_result_p_viral")),
        sa.CheckConstraint("processing_seconds >= 0", name=op.f("ck_result_processing_seconds")),
        sa.CheckConstraint(
            "threshold_low >= 0 AND threshold_low <= threshold_high AND threshold_high <= 1",
            name=op.f("ck_result_thresholds"),
        ),
        sa.ForeignKeyConstraint(["arrival_id"], ["arrival.arrival_id"], name=op.f("fk_result_arrival_id_arrival")),
        sa.ForeignKeyConstraint(
            ["content_sha256"], ["content.content_sha256"], name=op.f("fk_result_content_sha256_content")
        ),
        sa.ForeignKeyConstraint(["model_sha256"], ["model.model_sha256"], name=op.f("fk_result_model_sha256_model")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_result")),
        sa.UniqueConstraint("content_sha256", "model_sha256", "preprocess_sha256", name="uq_result_answer"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_result_classified_at", "result", ["classified_at", "result_id"])


def create_event() -> None:
    """Create the audit trail."""
    op.create_table(
        "event",
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("arrival_id", sa.Uuid(), nullable=True),
        sa.Column("content_sha256", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_content_sha256", "event", ["content_sha256"])


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
