"""The migrations make the schema that the models describe, on both engines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from engines import on_postgresql

from xray_batch import database, schema
from xray_batch.database import check_file, make_engine, sqlite_may_use_wal
from xray_batch.errors import ConfigurationError, DatabaseRevisionError, DatabaseUnavailableError
from xray_batch.revisions import (
    _alembic_config,
    check_database,
    current_revision,
    head_revision,
    open_database,
    upgrade_database,
)

REPOSITORY = Path(__file__).resolve().parents[2]

POSTGRESQL_SCHEMA = """
SELECT 'column', table_name || '.' || column_name,
       concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default)
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public'
UNION ALL
SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


def describe(url: str) -> set[tuple[str, str, str]]:
    """Return everything the database knows about its schema, but for Alembic's own table."""
    engine = make_engine(url, migrating=True)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            rows = [tuple(row) for row in connection.execute(sa.text(POSTGRESQL_SCHEMA))]
        else:
            found = connection.execute(sa.text("SELECT type, name, sql FROM sqlite_master"))
            rows = [(kind, name, _sorted_parts(kind, sql or "")) for kind, name, sql in found]
    return {row for row in rows if "alembic" not in row[1]}


def _sorted_parts(kind: str, sql: str) -> str:
    """Columns and constraints of a table may be written in any order, and on any lines."""
    if kind != "table":
        return sql
    start, _, body = sql.rpartition(")")[0].partition("(")
    parts = re.split(r",(?![^()]*\))", body)  # at the commas that are in no parentheses
    return "\n".join([start.strip(), *sorted(" ".join(part.split()) for part in parts)])


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database; the test runs once on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty' / 'results.sqlite3'}"
    url: str = request.getfixturevalue("empty_postgresql_url")
    return url


@pytest.fixture
def described_url(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """URL of a database made from the metadata, on the engine of `database_url`."""
    if database_url.startswith("sqlite"):
        url = f"sqlite:///{tmp_path / 'described.sqlite3'}"
    else:
        url = request.getfixturevalue("empty_postgresql_url")
    with make_engine(url, migrating=True).begin() as connection:
        schema.Base.metadata.create_all(connection)
    return url


def execute(url: str, *statements: str) -> None:
    """Run statements in one transaction."""
    with make_engine(url, migrating=True).begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


class TestSchemaEqualsMigrations:
    """What the models describe and what the migrations make."""

    def test_zero_difference(self, database_url, described_url):
        """All migrations together make exactly the tables, views and triggers of the metadata."""
        described = describe(described_url)
        assert described == describe(database_url)
        assert {name for kind, name, _ in described if kind == "view"} == {"results", "accounting"}
        assert any(kind == "trigger" for kind, _, _ in described)

    def test_check_passes(self, database_url):
        """`check_database` finds nothing in a database at the newest revision."""
        check_database(database_url)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ("DROP INDEX ix_instance_patient_id", "ix_instance_patient_id"),
            ("ALTER TABLE instance ADD COLUMN extra TEXT", "extra"),
            ("DROP VIEW accounting", "VIEW accounting"),
        ],
    )
    def test_check_names_the_difference(self, database_url, change, named):
        """`check_database` names a missing index, an added column and a missing view."""
        execute(database_url, change)
        with pytest.raises(DatabaseRevisionError, match=named):
            check_database(database_url)

    def test_check_finds_a_changed_view(self, database_url):
        """A view with the right columns and another condition is a difference."""
        altered = schema.create_view("accounting").replace("'work'", "'duplicate'")
        execute(database_url, "DROP VIEW accounting", altered)
        with pytest.raises(DatabaseRevisionError, match="VIEW accounting"):
            check_database(database_url)

    def test_check_finds_a_missing_trigger(self, database_url):
        """An audit trail that could be changed is a difference."""
        name = "event_no_update" if database_url.startswith("sqlite") else "event_append_only ON event"
        execute(database_url, f"DROP TRIGGER {name}")
        with pytest.raises(DatabaseRevisionError, match="TRIGGER event"):
            check_database(database_url)

    @pytest.mark.parametrize(
        "changes",
        [
            (
                "DROP TRIGGER event_append_only ON event",
                "CREATE FUNCTION harmless() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                "CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event"
                " FOR EACH STATEMENT EXECUTE FUNCTION harmless()",
            ),
            (
                "DROP TRIGGER event_append_only ON event",
                "CREATE SCHEMA other CREATE TABLE event (event_id int)",
                "CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON other.event"
                " FOR EACH STATEMENT EXECUTE FUNCTION event_append_only()",
            ),
            ("ALTER TABLE event DISABLE TRIGGER event_append_only",),
            ("ALTER FUNCTION tally_arrival() SECURITY INVOKER",),
        ],
        ids=["does nothing", "on another table", "disabled", "without its rights"],
    )
    @on_postgresql
    def test_check_finds_a_trigger_that_is_not_what_it_seems(self, database_url, changes):
        """One that only has the right name, or does not act, is a difference."""
        execute(database_url, *changes)
        with pytest.raises(DatabaseRevisionError, match=r"TRIGGER event|FUNCTION tally_arrival"):
            check_database(database_url)

    def test_check_refuses_an_empty_database(self, empty_url):
        """An empty or absent database is not at the newest revision, and is not created."""
        with pytest.raises(DatabaseRevisionError, match="at revision none"):
            check_database(empty_url)
        assert current_revision(empty_url) is None

    def test_check_changes_nothing(self, database_url):
        """`check_database` leaves no trace, whatever it creates to compare."""
        before = describe(database_url)
        check_database(database_url)
        assert describe(database_url) == before


