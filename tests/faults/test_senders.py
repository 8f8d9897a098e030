"""Senders of all kinds, slow ones and ones that change their minds: what they leave is taken once, and whole."""

import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from dicom_factory import RAMP, write_dicom
from engines import on_sqlite
from fault_checker import check, expected, sha256_of
from fault_drops import MARKER, Burst
from installed_command import WatchedFolder, make_films

from xray_batch.revisions import open_database

SEED = int(os.environ.get("FAULT_SEED", "20261132"))

#: Names that file systems allow and people do not expect, or that mean something to a shell, to SQL or to Windows.
ODD_NAMES = (
    b"x" * 251 + b".png",
    "\N{LATIN SMALL LETTER E WITH ACUTE}".encode() * 125 + b".png",
    b"\xff\xfe\x80.png",
    b"two\nlines.png",
    b"-rf",
    b"CON",
    b"film.png.",
    b"Twin.png",
    b"tWIN.png",
    b" ",
    b"\\",
    b"*?[a].png",
    b"%s%n{0}",
    b"'; DROP TABLE arrival; --",
    b"=HYPERLINK(1)",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.mlif".encode(),
    b"\x1b[2J.png",
    b"film.reason.json.png",
)


def finish(service: WatchedFolder, burst: Burst) -> None:
    """Wait until all is done, stop the service and check."""
    service.wait_until(lambda: service.accounting() == expected(burst))
    service.wait_until_idle(burst.dropped.total())
    assert service.stop() == 0
    check(burst, service.database_url, [service.log])
    assert "Traceback" not in service.log


@pytest.fixture
def burst(service):
    """Start a service, and count what it is sent."""
    service.start(XRAY_BATCH_INCOMPLETE_SECONDS="60")
    service.wait_until_ready()
    return Burst(service.home, SEED)


def study(folder: Path, films: list[Path], burst: Burst) -> Path:
    """Make a folder of films, some of them deep in it, and count them as sent."""
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    for number, film in enumerate(films):
        shutil.copy(film, (deep if number % 2 else folder) / f"{MARKER}-{number}.png")
        burst.dropped[sha256_of(film)] += 1
    return folder


@on_sqlite
def test_programs_that_people_use(service, burst, tmp_path):
    """Folders sent by cp, mv, tar, install and rsync arrive, every film once."""
    films = make_films(tmp_path / "films", 30)
    copied, moved, packed, placed, synced = (
        study(tmp_path / name, films[start : start + 6], burst)
        for start, name in zip(range(0, 30, 6), ("copied", "moved", "packed", "placed", "synced"), strict=True)
    )
    inbox = os.fspath(service.inbox)
    run = lambda *command: subprocess.run(command, check=True)  # noqa: E731
    run("cp", "-r", copied, inbox)
    run("mv", moved, inbox)
    run("tar", "-cf", tmp_path / "packed.tar", "-C", tmp_path, packed.name)
    run("tar", "-xf", tmp_path / "packed.tar", "-C", inbox)
    for path in sorted(placed.rglob("*.png")):
        run("install", "-D", path, service.inbox / "placed" / path.relative_to(placed))
    if shutil.which("rsync"):
        run("rsync", "-a", f"{synced}", inbox)
    else:
        run("cp", "-a", synced, inbox)
    finish(service, burst)


@on_sqlite
def test_odd_names(service, burst, tmp_path):
    """A film of any name is answered and filed, below its own folder."""
    for film, name in zip(make_films(tmp_path / "films", len(ODD_NAMES)), ODD_NAMES, strict=True):
        burst.dropped[sha256_of(film)] += 1
        film.rename(service.inbox / os.fsdecode(name))
    finish(service, burst)


