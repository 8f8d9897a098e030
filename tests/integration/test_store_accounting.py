"""The accounting balances after any sequence of operations, on both engines.

Hypothesis invents the sequences and a model of a few lines, in memory, says what must come out.
One database serves all sequences of a test, so each starts from what the one before has left.
"""

import dataclasses
import itertools
import uuid

import pytest
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from store_records import make_analysed, make_arrival, make_model, make_rejected

from xray_batch.records import Accounting, Arrival, Disposition, Lease
from xray_batch.revisions import open_database
from xray_batch.store import Store

MODELS = [make_model("1.0.0"), make_model("2.0.0")]

contents = st.integers(0, 3)
models = st.sampled_from(MODELS)
answers = st.sampled_from([make_analysed(), make_rejected()])


@dataclasses.dataclass
class ModelledContent:
    """What must be true of one content."""

    state: str = "new"
    holder: uuid.UUID | None = None
    token: uuid.UUID | None = None
    answers: dict[str, bool] = dataclasses.field(default_factory=dict)  #: by model, oldest first: analysed or not
    requeued: bool = False

    @property
    def analysed(self) -> bool:
        """Whether the newest result is an analysis; a replaced answer keeps its place among the others."""
        return list(self.answers.values())[-1]


class Machine(stateful.RuleBasedStateMachine):
    """The store beside its model."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.baseline = dataclasses.astuple(store.accounting())
        self.unfiled_before = {entry.arrival_id for entry in store.unfiled(10_000)}
        self.run = uuid.uuid4().hex
        self.minutes = itertools.count()  # no two arrivals at one time: ids are random, and must decide nothing
        self.contents: dict[str, ModelledContent] = {}
        self.arrivals: dict[uuid.UUID, tuple[Arrival, Disposition, str]] = {}
        self.filed: set[uuid.UUID] = set()
        self.leases: list[Lease] = []

    def arrive(self, number: int) -> tuple[Arrival, ModelledContent]:
        """Return a new arrival of one of this run's contents."""
        arrival = make_arrival(f"{self.run} {number}", minute=next(self.minutes))
        return arrival, self.contents.setdefault(arrival.content_sha256, ModelledContent())

    def answer(self, content: ModelledContent, model: object, finished: object) -> None:
        """Note an answer; it replaces that of the same model.  After a requeue the originals are filed anew."""
        content.answers[model.model_sha256] = finished.header is not None
        if content.requeued:
            self.filed -= {
                arrival_id
                for arrival_id, (arrival, disposition, _) in self.arrivals.items()
                if self.contents[arrival.content_sha256] is content and disposition is Disposition.WORK
            }
        content.state, content.token, content.requeued = "done", None, False

    @stateful.rule(number=contents, model=models)
    def add(self, number, model):
        """Drop a file into the inbox."""
        arrival, content = self.arrive(number)
        is_open = content.state in ("queued", "leased")
        duplicate = is_open or model.model_sha256 in content.answers
        expected = Disposition.DUPLICATE if duplicate else Disposition.WORK
        if not duplicate:
            content.state, content.holder, content.requeued = "queued", arrival.arrival_id, False
        assert self.store.add_arrivals([arrival], model) == {arrival.arrival_id: expected}
        self.arrivals[arrival.arrival_id] = (arrival, expected, "inbox")

    @stateful.rule(data=st.data(), model=models)
    def add_again(self, data, model):
        """Record the same file again, as after a crash."""
        if self.arrivals:
            arrival, disposition, _ = data.draw(st.sampled_from(list(self.arrivals.values())))
            assert self.store.add_arrivals([arrival], model) == {arrival.arrival_id: disposition}

    @stateful.rule(limit=st.integers(1, 3), lease_seconds=st.sampled_from([0, 60]))
    def lease(self, limit, lease_seconds):
        """Take contents, or take over expired ones."""
        for lease in self.store.lease(limit=limit, lease_seconds=lease_seconds):
            content = self.contents[lease.content_sha256]
            assert content.state in ("queued", "leased")
            assert lease.held_by == content.holder
            content.state, content.token = "leased", lease.token
            self.leases.append(lease)

    @stateful.rule(data=st.data(), model=models, finished=answers)
    def finish(self, data, model, finished):
        """Answer a content, perhaps long after the lease was lost."""
        if self.leases:
            lease = data.draw(st.sampled_from(self.leases))
            content = self.contents[lease.content_sha256]
            is_mine = content.token == lease.token
            assert self.store.finish([(lease, finished)], model) == ([lease] if is_mine else [])
            if is_mine:
                self.answer(content, model, finished)

    @stateful.rule(data=st.data(), later=st.booleans())
    def give_back(self, data, later):
        """Give a content back."""
        if self.leases:
            lease = data.draw(st.sampled_from(self.leases))
            content = self.contents[lease.content_sha256]
            is_mine = content.token == lease.token
            given = self.store.retry_later(lease, 0) if later else bool(self.store.release([lease]))
            assert given is is_mine
            if is_mine:
                content.state, content.token = "queued", None

    @stateful.rule(number=contents, model=models, finished=answers)
    def record_in_place(self, number, model, finished):
        """Answer a file of a one-shot batch."""
        arrival, content = self.arrive(number)
        is_open = content.state in ("queued", "leased")
        answered = model.model_sha256 in content.answers
        expected = Disposition.DUPLICATE if is_open or answered else Disposition.WORK
        told = self.store.record_in_place([(arrival, finished)], model)
        assert told == {arrival.arrival_id: expected}
        self.arrivals[arrival.arrival_id] = (arrival, expected, "in_place")
        if not answered and is_open:  # the content stays with whoever holds it
            content.answers[model.model_sha256] = finished.header is not None
        elif not answered:
            self.answer(content, model, finished)

    @stateful.rule(number=contents)
    def requeue(self, number):
        """Queue a content once more, which an answer, and an original in the home folder, are needed for."""
        content = self.contents.get(self.arrive(number)[0].content_sha256)
        sha256 = next(key for key, value in self.contents.items() if value is content)
        ids = [row["result_id"] for row in self.store.results() if row["content_sha256"] == sha256]
        answers = self.store.stored_answers(ids[-1:])
        here = [
            key
            for key, (arrival, _, origin) in self.arrivals.items()
            if arrival.content_sha256 == sha256 and origin == "inbox"
        ]
        assert bool(answers) is bool(content.answers)
        for answer in answers:
            assert {original.arrival_id for original in answer.originals} == set(here)
            if here:
                chosen = answer.originals[-1].arrival_id
                queued = self.store.requeue([(answer, chosen)])
                assert queued == ({sha256} if content.state == "done" else set())
                if queued:
                    content.state, content.holder, content.requeued = "queued", chosen, True

    @stateful.rule(data=st.data(), number=contents, model=models)
    def rebind(self, data, number, model):
        """Find that a file has other bytes than were recorded; its old ones go to another arrival that has them."""
        held = [lease for lease in self.leases if self.contents[lease.content_sha256].token == lease.token]
        fresh = self.arrive(number)[0]
        candidates = [
            lease
            for lease in [*held, *self.leases[-2:]]
            if lease.content_sha256 != fresh.content_sha256 and not self.contents[lease.content_sha256].requeued
        ]
        if not candidates:
            return
        lease = data.draw(st.sampled_from(candidates))
        before, after = self.contents[lease.content_sha256], self.contents[fresh.content_sha256]
        changed = dataclasses.replace(
            self.arrivals[lease.held_by][0], content_sha256=fresh.content_sha256, size=fresh.size
        )
        is_open = after.state in ("queued", "leased")
        duplicate = is_open or model.model_sha256 in after.answers
        expected = Disposition.DUPLICATE if duplicate else Disposition.WORK
        is_mine = before.token == lease.token
        assert self.store.rebind(lease, changed, model) is (expected if is_mine else None)
        if not is_mine:
            return
        self.arrivals[lease.held_by] = (changed, expected, "inbox")
        if not duplicate:
            after.state, after.holder, after.requeued = "queued", lease.held_by, False
        elif after.state == "new":
            after.state = "done"
        self.hand_over(lease.content_sha256)

    def hand_over(self, sha256: str) -> None:
        """Let the first other file of a content hold it."""
        content = self.contents[sha256]
        heirs = [
            arrival
            for arrival, _, origin in self.arrivals.values()
            if arrival.content_sha256 == sha256 and origin == "inbox"
        ]
        content.state, content.token = "done", None
        if heirs:
            heir = min(heirs, key=lambda arrival: arrival.received_at)
            content.state, content.holder = "queued", heir.arrival_id
            self.arrivals[heir.arrival_id] = (heir, Disposition.WORK, "inbox")
            self.filed.discard(heir.arrival_id)

    @stateful.rule()
    def end_leases(self):
        """Start a service whose predecessor is known to be gone."""
        self.store.end_leases()
        for content in self.contents.values():
            if content.state == "leased":
                content.state, content.token = "queued", None

    @stateful.rule()
    def file(self):
        """File away what a sweeper finds."""
        found = {entry.arrival_id for entry in self.store.unfiled(10_000)} - self.unfiled_before
        assert found == self.fileable()
        self.store.mark_filed(dict.fromkeys(found, "processed/image.dcm"))
        self.filed |= found

    def fileable(self) -> set[uuid.UUID]:
        """Return the arrivals from the inbox whose file can be moved."""
        return {
            arrival_id
            for arrival_id, (arrival, disposition, origin) in self.arrivals.items()
            if origin == "inbox"
            and arrival_id not in self.filed
            and (disposition is Disposition.DUPLICATE or self.contents[arrival.content_sha256].state == "done")
        }

    @stateful.invariant()
    def one_answer_each(self):
        """There is one result for each content and model, the last that was accepted."""
        known = {
            (sha256, model): analysed
            for sha256, each in self.contents.items()
            for model, analysed in each.answers.items()
        }
        rows = [row for row in self.store.results() if row["content_sha256"] in self.contents]
        assert len(rows) == len(known)
        found = {(row["content_sha256"], row["model_sha256"]): row["outcome"] != "not_analysed" for row in rows}
        assert found == known

    @stateful.invariant()
    def balances(self):
        """Every arrival is counted where the model says, and nothing is lost."""
        accounting = self.store.accounting()
        assert accounting.balances
        counts = dict.fromkeys(("results", "rejected", "duplicates", "pending"), 0)
        for arrival, disposition, _ in self.arrivals.values():
            content = self.contents[arrival.content_sha256]
            if disposition is Disposition.DUPLICATE:
                counts["duplicates"] += 1
            elif content.state != "done":
                counts["pending"] += 1
            else:
                counts["results" if content.analysed else "rejected"] += 1
        assert self.store.recount() == (accounting, accounting)
        expected = (len(self.arrivals), *counts.values(), 0)
        found = tuple(new - old for new, old in zip(dataclasses.astuple(accounting), self.baseline, strict=True))
        assert found == expected

    def teardown(self):
        """Leave no open work behind for the next sequence."""
        for lease in self.leases:
            self.store.retry_later(lease, 0)
        leases = self.store.lease(limit=100, lease_seconds=60)
        self.store.finish([(lease, make_rejected()) for lease in leases], MODELS[0])


def test_any_sequence(database_url):
    """Any sequence of operations ends as the model says: dispositions, answers, filing, accounting."""
    engine = open_database(database_url)
    store = Store(engine)
    for model in MODELS:
        store.register_model(model)
    stateful.run_state_machine_as_test(
        lambda: Machine(store),
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    assert store.accounting().balances
    engine.dispose()


@pytest.mark.parametrize(
    ("changed", "balances"),
    [({}, True), ({"arrivals": 11}, False), ({"lost": 1}, False), ({"lost": 1, "arrivals": 11}, False)],
)
def test_balances(changed, balances):
    """An accounting balances when nothing is lost and every arrival is in one state."""
    counts = {"arrivals": 10, "results": 4, "rejected": 3, "duplicates": 2, "pending": 1, "lost": 0}
    assert Accounting(**counts | changed).balances is balances