class TestMigrationFiles:
    """What every migration keeps to."""

    @pytest.fixture
    def scripts(self) -> ScriptDirectory:
        """All migrations of the checkout."""
        return ScriptDirectory.from_config(_alembic_config())

    def test_one_line_of_numbered_files(self, scripts):
        """Files are numbered in the order in which they are applied, without branches."""
        names = [Path(script.path).name for script in reversed(list(scripts.walk_revisions()))]
        assert [name[:5] for name in names] == [f"{number:04d}_" for number in range(1, len(names) + 1)]
        assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.py", name) for name in names)

    def test_texts_are_copies(self, scripts):
        """No migration imports the package: it must do the same when the schema has moved on."""
        for script in scripts.walk_revisions():
            assert "xray_batch" not in re.findall(
                r"^(?:import|from) (\w+)", Path(script.path).read_text("utf-8"), re.MULTILINE
            )

    def test_downgrade_is_not_offered(self, database_url):
        """A downgrade is refused and leaves the database as it was."""
        before = describe(database_url)
        engine = make_engine(database_url, migrating=True)
        with engine.connect() as connection, pytest.raises(CommandError, match="restore a backup"):
            command.downgrade(_alembic_config(connection), "base")
        assert describe(database_url) == before
        assert current_revision(database_url) == head_revision()

    def test_developers_configuration(self):
        """Alembic finds the migrations through `pyproject.toml`, without an `alembic.ini`."""
        config = Config(toml_file=REPOSITORY / "pyproject.toml")
        assert ScriptDirectory.from_config(config).get_current_head() == head_revision()


