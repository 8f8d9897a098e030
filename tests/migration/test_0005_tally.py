"""Revision 0005 on a database with rows of revision 0004, on both engines."""

import pytest
import sqlalchemy as sa
from alembic import command

from xray_batch.database import make_engine
from xray_batch.revisions import _alembic_config, check_database, open_database, upgrade_database
from xray_batch.store import Store

AT = "'2026-03-01 08:00:00.000000'"


def content(number, state):
    """Return the statement by which the version before records a content."""
    return (
        "INSERT INTO content (content_sha256, size, state, attempts, held_by, queued_at)"
        f" VALUES ('{number:064x}', 1, '{state}', 1, '{number:032x}', {AT})"
    )


def arrival(number, sha256, disposition="work"):
    """Return the statement by which the version before records an arrival."""
    return (
        "INSERT INTO arrival (arrival_id, source_name, content_sha256, size, received_at, disposition, origin)"
        f" VALUES ('{number:032x}', 'film.dcm', '{sha256:064x}', 1, {AT}, '{disposition}', 'in_place')"
    )


def rejection(number):
    """Return the statement by which the version before records that a content was not analysed."""
    return (
        "INSERT INTO result (content_sha256, model_sha256, preprocess_sha256, arrival_id, outcome, reason_code, reason,"
        f" warnings, classified_at, processing_seconds) VALUES ('{number:064x}', '{0:064x}', '{0:064x}',"
        f" '{number:032x}', 'not_analysed', 'truncated', 'short', '', {AT}, 0.5)"
    )


def execute(url, *statements):
    """Run statements in one transaction."""
    with make_engine(url, migrating=True).begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request, tmp_path):
    """URL of a database at revision 0004: one rejected, one duplicate, one that waits, one that is lost."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    else:
        url = request.getfixturevalue("empty_postgresql_url")
    with make_engine(url, migrating=True).begin() as connection:
        command.upgrade(_alembic_config(connection), "0004")
    execute(
        url,
        f"INSERT INTO model (model_sha256, model_id, manifest, first_used_at) VALUES ('{0:064x}', 'old', '{{}}', {AT})",
        *(content(1, "done"), arrival(1, 1), rejection(1)),
        arrival(2, 1, "duplicate"),
        *(content(3, "queued"), arrival(3, 3)),
        *(content(4, "done"), arrival(4, 4)),
    )
    return url


def recount(url):
    """Return both accounts of a database at the newest revision."""
    engine = open_database(url)
    try:
        return Store(engine).recount()
    finally:
        engine.dispose()


def test_what_there_was_is_counted(old_url):
    """The tally begins with every arrival that there is."""
    upgrade_database(old_url)
    check_database(old_url)
    counted, tallied = recount(old_url)
    assert tallied == counted
    assert (counted.arrivals, counted.rejected, counted.duplicates, counted.pending, counted.lost) == (4, 1, 1, 1, 1)


def test_what_the_version_before_writes_is_counted(old_url):
    """A process of the version before knows of no tally, and is counted all the same."""
    upgrade_database(old_url)
    execute(
        old_url,
        *(content(5, "queued"), arrival(5, 5), rejection(5)),
        "UPDATE content SET state = 'done'",
        rejection(4),
    )
    counted, tallied = recount(old_url)
    assert tallied == counted
    assert (counted.arrivals, counted.rejected, counted.pending, counted.lost) == (5, 3, 0, 1)
