"""Disks that are full: nothing more is taken in, the service stays up, and goes on when there is room."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from fault_checker import check, expected
from fault_drops import Burst
from installed_command import WatchedFolder

SEED = int(os.environ.get("FAULT_SEED", "20261129"))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 24 MB, big enough for a burst and the database, and small enough to be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def service(small_disk, small_bundle):
    """Watch a home folder, with its database, on the small disk."""
    folder = WatchedFolder(small_disk / "home", f"sqlite:///{small_disk / 'home' / 'results.sqlite3'}")
    folder.settings |= {"XRAY_BATCH_BUNDLE": str(small_bundle), "XRAY_BATCH_INCOMPLETE_SECONDS": "2"}
    folder.inbox.mkdir(parents=True)
    yield folder
    for process in folder.processes:
        process.kill()
        process.wait()


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk up to so many bytes, while others write to it."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        while not filler.stat().st_size:
            status = os.statvfs(disk)
            with suppress(OSError):  # somebody took a block meanwhile
                os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return filler


@pytest.mark.parametrize("floor_mb", [5120, 0], ids=["stopped at the floor", "without a floor"])
def test_a_full_disk(service, small_disk, floor_mb):
    """Filled in the middle of a burst, to the last block: no film is given up for it; with room all are answered."""
    service.settings["XRAY_BATCH_DISK_FLOOR_MB"] = str(floor_mb)
    burst = Burst(service.home, SEED)
    process = service.start()
    service.wait_until_ready()
    for _ in burst.drop(30):
        pass
    filler = fill(small_disk, leave=0)
    said = "nothing is taken in" if floor_mb else '"event": "interrupted"'
    service.wait_until(lambda: said in service.log)
    assert process.poll() is None
    filler.unlink()
    for _ in burst.drop(10):
        pass
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(40)
    assert process.poll() is None
    assert service.stop() == 0
    check(burst, service.database_url, [service.log])
