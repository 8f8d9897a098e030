"""${message}

Revision ${up_revision}, after ${down_revision | comma,n}, ${create_date}.
"""
# Rules for a migration; delete this comment when they hold.
#
# - The previous version of xray-batch may be running while this one is applied, and until it is
#   restarted: it must go on working.  Add now, remove in a later release.
# - It runs in one transaction, on PostgreSQL with lock_timeout 5 s and no statement timeout.  Take
#   no lock on `content`, `arrival` or `result` for longer than a blink: no rewrite of a table, and
#   new CHECK or FOREIGN KEY constraints NOT VALID first.
# - It runs on SQLite and PostgreSQL; `op.get_bind().dialect.name` tells which.  SQLite adds
#   a column in place, its CHECK with it; all else needs `op.batch_alter_table`, and a table under a
#   view only after the view is dropped.
# - Views, triggers and data are written out here, never imported from `xray_batch.schema`: this
#   file must do the same in ten years.
# - The views `results` and `accounting` are a promise to the outside: a changed or removed column
#   needs an entry in CHANGELOG.md.
# - There is no way back: a downgrade is a restored backup.

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """${message}."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
