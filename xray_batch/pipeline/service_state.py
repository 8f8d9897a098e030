"""What only the running service knows, in a file for `xray-batch status` and `doctor` and the operations page."""

import datetime as dt
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from xray_batch.intake import Folders
from xray_batch.processes import start_ticks

#: What a running service says of itself.
SERVICE_FACTS: Final = (
    "pid",
    "scanned_at",
    "watch_mode",
    "watch_rearmed",
    "canary_age_seconds",
    "model_id",
    "device",
    "claiming",
    "breaker_open",
)


def write_service_state(path: Path, **facts: object) -> None:
    """Replace the file by one with these facts, the process and the time of the scan."""
    process = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
    state = {**process, **facts, "scanned_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state), encoding="utf-8")
    partial.replace(path)


def read_service_state(folders: Folders) -> Mapping[str, object] | None:
    """Return what :func:`write_service_state` wrote; None unless that process still lives."""
    try:
        state: Mapping[str, object] = json.loads(folders.service_state.read_text(encoding="utf-8"))
        lives = start_ticks(int(str(state["pid"]))) == int(str(state["start_ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if lives else None
