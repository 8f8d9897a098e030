"""Files that are classified where they lie, and that change meanwhile."""

import itertools
import threading
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from store_records import make_analysed, make_model, sha256_of
from zip_factory import make_zip

from xray_batch.pipeline import hashing, in_place
from xray_batch.pipeline.engine import Answered, Failure
from xray_batch.pipeline.in_place import process_in_place
from xray_batch.pipeline.named_files import find_files, read_list
from xray_batch.pipeline.unpack import LIMITS, SECONDS, Unpacking
from xray_batch.records import Accounting
from xray_batch.revisions import open_database
from xray_batch.store import Store


class Tampering:
    """A pipeline before which a file is written into, between its hash and its decoding."""

    def __init__(self, tamper, digest):
        self.model = make_model()
        self._tamper = tamper
        self._digest = digest

    def run(self, jobs, *, wait_seconds):
        """Answer each job for the bytes that it is scripted to have read."""
        for job in jobs:
            self._tamper(job.path)
            yield [Answered(job=job, result=make_analysed(), content_sha256=self._digest)]


@pytest.fixture
def store(tmp_path):
    """Store on a fresh database."""
    with closing(Store(open_database(f"sqlite:///{tmp_path / 'results.sqlite3'}"))) as store:
        yield store


def process(path, store, pipeline, *others, max_attempts=1, unpack_in=None):
    """Classify one file, or some; return the summary of the run, and what failed."""
    failed = {}
    summary = process_in_place(
        [path, *others],
        pipeline,
        store,
        max_attempts=max_attempts,
        on_answers=lambda _: None,
        on_failure=failed.__setitem__,
        unpack_in=unpack_in,
    )
    return summary, failed


@pytest.mark.parametrize(
    ("tamper", "digest"),
    [
        (lambda path: path.write_bytes(b"longer than before"), None),
        (lambda _path: None, sha256_of("others for a moment")),
    ],
    ids=["another size", "other bytes were read"],
)
def test_a_file_that_changes_has_failed(tamper, digest, tmp_path, store):
    """It has no row, neither under its old hash nor under another, and is named with the reason."""
    path = tmp_path / "film.png"
    path.write_bytes(b"before")
    summary, failed = process(path, store, Tampering(tamper, digest))
    assert failed == {path: "the file changed while it was being read"}
    assert (summary.files, summary.failed) == (1, 1)
    assert list(store.results()) == []
    assert store.accounting().arrivals == 0


def test_a_file_that_does_not_change_is_recorded(tmp_path, store):
    """The hash that the decoder reports is that of the file."""
    path = tmp_path / "film.png"
    path.write_bytes(b"before")
    summary, failed = process(path, store, Tampering(lambda _path: None, sha256_of("before")))
    assert (summary.files, summary.failed, failed) == (1, 0, {})
    assert [row["content_sha256"] for row in store.results()] == [sha256_of("before")]


