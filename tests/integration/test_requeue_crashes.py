"""Requeue and prune over real folders and a real database, and their death at every change of the disk.

As in `test_intake_crashes`: a fault at the first call that changes the disk, then at the second, and so on until a
run meets none; each faulty run is a process of its own that ends without any clean-up.
"""

import datetime as dt
import hashlib
import itertools
import json
import os
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from store_records import make_analysed, make_model, make_rejected

from xray_batch.database import make_engine, write_transaction
from xray_batch.intake import Folders, claim, claims_in_spool, disk, hash_claimed, scan
from xray_batch.logs import configure_logs
from xray_batch.pipeline.requeue import requeue
from xray_batch.pipeline.retention import prune
from xray_batch.records import Outcome, Rejection
from xray_batch.revisions import upgrade_database
from xray_batch.service.archives import Archives
from xray_batch.service.disk_thread import DiskThread
from xray_batch.service.filing import Filing
from xray_batch.service.metrics import Metrics
from xray_batch.settings import Settings
from xray_batch.store import AnswerSelection, Obstacle, PruneSelection, Store

MODEL = make_model()

#: Everything by which a disk is changed; pathlib calls these too.
CALLS = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync", "chmod", "fchmod")

#: Dropped files: two of one name (the second finds it taken), one whose name is no text, one that is sent twice.
DROPS = [(b"x.dcm", b"one"), (b"x.dcm", b"two"), (b"a/\xff.dcm", b"three"), (b"a/b.dcm", b"four"), (b"c.dcm", b"four")]

#: What successive answers say of every film: rejected, for another reason, analysed, and rejected again.
ANSWERS = [make_rejected("first reason"), make_rejected("second reason"), make_analysed()]

KILLED = 9

