"""What of the machine is ours."""

import os
import subprocess
import sys

import pytest

from xray_batch import resources
from xray_batch.pipeline.environment import threads
from xray_batch.resources import available_memory, usable_cores


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Put this process into a control group of a tree of our own, on a machine of 64 cores."""
    (tmp_path / "own").write_text("0::/system.slice/xray-batch.service\n")
    folder = tmp_path / "groups" / "system.slice" / "xray-batch.service"
    folder.mkdir(parents=True)
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(resources, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    return folder


def test_affinity():
    """A process that is bound to one core has one, whatever the machine has."""
    program = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    program += "from xray_batch.resources import available_memory, usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1)]
)
def test_quota(group, quota, count):
    """CPUQuota=200% is two cores; a part of a core counts as one."""
    (group / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == count


def test_quota_of_a_group_above(group):
    """The least of all counts, also that of a slice."""
    (group / "cpu.max").write_text("800000 100000\n")
    (group.parent / "cpu.max").write_text("400000 100000\n")
    assert usable_cores() == 4


@pytest.mark.parametrize("own", ["1:cpu:/docker/1\n", "0::/\n", None])
def test_no_quota_to_be_seen(group, own):
    """Version 1, the root of a container's own tree without a limit, and no /proc at all."""
    if own is None:
        resources._OWN_GROUPS.unlink()
    else:
        resources._OWN_GROUPS.write_text(own)
    assert usable_cores() == 64


def test_threads_of_the_networks(group):
    """They follow a quota, unless the environment says otherwise; without one torch counts by itself."""
    assert threads({}) == {}
    (group / "cpu.max").write_text("400000 100000\n")
    assert threads({}) == {"OMP_NUM_THREADS": "4"}
    assert threads({"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "2"}


def test_available_memory():
    """It is a part of the machine's."""
    assert 1 << 20 < available_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class TestMemory:
    """What can be had without swapping."""

    @pytest.fixture(autouse=True)
    def _machine(self, tmp_path, monkeypatch):
        facts = tmp_path / "meminfo"
        facts.write_text("MemTotal:       16384 kB\nMemAvailable:    8192 kB\n")
        monkeypatch.setattr(resources, "_MEMORY", facts)

    def test_of_the_machine(self, group):
        """Without a limit what the machine has, in bytes."""
        (group / "memory.max").write_text("max\n")
        assert available_memory() == 8192 << 10

    def test_limit(self, group):
        """`docker --memory` and MemoryMax=: what is left, and what the cache of files would give back."""
        (group / "memory.max").write_text(f"{4096 << 10}\n")
        (group / "memory.current").write_text(f"{3072 << 10}\n")
        (group / "memory.stat").write_text(f"anon {1024 << 10}\ninactive_file {2048 << 10}\n")
        assert available_memory() == 3072 << 10
