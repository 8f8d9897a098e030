"""What of the machine this process may use: cores and memory."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

#: The control groups of this process, and where they are mounted; see cgroups(7).
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")

#: See proc(5).
_MEMORY: Final = Path("/proc/meminfo")


def usable_cores() -> int:
    """Return how many cores this process may use at once.

    Those of its affinity mask (sched_setaffinity(2); cpusets of containers), or fewer where a quota of CPU time allows
    fewer: `cpu.max` of its control groups, which systemd's CPUQuota= and containers set (the kernel's
    Documentation/admin-guide/cgroup-v2.rst).  A part of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0))
    return min(cores, cpu_quota() or cores)


def cpu_quota() -> int | None:
    """Return to how many cores a quota of CPU time limits this process, None if none does."""
    return min(_quotas(), default=None)


def available_memory() -> int:
    """Return how many bytes can be had without swapping.

    MemAvailable of proc(5), or less where a limit of the control groups (`memory.max`) leaves less.
    """
    facts = dict(line.split(":") for line in _MEMORY.read_text(encoding="ascii").splitlines())
    available = int(facts["MemAvailable"].removesuffix("kB")) << 10
    return max(0, min([available, *_memory_left()]))


def _quotas() -> Iterator[int]:
    """Yield the quota of each control group that has one, in cores."""
    for group in _groups():
        with suppress(OSError):  # the root has none
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                yield max(1, math.ceil(int(quota) / int(period)))


def _memory_left() -> Iterator[int]:
    """Yield what each control group that has a limit may still take, in bytes; cached files would make way."""
    for group in _groups():
        with suppress(OSError):
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                usage = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                taken = int((group / "memory.current").read_text()) - int(usage["inactive_file"])
                yield int(limit) - taken


def _groups() -> Iterator[Path]:
    """Yield the control groups of version 2 that this process is in, its own first."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            group = _GROUPS / line.removeprefix("0::/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(_GROUPS))