EVERYTHING = PruneSelection(
    filed_before=dt.datetime(2100, 1, 1, tzinfo=dt.UTC), folders=("processed", "rejected", "duplicates")
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Only count what is synced: what a process left behind does not depend on it."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    configure_logs("error", "json")


@pytest.fixture
def folders(tmp_path):
    """Make the folders of an installation."""
    made = Folders(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def database(folders):
    """Return the URL of a migrated database."""
    url = f"sqlite:///{folders.home}/results.sqlite3"
    upgrade_database(url)
    return url


@contextmanager
def open_store(database):
    """Open the database, without syncing either."""
    engine = make_engine(database)
    sa.event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous = OFF"))
    with closing(Store(engine)) as store:
        yield store


@pytest.fixture(params=["renameat2", "link and unlink"])
def _way_of_moving(request, monkeypatch):
    """Go both ways of never replacing a file."""
    if request.param != "renameat2":
        monkeypatch.setattr(disk, "_renameat2", _refuse)


def _refuse(*_arguments):
    raise OSError(22, "Invalid argument")


def drop(folders, store, drops=DROPS):
    """Take all drops in and record them."""
    for name, content in drops:
        path = folders.inbox / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        (file,) = scan(folders.inbox).files
        claim(file, folders)
    store.register_model(MODEL)
    store.add_arrivals([hash_claimed(claimed) for claimed in claims_in_spool(folders)], MODEL)


def answer(store, finished):
    """Answer everything that is queued, all alike."""
    leases = store.lease(limit=100, lease_seconds=60)
    assert len(store.finish([(lease, finished) for lease in leases], MODEL)) == 4


def file_away(folders, store):
    """File away as the service does."""
    disk = DiskThread(beat=Mock(), hangs=Mock(), stop_at=lambda: float("inf"))
    for _ in Filing(folders, store, Archives(folders, Settings(home=folders.home), disk), Metrics(), disk).run():
        pass
    disk.stop()


def run_and_die(database, number, monkeypatch, work):
    """Do some work in another process that ends at the `number`-th change of the disk; tell whether it did."""
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            counter = itertools.count(1)

            def wrap(function):
                def count(*args, **kwargs):
                    if next(counter) == number:
                        os._exit(KILLED)
                    return function(*args, **kwargs)

                return count

            with open_store(database) as store:
                for name in CALLS:
                    monkeypatch.setattr(os, name, wrap(getattr(os, name)))
                monkeypatch.setattr(disk, "_renameat2", wrap(disk._renameat2))
                work(store)
                status = 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def files(folders):
    """Return every file of the installation but the database, relative to the home folder."""
    found = [path for path in folders.home.rglob("*") if path.is_file() and not path.name.startswith("results.sqlite3")]
    return {os.fspath(path.relative_to(folders.home)): path.read_bytes() for path in found}


def rows(store, statement):
    """Read rows of the tables themselves."""
    with store._engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def check_filed(folders, store, finished):
    """Every file is in the folder of its answer, with its bytes, its row and its reason, and nothing else is there."""
    found = files(folders)
    reasons = {path: json.loads(text) for path, text in found.items() if path.endswith(".reason.json")}
    originals = {path: content for path, content in found.items() if path not in reasons}
    assert Counter(originals.values()) == Counter(content for _, content in DROPS)
    rejected = isinstance(finished.answer, Rejection)
    places = Counter(path.partition("/")[0] for path in originals)
    assert places == {"rejected" if rejected else "processed": 4, "duplicates": 1}
    assert {f"{path}.reason.json" for path in originals if path.startswith("rejected/")} == set(reasons)
    assert all(reason["reason"] == finished.answer.reason for reason in reasons.values())
    paths = [path for (path,) in rows(store, "SELECT filed_path FROM arrival WHERE previous_path IS NULL")]
    assert sorted(paths) == sorted(
        path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for path in originals
    )
    assert store.accounting().balances
    assert store.unfiled(10) == []


@pytest.mark.long
@pytest.mark.usefixtures("_way_of_moving")
def test_filing_once_more_killed_at_every_call(folders, database, monkeypatch):
    """Killed at the n-th change of the disk, for every n and every change of the answer: the next run finishes."""
    with open_store(database) as store:
        drop(folders, store)
        answer(store, ANSWERS[0])
        file_away(folders, store)
        check_filed(folders, store, ANSWERS[0])
        answers = itertools.cycle(ANSWERS[1:] + ANSWERS[:1])
        undisturbed = 0
        for round_number in itertools.count():
            number, finished = round_number // len(ANSWERS) + 1, next(answers)
            assert requeue(store, folders, AnswerSelection()).queued == 4
            answer(store, finished)
            killed = run_and_die(database, number, monkeypatch, lambda store: file_away(folders, store))
            file_away(folders, store)
            check_filed(folders, store, finished)
            undisturbed = 0 if killed else undisturbed + 1
            if undisturbed == len(ANSWERS):
                break
    assert number > 15


def test_the_way_back_and_forth_leaves_no_second_row(folders, database):
    """Answered many times by one model, each content has one row, and the events tell every answer."""
    with open_store(database) as store:
        drop(folders, store)
        answer(store, ANSWERS[0])
        for finished in ANSWERS[1:]:
            requeue(store, folders, AnswerSelection())  # while it waits to be filed away
            answer(store, finished)
        file_away(folders, store)
        check_filed(folders, store, ANSWERS[-1])
        assert len(list(store.results())) == 4
        ((finished_events,),) = rows(store, "SELECT count(*) FROM event WHERE kind = 'finished'")
        assert finished_events == 4 * len(ANSWERS)


def test_requeue_in_groups_by_limit_and_dry(folders, database):
    """A dry run changes nothing, a limit counts contents, and a repeat goes on with the others."""
    with open_store(database) as store:
        drop(folders, store)
        answer(store, ANSWERS[0])
        file_away(folders, store)
        assert requeue(store, folders, AnswerSelection(), dry_run=True).queued == 4
        assert store.queue_status().queued == 0
        assert requeue(store, folders, AnswerSelection(), limit=3).queued == 3
        report = requeue(store, folders, AnswerSelection())
        assert (report.queued, report.obstacles[Obstacle.IN_WORK]) == (1, 3)


def test_a_removed_original_is_told_before_it_is_queued(folders, database):
    """What somebody removed by hand is not queued: its answer would be lost.  A duplicate of it does as well."""
    with open_store(database) as store:
        drop(folders, store)
        answer(store, ANSWERS[0])
        file_away(folders, store)
        for path in files(folders):
            if path.startswith("rejected/"):
                (folders.home / path).unlink()
        report = requeue(store, folders, AnswerSelection())
        assert (report.queued, report.obstacles[Obstacle.MISSING]) == (1, 3)
        (lease,) = store.lease(limit=5, lease_seconds=60)
        assert lease.filed_path.startswith("duplicates/")


def age(store, days):
    """Let everything have been filed so many days ago."""
    then = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    with write_transaction(store._engine) as connection:
        connection.execute(
            sa.text("UPDATE arrival SET filed_at = :then"), {"then": then.strftime("%Y-%m-%d %H:%M:%S.%f")}
        )


class TestPrune:
    """Originals removed for good."""

    @pytest.fixture
    def store(self, folders, database):
        """Open a store with all drops filed: two rejected, two processed, one duplicate."""
        with open_store(database) as store:
            drop(folders, store)
            leases = store.lease(limit=100, lease_seconds=60)
            answers = [make_rejected("reason"), make_rejected("reason"), make_analysed(), make_analysed()]
            store.finish(list(zip(leases, answers, strict=True)), MODEL)
            file_away(folders, store)
            yield store

    def test_everything(self, folders, store):
        """Files, reasons and empty folders go; rows stay and say so, and the audit trail has an event for each."""
        before = list(store.results())
        report = prune(store, folders, EVERYTHING)
        assert (report.removed, report.bytes) == (5, sum(len(content) for _, content in DROPS))
        assert report.is_complete
        assert files(folders) == {}
        kept = {folder.name for folder in folders.home.iterdir() if folder.is_dir()}
        assert kept == {"inbox", "spool", "processed", "rejected", "duplicates", "bundles"}
        assert not [folder for name in kept - {"inbox"} for folder in (folders.home / name).iterdir()]
        assert list(store.results()) == before
        assert store.accounting().balances
        assert rows(store, "SELECT DISTINCT filed_path, previous_path, filed_at IS NULL FROM arrival") == [
            (None, None, 0)
        ]
        events = rows(store, "SELECT detail, count(*) FROM event WHERE kind = 'pruned' GROUP BY detail ORDER BY detail")
        assert events == [("duplicates", 1), ("processed", 2), ("rejected", 2)]
        again = prune(store, folders, EVERYTHING)
        assert (again.removed, again.is_complete) == (0, True)
        assert store.unfiled(10) == []
        assert requeue(store, folders, AnswerSelection()).obstacles[Obstacle.PRUNED] == 4

    @pytest.mark.long
    def test_killed_at_every_call(self, folders, store, database, monkeypatch):
        """Killed at the n-th change of the disk, for every n: no file goes without its event, the next run ends it."""
        for number in itertools.count(1):
            killed = run_and_die(database, number, monkeypatch, lambda store: prune(store, folders, EVERYTHING))
            if not killed:
                break
            left = {path for path in files(folders) if not path.endswith(".reason.json")}
            known = {path for row in rows(store, "SELECT filed_path, previous_path FROM arrival") for path in row}
            assert {os.fsencode(path).decode("utf-8", "backslashreplace") for path in left} <= known
            ((told,),) = rows(store, "SELECT count(*) FROM event WHERE kind = 'pruned'")
            assert told >= len(DROPS) - len(left)
            # From the beginning again, with new files.
            assert prune(store, folders, EVERYTHING).is_complete
            assert files(folders) == {}
            assert rows(store, "SELECT count(*) FROM arrival WHERE filed_path NOT NULL OR previous_path NOT NULL") == [
                (0,)
            ]
            with write_transaction(store._engine) as connection:
                for table in ("result", "instance", "arrival", "content"):
                    connection.execute(sa.text(f"DELETE FROM {table}"))
                connection.execute(sa.text("DROP TRIGGER event_no_delete"))
                connection.execute(sa.text("DELETE FROM event"))
                connection.execute(
                    sa.text("CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, ''); END")
                )
            drop(folders, store)
            answer(store, ANSWERS[0])
            file_away(folders, store)
        assert number > 15

    @pytest.mark.parametrize("folder", ["processed", "rejected", "duplicates"])
    def test_one_folder(self, folders, store, folder):
        """Only what lies in the named folder goes."""
        before = files(folders)
        prune(store, folders, PruneSelection(filed_before=EVERYTHING.filed_before, folders=(folder,)))
        assert set(files(folders)) == {path for path in before if not path.startswith(f"{folder}/")}

    def test_one_outcome(self, folders, store):
        """Only files with that outcome go; a duplicate has that of its content."""
        before = files(folders)
        selection = PruneSelection(
            filed_before=EVERYTHING.filed_before, folders=EVERYTHING.folders, outcome=Outcome.NOT_ANALYSED
        )
        report = prune(store, folders, selection)
        removed = set(before) - set(files(folders))
        assert {path.partition("/")[0] for path in removed} <= {"rejected", "duplicates"}
        assert report.removed == len([path for path in removed if not path.endswith(".reason.json")]) >= 2

    def test_age(self, folders, store):
        """Only what was filed longer ago goes."""
        age(store, 91)
        young = PruneSelection(filed_before=store.now() - dt.timedelta(days=92), folders=EVERYTHING.folders)
        assert prune(store, folders, young).removed == 0
        old = PruneSelection(filed_before=store.now() - dt.timedelta(days=90), folders=EVERYTHING.folders)
        assert prune(store, folders, old, dry_run=True).removed == 5
        assert len(files(folders)) == 7
        assert prune(store, folders, old).removed == 5

    def test_what_is_in_work_stays(self, folders, store):
        """A requeued content keeps its originals until it is answered."""
        requeue(store, folders, AnswerSelection())
        assert prune(store, folders, EVERYTHING).removed == 0
        assert len(files(folders)) == 7

    def test_what_is_not_the_original_stays(self, folders, store, tmp_path):
        """Changed bytes, a link, a second name and a file that nobody knows are left alone and told."""
        outside = tmp_path / "outside"
        outside.write_bytes(b"four")
        (duplicate,) = [path for path in folders.duplicates.rglob("*") if path.is_file()]
        duplicate.unlink()
        duplicate.symlink_to(outside)
        (folders.rejected / "note.txt").write_text("A note.")
        originals = [
            path for path in files(folders) if path.startswith(("processed/", "rejected/")) and path.endswith(".dcm")
        ]
        (folders.home / originals[0]).write_bytes(b"x" * len((folders.home / originals[0]).read_bytes()))
        os.link(folders.home / originals[1], tmp_path / "second name")
        report = prune(store, folders, EVERYTHING)
        assert (report.removed, report.changed, report.missing) == (2, 2, 1)
        assert outside.read_bytes() == b"four"
        assert {"rejected/note.txt", *originals[:2]} <= set(files(folders))
        assert len(rows(store, "SELECT 1 FROM event WHERE kind = 'pruned'")) == 2

    def test_of_two_names_that_look_alike_one_goes(self, folders, store):
        r"""The database writes the byte FF as the four characters ``\xff``; the bytes tell whose a file is."""
        prune(store, folders, EVERYTHING)
        drop(folders, store, [(b"\xff.dcm", b"byte"), (rb"\xff.dcm", b"text")])
        outcomes = {}
        for outcome in (Outcome.NORMAL, Outcome.PNEUMONIA):
            (lease,) = store.lease(limit=1, lease_seconds=60)
            store.finish([(lease, make_analysed(outcome=outcome))], MODEL)
            outcomes[lease.content_sha256] = outcome
        file_away(folders, store)
        for content in (b"byte", b"text"):
            selection = replace(EVERYTHING, outcome=outcomes[hashlib.sha256(content).hexdigest()])
            report = prune(store, folders, selection)
            assert (report.removed, report.is_complete) == (1, True)
            assert content not in files(folders).values()
            assert len(files(folders)) == (content == b"byte")

    def test_a_link_in_place_of_a_folder_is_not_followed(self, folders, store, tmp_path):
        """A file outside the home folder is not removed, even with the same bytes."""
        (folders.home / "processed").rename(tmp_path / "elsewhere")
        (folders.home / "processed").symlink_to(tmp_path / "elsewhere")
        report = prune(store, folders, EVERYTHING)
        assert (report.removed, report.missing) == (3, 2)
        assert len(list((tmp_path / "elsewhere").rglob("*.dcm"))) == 2

    @pytest.mark.parametrize(
        "path", ["../outside/x.dcm", "processed/../../outside/x.dcm", "inbox/x.dcm", "/etc/hostname"]
    )
    def test_nothing_outside_the_folders_is_removed(self, folders, store, path):
        """Whatever the database says."""
        for place in (folders.home.parent / "outside", folders.inbox):
            place.mkdir(exist_ok=True)
            (place / "x.dcm").write_bytes(b"one")
        with write_transaction(store._engine) as connection:
            sha256 = [row["content_sha256"] for row in store.results()]
            assert sha256
            connection.execute(sa.text("UPDATE arrival SET filed_path = NULL, previous_path = :path"), {"path": path})
        prune(store, folders, EVERYTHING)
        assert (folders.inbox / "x.dcm").exists()
        assert (folders.home.parent / "outside" / "x.dcm").exists()

    def test_two_at_once(self, folders, store, database):
        """Two runs at once remove each original once, with one event each."""
        children = []
        for _ in range(2):
            children.append(os.fork())
            if children[-1] == 0:
                status = 1
                with suppress(BaseException), open_store(database) as mine:
                    prune(mine, folders, EVERYTHING)
                    status = 0
                os._exit(status)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert files(folders) == {}
        assert len(rows(store, "SELECT 1 FROM event WHERE kind = 'pruned'")) == 5
