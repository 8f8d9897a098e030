"""How many cores of the machine are ours."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: The control groups of this process, and where they are mounted; see cgroups(7).
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")


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


def _quotas() -> Iterator[int]:
    """Yield the quota of each control group that this process is in, in cores."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):  # version 2
            group = _GROUPS / line.removeprefix("0::/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(_GROUPS):
                    yield from _quota_of(folder)


def _quota_of(group: Path) -> Iterator[int]:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except OSError:  # the root has none
        return
    if quota != "max":
        yield max(1, math.ceil(int(quota) / int(period)))
