"""A real PostgreSQL server for tests, on the loopback interface."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

SERVER_OPTIONS = {
    # Tests do not need to survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "autovacuum": "off",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSQLServer:
    """A running server; `url_of` names its databases."""

    port: int
    folder: Path
    control: tuple[str, ...]  #: `pg_ctl` with its data folder, as a user whom PostgreSQL accepts
    options: Mapping[str, str]

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement in the maintenance database, outside any transaction."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it and wait until it takes connections; after a crash it recovers first."""
        flags = " ".join(f"-c {name}={value}" for name, value in self.options.items())
        _run([*self.control, "-l", f"{self.folder}/log", "-o", flags, "start"], self.folder)

    def crash(self) -> None:
        """End all of its processes at once; nothing is written any more."""
        _run([*self.control, "-m", "immediate", "stop"], self.folder)


@contextlib.contextmanager
def running_postgresql(options: Mapping[str, str]) -> Iterator[PostgreSQLServer]:
    """Run a server of one's own for a while."""
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("no /usr/lib/postgresql/*/bin/initdb: install the Debian package `postgresql`")
    folder = Path(tempfile.mkdtemp(prefix="xray-batch-postgresql-", dir=_quick_folder()))
    as_user = _unprivileged(folder)
    data = folder / "data"
    initdb = [f"{programs}/initdb", "-D", f"{data}", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    _run([*as_user, *initdb, "--locale=C.UTF-8"], folder)
    port = free_port()
    server = PostgreSQLServer(
        port=port,
        folder=folder,
        control=(*as_user, f"{programs}/pg_ctl", "-D", f"{data}", "-w", "-t", "60"),
        options={
            **options,
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
        },
    )
    try:
        server.start()
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.crash()
        shutil.rmtree(folder, ignore_errors=True)


def _quick_folder() -> Path | None:
    """Return a folder in memory if one has room for a server; None stands for that of temporary files.

    Every test has a database of its own, 300 files that are copied and removed again: half of the time of a short test
    on a disk.
    """
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > 4 << 30 else None


def _postgresql_programs() -> Path | None:
    """Return the newest installed server's folder of programs."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda program: int(program.parts[4]), default=None)
    return None if newest is None else newest.parent


def _unprivileged(folder: Path) -> list[str]:
    """Return the command prefix that drops root, which PostgreSQL refuses to run as."""
    if os.getuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("no user `postgres`, as whom root could start PostgreSQL: install the package `postgresql`")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(command: list[str], folder: Path) -> None:
    """Run a program of PostgreSQL; its output is kept in a file, since the server inherits it."""
    with (folder / "output").open("ab") as output:
        subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT, cwd=folder, timeout=120)


def free_port() -> int:
    """Return a port of the loopback interface that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
