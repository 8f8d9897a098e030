"""Files that a sender goes on writing after we have hashed them: where the kernel does not tell, only the bytes do."""

import datetime as dt
import hashlib
import threading
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa
from installed_command import files_below
from store_records import make_analysed, make_arrival, make_model, sha256_of

from xray_batch.intake import Folders
from xray_batch.logs import configure_logs
from xray_batch.pipeline.engine import Answered
from xray_batch.records import Accounting, Disposition
from xray_batch.revisions import open_database
from xray_batch.service import Service, Vitals
from xray_batch.service import leases as leases_module
from xray_batch.settings import Settings
from xray_batch.store import PruneSelection, Store

MODEL = make_model()
NEWER = make_model("2.0.0")
HOUR = dt.timedelta(hours=1)


class TestRebind:
    """The store's side."""

    def take(self, store):
        """Record one arrival and lease its content; return it with the bytes it turns out to have, and the lease."""
        arrival = make_arrival("before")
        store.add_arrivals([arrival], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        return replace(arrival, content_sha256=sha256_of("after"), size=5), lease

    def test_new_bytes_are_queued(self, store):
        """The arrival's new bytes are the work, the old ones are nobody's; everything is accounted for."""
        changed, lease = self.take(store)
        assert store.rebind(lease, changed, MODEL) is Disposition.WORK
        (leased,) = store.lease(limit=9, lease_seconds=60)
        assert (leased.content_sha256, leased.held_by) == (changed.content_sha256, changed.arrival_id)
        assert store.finish([(lease, make_analysed())], MODEL) == []
        store.finish([(leased, make_analysed())], MODEL)
        assert store.accounting() == Accounting(arrivals=1, results=1, rejected=0, duplicates=0, pending=0, lost=0)

    def test_old_bytes_can_arrive_again(self, store):
        """Nobody has answered them, so a later file of theirs is work."""
        changed, lease = self.take(store)
        store.rebind(lease, changed, MODEL)
        again = make_arrival("before")
        assert store.add_arrivals([again], MODEL) == {again.arrival_id: Disposition.WORK}
        assert {lease.held_by for lease in store.lease(limit=9, lease_seconds=60)} == {
            again.arrival_id,
            changed.arrival_id,
        }

    def test_old_bytes_go_to_a_duplicate(self, store):
        """A duplicate that is still in the spool is answered in place of the file that changed."""
        changed, lease = self.take(store)
        heir = make_arrival("before", minute=1)
        store.add_arrivals([heir], MODEL)
        store.rebind(lease, changed, MODEL)
        leases = store.lease(limit=9, lease_seconds=60)
        store.finish([(each, make_analysed()) for each in leases], MODEL)
        assert store.accounting() == Accounting(arrivals=2, results=2, rejected=0, duplicates=0, pending=0, lost=0)

    def test_old_bytes_go_to_the_oldest_original_that_is_left(self, store):
        """Not to one that was pruned, or that `process` saw elsewhere; with fresh attempts, from where it was filed."""
        pruned, elsewhere = (make_arrival("before", minute=minute) for minute in (-2, -1))
        store.add_arrivals([pruned], NEWER)
        store.finish([(lease, make_analysed()) for lease in store.lease(limit=1, lease_seconds=60)], NEWER)
        store.mark_filed({pruned.arrival_id: "processed/pruned.dcm"})
        (original,) = store.prunable(PruneSelection(filed_before=store.now() + HOUR, folders=("processed",)), 9)
        store.begin_pruning([original])
        store.record_duplicates([elsewhere])
        changed, lease = self.take(store)
        heir, later = (make_arrival("before", minute=minute) for minute in (1, 2))
        store.add_arrivals([later, heir], MODEL)
        store.mark_filed({each.arrival_id: f"duplicates/{each.arrival_id}.dcm" for each in (heir, later)})
        store.rebind(lease, changed, MODEL)
        leases = {each.content_sha256: each for each in store.lease(limit=9, lease_seconds=60)}
        inherited = leases[lease.content_sha256]
        assert (inherited.held_by, inherited.attempts) == (heir.arrival_id, 1)
        assert inherited.filed_path == f"duplicates/{heir.arrival_id}.dcm"

    def test_new_bytes_that_are_answered_make_a_duplicate(self, store):
        """Bytes with an answer get no second one."""
        other = make_arrival("after")
        store.add_arrivals([other], MODEL)
        store.finish([(lease, make_analysed()) for lease in store.lease(limit=9, lease_seconds=60)], MODEL)
        changed, lease = self.take(store)
        assert store.rebind(lease, changed, MODEL) is Disposition.DUPLICATE
        assert store.accounting() == Accounting(arrivals=2, results=1, rejected=0, duplicates=1, pending=0, lost=0)

    def test_a_lost_lease_changes_nothing(self, store):
        """Somebody else has the content by now, and will find out himself."""
        changed, lease = self.take(store)
        store.release([lease])
        assert store.rebind(lease, changed, MODEL) is None
        (leased,) = store.lease(limit=9, lease_seconds=60)
        assert leased.content_sha256 == lease.content_sha256

    def test_it_is_in_the_audit_trail(self, store, engine):
        """Both the change and the new arrival are events."""
        changed, lease = self.take(store)
        store.rebind(lease, changed, MODEL)
        with engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT kind, content_sha256 FROM event ORDER BY event_id")).all()
        assert [tuple(row) for row in rows][-2:] == [
            ("changed", lease.content_sha256),
            ("arrived", changed.content_sha256),
        ]


class WrittenInto:
    """A pipeline whose files are written into while it reads them, once each; it says what it has read."""

    device = "cpu"

    def __init__(self, *, says_hash):
        self.model = make_model()
        self.answers = {}  #: number of answers by the bytes that they are for
        self._says_hash = says_hash
        self._written = set()

    def run(self, jobs):
        """Answer each job for the bytes it has when it is read, which may be after the late write."""
        for job in jobs:
            if job.path.name not in self._written:
                self._written.add(job.path.name)
                with job.path.open("ab") as file:
                    file.write(b" and more")
            content = job.path.read_bytes()
            self.answers[content] = self.answers.get(content, 0) + 1
            digest = hashlib.sha256(content).hexdigest() if self._says_hash else None
            yield [Answered(job=job, result=make_analysed(), content_sha256=digest)]


@pytest.mark.parametrize("says_hash", [True, False], ids=["decoded", "refused unread"])
def test_an_answer_is_never_for_other_bytes(tmp_path, monkeypatch, says_hash):
    """A file written into after its hash is answered once more, under the hash of what it holds."""
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    configure_logs("error", "json")
    folders = Folders(tmp_path / "home")
    folders.create()
    (folders.inbox / "a.png").write_bytes(b"first bytes")
    settings = Settings(home=folders.home, settle_seconds=0, scan_seconds=0.1)
    pipeline = WrittenInto(says_hash=says_hash)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(folders, pipeline, store, settings, Vitals())
        thread = threading.Thread(target=service.run)
        thread.start()
        for _ in range(600):
            if store.accounting().results and not files_below(folders.spool):
                break
            thread.join(0.05)
        service.stop()
        thread.join()
        (row,) = store.results()
        assert store.accounting() == Accounting(arrivals=1, results=1, rejected=0, duplicates=0, pending=0, lost=0)
    (filed,) = files_below(folders.processed)
    assert row["content_sha256"] == hashlib.sha256(b"first bytes and more").hexdigest()
    assert row["content_sha256"] == hashlib.sha256(filed.read_bytes()).hexdigest()
