"""Events of the file system that are lost, not to be had, or not heard: the scan finds every file without them."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import closing

import pytest
from engines import on_sqlite
from fault_checker import check, expected, sha256_of
from fault_drops import MARKER, Burst
from health_client import ask
from installed_command import WatchedFolder, files_below, make_films
from played_pipeline import PlayedPipeline

from xray_batch.intake import Folders, WatchMode
from xray_batch.intake import watcher as watcher_module
from xray_batch.logs import configure_logs
from xray_batch.revisions import open_database
from xray_batch.service import Service, Vitals
from xray_batch.settings import Settings
from xray_batch.store import Store

SEED = int(os.environ.get("FAULT_SEED", "20261131"))

#: More than the kernel keeps for one watch: its queue has 16,384 places unless somebody has changed that.
EVENTS = 60_000


def metric(service: WatchedFolder, name: str) -> float:
    """Ask a running service for one of its figures."""
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", ask(service.home, "/metrics"), re.MULTILINE)
    return float(value)


def finish(service: WatchedFolder, burst: Burst) -> float:
    """Wait until all is done, stop the service and check; return how many seconds the waiting took."""
    start = time.monotonic()
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(burst.dropped.total())
    seconds = time.monotonic() - start
    assert service.stop() == 0
    check(burst, service.database_url, [service.log])
    assert "Traceback" not in service.log
    return seconds


def flood(service: WatchedFolder) -> None:
    """Raise so many events that the kernel throws the rest away, while the service sleeps."""
    for _ in range(EVENTS // 3):
        flicker = service.inbox / ".flicker"
        flicker.touch()
        flicker.unlink()


@on_sqlite
def test_an_overflow(service):
    """Films whose events the kernel has thrown away are found, and later events are heard again."""
    burst = Burst(service.home, SEED)
    process = service.start()
    service.wait_until_ready()
    process.send_signal(signal.SIGSTOP)
    flood(service)
    for _ in burst.drop(40):
        pass
    process.send_signal(signal.SIGCONT)
    service.wait_until(lambda: service.accounting() == expected(burst))
    assert metric(service, 'xray_watch_mode{mode="inotify"}') == 1
    finish(service, burst)


@on_sqlite
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_overflow_of_twenty_thousand_files(service, capsys, monkeypatch, tmp_path):
    """All of them are found; most are copies of one film, so that it is the finding that takes the time."""
    monkeypatch.setattr("installed_command.PATIENCE_SECONDS", 3000)
    burst = Burst(service.home, SEED)
    process = service.start()
    service.wait_until_ready()
    process.send_signal(signal.SIGSTOP)
    film = make_films(tmp_path / "films", 1)[0]
    for number in range(19_000):
        shutil.copy(film, service.inbox / f"{MARKER}-copy-{number}.png")
    burst.dropped[sha256_of(film)] += 19_000
    process.send_signal(signal.SIGCONT)
    for _ in burst.drop(1_000):
        pass
    seconds = finish(service, burst)
    with capsys.disabled():
        os.write(1, f"\ninotify overflow | 20000 files | 0 lost, 0 doubled | idle {seconds:.0f} s | {SEED}\n".encode())


@on_sqlite
@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_no_watch_to_be_had_at_the_start(service, limit):
    """Where the user has no watches left the service starts, says that it polls, and takes every film."""
    limited = ("unshare", "--user", "--map-root-user", "sh", "-c", f'echo 0 > /proc/sys/user/{limit}; exec "$@"', "sh")
    if subprocess.run([*limited, "true"], capture_output=True).returncode or os.getuid():
        pytest.skip("namespaces of users cannot be made here")
    burst = Burst(service.home, SEED)
    service.start(*limited)
    service.wait_until_ready()
    assert '"watch_mode": "polling"' in service.log
    for _ in burst.drop(20):
        pass
    service.wait_until(lambda: service.accounting() == expected(burst))
    assert metric(service, 'xray_watch_mode{mode="polling"}') == 1
    finish(service, burst)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is wanted
@pytest.mark.parametrize("end", ["a handler raises", "the threads end"])
def test_a_watch_that_dies_in_a_burst(tmp_path, monkeypatch, end):
    """It is set anew while the service runs, and no film is missed."""
    configure_logs("critical", "json")
    folders = Folders(tmp_path / "home")
    folders.create()
    burst = Burst(folders.home, SEED)
    settings = Settings(home=folders.home, settle_seconds=0.1, scan_seconds=0.2, incomplete_seconds=0)
    url = settings.resolved_database_url
    with closing(Store(open_database(url))) as store:
        service = Service(folders, PlayedPipeline(), store, settings, Vitals())
        watcher = service._watcher
        running = threading.Thread(target=service.run)
        running.start()
        dropping = burst.drop(60)
        for _ in range(20):
            next(dropping)
        wait(lambda: watcher.mode is WatchMode.INOTIFY)
        if end == "a handler raises":
            with monkeypatch.context() as patch:
                patch.setattr(watcher_module._Waker, "_hear", None)
                for _ in range(20):
                    next(dropping)
                wait(lambda: watcher.rearmed)
        else:
            for emitter in watcher._observer.emitters:
                emitter.stop()
        for _ in dropping:
            pass
        wait(lambda: store.accounting().arrivals == burst.dropped.total() and not store.accounting().pending)
        wait(lambda: not files_below(folders.spool))
        wait(lambda: watcher.rearmed and watcher.mode is WatchMode.INOTIFY)
        service.stop()
        running.join()
        assert store.accounting().lost == 0


def wait(condition):
    """Wait for something that a thread is to do."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
