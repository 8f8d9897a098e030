"""The service stopped, or refused, at every single change of the disk and of the database.

The loop, the store and the folders are the real ones; the model is played by the bytes of the files.  A
killed service is a process of its own that ends without any clean-up; then an undisturbed one must bring
everything to its end.
"""

import errno
import itertools
import os
import sys
from contextlib import suppress

import pytest
import sqlalchemy as sa
from engines import on_sqlite
from fault_checker import check, expected, sha256_of
from fault_drops import Burst
from fault_points import FaultPoints, die_at, without_renameat2
from installed_command import files_below
from played_pipeline import PlayedPipeline

from xray_batch.errors import DatabaseUnavailableError
from xray_batch.intake import Folders
from xray_batch.logs import configure_logs
from xray_batch.revisions import open_database
from xray_batch.service import Service, Vitals
from xray_batch.service import leases as leases_module
from xray_batch.settings import Settings
from xray_batch.store import Store

pytestmark = pytest.mark.long

#: What is dropped each time, by name: both kinds of answers, a file with the bytes of another, a name that is no text.
NAMES = {b"x.dcm": b"good 1", b"a/\xff/x.dcm": b"good 2", b"again.dcm": b"good 1", b"a/bad": b"bad 1"}

#: More turns than any mess takes to be cleared up.
TURNS = 20


class Site:
    """An installation where every name that is dropped is taken already, by other content."""

    def __init__(self, folder, url):
        self.folders = Folders(folder / "home")
        self.folders.create()
        self.burst = Burst(self.folders.home, 0)
        self.url = url
        self.settings = Settings(home=self.folders.home, database_url=url, settle_seconds=0, disk_floor_mb=0)
        self.engine = open_database(url)
        if self.engine.dialect.name == "sqlite":
            # What a killed process leaves behind does not depend on it.
            sa.event.listen(self.engine, "connect", lambda raw, _record: raw.execute("PRAGMA synchronous = OFF"))
        self.engine.dispose()
        self.drop(0)
        self.finish()

    def drop(self, round_number):
        """Drop the files of one round."""
        for name, content in NAMES.items():
            path = self.folders.inbox / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content + b" of round %d" % round_number)
            self.burst.dropped[sha256_of(path)] += 1
            if content.startswith(b"bad"):
                self.burst.bad.add(sha256_of(path))

    def turn(self):
        """Let a new service take its first turn."""
        store = Store(self.engine)
        store.end_leases()  # whoever held them is dead
        Service(self.folders, PlayedPipeline(), store, self.settings, Vitals())._turn()

    def finish(self):
        """Let undisturbed services bring everything to its end; then no connection is left for a fork to inherit."""
        for _ in range(TURNS):
            self.turn()
            if self._is_done():
                break
        assert self._is_done(), Store(self.engine).accounting()
        self.engine.dispose()

    def _is_done(self):
        waiting = files_below(self.folders.inbox) + files_below(self.folders.spool)
        return not waiting and Store(self.engine).accounting() == expected(self.burst)

    def check(self):
        """Hold everything against what was dropped; no file has two names."""
        check(self.burst, self.url)
        assert not any(path.stat().st_nlink > 1 for path in files_below(self.folders.home))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Let nothing be put off, and only count what is synced: a process that dies takes no written byte with it."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    configure_logs("critical", "json")


@pytest.fixture
def site(tmp_path, database_url):
    """Make an installation; once per engine."""
    site = Site(tmp_path, database_url)
    yield site
    site.engine.dispose()


@pytest.fixture
def _way_of_moving(request, monkeypatch):
    """Go both ways of never replacing a file."""
    if request.param != "renameat2":
        without_renameat2(monkeypatch)


@pytest.mark.parametrize(
    ("database_url", "_way_of_moving"),
    # Which way files are moved does not concern the database.
    [("sqlite", "link and unlink"), ("postgresql", "renameat2")],
    indirect=True,
)
@pytest.mark.usefixtures("_way_of_moving")
def test_killed_at_every_point(site, monkeypatch):
    """Killed at the n-th change, for every n: the next service finishes, and nothing is lost or doubled."""
    for number in itertools.count(1):
        site.drop(number)
        killed = die_at(number, monkeypatch, site.turn)
        site.finish()
        if not killed:
            break
    site.check()
    sys.stdout.write(f"{number - 1} points\n")
    assert number > 80


def test_killed_again_and_again(site, monkeypatch):
    """Killed, and killed during every recovery, each time a little later."""
    site.drop(1)
    runs = itertools.count(1)
    while die_at(next(runs), monkeypatch, site.turn):
        pass
    site.finish()
    site.check()


@on_sqlite
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_refused_at_every_point(site, monkeypatch, number):
    """An error of the disk, or a database that is away, at the n-th change, for every n: the service goes on.

    The error of a commit comes before it, or after: then it is in the database, and the service was not told.
    """

    def fail(kind):
        if kind == "database":
            raise DatabaseUnavailableError("the database is away")
        raise OSError(number, os.strerror(number))

    for call in itertools.count(1):
        site.drop(call)
        with monkeypatch.context() as patch:
            points = FaultPoints(call, fail)
            points.install(patch)
            with suppress(OSError, DatabaseUnavailableError):
                site.turn()
        site.finish()
        if not points.was_met:
            break
    site.check()
    sys.stdout.write(f"{call - 1} points\n")
    assert call > 80
