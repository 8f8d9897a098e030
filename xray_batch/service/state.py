"""What only the running service knows, in a file for `xray-batch status` and `xray-batch doctor`."""

import datetime as dt
import json
import os
from pathlib import Path

from xray_batch.processes import start_ticks


def write_state(path: Path, **facts: object) -> None:
    """Replace the file by one with these facts, the process and the time of the scan."""
    process = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
    state = {**process, **facts, "scanned_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state), encoding="utf-8")
    partial.replace(path)
