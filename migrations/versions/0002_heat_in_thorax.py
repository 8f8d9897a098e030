"""Share of the heat in the middle of the film: a column of `result`, the last of the view `results`.

Revision 0002, after 0001, 2026-11-24.
"""

from alembic import op
from alembic.util import CommandError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IS_SHARE = "heat_in_thorax IS NULL OR (outcome <> 'not_analysed' AND heat_in_thorax >= 0 AND heat_in_thorax <= 1)"

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
       result.heat_in_thorax
FROM result
JOIN model ON model.model_sha256 = result.model_sha256
JOIN arrival ON arrival.arrival_id = result.arrival_id
LEFT JOIN instance ON instance.content_sha256 = result.content_sha256"""

# A new column is the one thing that SQLite adds in place, its constraint with it: no table is written anew.
SQLITE = (
    f"ALTER TABLE result ADD COLUMN heat_in_thorax DOUBLE CONSTRAINT ck_result_heat_in_thorax CHECK ({IS_SHARE})",
    "DROP VIEW results",
    f"CREATE {RESULTS_VIEW}",
)

# The table is locked while its rows are looked through, 0.7 s for a million.  A constraint that is NOT VALID would
# spare that, but SQLAlchemy 2.1 reads one with a warning at every comparison with the schema.  The view is replaced,
# not dropped: who may read it may go on reading it.
POSTGRESQL = (
    "ALTER TABLE result ADD COLUMN heat_in_thorax DOUBLE PRECISION",
    f"ALTER TABLE result ADD CONSTRAINT ck_result_heat_in_thorax CHECK ({IS_SHARE})",
    f"CREATE OR REPLACE {RESULTS_VIEW}",
)


def upgrade() -> None:
    """Add the column, NULL in the rows that there are, and show it."""
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
