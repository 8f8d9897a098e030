"""The state machine of a content, step by step, on both engines."""

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa
from store_records import make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch.errors import DatabaseRefusedError
from xray_batch.records import Accounting, Disposition, Outcome
from xray_batch.store import AnswerSelection

MODEL = make_model()
NEWER = make_model("2.0.0")


def take(store, content="content", **changes):
    """Record one arrival and lease its content."""
    arrival = make_arrival(content, **changes)
    store.add_arrivals([arrival], MODEL)
    (lease,) = store.lease(limit=1, lease_seconds=60)
    return arrival, lease


def events(engine):
    """Return the audit trail in order."""
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT kind, detail FROM event ORDER BY event_id"))
        return [tuple(row) for row in rows]


class TestAddArrivals:
    """Files from the inbox."""

    def test_new_content_is_work(self, store):
        """The first arrival of a content is to be worked."""
        arrival = make_arrival()
        assert store.add_arrivals([arrival], MODEL) == {arrival.arrival_id: Disposition.WORK}
        assert store.queue_status().queued == 1

    def test_repeat_gives_the_stored_disposition(self, store):
        """An arrival recorded before the crash is not recorded again, and is no duplicate of itself."""
        arrival, other = make_arrival(), make_arrival()
        first = store.add_arrivals([arrival, other], MODEL)
        assert store.add_arrivals([other, arrival], MODEL) == first
        assert store.accounting().arrivals == 2

    def test_same_content_in_one_call(self, store):
        """Of several arrivals of one content, the first is work."""
        arrivals = [make_arrival() for _ in range(3)]
        dispositions = store.add_arrivals(arrivals, MODEL)
        assert [dispositions[arrival.arrival_id].value for arrival in arrivals] == [
            "work",
            "duplicate",
            "duplicate",
        ]

    @pytest.mark.parametrize("other", [NEWER, replace(MODEL, preprocess_sha256=sha256_of("other"))])
    def test_same_content_in_one_call_for_another_model(self, store, other):
        """What another model answered, or this one with other preprocessing, is work once more, and once only."""
        _, lease = take(store)
        store.finish([(lease, make_analysed())], MODEL)
        arrivals = [make_arrival() for _ in range(2)]
        dispositions = store.add_arrivals(arrivals, other)
        assert [dispositions[arrival.arrival_id].value for arrival in arrivals] == ["work", "duplicate"]

    def test_same_arrival_twice_in_one_call(self, store):
        """One arrival given twice is one row."""
        arrival = make_arrival()
        assert store.add_arrivals([arrival, arrival], MODEL) == {arrival.arrival_id: Disposition.WORK}
        assert store.accounting().arrivals == 1

    def test_leased_content_is_duplicate(self, store):
        """A content that somebody is working on is not queued a second time."""
        take(store)
        again = make_arrival()
        assert store.add_arrivals([again], MODEL) == {again.arrival_id: Disposition.DUPLICATE}

    def test_answered_content_is_duplicate(self, store):
        """A content answered by this model is not worked again."""
        _, lease = take(store)
        store.finish([(lease, make_analysed())], MODEL)
        again = make_arrival()
        assert store.add_arrivals([again], MODEL) == {again.arrival_id: Disposition.DUPLICATE}

    def test_newer_model_works_again(self, store):
        """A content answered by another model only is queued again, with fresh attempts."""
        _, lease = take(store)
        store.finish([(lease, make_analysed())], MODEL)
        again = make_arrival(minute=5)
        assert store.add_arrivals([again], NEWER) == {again.arrival_id: Disposition.WORK}
        assert store.accounting() == Accounting(arrivals=2, results=0, rejected=0, duplicates=0, pending=2, lost=0)
        (lease,) = store.lease(limit=5, lease_seconds=60)
        assert (lease.held_by, lease.attempts) == (again.arrival_id, 1)
        assert store.finish([(lease, make_analysed(p_normal=0.5))], NEWER) == [lease]
        assert [row["model_id"] for row in store.results()] == ["test-2.0.0", "test-1.0.0"]
        assert store.accounting().results == 2

    def test_odd_names(self, store):
        """Bytes that are no text, NUL, quotes and line ends in a name are kept, escaped where needed."""
        name = b"caf\xe9\x00'\";--\n\xf0\x9f\xa9\xbb.dcm".decode("utf-8", "surrogateescape")
        _, lease = take(store, source_name=name)
        assert lease.source_name == "caf\\udce9\\x00'\";--\n\U0001fa7b.dcm"

    def test_nothing(self, store):
        """No arrivals, leases or answers are no work and no error."""
        assert store.add_arrivals([], MODEL) == {}
        assert store.record_in_place([], MODEL) == {}
        assert store.finish([], MODEL) == store.release([]) == store.extend([], 60) == []
        store.record_duplicates([])
        store.mark_filed({})

    def test_many(self, store):
        """Several hundred arrivals fit in one call."""
        arrivals = [make_arrival(f"content {number}") for number in range(600)]
        assert len(store.add_arrivals(arrivals, MODEL)) == 600
        assert len(store.lease(limit=1000, lease_seconds=60)) == 600


