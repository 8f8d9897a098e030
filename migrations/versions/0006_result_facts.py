"""What each member said, and what the model input was like: columns of `result`, the last of the view `results`.

Revision 0006, after 0005, 2026-11-27.
"""

from alembic import op
from alembic.util import CommandError

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

#: Name, type in SQLite and in PostgreSQL, and the constraint that belongs to the column.
COLUMNS = (
    ("member_probabilities", "JSON", "JSONB", "member_probabilities IS NULL OR outcome <> 'not_analysed'"),
    *(
        (
            name,
            "DOUBLE",
            "DOUBLE PRECISION",
            f"{name} IS NULL OR (outcome <> 'not_analysed' AND {name} >= 0 AND {name} <= 1)",
        )
        for name in ("input_mean", "input_std")
    ),
)

RESULTS_VIEW = """\
VIEW results AS
SELECT result.result_id, result.outcome, result.reason_code, result.reason,
       1 - result.p_normal AS p_pneumonia, result.p_normal, result.p_bacterial, result.p_viral,
       result.p_covid19, result.threshold_low, result.threshold_high, result.disagreement,
       result.warnings, model.model_id, result.model_sha256, result.preprocess_sha256,
       arrival.source_name, result.content_sha256, instance.format, instance.transfer_syntax_uid,
       instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid,
       instance.patient_id, instance.accession_number, instance.study_date, instance.modality,
       instance.view_position, arrival.received_at, result.classified_at, result.processing_seconds,
       result.heat_in_thorax, result.member_probabilities, result.input_mean, result.input_std
FROM result
JOIN model ON model.model_sha256 = result.model_sha256
JOIN arrival ON arrival.arrival_id = result.arrival_id
LEFT JOIN instance ON instance.content_sha256 = result.content_sha256"""

# As in 0002: added in place, each with its constraint; no table is written anew, and no trigger is touched.
SQLITE = (
    *(
        f"ALTER TABLE result ADD COLUMN {name} {kind} CONSTRAINT ck_result_{name} CHECK ({check})"
        for name, kind, _, check in COLUMNS
    ),
    "DROP VIEW results",
    f"CREATE {RESULTS_VIEW}",
)

# The table is locked while its rows are looked through once.  The view is replaced: its readers keep their right.
POSTGRESQL = (
    "ALTER TABLE result "
    + ", ".join(
        f"ADD COLUMN {name} {kind}, ADD CONSTRAINT ck_result_{name} CHECK ({check})" for name, _, kind, check in COLUMNS
    ),
    f"CREATE OR REPLACE {RESULTS_VIEW}",
)


def upgrade() -> None:
    """Add the columns, NULL in the rows that there are, and show them."""
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
