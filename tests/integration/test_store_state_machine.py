"""The store under random sequences of what services, one-shot batches and crashes do to it, on both engines.

A small model in memory says what every call must return; after each step the database must agree with it.
"""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from store_records import make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch.database import open_database
from xray_batch.records import Accounting, Arrival, Disposition, Lease
from xray_batch.store import Store

MODELS = (make_model(), make_model("2.0.0"))
CONTENTS = "abcd"

contents = st.sampled_from(CONTENTS)
models = st.sampled_from(MODELS)
answers = st.sampled_from([make_analysed(sop_instance_uid=None), make_rejected()])


class StoreMachine(RuleBasedStateMachine):
    """Arrivals, leases and answers of a few contents, by two models."""

    open_url: Callable[[], str]

    def __init__(self):
        super().__init__()
        self.engine = open_database(self.open_url())
        self.store = Store(self.engine)
        for model in MODELS:
            self.store.register_model(model)
        self.minutes = itertools.count()
        self.arrivals: dict[object, Arrival] = {}
        self.is_work: dict[object, bool] = {}
        self.in_spool: set[object] = set()
        self.from_inbox: set[object] = set()
        self.rows: dict[tuple[str, str], bool] = {}  #: content and model, oldest first, and whether it was analysed
        self.open: dict[str, object] = {}  #: content to the arrival that holds it
        self.held: dict[str, Lease] = {}  #: content to the lease whose token counts
        self.leases: list[Lease] = []  #: all that were ever given
        self.expired: set[Lease] = set()  #: those that anybody may take over
        self.events = 0  #: of the kind `arrived`

    def teardown(self):
        """Close the connections."""
        self.engine.dispose()

    def new_arrival(self, content):
        """Return an arrival later than all before."""
        return make_arrival(content, minute=next(self.minutes))

    def remember(self, arrival, *, is_work, in_spool=True):
        """Keep what the store must have recorded."""
        self.arrivals[arrival.arrival_id] = arrival
        self.is_work[arrival.arrival_id] = is_work
        self.events += 1
        if in_spool:
            self.in_spool.add(arrival.arrival_id)
            self.from_inbox.add(arrival.arrival_id)

    # -- what happens -------------------------------------------------------------------------

    @rule(names=st.lists(contents, min_size=1, max_size=4), model=models)
    def add(self, names, model):
        """Record files; of each content that is neither answered nor open, the first is work."""
        arriving = [self.new_arrival(name) for name in names]
        dispositions = self.store.add_arrivals(arriving, model)
        for arrival in arriving:
            content = arrival.content_sha256
            is_work = content not in self.open and (content, model.model_sha256) not in self.rows
            assert dispositions[arrival.arrival_id] is (Disposition.WORK if is_work else Disposition.DUPLICATE)
            if is_work:
                self.open[content] = arrival.arrival_id
            self.remember(arrival, is_work=is_work)

    @precondition(lambda self: self.arrivals)
    @rule(data=st.data(), model=models)
    def add_again(self, data, model):
        """Record the same arrival again, as after a crash: nothing changes."""
        arrival = data.draw(st.sampled_from(list(self.arrivals.values())))
        (disposition,) = self.store.add_arrivals([arrival], model).values()
        assert (disposition is Disposition.WORK) == self.is_work[arrival.arrival_id]

    @rule(limit=st.integers(1, 3), expires=st.booleans())
    def lease(self, limit, expires):
        """Take work; some services die, and their leases end at once."""
        taken = self.store.lease(limit=limit, lease_seconds=0 if expires else 3600)
        free = [content for content in self.open if content not in self.held or self.held[content] in self.expired]
        assert {lease.content_sha256 for lease in taken} <= set(free)
        assert len(taken) == min(limit, len(free))
        for lease in taken:
            assert lease.held_by == self.open[lease.content_sha256]
            assert lease.attempts >= 1
            self.held[lease.content_sha256] = lease
        self.leases += taken
        self.expired |= set(taken) if expires else set()

    def is_held(self, lease):
        """Tell whether nobody has taken, ended or answered this one since."""
        return self.held.get(lease.content_sha256) == lease

    def close(self, content):
        """Keep that a content has an answer or is nobody's."""
        self.open.pop(content, None)
        self.held.pop(content, None)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), model=models, answer=answers)
    def finish(self, data, model, answer):
        """Store an answer, in time or too late."""
        lease = data.draw(st.sampled_from([*self.held.values(), *self.leases]))
        accepted = self.store.finish([(lease, answer)], model)
        assert accepted == ([lease] if self.is_held(lease) else [])
        if accepted:
            self.rows[lease.content_sha256, model.model_sha256] = answer.header is not None
            self.close(lease.content_sha256)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), how=st.sampled_from(["release", "retry", "extend"]))
    def give_back(self, data, how):
        """Give a content back, or keep it for longer, in time or too late."""
        lease = data.draw(st.sampled_from([*self.held.values(), *self.leases]))
        was_held = self.is_held(lease)
        if how == "release":
            assert self.store.release([lease]) == ([lease] if was_held else [])
        elif how == "retry":
            assert self.store.retry_later(lease, 0.0) == was_held
        else:
            assert self.store.extend([lease], 3600) == ([lease] if was_held else [])
            self.expired.discard(lease)
            return
        if was_held:
            del self.held[lease.content_sha256]

    @rule()
    def end_leases(self):
        """Start the one service of an embedded database anew."""
        assert self.store.end_leases() == len(self.held)
        self.held.clear()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=contents, model=models)
    def rebind(self, data, name, model):
        """Find that a file has other bytes than were recorded."""
        lease = data.draw(st.sampled_from([*self.held.values(), *self.leases[-2:]]))
        if lease.content_sha256 == sha256_of(name):
            return
        changed = replace(self.arrivals[lease.held_by], content_sha256=sha256_of(name), size=1)
        disposition = self.store.rebind(lease, changed, model)
        if not self.is_held(lease):
            assert disposition is None
            return
        is_work = sha256_of(name) not in self.open and (sha256_of(name), model.model_sha256) not in self.rows
        assert disposition is (Disposition.WORK if is_work else Disposition.DUPLICATE)
        self.remember(changed, is_work=is_work)
        if is_work:
            self.open[changed.content_sha256] = changed.arrival_id
        self.close(lease.content_sha256)
        heirs = [
            arrival
            for arrival in self.arrivals.values()
            if arrival.content_sha256 == lease.content_sha256 and arrival.arrival_id in self.from_inbox
        ]
        if heirs:
            heir = min(heirs, key=lambda arrival: arrival.received_at)
            self.open[lease.content_sha256] = heir.arrival_id
            self.is_work[heir.arrival_id] = True
            self.in_spool.add(heir.arrival_id)  # or where it was filed: to be filed anew

    @rule(name=contents, model=models, answer=answers)
    def process_in_place(self, name, model, answer):
        """Answer a file where it lies, perhaps before the service does."""
        arrival = self.new_arrival(name)
        content = arrival.content_sha256
        (disposition,) = self.store.record_in_place([(arrival, answer)], model).values()
        is_answered = (content, model.model_sha256) in self.rows
        is_work = not is_answered and content not in self.open
        assert disposition is (Disposition.WORK if is_work else Disposition.DUPLICATE)
        self.remember(arrival, is_work=is_work, in_spool=False)
        if not is_answered:
            self.rows[content, model.model_sha256] = answer.header is not None
            self.close(content)

    @rule(limit=st.integers(1, 3))
    def file_away(self, limit):
        """File originals of what is done away."""
        unfiled = {each.arrival_id for each in self.store.unfiled(limit)}
        ready = {
            arrival_id
            for arrival_id in self.in_spool
            if not self.is_work[arrival_id] or self.arrivals[arrival_id].content_sha256 not in self.open
        }
        assert unfiled <= ready
        assert len(unfiled) == min(limit, len(ready))
        self.store.mark_filed({arrival_id: f"processed/{arrival_id}" for arrival_id in unfiled})
        self.in_spool -= unfiled

    # -- what must be true ----------------------------------------------------------------------

    @invariant()
    def every_arrival_is_accounted_for(self):
        """Nothing is lost; what is work and open is pending."""
        accounting = self.store.accounting()
        newest = {content: analysed for (content, _), analysed in self.rows.items()}
        work = [self.arrivals[arrival_id].content_sha256 for arrival_id, is_work in self.is_work.items() if is_work]
        done = [newest[content] for content in work if content not in self.open]
        assert accounting == Accounting(
            arrivals=len(self.arrivals),
            results=sum(done),
            rejected=len(done) - sum(done),
            duplicates=len(self.arrivals) - len(work),
            pending=len(work) - len(done),
            lost=0,
        )
        assert accounting.balances

    @invariant()
    def every_answer_is_there_once(self):
        """One row for each content and model that was answered, whatever was late."""
        rows = [(row["content_sha256"], row["model_sha256"]) for row in self.store.results()]
        assert len(rows) == len(self.rows)
        assert set(rows) == set(self.rows)

    @invariant()
    def every_arrival_is_in_the_audit_trail(self):
        """Once, and once more for each change of its bytes."""
        with self.engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM event WHERE kind = 'arrived'")) == self.events


def run(open_url, examples):
    """Let hypothesis look for a sequence that breaks the store."""
    machine = type("Machine", (StoreMachine,), {"open_url": staticmethod(open_url)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],  # to shrink a failure takes longer than a test may
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_sqlite(tmp_path: Path) -> None:
    """On the embedded database."""
    template = tmp_path / "template.sqlite3"
    open_database(f"sqlite:///{template}").dispose()
    numbers = itertools.count()

    def open_url() -> str:
        path = tmp_path / f"{next(numbers)}.sqlite3"
        shutil.copy(template, path)
        return f"sqlite:///{path}"

    run(open_url, 60)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql(database_url: str) -> None:
    """On PostgreSQL, which locks rows instead of the file."""

    def open_url() -> str:
        engine = open_database(database_url)
        with engine.begin() as connection:
            connection.execute(sa.text("TRUNCATE arrival, content, instance, model, result CASCADE"))
            connection.execute(sa.text("ALTER TABLE event DISABLE TRIGGER ALL"))
            connection.execute(sa.text("DELETE FROM event"))
            connection.execute(sa.text("ALTER TABLE event ENABLE TRIGGER ALL"))
        engine.dispose()
        return database_url

    run(open_url, 25)