class TestLease:
    """Contents taken to be answered."""

    def test_what_it_says(self, store):
        """A lease names the content, the arrival that holds the bytes, and counts this attempt."""
        arrival, lease = take(store, minute=7)
        assert (lease.content_sha256, lease.held_by, lease.source_name, lease.size, lease.attempts) == (
            arrival.content_sha256,
            arrival.arrival_id,
            arrival.source_name,
            arrival.size,
            1,
        )
        assert lease.received_at == arrival.received_at
        assert lease.received_at.tzinfo is dt.UTC

    def test_oldest_first(self, store):
        """The arrival received first is worked first, whatever the order of recording."""
        for minute in (3, 1, 2):
            store.add_arrivals([make_arrival(f"content {minute}", minute=minute)], MODEL)
        leases = store.lease(limit=2, lease_seconds=60)
        assert [lease.content_sha256 for lease in leases] == [sha256_of("content 1"), sha256_of("content 2")]

    def test_leased_only_once(self, store):
        """A content under a running lease is not given out."""
        take(store)
        assert store.lease(limit=5, lease_seconds=60) == []

    def test_expired_lease_is_taken_again(self, store):
        """A lease whose time is over may be taken, which counts as another attempt."""
        store.add_arrivals([make_arrival()], MODEL)
        (first,) = store.lease(limit=1, lease_seconds=0)
        (second,) = store.lease(limit=1, lease_seconds=60)
        assert second.attempts == 2
        assert second.token != first.token

    def test_extended_lease_is_not_taken(self, store):
        """Extending a lease keeps others away; a stale lease cannot be extended."""
        store.add_arrivals([make_arrival()], MODEL)
        (stale,) = store.lease(limit=1, lease_seconds=0)
        (lease,) = store.lease(limit=1, lease_seconds=0)
        assert store.extend([stale, lease], 60) == [lease]
        assert store.lease(limit=1, lease_seconds=60) == []

    def test_release_does_not_count_the_attempt(self, store):
        """A content released by a draining service is taken again as if never taken."""
        _, lease = take(store)
        assert store.release([lease]) == [lease]
        assert store.release([lease]) == []
        (again,) = store.lease(limit=1, lease_seconds=60)
        assert again.attempts == 1

    def test_retry_later_waits_and_counts(self, store):
        """A content to be retried is not given out before its time, and its attempt stays counted."""
        _, lease = take(store)
        assert store.retry_later(lease, 60) is True
        assert store.lease(limit=1, lease_seconds=60) == []
        assert store.queue_status().queued == 1

    def test_the_clock_is_set_back(self, store):
        """A content is not kept waiting for as long as the clock was set back: no delay is as long as it seems."""
        _, lease = take(store)
        store.retry_later(lease, 86_400)  # what a delay looks like when a day is repeated
        assert [lease.attempts for lease in store.lease(limit=1, lease_seconds=60)] == [2]

    def test_retry_later_when_due(self, store):
        """A content whose delay is over is given out with the next attempt."""
        _, lease = take(store)
        store.retry_later(lease, 0)
        (again,) = store.lease(limit=1, lease_seconds=60)
        assert again.attempts == 2
        assert store.retry_later(lease, 0) is False

    def test_retry_later_without_blame(self, store):
        """An attempt that failed through no fault of the file is not counted."""
        _, lease = take(store)
        store.retry_later(lease, 0, counted=False)
        (again,) = store.lease(limit=1, lease_seconds=60)
        assert again.attempts == 1

    def test_leases_of_a_dead_holder_are_ended(self, store):
        """When the holder is known to be gone, its contents are given out at once, the attempt counted."""
        _, lease = take(store)
        assert store.end_leases() == 1
        (again,) = store.lease(limit=1, lease_seconds=60)
        assert again.attempts == 2
        assert store.release([lease]) == []

    def test_recorded_arrivals(self, store):
        """Of some arrivals, those that were recorded are named."""
        arrival, other = make_arrival("one"), make_arrival("two")
        store.add_arrivals([arrival], MODEL)
        assert store.recorded([arrival.arrival_id, other.arrival_id]) == {arrival.arrival_id}