class TestAttempts:
    """What ends abnormally is tried again, at most so many times, and costs no other file its answer."""

    class Scripted:
        """Answers what is called "bad.png" with something else than the others, all of a round together."""

        def __init__(self, result):
            self.model = make_model()
            self.tries = Counter()
            self._result = result

        def run(self, jobs, *, wait_seconds):
            """Answer all jobs in one group."""
            group = []
            for job in jobs:
                self.tries[job.path.name] += 1
                result = self._result if job.path.name == "bad.png" else make_analysed()
                group.append(Answered(job=job, result=result))
            yield group

    @pytest.fixture
    def films(self, tmp_path):
        """Write two files, of which the first is the bad one."""
        paths = [tmp_path / "bad.png", tmp_path / "good.png"]
        for path in paths:
            path.write_text(path.name)
        return paths

    @pytest.mark.parametrize(
        ("transient", "reasons", "why"),
        [
            (False, {"attempts_exhausted", None}, []),
            (True, {None}, ["not done for now (DecoderDiedError)"]),
        ],
        ids=["the file's fault", "the system's fault"],
    )
    def test_at_most_so_many(self, transient, reasons, why, films, store):
        """In the end the file is given up, or left for another run."""
        pipeline = self.Scripted(Failure(error="DecoderDiedError", transient=transient))
        summary, failed = process(films[0], store, pipeline, films[1], max_attempts=3)
        assert pipeline.tries == {"bad.png": 3, "good.png": 1}
        assert {row["reason_code"] for row in store.results()} == reasons
        assert (list(failed.values()), summary.files) == (why, 2)

    def test_an_answer_that_the_database_refuses(self, films, store):
        """Those that were to be recorded together with it are."""
        summary, failed = process(films[0], store, self.Scripted(make_analysed(p_normal=7.0)), films[1])
        assert failed == {films[0]: "the database refused the answer"}
        assert [row["source_name"] for row in store.results()] == [str(films[1])]
        assert summary.files == 2

    @pytest.mark.parametrize(
        ("changes", "rows", "why"),
        [
            ([{"seconds": 0.0}, {}], ["zip_archive", None], []),
            ([{"seconds": 0.0}] * 2, ["attempts_exhausted"], []),
            ([{"free_bytes": 1 << 60}] * 2, [], ["not unpacked for now (OSError)"]),
        ],
        ids=["the second succeeds", "the archive's fault", "the system's fault"],
    )
    def test_of_unpacking(self, changes, rows, why, tmp_path, store, monkeypatch):
        """An archive is tried again likewise, and a member then has its answer."""
        order = iter(changes)

        def next_try(archive, spool):
            limits = next(order).copy()
            seconds = limits.pop("seconds", SECONDS)
            return Unpacking(archive, spool, replace(LIMITS, **limits), seconds)

        monkeypatch.setattr(in_place, "Unpacking", next_try)
        monkeypatch.setenv("PYTHONPATH", str(Path(in_place.__file__).parents[2]))
        archive = make_zip(tmp_path / "study.zip", {"good.png": b"film"})
        _, failed = process(archive, store, self.Scripted(None), max_attempts=2, unpack_in=tmp_path / "spool")
        assert sorted((row["reason_code"] for row in store.results()), key=str, reverse=True) == rows
        assert (list(failed.values()), next(order, None)) == (why, None)
        assert list((tmp_path / "spool").iterdir()) == []


def test_work_begins_while_files_are_still_being_found(tmp_path, store):
    """The first file is handed over when some have been asked for, however many there will be."""
    found = itertools.count()

    def files():
        for number in found:
            path = tmp_path / f"{number}.png"
            path.write_text(f"film {number}")
            yield path

    class Stopped(BaseException):
        """Ends the run at the first answer."""

    def stop(_answers):
        raise Stopped

    pipeline = Tampering(lambda _path: None, None)
    with pytest.raises(Stopped):
        process_in_place(files(), pipeline, store, max_attempts=1, on_answers=stop, on_failure=lambda *_: None)
    assert next(found) <= in_place._HASHED_AHEAD + in_place._CHUNK


@pytest.mark.parametrize(("tick_seconds", "left"), [(0.0, 2), (60.0, 0)], ids=["slowly", "at once"])
def test_the_first_of_a_slow_list_is_not_kept(tick_seconds, left, tmp_path, store, monkeypatch):
    """Files are looked up together, but only those that come together."""
    monkeypatch.setattr(in_place, "TICK_SECONDS", tick_seconds)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_text(path.name)
    run = in_place._Run(
        Tampering(lambda _path: None, None),
        store,
        max_attempts=1,
        on_answers=lambda _answers: None,
        on_failure=lambda _path, _why: None,
    )
    opened = iter(list(run.open(paths, Path(), uuid.uuid4())))
    assert next(run.new_work(opened)).path == paths[0]
    assert len(list(opened)) == left


