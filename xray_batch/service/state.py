"""What only the running service knows, in a file for `xray-batch status`."""

import datetime as dt
import json
import os
from pathlib import Path


def write_state(path: Path, **facts: object) -> None:
    """Replace the file by one with these facts, the process and the time of the scan."""
    state = {"pid": os.getpid(), **facts, "scanned_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state), encoding="utf-8")
    partial.replace(path)