class TestFinish:
    """Answers of leased contents."""

    def test_answer_is_stored(self, store):
        """A finished content is done and has its result."""
        _, lease = take(store)
        assert store.finish([(lease, make_analysed())], MODEL) == [lease]
        assert store.accounting() == Accounting(arrivals=1, results=1, rejected=0, duplicates=0, pending=0, lost=0)

    def test_rejection_is_a_result(self, store):
        """A file that was not analysed has a row with a reason and no probabilities."""
        _, lease = take(store)
        store.finish([(lease, make_rejected("byte \x00 and \udcff"))], MODEL)
        (row,) = store.results()
        assert (row["outcome"], row["reason_code"]) == ("not_analysed", "unreadable_file")
        assert row["reason"] == "byte \\x00 and \\udcff"
        assert row["p_pneumonia"] is row["p_normal"] is row["format"] is None
        assert store.accounting().rejected == 1

    def test_stale_token_writes_nothing(self, store):
        """A worker that wakes after its lease was taken over cannot write."""
        store.add_arrivals([make_arrival()], MODEL)
        (stale,) = store.lease(limit=1, lease_seconds=0)
        (current,) = store.lease(limit=1, lease_seconds=60)
        assert store.finish([(stale, make_rejected())], MODEL) == []
        assert list(store.results()) == []
        assert store.finish([(current, make_analysed())], MODEL) == [current]
        assert store.finish([(stale, make_rejected())], MODEL) == []
        assert [row["outcome"] for row in store.results()] == ["pneumonia"]

    def test_expired_but_not_taken(self, store):
        """A lease that expired without anybody taking the content is still good."""
        store.add_arrivals([make_arrival()], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=0)
        assert store.finish([(lease, make_analysed())], MODEL) == [lease]

    def test_repeat_is_refused(self, store):
        """The same answer sent again, after a lost connection, is refused and changes nothing."""
        _, lease = take(store)
        store.finish([(lease, make_analysed())], MODEL)
        assert store.finish([(lease, make_analysed())], MODEL) == []
        assert len(list(store.results())) == 1

    def test_group_is_one_transaction(self, store):
        """When one answer of a group is refused by the database, none is written."""
        store.add_arrivals([make_arrival("a"), make_arrival("b")], MODEL)
        good, bad = store.lease(limit=2, lease_seconds=60)
        broken = make_analysed(p_normal=0.25, outcome=Outcome.NOT_ANALYSED)
        with pytest.raises(DatabaseRefusedError, match=r"ck_result_(answer|heat_in_thorax|member|input)"):
            store.finish([(good, make_analysed()), (bad, broken)], MODEL)
        assert list(store.results()) == []
        assert store.queue_status().leased == 2
        assert store.finish([(good, make_analysed())], MODEL) == [good]

    def test_unregistered_model(self, store):
        """An answer of a model that was not registered is refused."""
        _, lease = take(store)
        with pytest.raises(DatabaseRefusedError, match=r"fk_result_model|FOREIGN KEY"):
            store.finish([(lease, make_analysed())], make_model("3.0.0"))