class TestOpening:
    """First use, upgrades and refusals."""

    def test_sqlite_is_created(self, tmp_path):
        """The first use of a SQLite URL makes its folder, a private file and the newest schema."""
        path = tmp_path / "new" / "home" / "results.sqlite3"
        open_database(f"sqlite:///{path}").dispose()
        assert current_revision(f"sqlite:///{path}") == head_revision()
        assert path.stat().st_mode & 0o007 == 0

    def test_postgresql_is_not_migrated(self, empty_postgresql_url):
        """Opening an empty PostgreSQL database is refused with the command that upgrades it."""
        with pytest.raises(DatabaseRevisionError, match=r"revision none.*xray-batch db upgrade"):
            open_database(empty_postgresql_url)
        assert current_revision(empty_postgresql_url) is None

    def test_postgresql_opens_after_the_upgrade(self, empty_postgresql_url):
        """An upgraded PostgreSQL database opens; a second upgrade changes nothing."""
        assert upgrade_database(empty_postgresql_url) == head_revision()
        assert upgrade_database(empty_postgresql_url) == head_revision()
        open_database(empty_postgresql_url).dispose()

    @pytest.mark.parametrize(
        ("search_path", "named"),
        [("ward,public", "here they would go into 'ward'"), ("nowhere", "no schema of this database may be used")],
    )
    def test_another_schema_is_refused(self, empty_postgresql_url, search_path, named):
        """Triggers look for their tables in `public`: elsewhere they would fail at the first film."""
        with make_engine(empty_postgresql_url, migrating=True).begin() as connection:
            connection.execute(sa.text("CREATE SCHEMA ward"))
        url = f"{empty_postgresql_url}?options=-csearch_path%3D{search_path}"
        with pytest.raises(ConfigurationError, match=f"belong in the schema public of a database, but {named}"):
            upgrade_database(url)
        assert current_revision(empty_postgresql_url) is None
        assert upgrade_database(empty_postgresql_url) == head_revision()

    @pytest.mark.parametrize(("encoding", "is_taken"), [("LATIN1", False), ("SQL_ASCII", True)])
    def test_an_encoding_without_some_characters_is_refused(self, postgresql_server, encoding, is_taken):
        """A name that such a database cannot hold would end the service, at every start anew."""
        name = f"in_{encoding.lower()}"
        postgresql_server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'")
        url = postgresql_server.url_of(name)
        if is_taken:
            assert upgrade_database(url) == head_revision()
            return
        with pytest.raises(ConfigurationError, match=f"the database has the encoding {encoding}"):
            upgrade_database(url)
        assert current_revision(url) is None

    def test_unknown_revision_is_refused(self, database_url):
        """A database of a newer version is neither opened nor upgraded, and the revision is named."""
        execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
        for use in (open_database, upgrade_database, check_database):
            with pytest.raises(DatabaseRevisionError, match="revision 9999, which this version does not know"):
                use(database_url)
        assert current_revision(database_url) == "9999"

    def test_two_processes_at_once(self, empty_url):
        """Processes that use an empty database for the first time at the same time all succeed."""
        use = "open_database(url).dispose()" if empty_url.startswith("sqlite") else "upgrade_database(url)"
        program = (
            "import sys; from xray_batch.revisions import *\n"
            f"url = sys.argv[1]; sys.stdin.read(); {use}; print(current_revision(url))"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", program, empty_url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        answers = [process.communicate(timeout=120) for process in processes]
        assert answers == [(f"{head_revision()}\n", "")] * 3

    def test_interrupted_upgrade(self, empty_url, monkeypatch):
        """An upgrade that fails half-way leaves nothing, and the next one succeeds."""
        real = command.upgrade

        def fail_at_the_end(config: Config, revision: str) -> None:
            real(config, revision)
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "upgrade", fail_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            upgrade_database(empty_url)
        assert describe(empty_url) == set()
        monkeypatch.setattr(command, "upgrade", real)
        upgrade_database(empty_url)
        check_database(empty_url)


class TestUrls:
    """What a database URL may be."""

    @pytest.mark.parametrize(
        "url",
        [
            "results.sqlite3",
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///file:x?uri=true",
            "mysql://user:secret@host/name",
            "postgresql+psycopg2://user:secret@host/name",
            "postgresql://user:secret@host:port/name",
            "postgresql://user:top@secret@host/name",
        ],
    )
    def test_unusable_url(self, url):
        """A URL that cannot be used is a configuration error of one sentence without the password."""
        with pytest.raises(ConfigurationError) as refused:
            open_database(url)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_folder_cannot_be_made(self, tmp_path):
        """A SQLite path below a file is a configuration error."""
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigurationError, match="cannot be made"):
            open_database(f"sqlite:///{tmp_path / 'file' / 'results.sqlite3'}")

    def test_file_of_something_else(self, tmp_path):
        """A file that is no SQLite database is refused and left as it is."""
        path = tmp_path / "results.sqlite3"
        path.write_bytes(b"something else " * 100)
        with pytest.raises(ConfigurationError, match="not a SQLite database"):
            open_database(f"sqlite:///{path}")
        assert path.read_bytes() == b"something else " * 100

    def test_damaged_file(self, tmp_path):
        """Damage is found by looking for it and by stumbling over it; the cure is a person's, exit code 78."""
        path = tmp_path / "results.sqlite3"
        url = f"sqlite:///{path}"
        open_database(url).dispose()
        check_file(url)
        content = bytearray(path.read_bytes())
        for page in range(4096, len(content), 4096):
            content[page : page + 64] = b"\xff" * 64
        path.write_bytes(content)
        for use in (check_file, open_database):
            with pytest.raises(ConfigurationError, match="damaged: restore a backup"):
                use(url)

    def test_unreachable_server(self):
        """A PostgreSQL that does not answer is a transient error without the password."""
        with pytest.raises(DatabaseUnavailableError) as refused:
            open_database("postgresql://user:secret@127.0.0.1:1/name")
        assert "secret" not in str(refused.value)


