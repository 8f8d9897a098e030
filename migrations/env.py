"""Alembic's environment, for the product and for developers.

The product calls Alembic with an open connection (`xray_batch/revisions.py`).  A developer's
`alembic revision --autogenerate` and `alembic check` work on the database of the environment
variable XRAY_BATCH_DATABASE_URL, which must be at the newest revision.
"""

import contextlib
import os
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import context
from alembic.operations.ops import ExecuteSQLOp, MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError

from xray_batch import schema
from xray_batch.database import make_engine


@contextlib.contextmanager
def open_connection() -> Iterator[sa.Connection]:
    """Use the caller's connection, and its transaction, or open one."""
    given = context.config.attributes.get("connection")
    if given is not None:
        yield given
        return
    url = os.environ.get("XRAY_BATCH_DATABASE_URL")
    if not url:
        raise CommandError("set XRAY_BATCH_DATABASE_URL to a scratch database at the newest revision")
    with make_engine(url, migrating=True).begin() as connection:
        yield connection


def add_views_and_triggers(migration: MigrationContext, _revision: object, scripts: list[MigrationScript]) -> None:
    """Complete Alembic's comparison, which knows tables only."""
    if not scripts or scripts[0].upgrade_ops is None or migration.connection is None:
        return
    statements = schema.missing_views_and_triggers(migration.connection)
    scripts[0].upgrade_ops.ops.extend(ExecuteSQLOp(statement) for statement in statements)


def render_plain_type(kind: str, value: object, _context: object) -> str | bool:
    """Write SQLAlchemy's own types into migrations: they must not change with the schema."""
    if kind == "type" and isinstance(value, schema.UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


if context.is_offline_mode():
    raise CommandError("upgrades run on a connection only; --sql is not offered")

with open_connection() as connection:
    context.configure(
        connection=connection,
        target_metadata=schema.Base.metadata,
        render_as_batch=True,  # SQLite cannot alter most things in place
        render_item=render_plain_type,
        process_revision_directives=add_views_and_triggers,
    )
    with context.begin_transaction():
        context.run_migrations()
