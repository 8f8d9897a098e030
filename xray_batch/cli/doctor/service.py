"""Checks of the running service and of systemd."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from xray_batch.cli.doctor.check import Level
from xray_batch.cli.options import open_bundle
from xray_batch.errors import BundleError
from xray_batch.settings import Settings

#: There where systemd is the machine's init, see sd_booted(3).
_BOOTED: Final = Path("/run/systemd/system")

_UNIT: Final = "xray-batch.service"

_SYSTEMCTL_SECONDS: Final = 10


def service(settings: Settings) -> tuple[Level, str]:
    """Look whether a service works in the home folder, with the bundle that the settings name by now."""
    from xray_batch.intake import Folders
    from xray_batch.pipeline.service_state import read_service_state

    state = read_service_state(Folders(settings.home))
    if state is None:
        return Level.NOTE, f"no service runs in {settings.home.absolute()}"
    how = f"learns of files by {state['watch_mode']}, last scan {state['scanned_at']}"
    with suppress(BundleError):  # the check of the bundle says so
        configured, used = open_bundle(settings).manifest.model_id, state.get("model_id", "another bundle")
        if used != configured:
            return Level.NOTE, f"runs as process {state['pid']} with {used}, and will with {configured} once restarted"
    return Level.OK, f"runs as process {state['pid']}, {how}"


def systemd(settings: Settings) -> tuple[Level, str]:
    """Ask systemd for the unit."""
    if not _BOOTED.is_dir():
        return Level.NOTE, "this machine is not run by systemd: see to it that something restarts the service"
    names = ("LoadState", "ActiveState", "UnitFileState", "WatchdogUSec")
    command = ["systemctl", "show", _UNIT, f"--property={','.join(names)}"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMCTL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Level.NOTE, f"systemd does not answer ({type(error).__name__})"
    facts = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    if facts.get("LoadState") != "loaded":
        return Level.NOTE, f"there is no unit {_UNIT}: the service is started by other means"
    state = f"{_UNIT} is {facts['ActiveState']} and {facts['UnitFileState']}"
    if facts["ActiveState"] == "failed":
        return Level.PROBLEM, f"{state}: see journalctl -u {_UNIT}"
    if facts["WatchdogUSec"] in ("0", "infinity"):
        return Level.NOTE, f"{state}, without WatchdogSec=: a service that stands still is not restarted"
    return Level.OK, f"{state}, restarted when it stands still for {facts['WatchdogUSec']}"