class TestFiling:
    """Originals from the inbox find their place."""

    def test_duplicate_at_once_and_work_when_done(self, store):
        """A duplicate can be filed at once, work only when its content is done."""
        work, lease = take(store)
        duplicate = make_arrival()
        store.add_arrivals([duplicate], MODEL)
        (first,) = store.unfiled(10)
        assert (first.arrival_id, first.disposition, first.outcome) == (
            duplicate.arrival_id,
            Disposition.DUPLICATE,
            None,
        )
        store.finish([(lease, make_rejected("broken"))], MODEL)
        by_id = {entry.arrival_id: entry for entry in store.unfiled(10)}
        entry = by_id[work.arrival_id]
        assert (entry.outcome, entry.reason_code, entry.reason) == (
            Outcome.NOT_ANALYSED,
            "unreadable_file",
            "broken",
        )
        assert len(by_id) == 2

    def test_filed_once(self, store, engine):
        """A filed arrival is not listed again, and keeps its first path."""
        arrival, lease = take(store)
        store.finish([(lease, make_analysed())], MODEL)
        store.mark_filed({arrival.arrival_id: "processed/2026/03/01/image.dcm"})
        store.mark_filed({arrival.arrival_id: "elsewhere"})
        assert store.unfiled(10) == []
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT filed_path FROM arrival")) == ("processed/2026/03/01/image.dcm")

    def test_pages(self, store):
        """`after` continues behind the last one, so that one file cannot hold up the others."""
        store.add_arrivals([make_arrival() for _ in range(6)], MODEL)
        first = store.unfiled(3)
        rest = store.unfiled(3, after=first[-1].arrival_id)
        assert len({entry.arrival_id for entry in first + rest}) == 5

    def test_in_place_is_never_filed(self, store):
        """Files of a one-shot batch stay where they are."""
        store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        assert store.unfiled(10) == []

    def test_requeued_work_waits(self, store):
        """An original not yet filed waits while a newer model works its content, then shows that answer."""
        _, lease = take(store)
        store.finish([(lease, make_rejected())], MODEL)
        store.add_arrivals([make_arrival()], NEWER)
        assert store.unfiled(10) == []
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_analysed())], NEWER)
        assert {entry.outcome for entry in store.unfiled(10)} == {Outcome.PNEUMONIA}


