"""Zip archives in the service's loop, and the death of the service at every step of one.

The pipeline is scripted where the model would be, and unpacks as the real one does.  A killed service is a
process of its own that ends without any clean-up; then an undisturbed one must bring everything to its end.
"""

import os
import shutil
import threading
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
from installed_command import files_below
from store_records import make_analysed, make_model
from zip_factory import make_zip, zip_bytes

from xray_batch.decode import open_source
from xray_batch.errors import RejectedInputError
from xray_batch.intake import Folders, UnpackFolder
from xray_batch.logs import configure_logs
from xray_batch.pipeline.engine import Answered, Failure, not_analysed
from xray_batch.pipeline.unpack import Unpacking
from xray_batch.records import Rejection
from xray_batch.revisions import open_database
from xray_batch.service import Service, Vitals
from xray_batch.service import filing as filing_module
from xray_batch.service import leases as leases_module
from xray_batch.service import loop as service_module
from xray_batch.settings import Settings
from xray_batch.store import Store

REPOSITORY = Path(__file__).resolve().parent.parent.parent

MEMBERS = {"A/IM1": b"one", "A/IM2": b"two", "same": b"one"}

KILLED = 9


class UnpackingPipeline:
    """Every file is analysed but zip archives, which are unpacked where the job says so."""

    device = "cpu"

    def __init__(self):
        self.model = make_model()

    def run(self, jobs):
        """Answer each job in a group of its own."""
        for job in jobs:
            yield [self._answer(job)]

    def _answer(self, job):
        try:
            open_source(job.path)
        except RejectedInputError as error:
            if error.reason_code != "zip_archive":
                return Answered(job=job, result=make_analysed())
            refused = Rejection(reason_code=error.reason_code, reason=str(error))
        if job.unpack_in is None:
            return Answered(job=job, result=not_analysed(refused, 0.0))
        end = Unpacking(job.path, job.unpack_in).run()
        if end.rejection is None:
            return Answered(job=job, result=Failure(error=end.failure, transient=end.transient))
        return Answered(job=job, result=not_analysed(end.rejection, 0.0), unpacked=end.unpacked)


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    """Let nothing be put off, and have the processes import the package that is tested."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(service_module, "_BACK_OFF_SECONDS", 0.05)
    monkeypatch.setattr(filing_module, "_TIDY_SECONDS", 0.0)
    configure_logs("error", "json")


@pytest.fixture
def home(tmp_path):
    """Make the folders of an installation."""
    folders = Folders(tmp_path / "home")
    folders.create()
    return folders


def settings_of(folders, url, **others):
    """Return settings under which nothing waits."""
    settings = {"unpack_zip": True, "settle_seconds": 0, "scan_seconds": 0.1, "batch_size": 4, "lease_seconds": 10}
    return Settings(home=folders.home, database_url=url, **(settings | others))


def run_until_idle(folders, url, arrivals, **others):
    """Run the service until so many files arrived and nothing waits; return the account and the rows."""
    settings = settings_of(folders, url, **others)
    with closing(Store(open_database(url))) as store:
        store.end_leases()
        service = Service(folders, UnpackingPipeline(), store, settings, Vitals())
        thread = threading.Thread(target=service.run)
        thread.start()
        try:
            for _ in range(1200):
                accounting = store.accounting()
                waiting = accounting.pending or files_below(folders.inbox) or files_below(folders.spool)
                if accounting.arrivals >= arrivals and not waiting:
                    break
                thread.join(0.05)
        finally:
            service.stop()
            thread.join()
        accounting = store.accounting()
        assert accounting.balances
        assert not accounting.pending
        return accounting, list(store.results())


def run_and_die(folders, url):
    """Run the service in another process, which a patch ends."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException), closing(Store(open_database(url))) as store:
            store.end_leases()
            Service(folders, UnpackingPipeline(), store, settings_of(folders, url), Vitals()).run()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


def names_of(rows):
    """Return what each row is of and what it came to."""
    return {str(row["source_name"]): row["reason_code"] for row in rows}


def test_members_arrive_and_the_archive_has_its_row(home, database_url):
    """Each member has its row, the archive one that counts them; every original is where it belongs."""
    (home.inbox / "ward").mkdir()
    archive = make_zip(home.inbox / "ward" / "study.zip", MEMBERS)
    content = archive.read_bytes()
    accounting, rows = run_until_idle(home, database_url, 4)
    assert (accounting.results, accounting.rejected, accounting.duplicates) == (2, 1, 1)
    members = "ward/study.zip.unpacked"
    named = names_of(rows)
    assert named.pop("ward/study.zip") == "zip_archive"
    assert set(named) < {f"{members}/0001-A_IM1", f"{members}/0002-A_IM2", f"{members}/0003-same"}
    assert "3 files" in next(row["reason"] for row in rows if row["reason_code"])
    assert (home.rejected / "ward" / "study.zip").read_bytes() == content
    kept = files_below(home.processed) + files_below(home.duplicates)
    assert Counter(path.read_bytes() for path in kept) == Counter(MEMBERS.values())
    assert files_below(home.inbox) == []
    assert list(home.spool.iterdir()) == []


