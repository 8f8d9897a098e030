"""Revision 0006 on a database with a row of revision 0005, on both engines."""

import pytest
import sqlalchemy as sa
from alembic import command

from xray_batch.database import make_engine
from xray_batch.revisions import _alembic_config, check_database, open_database, upgrade_database
from xray_batch.store import Store

AT = "'2026-03-01 08:00:00.000000'"

#: One file, answered, as the version before wrote it.
OLD_ROWS = (
    "INSERT INTO content (content_sha256, size, state, attempts, held_by, queued_at)"
    f" VALUES ('{{sha256}}', 1, 'done', 1, '{{arrival}}', {AT})",
    "INSERT INTO arrival (arrival_id, source_name, content_sha256, size, received_at, disposition, origin)"
    f" VALUES ('{{arrival}}', 'film.dcm', '{{sha256}}', 1, {AT}, 'work', 'in_place')",
    "INSERT INTO result (content_sha256, model_sha256, preprocess_sha256, arrival_id, outcome, p_normal, p_bacterial,"
    " p_viral, p_covid19, threshold_low, threshold_high, disagreement, warnings, classified_at, processing_seconds)"
    " VALUES ('{sha256}', '{model}', '{model}', '{arrival}', 'pneumonia', 0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.125, '',"
    f" {AT}, 0.5)",
)


def write_old_rows(connection, number):
    """Write a file and its answer with the statements of the version before."""
    names = {"sha256": f"{number:064x}", "arrival": f"{number:032x}", "model": f"{0:064x}"}
    for statement in OLD_ROWS:
        connection.execute(sa.text(statement.format(**names)))


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request, tmp_path):
    """URL of a database at revision 0005 with one result."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    else:
        url = request.getfixturevalue("empty_postgresql_url")
    with make_engine(url, migrating=True).begin() as connection:
        command.upgrade(_alembic_config(connection), "0005")
        connection.execute(
            sa.text(
                "INSERT INTO model (model_sha256, model_id, manifest, first_used_at)"
                f" VALUES ('{0:064x}', 'old', '{{}}', {AT})"
            )
        )
        write_old_rows(connection, 1)
    return url


def test_old_rows_are_kept(old_url):
    """A row of the version before has NULL in the new columns, is read like any other, and is counted as before."""
    upgrade_database(old_url)
    check_database(old_url)
    engine = open_database(old_url)
    try:
        (row,) = Store(engine).results()
        counted, tallied = Store(engine).recount()
    finally:
        engine.dispose()
    assert list(row)[-3:] == ["member_probabilities", "input_mean", "input_std"]
    assert list(row.values())[-3:] == [None, None, None]
    assert row["p_pneumonia"] == 0.75
    assert tallied == counted
    assert (counted.arrivals, counted.results) == (1, 1)


def test_an_open_connection_of_the_version_before_goes_on(old_url):
    """A process of the version before writes on, on the connection it had, and its arrivals are counted."""
    with make_engine(old_url, migrating=True).connect() as connection:
        write_old_rows(connection, 2)
        connection.commit()
        upgrade_database(old_url)
        write_old_rows(connection, 3)
        connection.commit()
    engine = open_database(old_url)
    try:
        counted, tallied = Store(engine).recount()
    finally:
        engine.dispose()
    assert tallied == counted
    assert counted.results == 3
