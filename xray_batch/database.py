"""Database engines, transactions and their errors; `revisions` opens a database for use."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from xray_batch.errors import (
    ConfigurationError,
    DatabaseReadOnlyError,
    DatabaseRefusedError,
    DatabaseUnavailableError,
)
from xray_batch.mounts import is_network

SQLITE_BUSY_SECONDS = 30

#: Sent when a connection starts: a hung client or a lost lock must not stop the others.
POSTGRESQL_OPTIONS = (
    "-c statement_timeout=30s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
)

_DAMAGED = "the file of the SQLite database is damaged: restore a backup"

_NO_RIGHTS = (
    "the role of the database URL has not the rights for this: deploy/postgres/roles.sql gives them, run it after every"
    " migration; `db check` and `db upgrade` are for the role that owns the tables"
)

#: Under which a connection to SQLite keeps what tells its file from another.
_FILE = "xray_batch_file"

#: Execution option: which BEGIN the SQLite connection sends.
BEGIN_MODE = "xray_batch_begin"


def make_engine(url: str, *, migrating: bool = False) -> sa.Engine:
    """Return an engine without looking at the revision; an absent SQLite file is created."""
    parsed = _parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _make_sqlite_engine(parsed, migrating=migrating)
    options = " ".join([POSTGRESQL_OPTIONS, *_as_tuple(parsed.query.get("options"))])
    try:
        _check_postgresql_url(parsed)
        return sa.create_engine(
            parsed,
            pool_pre_ping=True,
            hide_parameters=True,  # they are patient data
            isolation_level="READ COMMITTED",
            poolclass=NullPool if migrating else None,
            connect_args={
                "application_name": "xray-batch",
                "client_encoding": "utf8",
                "connect_timeout": 10,
                "tcp_user_timeout": 30_000,
                "options": options,
            },
        )
    except ImportError as error:
        raise ConfigurationError(f"the PostgreSQL driver psycopg cannot be used: {error}") from error


def sqlite_may_use_wal(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Return whether a version of SQLite may use the write-ahead log.

    Before 3.51.3, and the repaired 3.50.7 and 3.44.6, two connections could lose committed
    transactions or damage the file (https://www.sqlite.org/wal.html, "The WAL-reset bug").
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


# -- transactions -------------------------------------------------------------------------------


@contextlib.contextmanager
def read_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open one transaction that only reads."""
    with translated_errors(), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def write_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open one transaction that writes.

    On SQLite it takes the write lock at once: a reader that starts to write later is told
    "database is locked" without any waiting.
    """
    with translated_errors(), engine.execution_options(**{BEGIN_MODE: "IMMEDIATE"}).begin() as connection:
        yield connection


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the driver's errors as ours, without any value of a row in the message."""
    try:
        yield
    except exc.TimeoutError as error:
        raise DatabaseUnavailableError("every database connection of the pool is in use") from error
    except exc.DBAPIError as error:
        sqlite_error = getattr(error.orig, "sqlite_errorname", "")
        sqlstate = getattr(error.orig, "sqlstate", None)
        if sqlstate == "42501":  # insufficient_privilege
            raise DatabaseRefusedError(_NO_RIGHTS) from None
        if sqlstate == "25006" or sqlite_error.startswith("SQLITE_READONLY"):
            raise DatabaseReadOnlyError(f"the database can only be read: {_first_line(error.orig)}") from error
        if _is_transient(error):
            raise DatabaseUnavailableError(f"the database cannot be used now: {_first_line(error.orig)}") from error
        if sqlite_error == "SQLITE_NOTADB":
            raise ConfigurationError("the file of the database URL is not a SQLite database") from error
        if sqlite_error.startswith("SQLITE_CORRUPT"):
            raise ConfigurationError(_DAMAGED) from error
        # The cause is dropped: PostgreSQL's DETAIL quotes the row that it refused.
        raise DatabaseRefusedError(f"the database refused a statement: {_refusal(error)}") from None


