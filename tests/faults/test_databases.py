"""Databases that crash, or that somebody else holds, in the middle of a burst; the services ride it out."""

import os
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from engines import on_sqlite
from fault_checker import check, expected
from fault_drops import Burst
from postgresql_server import SERVER_OPTIONS, running_postgresql

from xray_batch.revisions import upgrade_database

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


@pytest.mark.parametrize(
    ("files", "times"),
    [(120, 3), pytest.param(1000, 10, marks=(pytest.mark.soak, pytest.mark.timeout(1800)))],
)
@on_sqlite  # not used; the server is the test's own
def test_crashes_of_postgresql(service, server, files, times):
    """`pg_ctl stop -m immediate` in a burst: nothing is lost or doubled, no service has to be started anew."""
    service.database_url = server.url_of("results")
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
    sys.stdout.write(
        f"\nPostgreSQL crashes | {times} times | {files} files | 0 lost, 0 doubled | idle {seconds:.1f} s\n"
    )


@on_sqlite
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