class TestInPlace:
    """The one-shot batch."""

    def test_new_content(self, store):
        """A file in place is recorded with its answer at once."""
        arrival = make_arrival()
        assert store.record_in_place([(arrival, make_analysed())], MODEL) == {arrival.arrival_id: Disposition.WORK}
        assert store.accounting() == Accounting(arrivals=1, results=1, rejected=0, duplicates=0, pending=0, lost=0)

    def test_repeat(self, store):
        """The same arrival sent again, after a lost connection, changes nothing."""
        arrival = make_arrival()
        for _ in range(2):
            dispositions = store.record_in_place([(arrival, make_analysed())], MODEL)
            assert dispositions == {arrival.arrival_id: Disposition.WORK}
        assert (store.accounting().arrivals, len(list(store.results()))) == (1, 1)

    def test_answered_content_keeps_its_answer(self, store):
        """A file whose content is answered is a duplicate; the stored answer stays."""
        store.record_in_place([(make_arrival(), make_analysed(p_normal=0.25))], MODEL)
        again = make_arrival()
        dispositions = store.record_in_place([(again, make_analysed(p_normal=0.5))], MODEL)
        assert dispositions == {again.arrival_id: Disposition.DUPLICATE}
        answers = store.known_answers([again.content_sha256, sha256_of("unknown")], MODEL)
        assert {sha256: answer.p_normal for sha256, answer in answers.items()} == {again.content_sha256: 0.25}

    def test_same_content_twice_in_one_call(self, store):
        """Of two copies in one batch the second is a duplicate."""
        copies = [(make_arrival(), make_analysed()), (make_arrival(), make_analysed())]
        dispositions = store.record_in_place(copies, MODEL)
        assert list(dispositions.values()) == [Disposition.WORK, Disposition.DUPLICATE]
        assert store.accounting().balances

    def test_other_model(self, store):
        """A content answered by another model only gets a second result."""
        store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        again = make_arrival()
        assert store.known_answers([again.content_sha256], NEWER) == {}
        assert store.record_in_place([(again, make_rejected())], NEWER) == {again.arrival_id: Disposition.WORK}
        assert store.accounting() == Accounting(arrivals=2, results=0, rejected=2, duplicates=0, pending=0, lost=0)

    @pytest.mark.parametrize("leased", [True, False])
    @pytest.mark.parametrize("model", [MODEL, NEWER], ids=["same model", "another model"])
    def test_content_of_a_service(self, store, leased, model):
        """An answer in place takes no work away from a service, whose model may be another.

        The file in place is a duplicate; the service's answer replaces that of the same model.
        """
        inbox = make_arrival(source_name="inbox/image.dcm")
        store.add_arrivals([inbox], MODEL)
        leases = store.lease(limit=1, lease_seconds=60) if leased else []
        in_place = make_arrival(source_name="/data/image.dcm")
        dispositions = store.record_in_place([(in_place, make_analysed())], model)
        assert dispositions == {in_place.arrival_id: Disposition.DUPLICATE}
        assert store.accounting() == Accounting(arrivals=2, results=0, rejected=0, duplicates=1, pending=1, lost=0)
        assert [row["source_name"] for row in store.results()] == ["/data/image.dcm"]
        assert store.unfiled(10) == []
        (lease,) = leases or store.lease(limit=1, lease_seconds=60)
        assert store.finish([(lease, make_rejected())], MODEL) == [lease]
        assert store.accounting() == Accounting(arrivals=2, results=0, rejected=1, duplicates=1, pending=0, lost=0)
        answers = {row["model_id"]: (row["source_name"], row["outcome"]) for row in store.results()}
        ours = {MODEL.model_id: ("inbox/image.dcm", "not_analysed")}
        assert answers == {model.model_id: ("/data/image.dcm", "pneumonia")} | ours
        assert [entry.arrival_id for entry in store.unfiled(10)] == [inbox.arrival_id]

    def test_record_duplicates(self, store):
        """Files whose answers are known are recorded without being read."""
        store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        again = [make_arrival(), make_arrival()]
        store.record_duplicates(again)
        store.record_duplicates(again)
        assert store.accounting() == Accounting(arrivals=3, results=1, rejected=0, duplicates=2, pending=0, lost=0)

    def test_record_duplicates_of_unknown_content(self, store):
        """A duplicate of nothing is refused."""
        with pytest.raises(DatabaseRefusedError):
            store.record_duplicates([make_arrival()])


class TestEvents:
    """The audit trail."""

    def test_each_change_of_state(self, store, engine):
        """One event for each change of state, in order, with a short code."""
        arrival, lease = take(store)
        store.release([lease])
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.retry_later(lease, 0)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_rejected())], MODEL)
        store.mark_filed({arrival.arrival_id: "rejected/image.dcm"})
        store.record_in_place([(make_arrival("other"), make_analysed())], MODEL)
        assert events(engine) == [
            ("arrived", "work"),
            ("leased", "attempt_1"),
            ("released", "attempt_1"),
            ("leased", "attempt_1"),
            ("retried", "attempt_1"),
            ("leased", "attempt_2"),
            ("finished", "unreadable_file"),
            ("filed", None),
            ("arrived", "work"),
            ("finished", "pneumonia"),
        ]

    @pytest.mark.parametrize("change", ["UPDATE event SET kind = 'x'", "DELETE FROM event"])
    def test_append_only(self, store, engine, change):
        """The audit trail can be neither changed nor shortened."""
        store.add_arrivals([make_arrival()], MODEL)
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(change))
        assert events(engine) == [("arrived", "work")]


