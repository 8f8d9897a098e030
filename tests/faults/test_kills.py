"""kill -9, SIGTERM and SIGSTOP at random moments of a burst, on SQLite with one process, on PostgreSQL with several."""

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest
from engines import on_postgresql
from fault_checker import check, expected
from fault_drops import Burst
from installed_command import WatchedFolder, catches, run_command
from postgresql_server import free_port

from xray_batch.revisions import open_database
from xray_batch.store import Store

#: Of the draws of a test; another one by the environment, to look for trouble or to repeat it.
SEED = int(os.environ.get("FAULT_SEED", "20261127"))

#: Between two ends, on average.
EVERY_SECONDS = 3.0


def processes_of(service: WatchedFolder, several: int = 3) -> int:
    """Return how many services share the database: `several`, where it allows that."""
    return 1 if service.database_url.startswith("sqlite") else several


def feed(burst: Burst, count: int, seconds: float) -> Iterator[None]:
    """Drop files for some time, evenly; yield in between."""
    start = time.monotonic()
    for number, _ in enumerate(burst.drop(count)):
        while time.monotonic() - start < seconds * number / count:
            yield


def disturb(
    service: WatchedFolder, burst: Burst, *, files: int, times: int, end: signal.Signals, processes: int
) -> None:
    """End one of the services and start it anew, so many times, while files keep coming."""
    chance = random.Random(burst.seed)
    running = [service.start() for _ in range(processes)]
    feeding = feed(burst, files, times * EVERY_SECONDS)
    for _ in range(times):
        until = time.monotonic() + chance.uniform(0.3, 2 * EVERY_SECONDS)
        while time.monotonic() < until:
            next(feeding, None)
            time.sleep(0.005)
        victim = chance.randrange(len(running))
        if end is signal.SIGTERM:  # an interpreter that has hardly begun knows of no signals yet
            service.wait_until(lambda: catches(running[victim].pid, end))  # noqa: B023 - called before it changes
        running[victim].send_signal(end)
        code = running[victim].wait(60)
        assert code == (0 if end is signal.SIGTERM else -end), service.log[-4000:]
        running[victim] = service.start()
    for _ in feeding:
        time.sleep(0.005)


def settle(service: WatchedFolder, burst: Burst) -> float:
    """Wait until all is done; return how many seconds that took."""
    start = time.monotonic()
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(burst.dropped.total())
    return time.monotonic() - start


def judge(service: WatchedFolder, burst: Burst) -> None:
    """Check everything, also what is told to the outside; then end the services."""
    url = {"XRAY_BATCH_DATABASE_URL": service.database_url}
    status = run_command("status", "--home", service.home, **url)
    assert status.code == 0, status.out
    for process in service.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    check(burst, service.database_url, [service.log, status.out, status.err])
    assert "Traceback" not in service.log


def report(what: str, service: WatchedFolder, burst: Burst, *, times: int, processes: int, seconds: float) -> None:
    """Print one line for the table of the README; `pytest -s` shows it."""
    engine = service.database_url.partition(":")[0]
    sys.stdout.write(
        f"\n{what} | {engine}, {processes} process(es) | {times} times | {burst.dropped.total()} files | "
        f"0 lost, 0 doubled | idle {seconds:.1f} s after the last | seed {burst.seed}\n"
    )


def test_killed_again_and_again(service):
    """Nothing is lost or doubled by kill -9 in the middle of a burst."""
    burst = Burst(service.home, SEED)
    disturb(service, burst, files=120, times=6, end=signal.SIGKILL, processes=processes_of(service))
    settle(service, burst)
    judge(service, burst)


@on_postgresql
def test_the_other_takes_over(service):
    """What a service had in hand when it died for good is answered by another, once its leases have ended."""
    burst = Burst(service.home, SEED)
    victim = service.start()
    service.wait_until_ready()
    service.wait_until(lambda: stopped_in_the_middle(service, burst, victim))
    port = free_port()
    service.start(XRAY_BATCH_HEALTH_ADDRESS=f"127.0.0.1:{port}")  # as on another host: the socket is the victim's
    service.wait_until_ready(2)
    victim.kill()
    victim.wait()
    settle(service, burst)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        (taken_over,) = re.findall(r"^xray_lease_expired_total (\S+)$", answer.read().decode(), re.MULTILINE)
    assert float(taken_over) >= 1
    judge(service, burst)


def stopped_in_the_middle(service: WatchedFolder, burst: Burst, victim: subprocess.Popen[bytes]) -> bool:
    """Give a service work and stop it again and again meanwhile; leave it stopped once it has some in hand."""
    for _ in burst.drop(30):
        pass
    with closing(Store(open_database(service.database_url))) as store:
        for _ in range(100):
            victim.send_signal(signal.SIGSTOP)
            if store.queue_status().leased:
                return True
            victim.send_signal(signal.SIGCONT)
            time.sleep(0.01)
    return False


@on_postgresql
def test_fifty_identical_drops(service, tmp_path):
    """Fifty files of the same bytes at once have one answer, and forty-nine are duplicates, all of them kept."""
    burst = Burst(service.home, SEED)
    (sha256,) = burst.drop(1)
    (path,) = [path for path in service.inbox.rglob("*") if path.is_file()]
    for number in range(49):
        (service.inbox / f"again-{number}.png").write_bytes(path.read_bytes())
    burst.dropped[sha256] += 49
    for _ in range(processes_of(service)):
        service.start()
    settle(service, burst)
    judge(service, burst)


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_ended_all_the_time(service, end):
    """Kills, and orderly ends, over two thousand files."""
    times = int(os.environ.get("FAULT_TIMES", "200"))
    burst = Burst(service.home, SEED)
    processes = processes_of(service, several=4)
    disturb(service, burst, files=2000, times=times, end=end, processes=processes)
    seconds = settle(service, burst)
    judge(service, burst)
    report(end.name, service, burst, times=times, processes=processes, seconds=seconds)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@on_postgresql
def test_a_process_that_was_asleep_comes_too_late(service):
    """Stopped for three times its lease and woken, a service cannot store what others have answered meanwhile."""
    burst = Burst(service.home, SEED)
    chance = random.Random(SEED)
    running = [service.start() for _ in range(2)]
    service.wait_until_ready(2)
    feeding = feed(burst, 400, 20 * 33.0)
    for number in itertools.count():
        if number == 20:
            break
        until = time.monotonic() + chance.uniform(0.5, 3.0)
        while time.monotonic() < until:
            next(feeding, None)
            time.sleep(0.005)
        victim = running[number % 2]
        victim.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 30  # three times the lease
        while time.monotonic() < until:
            next(feeding, None)
            time.sleep(0.005)
        victim.send_signal(signal.SIGCONT)
    for _ in feeding:
        time.sleep(0.005)
    seconds = settle(service, burst)
    judge(service, burst)
    report("SIGSTOP", service, burst, times=20, processes=2, seconds=seconds)
