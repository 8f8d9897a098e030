"""Nothing is lost or doubled, wherever intake stops.

The loop of SQLite's own tests: a fault at the first call that changes the disk, then at the second, and so
on until a run meets none.  Every faulty run is a process of its own that ends without any clean-up, as with
kill -9; then an undisturbed run must bring everything to its end.

The service is played by :func:`sweep`, with a database of two columns; the order is that of reliability.md,
section 2: claim, hash, commit, file away, commit.
"""

import datetime as dt
import errno
import itertools
import os
import random
import signal
import sqlite3
import time
import uuid
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
from fault_points import FaultPoints, die_at, without_renameat2

from xray_batch.intake import (
    Folders,
    claim,
    claims_in_spool,
    file_away,
    hash_claimed,
    scan,
)
from xray_batch.records import Disposition, Outcome, Unfiled

pytestmark = pytest.mark.long

REASON = "Not an image."

#: What is dropped each time, by name: all three ends, and names that are no text or end like ours.
NAMES = {
    b"x.dcm": b"good 1",
    b"a/\xff/x.dcm": b"good 2",
    b"again.dcm": b"good 1",
    b"a/bad": b"bad 1",
    b"a/bad.reason.json": b"bad 2",
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Make an installation where every name is taken already, by other content.

    Syncing is only counted: what a process left behind does not depend on it.
    """
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    made = Folders(tmp_path / "home")
    made.create()
    with closing(_rows(made)) as rows, rows:
        rows.execute("create table arrival (id primary key, name, sha, at, outcome, path)")
    _drop(made, 0)
    _sweep(made)
    return made


def _rows(folders):
    rows = sqlite3.connect(folders.home.parent / "rows.sqlite3")
    rows.execute("pragma synchronous = off")
    return rows


def _drop(folders, round_number):
    for name, content in NAMES.items():
        path = folders.inbox / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + b" of round %d" % round_number)


def _sweep(folders):
    """Do what the service does, once: take what is there, record it, and file away what is recorded."""
    for file in scan(folders.inbox).files:
        claim(file, folders)
    with closing(_rows(folders)) as rows:
        for claimed in claims_in_spool(folders):
            arrival = hash_claimed(claimed)
            if arrival is not None:
                with rows:
                    _record(rows, arrival, claimed.path.read_bytes())
        for row in rows.execute("select * from arrival where path is null").fetchall():
            _file(rows, folders, *row)


def _record(rows, arrival, content):
    known = rows.execute("select 1 from arrival where sha = ?", (arrival.content_sha256,)).fetchone()
    outcome = Outcome.NOT_ANALYSED if content.startswith(b"bad") else Outcome.NORMAL
    rows.execute(
        "insert or ignore into arrival values (?, ?, ?, ?, ?, null)",
        (
            str(arrival.arrival_id),
            arrival.source_name,
            arrival.content_sha256,
            arrival.received_at.isoformat(),
            None if known else outcome,
        ),
    )


def _file(rows, folders, arrival_id, name, sha, at, outcome, _path):
    unfiled = Unfiled(
        arrival_id=uuid.UUID(arrival_id),
        source_name=name,
        content_sha256=sha,
        received_at=dt.datetime.fromisoformat(at),
        disposition=Disposition.WORK if outcome else Disposition.DUPLICATE,
        outcome=Outcome(outcome) if outcome else None,
        reason_code="unreadable_file",
        reason=REASON,
    )
    path = file_away(folders, unfiled)
    with rows:
        rows.execute("update arrival set path = ? where id = ?", (os.fsencode(path), arrival_id))


def _check(folders, last_round):
    """Every file is in one place, with its bytes and its row, and nothing else is anywhere."""
    rounds = range(last_round + 1)
    drops = [content + b" of round %d" % number for number in rounds for content in NAMES.values()]
    with closing(_rows(folders)) as rows:
        placed = {
            os.fsdecode(path): outcome
            for path, outcome in rows.execute("select path, outcome from arrival where path not null")
        }
        assert rows.execute("select count(*) from arrival").fetchone() == (len(drops),)
    assert len(placed) == len(drops)
    reasons = {f"{path}.reason.json" for path, outcome in placed.items() if outcome == Outcome.NOT_ANALYSED}
    everything = {os.fspath(path) for path in folders.home.rglob("*") if not path.is_dir()}
    assert everything == set(placed) | reasons
    assert Counter(_content(path) for path in placed) == Counter(drops)
    assert all(REASON.encode() in _content(path) for path in reasons)
    assert all(uuid.UUID(folder.name) for folder in folders.spool.iterdir())  # empty ones go in a minute
    assert not any(path.stat().st_nlink > 1 for path in folders.home.rglob("*") if path.is_file())


def _content(path):
    return Path(path).read_bytes()


@pytest.fixture(params=["renameat2", "link and unlink"])
def way_of_moving(request, monkeypatch):
    """Go both ways of never replacing a file."""
    if request.param != "renameat2":
        without_renameat2(monkeypatch)


@pytest.mark.usefixtures("way_of_moving")
def test_killed_at_every_call(folders, monkeypatch):
    """Killed at the n-th change of the disk, for every n: the next run finishes."""
    for number in itertools.count(1):
        _drop(folders, number)
        killed = die_at(number, monkeypatch, lambda: _sweep(folders))
        _sweep(folders)
        if not killed:
            break
    _check(folders, number)  # what was lost or doubled once is so for good
    assert number > 80


@pytest.mark.usefixtures("way_of_moving")
def test_killed_again_and_again(folders, monkeypatch):
    """Killed, and killed during every recovery, each time a little later."""
    _drop(folders, 1)
    runs = itertools.count(1)
    while die_at(next(runs), monkeypatch, lambda: _sweep(folders)):
        pass
    _sweep(folders)
    _check(folders, 1)


@pytest.mark.usefixtures("way_of_moving")
def test_refused_at_every_call(folders, monkeypatch):
    """No permission for the n-th change, for every n: the next run finishes.

    Broken and full disks are in tests/faults/test_fault_points.py, under the real service.
    """

    def fail(_kind):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for call in itertools.count(1):
        _drop(folders, call)
        with monkeypatch.context() as patch:
            points = FaultPoints(call, fail)
            points.install(patch)
            with suppress(OSError):
                _sweep(folders)
        _sweep(folders)
        if not points.was_met:
            break
    _check(folders, call)
    assert call > 80


def test_processes_that_race_take_every_file_once(folders):
    """Three sweepers, one inbox: a rename has one winner, and the others see that the file is gone."""
    names = [f"{number % 7}/{number}.dcm" for number in range(300)]
    for name in names:
        path = folders.inbox / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    children = []
    for _ in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            with suppress(BaseException):
                for file in scan(folders.inbox).files:
                    claim(file, folders)
                status = 0
            os._exit(status)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert sorted(claimed.source_name for claimed in claims_in_spool(folders)) == sorted(names)
    assert scan(folders.inbox).files == ()


def _exchange_for_ever(inbox):
    """Put a file in a folder, and then a link to our own folder in the folder's place, again and again."""
    chance = random.Random(1)
    for number in itertools.count():
        with suppress(OSError):  # the other side takes things away, and puts them back
            # Aside is out of the inbox: thousands of folders there would make each scan slower than the last.
            aside, link = inbox.parent / f".aside{number}", inbox / f".link{number}"
            (inbox / "swap").mkdir()
            (inbox / "swap" / "x.dcm").write_bytes(b"theirs")
            link.symlink_to("..")
            time.sleep(chance.random() / 1000)
            (inbox / "swap").rename(aside)
            link.rename(inbox / "swap")
            time.sleep(chance.random() / 1000)
            (inbox / "swap").unlink()


def test_a_link_swapped_in_by_a_racer_takes_nothing_from_outside(folders):
    """What has the name of what we want, but lies outside the inbox, is neither moved nor read."""
    (folders.home / "x.dcm").write_bytes(b"ours")
    racer = os.fork()
    if racer == 0:
        with suppress(BaseException):
            _exchange_for_ever(folders.inbox)
        os._exit(1)
    claims = misses = 0
    try:
        until = time.monotonic() + 60
        while min(claims, misses) < 200 and time.monotonic() < until:
            for file in scan(folders.inbox).files:
                claimed = claim(file, folders)
                claims, misses = claims + (claimed is not None), misses + (claimed is None)
    finally:
        os.kill(racer, signal.SIGKILL)
        os.waitpid(racer, 0)
    assert min(claims, misses) >= 200
    assert (folders.home / "x.dcm").read_bytes() == b"ours"
    assert {claimed.path.read_bytes() for claimed in claims_in_spool(folders)} == {b"theirs"}
