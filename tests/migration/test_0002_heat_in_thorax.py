"""Revision 0002 on a database with rows of revision 0001, on both engines."""

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from xray_batch.database import make_engine
from xray_batch.revisions import (
    _alembic_config,
    check_database,
    current_revision,
    head_revision,
    open_database,
    upgrade_database,
)

#: One file, answered, as the version before wrote it; it may be running while the database is upgraded.
OLD_ROWS = (
    "INSERT INTO content (content_sha256, size, state, attempts, held_by, queued_at)"
    " VALUES ('{sha256}', 1, 'done', 1, '{arrival}', '2026-03-01 08:00:00.000000')",
    "INSERT INTO arrival (arrival_id, source_name, content_sha256, size, received_at, disposition, origin)"
    " VALUES ('{arrival}', 'film.dcm', '{sha256}', 1, '2026-03-01 08:00:00.000000', 'work', 'in_place')",
    "INSERT INTO result (content_sha256, model_sha256, preprocess_sha256, arrival_id, outcome, p_normal, p_bacterial,"
    " p_viral, p_covid19, threshold_low, threshold_high, disagreement, warnings, classified_at, processing_seconds)"
    " VALUES ('{sha256}', '{model}', '{model}', '{arrival}', 'pneumonia', 0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.125, '',"
    " '2026-03-01 09:00:00.000000', 0.5)",
)


def execute(url: str, *statements: str) -> None:
    """Run statements in one transaction."""
    with make_engine(url, migrating=True).begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def write_old_rows(url: str, number: int) -> None:
    """Write a file and its answer with the statements of the version before."""
    names = {"sha256": f"{number:064x}", "arrival": f"{number:032x}", "model": f"{0:064x}"}
    execute(url, *(statement.format(**names) for statement in OLD_ROWS))


def read(url: str, statement: str) -> list[tuple[object, ...]]:
    """Return rows."""
    with make_engine(url, migrating=True).connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request, tmp_path):
    """URL of a database at revision 0001 with one result."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    else:
        url = request.getfixturevalue("empty_postgresql_url")
    with make_engine(url, migrating=True).begin() as connection:
        command.upgrade(_alembic_config(connection), "0001")
    execute(
        url,
        "INSERT INTO model (model_sha256, model_id, manifest, first_used_at)"
        f" VALUES ('{0:064x}', 'old-1.0.0', '{{}}', '2026-03-01 08:00:00.000000')",
    )
    write_old_rows(url, 1)
    return url


def test_old_rows_are_kept(old_url):
    """Rows of the version before keep their numbers and have no share; the schema is that of this version."""
    assert upgrade_database(old_url) == head_revision()
    found = read(old_url, "SELECT result_id, source_name, p_pneumonia, heat_in_thorax FROM results")
    assert found == [(1, "film.dcm", 0.75, None)]
    check_database(old_url)


def test_the_version_before_goes_on_working(old_url):
    """A process of the version before writes and reads on while, and after, the database is upgraded."""
    upgrade_database(old_url)
    write_old_rows(old_url, 2)
    assert read(old_url, "SELECT result_id, processing_seconds FROM results ORDER BY result_id") == [(1, 0.5), (2, 0.5)]


def test_an_id_is_never_used_twice(old_url):
    """The upgrade does not forget that a removed row had a number."""
    execute(old_url, "DELETE FROM result")
    upgrade_database(old_url)
    write_old_rows(old_url, 2)
    assert read(old_url, "SELECT result_id FROM result") == [(2,)]


def test_opening_sqlite_upgrades_it(tmp_path):
    """A SQLite database of the version before is upgraded when it is opened."""
    url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    with make_engine(url, migrating=True).begin() as connection:
        command.upgrade(_alembic_config(connection), "0001")
    open_database(url).dispose()
    assert current_revision(url) == head_revision()


def test_readers_keep_their_right(empty_postgresql_url):
    """A role that may read the view `results` of PostgreSQL may read it after the upgrade."""
    with make_engine(empty_postgresql_url, migrating=True).begin() as connection:
        command.upgrade(_alembic_config(connection), "0001")
    execute(empty_postgresql_url, "CREATE ROLE heat_reader", "GRANT SELECT ON results TO heat_reader")
    try:
        upgrade_database(empty_postgresql_url)
        assert read(empty_postgresql_url, "SELECT has_table_privilege('heat_reader', 'results', 'SELECT')") == [(True,)]
    finally:
        execute(empty_postgresql_url, "DROP OWNED BY heat_reader", "DROP ROLE heat_reader")


def test_there_is_no_way_back(old_url):
    """A downgrade from this revision is refused, and what it holds is still there."""
    upgrade_database(old_url)
    with make_engine(old_url, migrating=True).connect() as connection, pytest.raises(CommandError, match="backup"):
        command.downgrade(_alembic_config(connection), "0001")
    assert current_revision(old_url) == head_revision()
    assert read(old_url, "SELECT heat_in_thorax FROM results") == [(None,)]
