"""Databases that crash, or that somebody else holds, in the middle of a burst; the services ride it out."""

import os
import sqlite3
import time
from contextlib import closing

import pytest
from conftest import SERVER_OPTIONS, running_postgresql
from fault_checker import check, expected
from fault_drops import Burst
from installed_command import WatchedFolder

from xray_batch.database import upgrade_database

SEED = int(os.environ.get("FAULT_SEED", "20261128"))

#: What survives the crash of all its processes; a power cut is another matter.
DURABLE = SERVER_OPTIONS | {"synchronous_commit": "on", "full_page_writes": "on"}


@pytest.fixture
def server():
    """Run a server that this test alone crashes."""
    with running_postgresql(DURABLE) as server:
        server.execute("CREATE DATABASE results")
        upgrade_database(server.url_of("results"))
        yield server


def crash_in_a_burst(service: WatchedFolder, server, *, files: int, times: int) -> float:
    """Crash the server so many times under two services; return how long the last recovery took."""
    burst = Burst(service.home, SEED)
    running = [service.start() for _ in range(2)]
    service.wait_until_ready(2)
    dropping = burst.drop(files)
    for _ in range(times):
        for _ in range(files // times):
            next(dropping)
        time.sleep(1.0)
        server.crash()
        time.sleep(1.5)
        server.start()
    for _ in dropping:
        pass
    start = time.monotonic()
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(files)
    seconds = time.monotonic() - start
    assert [process.poll() for process in running] == [None, None]  # none was started anew
    assert service.stop() == 0
    running[0].terminate()
    assert running[0].wait(60) == 0
    check(burst, service.database_url, [service.log])
    assert "Traceback" not in service.log
    return seconds


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # not used; the server is the test's own
class TestPostgreSQLCrashes:
    """`pg_ctl stop -m immediate`."""

    def test_in_a_burst(self, service, server):
        """Three crashes: nothing is lost or doubled, and no service has to be started anew."""
        service.database_url = server.url_of("results")
        crash_in_a_burst(service, server, files=120, times=3)

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    def test_again_and_again(self, service, server, capsys):
        """Ten crashes over a thousand files."""
        service.database_url = server.url_of("results")
        seconds = crash_in_a_burst(service, server, files=1000, times=10)
        with capsys.disabled():
            os.write(
                1, f"\nPostgreSQL crashes | 10 times | 1000 files | 0 lost, 0 doubled | idle {seconds:.1f} s\n".encode()
            )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_locked_sqlite_database_is_waited_for(service):
    """Somebody else holds the file for longer than a transaction waits: no attempt is burnt, no file is given up."""
    burst = Burst(service.home, SEED)
    process = service.start()
    service.wait_until_ready()
    with closing(sqlite3.connect(service.database_url.removeprefix("sqlite:///"))) as other:
        other.isolation_level = None
        other.execute("BEGIN EXCLUSIVE")
        for _ in burst.drop(20):
            pass
        service.wait_until(lambda: '"event": "interrupted"' in service.log)
        other.execute("ROLLBACK")
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(20)
    assert process.poll() is None
    assert service.stop() == 0
    check(burst, service.database_url, [service.log])
