"""Shares whose server is gone: every call to a file waits, in the kernel, until it is back.

bindfs is the share; stopped by a signal, it answers no call, as a file server that is down on a hard mount.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines import on_postgresql
from fault_checker import check, expected
from fault_drops import Burst
from installed_command import WatchedFolder, files_below
from postgresql_server import free_port

from xray_batch.revisions import open_database
from xray_batch.store import Store

SEED = int(os.environ.get("FAULT_SEED", "20261130"))


@dataclass(frozen=True)
class Share:
    """A mounted folder, and the program that serves it."""

    folder: Path
    server: subprocess.Popen[bytes]

    def hang(self, callers: Collection[int]) -> None:
        """Answer nothing from now on.

        The processes that use the share are held meanwhile, so that none has a call that the server has taken and not
        answered: FUSE waits for such a one even when the caller is killed, which NFS does not.
        """
        for pid in callers:
            freeze(pid)
        freeze(self.server.pid)
        for pid in callers:
            os.kill(pid, signal.SIGCONT)

    def answer(self) -> None:
        """Answer everything, also what has waited."""
        self.server.send_signal(signal.SIGCONT)


def freeze(pid: int) -> None:
    """Stop a process, and wait until each of its threads has ended the call that it was in."""
    os.kill(pid, signal.SIGSTOP)
    while not all(map(is_frozen, Path(f"/proc/{pid}/task").iterdir())):
        time.sleep(0.01)


def is_frozen(task: Path) -> bool:
    """Tell whether a thread is stopped, or has ended: the third field of its `stat`, see proc_pid_stat(5)."""
    try:
        status = (task / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(") ")[2][0] in "TZX"


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """Mount a folder through a program that can be stopped."""
    if shutil.which("bindfs") is None:
        pytest.skip("the package `bindfs` is missing")
    behind, folder = tmp_path / "behind", tmp_path / "share"
    behind.mkdir()
    folder.mkdir()
    server = subprocess.Popen(["bindfs", "-f", behind, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not folder.is_mount():
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.1)
            pytest.skip("mounting by FUSE is not permitted here")
    share = Share(folder, server)
    yield share
    share.answer()
    subprocess.run(["umount", "--lazy", folder], check=True)
    server.wait(60)


@pytest.fixture
def service(share: Share, database_url: str, small_bundle: Path, tmp_path: Path) -> Iterator[WatchedFolder]:
    """Watch a home folder on the share; its database, the bundle and the log are elsewhere."""
    folder = WatchedFolder(share.folder / "home", database_url, logs=tmp_path)
    folder.settings |= {"XRAY_BATCH_BUNDLE": str(small_bundle), "XRAY_BATCH_INCOMPLETE_SECONDS": "2"}
    folder.inbox.mkdir(parents=True)
    yield folder
    share.answer()
    for process in folder.processes:
        process.kill()
        process.wait()


def drop(burst: Burst, count: int) -> None:
    """Drop so many files."""
    for _ in burst.drop(count):
        pass


def workers_of(process: subprocess.Popen[bytes]) -> set[int]:
    """Return the decode workers of a service; it has no other children."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return {int(pid) for children in tasks for pid in children.read_text().split()}


def hang_in_the_middle(service: WatchedFolder, share: Share, burst: Burst) -> set[int]:
    """Drop files, and stop the share before the decode workers can open the first of them; return the workers."""
    (process,) = service.processes
    with closing(Store(open_database(service.database_url))) as store:
        drop(burst, 6)  # so that there is work for two workers
        service.wait_until(lambda: len(workers_of(process)) == 2)
        service.wait_until(lambda: store.accounting() == expected(burst) and not files_below(service.home / "spool"))
        workers = workers_of(process)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        drop(burst, 30)
        service.wait_until(lambda: store.queue_status().leased)
    time.sleep(1)  # from the lease to the worker's queue it is milliseconds; should it take longer, the loop hangs, too
    share.hang({process.pid, *workers})
    return workers


def readiness(port: int) -> tuple[int, str]:
    """Ask whether the service is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_share_that_hangs(service, share, tmp_path):
    """In the middle of a burst: the service says so and beats on; back again, every file has its answer.

    Decode workers that wait for the share are ended meanwhile, and no film is given up for it.
    """
    port = free_port()
    burst = Burst(service.home, SEED)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(120)
        process = service.start(
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="8000000",
            XRAY_BATCH_HEALTH_ADDRESS=f"127.0.0.1:{port}",
            XRAY_BATCH_DECODE_SECONDS="10",
            XRAY_BATCH_MAX_ATTEMPTS="1",
        )
        service.wait_until_ready()
        workers = hang_in_the_middle(service, share, burst)
        service.wait_until(lambda: '"the folders do not answer"' in service.log)
        service.wait_until(lambda: workers - workers_of(process))
        systemd.setblocking(False)
        with suppress(BlockingIOError):
            while systemd.recv(100):
                pass
        systemd.settimeout(120)
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    code, said = readiness(port)
    assert (code, "inbox: not usable" in said, "database: ok" in said) == (503, True, True)
    share.answer()
    drop(burst, 10)
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(burst.dropped.total())
    service.wait_until(lambda: readiness(port)[0] == 200)
    assert '"the folders answer again"' in service.log
    assert process.poll() is None
    assert service.stop() == 0
    check(burst, service.database_url, [service.log])
    assert "Traceback" not in service.log


@on_postgresql
def test_told_to_stop_while_the_share_hangs(service, share):
    """The service ends all the same, its leases given back; the next one does the work once the share is back."""
    burst = Burst(service.home, SEED)
    process = service.start(XRAY_BATCH_DRAIN_SECONDS="1")
    service.wait_until_ready()
    hang_in_the_middle(service, share, burst)
    service.wait_until(lambda: '"the folders do not answer"' in service.log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 0
    with closing(Store(open_database(service.database_url))) as store:
        assert not store.queue_status().leased
    share.answer()
    service.start()
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(burst.dropped.total())
    assert service.stop() == 0
    check(burst, service.database_url, [service.log])
