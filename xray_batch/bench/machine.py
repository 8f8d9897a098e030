"""What machine this is."""

import os
import platform
from pathlib import Path
from typing import Final

from xray_batch.bench.measures import Machine
from xray_batch.classify import describe_device, select_device
from xray_batch.libraries import COMPUTING, versions
from xray_batch.resources import usable_cores
from xray_batch.settings import Settings

#: Cores that other work may keep busy before it shows in the figures.
_QUIET_LOAD: Final = 0.5


def describe_machine(settings: Settings) -> Machine:
    """Describe this machine; to be asked before it is given work.

    Raises
    ------
    ConfigurationError
        If the device of `settings` cannot be used.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = None
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        device=describe_device(select_device(settings.device)),
        load_average=load,
        is_quiet=load is None or load < _QUIET_LOAD,
        python=platform.python_version(),
        libraries=versions("xray-batch", *COMPUTING),
    )


def machine_lines(machine: Machine) -> list[str]:
    """Describe a machine in three lines for people."""
    load = "unknown" if machine.load_average is None else f"{machine.load_average:.2f}"
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    memory = f"{machine.memory_bytes / (1 << 30):.1f} GiB"
    return [
        f"{machine.cpu}, {machine.cores} cores, {memory}; networks on {machine.device}",
        f"Python {machine.python}, {libraries}",
        f"Load average before: {load}" + ("" if machine.is_quiet else " (not quiet: the figures are too low)"),
    ]


def _cpu_name() -> str:
    """Return the model's name, or the architecture where the kernel names none."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
