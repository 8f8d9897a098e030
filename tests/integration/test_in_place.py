"""Files that are classified where they lie, and that change meanwhile."""

from contextlib import closing

import pytest
from store_records import make_analysed, make_model, sha256_of

from xray_batch.database import open_database
from xray_batch.pipeline.engine import Answered
from xray_batch.pipeline.in_place import process_in_place
from xray_batch.store import Store


class Tampering:
    """A pipeline before which a file is written into, between its hash and its decoding."""

    def __init__(self, tamper, digest):
        self.model = make_model()
        self._tamper = tamper
        self._digest = digest

    def run(self, jobs):
        """Answer each job for the bytes that it is scripted to have read."""
        for job in jobs:
            self._tamper(job.path)
            yield [Answered(job=job, result=make_analysed(), content_sha256=self._digest)]


@pytest.fixture
def store(tmp_path):
    """Store on a fresh database."""
    with closing(Store(open_database(f"sqlite:///{tmp_path / 'results.sqlite3'}"))) as store:
        yield store


def process(path, store, pipeline):
    """Classify one file; return the summary of the run."""
    return process_in_place(
        [path], pipeline, store, max_attempts=1, on_answers=lambda _: None, on_failure=lambda _path, _why: None
    )


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
    summary = process(path, store, Tampering(tamper, digest))
    assert summary.failed == {path: "the file changed while it was being read"}
    assert list(store.results()) == []
    assert store.accounting().arrivals == 0


def test_a_file_that_does_not_change_is_recorded(tmp_path, store):
    """The hash that the decoder reports is that of the file."""
    path = tmp_path / "film.png"
    path.write_bytes(b"before")
    summary = process(path, store, Tampering(lambda _path: None, sha256_of("before")))
    assert (summary.files, summary.failed) == (1, {})
    assert [row["content_sha256"] for row in store.results()] == [sha256_of("before")]