class TestSettings:
    """How connections are set up."""

    @pytest.mark.parametrize(
        ("version", "wal"),
        [
            ((3, 40, 1), False),
            ((3, 44, 5), False),
            ((3, 44, 6), True),
            ((3, 45, 0), False),
            ((3, 50, 6), False),
            ((3, 50, 7), True),
            ((3, 51, 2), False),
            ((3, 51, 3), True),
            ((3, 52, 0), True),
        ],
    )
    def test_wal_only_where_repaired(self, version, wal):
        """The write-ahead log is used only by versions of SQLite without the WAL-reset bug."""
        assert sqlite_may_use_wal(version) is wal

    @pytest.mark.parametrize(("wal", "mode"), [(True, "wal"), (False, "delete")])
    def test_sqlite_settings(self, tmp_path, wal, mode):
        """SQLite commits durably, checks foreign keys and waits for locks."""
        engine = open_database(f"sqlite:///{tmp_path / 'results.sqlite3'}", sqlite_wal=wal)
        with engine.connect() as connection:
            settings = {
                name: connection.scalar(sa.text(f"PRAGMA {name}"))
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        engine.dispose()
        assert settings == {"journal_mode": mode, "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}

    def test_postgresql_settings(self, empty_postgresql_url):
        """PostgreSQL ends hung statements, lock waits and transactions by itself."""
        upgrade_database(empty_postgresql_url)
        engine = open_database(empty_postgresql_url)
        with engine.connect() as connection:
            settings = {
                name: connection.scalar(sa.text(f"SHOW {name}"))
                for name in (
                    "statement_timeout",
                    "lock_timeout",
                    "idle_in_transaction_session_timeout",
                    "application_name",
                    "transaction_isolation",
                )
            }
        engine.dispose()
        assert settings == {
            "statement_timeout": "30s",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "1min",
            "application_name": "xray-batch",
            "transaction_isolation": "read committed",
        }

    def test_journal_mode_of_a_busy_file(self, tmp_path, monkeypatch):
        """A journal mode that another process prevents is a transient error, not an endless wait."""
        url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
        other = open_database(url, sqlite_wal=False)
        monkeypatch.setattr(database, "SQLITE_BUSY_SECONDS", 0.1)
        with other.begin() as connection:
            connection.execute(sa.text("SELECT * FROM content"))
            with pytest.raises(DatabaseUnavailableError, match="journal mode"):
                open_database(url, sqlite_wal=True)
        open_database(url, sqlite_wal=True).dispose()
        other.dispose()