@on_sqlite
def test_slow_writers(service, burst, tmp_path):
    """Pauses of three settle times within a film, its file open or closed meanwhile, cut none short."""
    films = make_films(tmp_path / "films", 24)

    def write(film: Path, *, stays_open: bool) -> None:
        content, place = film.read_bytes(), service.inbox / film.name
        third = len(content) // 3 + 1
        with place.open("xb", buffering=0) as file:
            for start in range(0, len(content), third):
                if stays_open or start == 0:
                    file.write(content[start : start + third])
                    writer = file
                else:
                    writer.close()
                    time.sleep(1.0)  # three settle times
                    writer = place.open("ab", buffering=0)
                    writer.write(content[start : start + third])
                time.sleep(0.9)
            writer.close()

    writers = [
        threading.Thread(target=write, args=(film,), kwargs={"stays_open": bool(number % 2)})
        for number, film in enumerate(films)
    ]
    for film, writer in zip(films, writers, strict=True):
        burst.dropped[sha256_of(film)] += 1
        writer.start()
    for writer in writers:
        writer.join()
    finish(service, burst)


@on_sqlite
def test_a_writer_that_keeps_its_file_open(service, burst, tmp_path):
    """Films that are whole, renamed and still open wait; what their writers add in the end is part of the answer."""
    held = []
    for film in make_films(tmp_path / "films", 5):
        file = (service.inbox / f"{film.name}.part").open("wb", buffering=0)
        file.write(film.read_bytes())
        (service.inbox / f"{film.name}.part").rename(service.inbox / film.name)
        held.append(file)
    time.sleep(3)  # ten settle times
    assert service.accounting().arrivals == 0
    for number, file in enumerate(held):
        file.write(b"late %d" % number)
        file.close()
    for path in service.inbox.iterdir():
        with path.open("rb") as file:  # the service may take it at any moment from now on
            burst.dropped[sha256_of(Path(f"/proc/self/fd/{file.fileno()}"))] += 1
    finish(service, burst)


@on_sqlite
def test_files_that_vanish_or_are_replaced(service, burst, tmp_path):
    """Senders take their films away, rename them or put others in their place while the service looks at them."""
    chance = random.Random(SEED)
    films = make_films(tmp_path / "films", 240)
    away = tmp_path / "away"
    away.mkdir()
    perhaps: list[str] = []  #: replaced, before or after they were taken

    def change_mind(place: Path, sha256: str, other: Path) -> None:
        change = chance.randrange(3)
        if change == 0:
            burst.dropped[sha256_of(other)] += 1
            perhaps.append(sha256)
            other.replace(place)
            return
        try:
            place.rename(away / place.name if change == 1 else service.inbox / f"renamed-{place.name}")
        except FileNotFoundError:  # the service was faster
            change = 2
        burst.dropped[sha256] += change == 2

    sent: list[tuple[Path, str, Path]] = []
    for film, other in zip(films[::2], films[1::2], strict=True):
        place = service.inbox / film.name
        sent.append((place, sha256_of(film), other))
        if chance.random() < 0.5:
            film.rename(place)  # taken at once
        else:
            place.write_bytes(film.read_bytes())  # has to settle
        time.sleep(chance.random() / 20)
        if len(sent) > 15:  # sent about a settle time ago
            change_mind(*sent.pop(0))
    for film_sent in sent:
        change_mind(*film_sent)
    service.wait_until(lambda: not any(path.is_file() for path in service.inbox.iterdir()))
    service.wait_until_idle(1)
    engine = open_database(service.database_url)
    with engine.connect() as connection:
        arrived = set(connection.scalars(sa.text("SELECT content_sha256 FROM arrival")))
    engine.dispose()
    taken = [sha256 for sha256 in perhaps if sha256 in arrived]
    burst.dropped.update(taken)
    burst.dropped = +burst.dropped  # without those that were taken away
    assert 0 < len(taken) < len(perhaps)
    assert any(away.iterdir())
    finish(service, burst)


def test_other_bytes_under_a_known_uid(service, burst, tmp_path):
    """Two films of one SOP Instance UID are both answered and kept, and the later one is flagged."""
    for number in range(2):
        stored = RAMP.stored.copy()
        stored[0, 0] = number
        film = write_dicom(tmp_path / f"{number}.dcm", stored, PatientName=f"{MARKER}^X")
        burst.dropped[sha256_of(film)] += 1
        film.rename(service.inbox / film.name)
        service.wait_until_idle(number + 1)
    warnings = {str(row["source_name"]): str(row["warnings"]) for row in service.results()}
    assert ["uid_conflict" in warnings[name] for name in ("0.dcm", "1.dcm")] == [False, True]
    finish(service, burst)
