"""What answering a content again, and removing old originals, must remember.

Revision 0004, after 0003, 2026-11-27.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IS_ONE_PLACE = "previous_path IS NULL OR filed_path IS NULL"

# SQLite adds a column and its constraint in place; no table is written anew.
SQLITE = (
    f"ALTER TABLE arrival ADD COLUMN previous_path TEXT CONSTRAINT ck_arrival_previous_path CHECK ({IS_ONE_PLACE})",
)

POSTGRESQL = (
    "ALTER TABLE arrival ADD COLUMN previous_path TEXT",
    f"ALTER TABLE arrival ADD CONSTRAINT ck_arrival_previous_path CHECK ({IS_ONE_PLACE})",
)


def upgrade() -> None:
    """Add two columns, and let the index of open work begin with one of them."""
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)
    # A constant default: neither engine rewrites the table, and the version before may go on inserting.
    op.add_column("content", sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    op.drop_index("ix_content_open", table_name="content")
    op.create_index(
        "ix_content_open",
        "content",
        ["priority", "queued_at", "content_sha256"],
        sqlite_where=sa.text("state <> 'done'"),
        postgresql_where=sa.text("state <> 'done'"),
    )


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