class TestHashing:
    """Files are hashed ahead of the pipeline, several at a time."""

    @pytest.fixture(autouse=True)
    def _two_cores(self, monkeypatch):
        monkeypatch.setattr(hashing, "usable_cores", lambda: 2)

    def test_at_the_same_time_and_in_order(self, tmp_path, store, monkeypatch):
        """Each of two files is hashed while the other is; they go on in their order."""
        hash_file, both = hashing.hash_file, threading.Barrier(2, timeout=60)

        def hash_together(*arguments):
            both.wait()
            return hash_file(*arguments)

        monkeypatch.setattr(hashing, "hash_file", hash_together)
        paths = [tmp_path / name for name in ("b.png", "a.png", "d.png", "c.png")]
        for path in paths:
            path.write_text(path.name)
        answered = []
        process_in_place(
            paths,
            Tampering(lambda _path: None, None),
            store,
            max_attempts=1,
            on_answers=lambda answers: answered.extend(answer.path for answer in answers),
            on_failure=lambda _path, _why: None,
        )
        assert answered == paths

    def test_ends_with_the_run(self, tmp_path, store, monkeypatch):
        """Who breaks a run off does not wait until all that was to be hashed ahead is."""
        hash_file, may_go_on, begun = hashing.hash_file, threading.Event(), []

        def hash_when_told(name, *arguments):
            begun.append(name)
            if name.name != "0.png":
                may_go_on.wait(60)
            return hash_file(name, *arguments)

        def interrupt(_path):
            raise KeyboardInterrupt

        monkeypatch.setattr(hashing, "hash_file", hash_when_told)
        monkeypatch.setattr(in_place, "_FIRST_CHUNK", 1)
        for number in range(40):
            (tmp_path / f"{number}.png").write_text(f"{number}")
        files = [tmp_path / f"{number}.png" for number in range(40)]
        with pytest.raises(KeyboardInterrupt):
            process_in_place(
                files,
                Tampering(interrupt, None),
                store,
                max_attempts=1,
                on_answers=lambda _: None,
                on_failure=lambda _path, _why: None,
            )
        may_go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("hash"):
                thread.join(60)
        assert len(begun) <= 3


class TestRepeatedRun:
    """A run that is broken off and repeated under its id, as a cluster does with the work of a machine that died."""

    RUN = uuid.UUID(int=1)

    def run(self, store, tmp_path, names, *, stop_after=1000):
        """Classify files under the id; broken off after so many answers."""

        def on_answers(_answers):
            if store.accounting().arrivals >= stop_after:
                raise KeyboardInterrupt

        return process_in_place(
            names,
            Tampering(lambda _path: None, None),
            store,
            max_attempts=1,
            on_answers=on_answers,
            on_failure=lambda *_: None,
            run_id=self.RUN,
            root=tmp_path,
        )

    def test_nothing_is_recorded_twice(self, store, tmp_path):
        """Each file has one arrival however often the run is repeated, and is called what it was the first time."""
        names = [Path(f"{number}.png") for number in range(5)]
        for name in names:
            (tmp_path / name).write_text(f"film {name}")
        (tmp_path / "4.png").write_text("film 0.png")  # a copy
        with pytest.raises(KeyboardInterrupt):
            self.run(store, tmp_path, names, stop_after=2)
        for _ in range(2):
            summary = self.run(store, tmp_path, names)
            assert (summary.files, summary.duplicates, summary.failed) == (5, 1, 0)
            assert store.accounting() == Accounting(arrivals=5, results=4, rejected=0, duplicates=1, pending=0, lost=0)
        assert sorted(row["source_name"] for row in store.results()) == [f"{number}.png" for number in range(4)]

    def test_a_file_named_twice_is_two_arrivals(self, store, tmp_path):
        """As in every run, the second is a duplicate of the first."""
        (tmp_path / "film.png").write_text("film")
        summary = self.run(store, tmp_path, [Path("film.png")] * 2)
        assert (summary.files, summary.duplicates) == (2, 1)
        assert store.accounting().arrivals == 2


def test_a_name_with_a_nul_byte_has_failed(tmp_path, store):
    """A list that was made with `find -print0` is one such name; it stops nothing."""
    (name,) = find_files(read_list([b"a.dcm\0b.dcm\0"]))
    summary, failed = process(name, store, Tampering(lambda _path: None, None))
    assert (summary.files, summary.failed) == (1, 1)
    assert "NUL byte" in failed[name]
