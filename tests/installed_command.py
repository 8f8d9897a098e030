"""The installed command as its users run it: real processes, real signals, the packaged model; and files for it."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dicom_factory import RAMP, chest_dataset, save, write_dicom
from PIL import Image

from xray_batch.demo import sample_files
from xray_batch.records import Accounting
from xray_batch.revisions import open_database
from xray_batch.store import Store

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

#: Generous: the machine may be busy.  No test measures time.
PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Finished:
    """What one command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the JSON objects of stdout, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


def clean_environment(**variables: str) -> dict[str, str]:
    """Return the environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XRAY_BATCH_")}
    return kept | variables


def run_command(
    *arguments: str | Path, cwd: Path | None = None, stdin: IO[str] | None = None, **variables: str
) -> Finished:
    """Run `xray-batch` to its end."""
    command = [sys.executable, "-m", "xray_batch", *map(str, arguments)]
    done = subprocess.run(
        command,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=cwd,
        env=clean_environment(**variables),
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class WatchedFolder:
    """A home folder, its database, and the service processes that a test starts on it."""

    home: Path
    database_url: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)  #: variables of every process
    logs: Path | None = None  #: folder of the log; that of the home folder, unless told otherwise

    @property
    def inbox(self) -> Path:
        """Where the test drops files."""
        return self.home / "inbox"

    def start(self, *through: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start `xray-batch watch`, if need be through another command; its log goes to a file."""
        settings = {"XRAY_BATCH_SETTLE_SECONDS": "0.3", "XRAY_BATCH_SCAN_SECONDS": "0.5"}
        settings |= {"XRAY_BATCH_DATABASE_URL": self.database_url, "XRAY_BATCH_LEASE_SECONDS": "10"} | self.settings
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", "xray_batch", "watch", "--home", str(self.home)],
                stdout=log,
                stderr=log,
                env=clean_environment(**(settings | variables)),
            )
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        """Everything that the processes logged."""
        return self._log_file.read_text(encoding="utf-8")

    @property
    def _log_file(self) -> Path:
        return (self.logs or self.home.parent) / "log"

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the service is to do."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log[-4000:]
            time.sleep(0.2)

    def wait_until_ready(self, times: int = 1) -> None:
        """Wait until the service has said `times` times, over all of its starts, that it is ready."""
        self.wait_until(lambda: self.log.count('"event": "ready"') >= times)

    def wait_until_idle(self, arrivals: int) -> Accounting:
        """Wait until so many files have arrived, and all of them are done and filed away."""
        self.wait_until(lambda: self._is_idle(arrivals))
        return self.accounting()

    def _is_idle(self, arrivals: int) -> bool:
        accounting = self.accounting()
        return accounting.arrivals >= arrivals and not accounting.pending and not files_below(self.home / "spool")

    def accounting(self) -> Accounting:
        """Return the account of the database."""
        with closing(Store(open_database(self.database_url))) as store:
            return store.accounting()

    def results(self) -> list[dict[str, object]]:
        """Return all rows of the view `results`."""
        with closing(Store(open_database(self.database_url))) as store:
            return list(store.results())

    def stop(self) -> int:
        """Send SIGTERM to the last process, once it knows of signals, and return its exit code."""
        process = self.processes[-1]
        self.wait_until(lambda: process.poll() is not None or catches(process.pid, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE_SECONDS)


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal, see proc(5)."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def files_below(folder: Path) -> list[Path]:
    """Return every file below `folder`, sorted."""
    walk = os.walk(folder)  # unlike rglob, it does not mind that a service removes folders meanwhile
    return sorted(path for top, _, names in walk for name in names if (path := Path(top, name)).is_file())


def make_films(folder: Path, count: int) -> list[Path]:
    """Make so many small PNG films that differ: one chest film, cut a little differently each time."""
    folder.mkdir(exist_ok=True)
    film = Image.open(sample_files() / "07-photo.jpeg").convert("L")
    paths = []
    for number in range(count):
        left, top = number % 16, number // 16
        cut = film.resize((128, 128), box=(left, top, film.width - 16 + left, film.height - 16 + top))
        path = folder / f"film-{number:03}.png"
        cut.save(path)
        paths.append(path)
    return paths


def make_bad_files(folder: Path) -> dict[Path, str]:
    """Make files that cannot be analysed, each with the reason code it must get."""
    folder.mkdir(exist_ok=True)
    text = folder / "text.dcm"
    text.write_text("Not an image, whatever its name says.")
    empty = folder / "empty.png"
    empty.touch()
    truncated = write_dicom(folder / "truncated.dcm")
    truncated.write_bytes(truncated.read_bytes()[:-4000])
    bomb = folder / "bomb.png"
    bomb.write_bytes(png_header_of(50_000, 50_000))
    return {
        text: "unreadable_file",
        empty: "empty_file",
        truncated: "truncated",
        bomb: "too_large",
        save(folder / "no-pixels.dcm", chest_dataset(Rows=72, Columns=90)): "pixel_data",
        write_dicom(folder / "ct.dcm", RAMP.stored, Modality="CT", SOPClassUID=CT_IMAGE): "unsupported_modality",
        write_dicom(folder / "lateral.dcm", ViewPosition="LL"): "lateral_view",
        write_dicom(folder / "hand.dcm", BodyPartExamined="HAND"): "not_a_chest",
    }


def png_header_of(width: int, height: int) -> bytes:
    """Return a small PNG that promises a huge image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