def _is_transient(error: exc.DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(
        error, exc.OperationalError | exc.InterfaceError | exc.InternalError
    )


def _refusal(error: exc.DBAPIError) -> str:
    """Name the broken constraint or the SQLSTATE; SQLite's own messages quote no values."""
    diagnostic = getattr(error.orig, "diag", None)
    if diagnostic is None:
        return _first_line(error.orig)
    return f"{type(error.orig).__name__} {diagnostic.constraint_name or diagnostic.sqlstate or ''}".rstrip()


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


# -- URLs and SQLite ----------------------------------------------------------------------------


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL, None for PostgreSQL."""
    parsed = _parse_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def _parse_url(url: str) -> sa.URL:
    """Read a URL and choose the driver; messages never quote it, it may hold a password."""
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "the database URL cannot be read, expected sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
            raise ConfigurationError("the database URL names no file, expected sqlite:///PATH")
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigurationError(f"the database URL starts with {parsed.drivername}, expected sqlite or postgresql")


def _check_postgresql_url(url: sa.URL) -> None:
    """Refuse what is no host and no option; the driver would say so at each connection, and never go on."""
    from psycopg import ProgrammingError, conninfo

    if "@" in (url.host or ""):  # the end of a password: the driver quotes the host
        raise ConfigurationError("the database URL has more than one @: in a password write it as %40")
    try:
        conninfo.make_conninfo(**{name: ",".join(_as_tuple(value)) for name, value in url.query.items()})
    except ProgrammingError as error:
        raise ConfigurationError(f"the database URL cannot be used: {_first_line(error)}") from None


def _make_sqlite_engine(url: sa.URL, *, migrating: bool) -> sa.Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if is_network(path.parent):
            message = f"{path.parent} is on a network file system; SQLite needs a local disk, or use PostgreSQL"
            raise ConfigurationError(message)
        with contextlib.suppress(FileExistsError):
            # Results are patient data: no access for others.  SQLite's side files get the same mode.
            path.touch(mode=0o640, exist_ok=False)
    except OSError as error:
        raise ConfigurationError(f"the database file {path} cannot be made: {error.strerror}") from error
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        poolclass=NullPool if migrating else None,
        connect_args={"timeout": SQLITE_BUSY_SECONDS},
    )

    @event.listens_for(engine, "do_connect")
    def find(*_: object) -> None:
        if not path.exists():  # SQLite would make an empty one, for all to read
            raise sqlite3.OperationalError("its file is gone")

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        record.info[_FILE] = _identity(path)
        connection.isolation_level = None  # we send BEGIN ourselves, below
        connection.execute("PRAGMA synchronous = FULL")  # less may forget committed work at power loss
        # A migration that rebuilds a table drops the old one: its rows must not count as deleted.
        connection.execute(f"PRAGMA foreign_keys = {'OFF' if migrating else 'ON'}")

    @event.listens_for(engine, "checkout")
    def compare(_connection: sqlite3.Connection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info[_FILE] != _identity(path):  # this ends the connection, the next one is to what is there now
            raise sqlite3.OperationalError("its file was moved or replaced")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get(BEGIN_MODE, "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from another that takes its place."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def check_file(url: str) -> None:
    """Look for damage in the file of a SQLite database; PostgreSQL looks after its own.

    Raises
    ------
    ConfigurationError
        If the file is damaged.
    """
    with translated_errors(), make_engine(url, migrating=True).connect() as connection:
        if connection.dialect.name == "sqlite" and connection.scalar(sa.text("PRAGMA quick_check")) != "ok":
            raise ConfigurationError(_DAMAGED)


def set_journal_mode(engine: sa.Engine, wal: bool) -> None:
    """Switch the file to the wanted journal mode; it is kept in the file.

    Two processes that switch at once: SQLite may refuse one of them without waiting.
    """
    wanted = "wal" if wal else "delete"
    deadline = time.monotonic() + SQLITE_BUSY_SECONDS
    refusal: sqlite3.Error | None = None
    with translated_errors(), contextlib.closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        while True:
            try:
                for pragma in ("PRAGMA journal_mode", f"PRAGMA journal_mode = {wanted}"):
                    if cursor.execute(pragma).fetchone()[0] == wanted:
                        return
            except sqlite3.OperationalError as error:
                refusal = error
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"the journal mode of the database cannot be set to {wanted}: another process uses it"
                ) from refusal
            time.sleep(0.05)


def _as_tuple(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value
