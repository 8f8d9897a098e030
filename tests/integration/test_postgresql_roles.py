"""`deploy/postgres/roles.sql`: each of the four roles can do its work, and no more."""

import subprocess
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from installed_command import WatchedFolder, make_bad_files, make_films, run_command
from store_records import make_analysed, make_arrival, make_model, sha256_of
from web_page import running_web

from xray_batch.revisions import check_database, open_database, upgrade_database
from xray_batch.schema import Base
from xray_batch.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = REPOSITORY / "deploy" / "postgres" / "roles.sql"

VIEWS = ["accounting", "results"]
TABLES = [*sorted(Base.metadata.tables), "alembic_version"]
FIRST_COLUMNS = {name: next(iter(table.columns)).name for name, table in Base.metadata.tables.items()}


def apply_roles(url):
    """Run the file as the README does, and return what it says."""
    command = ["psql", "--no-psqlrc", "--dbname", plain(url), "--file", str(ROLES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def plain(url):
    """Return a URL as PostgreSQL's own programs take it."""
    return url.replace("postgresql+psycopg", "postgresql")


def as_role(url, role):
    """Return the URL of another role."""
    return sa.make_url(url).set(username=role).render_as_string(hide_password=False)


@pytest.fixture
def database(empty_postgresql_url):
    """Set a database up as the README says: roles, migration as the owner, roles again."""
    apply_roles(empty_postgresql_url)
    upgrade_database(as_role(empty_postgresql_url, "xray_owner"))
    apply_roles(empty_postgresql_url)
    return empty_postgresql_url


def allowed(url, role, statements):
    """Return the statements that are not refused for want of privileges; nothing that they do is kept."""
    found = []
    with psycopg.connect(plain(as_role(url, role))) as connection:
        for statement in statements:
            try:
                connection.execute(statement)
                found.append(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
            finally:
                connection.rollback()
    return found


def test_one_shot_runs(database, tmp_path):
    """As `xray`, `process`, `results` and `status` do all that they do; the reader sees it in both views."""
    make_films(tmp_path / "films", 2)
    make_bad_files(tmp_path / "films")
    variables = {"XRAY_BATCH_DATABASE_URL": as_role(database, "xray"), "XRAY_BATCH_HOME": str(tmp_path / "home")}
    done = run_command("process", tmp_path / "films", **variables)
    assert done.code == 0, done.err
    rows = run_command("results", "--format", "json", **variables).rows
    assert [row["outcome"] == "not_analysed" for row in rows].count(True) == 8
    assert run_command("status", **variables).code == 0
    with psycopg.connect(plain(as_role(database, "xray_reader"))) as connection:
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (10,)
        assert connection.execute("SELECT arrivals, lost FROM accounting").fetchone() == (10, 0)


def test_the_whole_work_of_the_service(database, tmp_path):
    """As `xray`, the service takes in, classifies and files away, a duplicate and a damaged file among them."""
    home = tmp_path / "home"
    (home / "inbox").mkdir(parents=True)
    film = make_films(tmp_path / "films", 1)[0].read_bytes()
    folder = WatchedFolder(home, as_role(database, "xray"))
    for name, content in (("a.png", film), ("b.png", film), ("c.png", b"no image")):
        (home / "inbox" / name).write_bytes(content)
    folder.start()
    accounting = folder.wait_until_idle(3)
    assert folder.stop() == 0
    assert (accounting.results, accounting.rejected, accounting.duplicates, accounting.lost) == (1, 1, 1, 0)


def test_a_role_without_its_rights_is_told_what_to_run(empty_postgresql_url, tmp_path):
    """Before the grants, and for what only the owner may do, the sentence names roles.sql and the owner."""
    apply_roles(empty_postgresql_url)
    upgrade_database(as_role(empty_postgresql_url, "xray_owner"))
    url = as_role(empty_postgresql_url, "xray")
    for command in (["status"], ["db", "check"]):
        done = run_command(*command, "--home", tmp_path, "--database-url", url)
        assert done.code == 1
        assert done.err.startswith("xray-batch: the role of the database URL has not the rights for this: ")
        assert "deploy/postgres/roles.sql" in done.err
        assert "owns the tables" in done.err
        apply_roles(empty_postgresql_url)


def test_the_owner_migrates(database):
    """What the owner made is what this version expects, and a second upgrade has nothing to do."""
    check_database(as_role(database, "xray_owner"))
    assert upgrade_database(as_role(database, "xray_owner"))


def test_a_superuser_may_migrate_as_the_owner(empty_postgresql_url):
    """The README's way without a password: connect as a superuser and become the owner, who then owns the tables."""
    apply_roles(empty_postgresql_url)
    upgrade_database(f"{empty_postgresql_url}?options=-crole%3Dxray_owner")
    with psycopg.connect(plain(empty_postgresql_url)) as connection:
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [("xray_owner",)]


def test_what_the_service_cannot_do(database):
    """The service's role can change no event, remove no row, and alter nothing."""
    statements = [
        "UPDATE event SET detail = NULL",
        "UPDATE tally SET arrivals = 0",
        "SELECT tally_add('lost', 1)",
        "UPDATE alembic_version SET version_num = '0001'",
        *(f"DELETE FROM {table}" for table in TABLES),
        *(f"TRUNCATE {table} CASCADE" for table in TABLES),
        "ALTER TABLE event DISABLE TRIGGER ALL",
        "ALTER TABLE result ADD COLUMN x integer",
        "DROP TRIGGER event_append_only ON event",
        "CREATE OR REPLACE FUNCTION event_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "DROP TABLE event",
        "DROP VIEW results",
        "CREATE TABLE mine (x integer)",
        "CREATE TEMPORARY TABLE event (x integer)",
        "SET ROLE xray_owner",
    ]
    assert not allowed(database, "xray", statements)


def test_the_service_can_only_add_events(database):
    """It may add and read events, also replace answers, and only read the tally, to the letter."""
    with psycopg.connect(plain(database)) as connection:
        found = connection.execute(
            "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type)"
            " FROM information_schema.role_table_grants"
            " WHERE grantee = 'xray' AND table_name IN ('event', 'result', 'tally')"
            " GROUP BY table_name ORDER BY table_name"
        ).fetchall()
    assert found == [("event", "INSERT SELECT"), ("result", "INSERT SELECT UPDATE"), ("tally", "SELECT")]


def test_the_reader_reads_the_views_and_nothing_else(database):
    """Of all tables and views, the reader reads the two views; what they leave out is not for it."""
    views = [f"SELECT 1 FROM {name}" for name in VIEWS]
    assert allowed(database, "xray_reader", views) == views
    assert allowed(database, "xray_reader", [f"SELECT 1 FROM {name}" for name in TABLES]) == []


def test_the_reader_changes_nothing(database):
    """The reader changes nothing, even where it asks for a transaction that writes."""
    changes = [
        "INSERT INTO event (at, kind) VALUES (now(), 'x')",
        "UPDATE result SET outcome = 'normal'",
        "CREATE TABLE mine (x integer)",
        "CREATE TEMPORARY TABLE mine (x integer)",
        "SET ROLE xray",
    ]
    assert not allowed(database, "xray_reader", [f"SET TRANSACTION READ WRITE; {change}" for change in changes])


def test_the_worklist_page(database, tmp_path):
    """As `xray_web`, the page shows the worklist and exports it, and the audit trail says who was shown a film.

    To have an answer given again is refused, with the reason.
    """
    service = Store(open_database(as_role(database, "xray")))
    service.register_model(make_model())
    service.record_in_place([(make_arrival(), make_analysed(patient_id="PAT-OF-THE-TEST"))], make_model())
    service.close()
    page_url = as_role(database, "xray_web")
    settings = {"XRAY_BATCH_DATABASE_URL": page_url, "XRAY_BATCH_WEB_REQUEUE_USERS": "*"}
    with running_web(tmp_path / "home", tmp_path / "log", **settings) as page:
        for path in ("/worklist", "/worklist?outcome=pneumonia&identifier=pat-of", "/export.csv"):
            answer = page.get(path)
            assert (answer.status, "PAT-OF-THE-TEST" in answer.text) == (200, True), path
        assert page.get("/models/%00").status == 404  # no text of PostgreSQL
        refusal = page.post("/requeue", result="1")
        assert (refusal.status, "may only read the database" in refusal.text) == (403, True)
    viewer = Store(open_database(page_url))
    viewer.add_view(sha256_of("content"), "somebody")
    assert viewer.accounting().lost == 0
    viewer.close()
    with psycopg.connect(plain(database)) as connection:
        seen = connection.execute("SELECT content_sha256, detail FROM event WHERE kind = 'viewed'").fetchall()
    assert seen == [(sha256_of("content"), "somebody")]


def test_the_worklist_page_only_adds_events(database):
    """The page's role reads what its pages show, adds events, and can do nothing else: nobody requeues by it."""
    with psycopg.connect(plain(database)) as connection:
        found = connection.execute(
            "SELECT privilege_type, array_agg(table_name::text ORDER BY table_name)"
            " FROM information_schema.role_table_grants WHERE grantee = 'xray_web' GROUP BY 1 ORDER BY 1"
        ).fetchall()
        timeout = connection.execute("SELECT rolconfig FROM pg_roles WHERE rolname = 'xray_web'").fetchone()
    read = ["accounting", "alembic_version", "arrival", "content", "event", "instance", "model", "result", "results"]
    assert found == [("INSERT", ["event"]), ("SELECT", [*read, "tally"])]
    assert timeout == (["statement_timeout=30s"],)
    statements = [
        *(f"UPDATE {table} SET {column} = {column}" for table, column in sorted(FIRST_COLUMNS.items())),
        *(f"DELETE FROM {table}" for table in TABLES),
        *(f"TRUNCATE {table} CASCADE" for table in TABLES),
        "ALTER TABLE event DISABLE TRIGGER ALL",
        "DROP TABLE event",
        "CREATE TABLE mine (x integer)",
        "CREATE TEMPORARY TABLE mine (x integer)",
        "SET ROLE xray",
    ]
    assert not allowed(database, "xray_web", statements)


def privileges(url):
    """Return who may do what with every table, view and sequence, and with the schema."""
    with psycopg.connect(plain(url)) as connection:
        objects = connection.execute("SELECT relname, relacl::text FROM pg_class WHERE relacl IS NOT NULL ORDER BY 1")
        schema = connection.execute("SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'")
        return objects.fetchall(), schema.fetchall()


def test_again(database):
    """The file may be run again: the privileges are then the same, and it says nothing."""
    before = privileges(database)
    assert apply_roles(database) == ""
    assert privileges(database) == before


def test_a_privilege_too_many_is_taken_back(database):
    """What somebody granted by hand is gone after the file was run again."""
    before = privileges(database)
    with psycopg.connect(plain(database), autocommit=True) as connection:
        connection.execute("GRANT ALL ON event TO xray")
        connection.execute("GRANT SELECT ON result TO xray_reader")
    assert privileges(database) != before
    apply_roles(database)
    assert privileges(database) == before


def test_roles_that_exist_already_can_log_in(database, postgresql_server):
    """A role that somebody made without LOGIN, or locked, is what the file says once it has run."""
    for role in ("xray_owner", "xray", "xray_reader", "xray_web"):
        postgresql_server.execute(f"ALTER ROLE {role} NOLOGIN")
    apply_roles(database)
    for role in ("xray_owner", "xray", "xray_reader", "xray_web"):
        assert allowed(database, role, ["SELECT 1"]) == ["SELECT 1"]