def lease_names(store, **limits):
    """Lease, and return the names of the files."""
    return [lease.source_name for lease in store.lease(lease_seconds=60, **limits)]


class TestUrgent:
    """Contents that go first."""

    def test_they_are_leased_before_what_arrived_earlier(self, store):
        """Each kind oldest first; and either can be asked for alone."""
        for name, minute, is_urgent in (
            ("a", 0, False),
            ("b", 3, True),
            ("c", 2, True),
            ("d", 1, False),
            ("e", 9, True),
        ):
            store.add_arrivals([make_arrival(name, minute=minute, source_name=name, is_urgent=is_urgent)], MODEL)
        assert lease_names(store, limit=1, urgent=False) == ["a"]
        assert lease_names(store, limit=1, urgent=True) == ["c"]
        leases = store.lease(limit=9, lease_seconds=60)
        assert [(lease.source_name, lease.is_urgent) for lease in leases] == [("b", True), ("e", True), ("d", False)]
        assert store.queue_status().oldest_received_at == make_arrival().received_at

    @pytest.mark.parametrize("together", [True, False])
    def test_an_urgent_resend_hurries_the_content(self, store, together):
        """The routine file that waits is answered first for both; the urgent one is its duplicate."""
        others, again = make_arrival("x", source_name="x"), make_arrival("y", minute=5, source_name="y")
        resend = make_arrival("y", minute=6, source_name="urgent/y", is_urgent=True)
        for group in [[others, again, resend]] if together else [[others], [again], [resend]]:
            added = store.add_arrivals(group, MODEL)
        assert added[resend.arrival_id] is Disposition.DUPLICATE
        assert lease_names(store, limit=1, urgent=True) == ["y"]

    def test_a_leased_content_is_urgent_once_it_is_given_back(self, store):
        """Released or to be tried again, it stays so."""
        _, lease = take(store, source_name="x")
        store.add_arrivals([make_arrival(source_name="urgent/x", is_urgent=True)], MODEL)
        store.release([lease])
        (lease,) = store.lease(limit=1, lease_seconds=60, urgent=True)
        store.retry_later(lease, 0)
        store.lease(limit=1, lease_seconds=60, urgent=True)
        store.end_leases()
        assert len(store.lease(limit=1, lease_seconds=60, urgent=True)) == 1

    def test_an_answered_content_is_not_urgent_again(self, store):
        """A resend of what has its answer is a duplicate; queued once more, it waits behind what arrives."""
        arrival = make_arrival(source_name="urgent/x", is_urgent=True)
        store.add_arrivals([arrival], MODEL)
        store.register_model(MODEL)
        store.finish([(lease, make_analysed()) for lease in store.lease(limit=1, lease_seconds=60)], MODEL)
        store.mark_filed({arrival.arrival_id: "processed/urgent/x"})
        (answer,) = store.stored_answers(store.select_answers(AnswerSelection()))
        store.requeue([(answer, arrival.arrival_id)])
        store.add_arrivals([make_arrival(source_name="urgent/x", is_urgent=True)], MODEL)
        assert lease_names(store, limit=1, urgent=True) == []
        assert lease_names(store, limit=1, urgent=False) == ["urgent/x"]

    def test_a_file_that_has_other_bytes_by_now_stays_urgent(self, store):
        """The new bytes are, whether they are queued for it or wait for another file already."""
        for other in (False, True):
            arrival, lease = take(store, f"old {other}", source_name="urgent/x", is_urgent=True)
            if other:
                store.add_arrivals([make_arrival("new True", source_name="urgent/x")], MODEL)
            store.rebind(lease, replace(arrival, content_sha256=sha256_of(f"new {other}")), MODEL)
            assert lease_names(store, limit=9, urgent=True) == ["urgent/x"]
