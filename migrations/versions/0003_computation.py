"""Record where and with what each answer was computed.

Revision 0003, after 0002, 2026-11-24.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add four columns to `result`; answers of before have NULL there."""
    # Columns at the end that may be NULL: neither engine rewrites the table or minds the views.
    op.add_column("result", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("result", sa.Column("precision", sa.Text(), nullable=True))
    op.add_column("result", sa.Column("libraries", sa.Text(), nullable=True))
    op.add_column("result", sa.Column("batch_images", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
