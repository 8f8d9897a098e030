"""Fixtures that every level of tests shares: both database engines, and the shared data folder."""

import contextlib
import ctypes
import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import SERVER_OPTIONS, PostgreSQLServer, running_postgresql

from xray_batch.revisions import upgrade_database

# Read when torch is first loaded, here and in every process that a test starts: with two tests at a time on two
# cores, threads of theirs would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: at the end one process would still be at it, and the others idle.

    What forks hundreds of times does so while the test processes are small.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="module", autouse=True)
def _freed_memory_is_given_back() -> Iterator[None]:
    """Shrink after networks: glibc keeps a gigabyte that they freed, and every `fork` copies its page tables."""
    before = _resident_bytes()
    yield
    if _resident_bytes() > before + (200 << 20):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the repository; not everybody has it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: this test needs the real images of the shared data set")
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """Run a real PostgreSQL server for this test session, on the loopback interface."""
    with running_postgresql(SERVER_OPTIONS) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: PostgreSQLServer) -> str:
    """Name of a migrated database to copy."""
    postgresql_server.execute("CREATE DATABASE migrated")
    upgrade_database(postgresql_server.url_of("migrated"))
    return "migrated"


@pytest.fixture
def empty_postgresql_url(postgresql_server: PostgreSQLServer) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    with _database(postgresql_server, "template0") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a fresh, migrated database; the test runs once on each engine."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
        upgrade_database(url)
        yield url
        return
    server = request.getfixturevalue("postgresql_server")
    with _database(server, request.getfixturevalue("postgresql_template")) as url:
        yield url


@contextlib.contextmanager
def _database(server: PostgreSQLServer, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url_of(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