def test_an_archive_within_an_archive_is_refused(home, database_url):
    """It has a row of its own, and what it holds has none, however often it is dropped."""
    make_zip(home.inbox / "outer.zip", {"inner.zip": zip_bytes(MEMBERS)})
    accounting, rows = run_until_idle(home, database_url, 2)
    assert (accounting.arrivals, accounting.rejected) == (2, 2)
    assert names_of(rows) == {"outer.zip": "zip_archive", "outer.zip.unpacked/0001-inner.zip": "zip_archive"}


def test_nothing_of_a_refused_archive_arrives(home, database_url):
    """A bomb behind a good film: one arrival, one row, and a film beside it is answered."""
    make_zip(home.inbox / "bomb.zip", {"film": b"one", "bomb": bytes(10_000_000)})
    (home.inbox / "film").write_bytes(b"two")
    accounting, rows = run_until_idle(home, database_url, 2)
    assert (accounting.arrivals, accounting.results) == (2, 1)
    assert names_of(rows) == {"bomb.zip": "too_large", "film": None}
    assert list(home.spool.iterdir()) == []


def test_one_that_was_refused_while_the_setting_was_off(home, database_url):
    """Dropped again with the setting on, it is unpacked although its bytes have an answer."""
    make_zip(home.inbox / "study.zip", MEMBERS)
    accounting, rows = run_until_idle(home, database_url, 1, unpack_zip=False)
    assert (accounting.arrivals, names_of(rows)) == (1, {"study.zip": "zip_archive"})
    shutil.copy(home.rejected / "study.zip", home.inbox / "study.zip")
    accounting, rows = run_until_idle(home, database_url, 5)
    assert (accounting.arrivals, accounting.results, accounting.rejected, accounting.duplicates) == (5, 2, 2, 1)
    assert len(rows) == 3


def _die(*_arguments, **_options):
    os._exit(KILLED)


def _die_after(function):
    def call(*arguments, **options):
        function(*arguments, **options)
        _die()

    return call


#: Where the service dies: the patches, by what has happened to the archive until then.
DEATHS = {
    "nothing": (Unpacking, "run", lambda _real: _die),
    "a folder was made": (Unpacking, "_unpack_into", lambda _real: _die),
    "it is being unpacked": (Unpacking, "_receive", lambda _real: _die),
    "it was unpacked": (Unpacking, "run", _die_after),
    "its members are about to move": (UnpackFolder, "_move", lambda _real: _die),
    "its members are in the inbox": (UnpackFolder, "_move", _die_after),
    "its answer is about to be stored": (Store, "finish", lambda _real: _die),
    "its answer is stored": (Store, "finish", _die_after),
    "it is filed away": (Store, "mark_filed", lambda _real: _die),
}


@pytest.mark.parametrize("after", DEATHS)
def test_killed_at_every_step(home, database_url, monkeypatch, after):
    """Killed, twice, when this had happened: every member and the archive have one row, and nothing is left over."""
    make_zip(home.inbox / "study.zip", MEMBERS)
    owner, name, patch_with = DEATHS[after]
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, patch_with(getattr(owner, name)))
            run_and_die(home, database_url)
    accounting, rows = run_until_idle(home, database_url, 4)
    assert (accounting.results, accounting.rejected, accounting.lost) == (2, 1, 0)
    assert accounting.arrivals == 3 + accounting.duplicates
    assert Counter(row["content_sha256"] for row in rows).most_common(1)[0][1] == 1
    assert len(rows) == 3
    kept = files_below(home.processed) + files_below(home.duplicates)
    assert {path.read_bytes() for path in kept} == set(MEMBERS.values())
    assert len(kept) + 1 == accounting.arrivals
    assert [path.name for path in files_below(home.rejected)] == ["study.zip", "study.zip.reason.json"]
    assert files_below(home.inbox) == []
    assert list(home.spool.iterdir()) == []


def test_a_full_disk_is_waited_out(home, database_url, monkeypatch):
    """When the members cannot be moved at first, the archive is unpacked again and nothing is lost."""
    real, failures = UnpackFolder._move, [OSError(28, "No space left"), OSError(5, "Input/output error")]

    def move(self, place, folders):
        if failures:
            raise failures.pop()
        return real(self, place, folders)

    monkeypatch.setattr(UnpackFolder, "_move", move)
    make_zip(home.inbox / "study.zip", MEMBERS)
    accounting, _ = run_until_idle(home, database_url, 4)
    assert not failures
    assert (accounting.arrivals, accounting.results, accounting.rejected, accounting.duplicates) == (4, 2, 1, 1)
