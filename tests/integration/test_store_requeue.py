"""Answered contents queued once more, on both engines."""

import dataclasses
import datetime as dt

import pytest
import sqlalchemy as sa
from store_records import START, make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch.errors import ReasonCode
from xray_batch.records import Accounting, Disposition, Outcome
from xray_batch.store import AnswerSelection, Obstacle, Prunable
from xray_batch.store import requeue as requeueing

MODEL = make_model()
NEWER = make_model("2.0.0")
OTHER = dataclasses.replace(MODEL, preprocess_sha256=sha256_of("other"))


def file_away(store):
    """Do as the service does with what is done: rejected originals to rejected/, the others to processed/."""
    places = {
        entry.arrival_id: "rejected" if entry.outcome is Outcome.NOT_ANALYSED else "processed"
        for entry in store.unfiled(1000)
    }
    store.mark_filed({arrival_id: f"{place}/{arrival_id}.dcm" for arrival_id, place in places.items()})


def answer(store, content="content", finished=None, model=MODEL, **changes):
    """Let one file arrive, be answered and be filed away; return the arrival."""
    arrival = make_arrival(content, **changes)
    store.add_arrivals([arrival], model)
    (lease,) = store.lease(limit=1, lease_seconds=60)
    store.finish([(lease, finished or make_analysed())], model)
    file_away(store)
    return arrival


def requeue(store, **selection):
    """Queue what is selected; return how many contents were."""
    answers = store.stored_answers(store.select_answers(AnswerSelection(**selection)))
    return len(store.requeue([(each, each.originals[0].arrival_id) for each in answers if each.originals]))


def obstacles(store):
    """Return why each answered content cannot be queued."""
    return [each.obstacle for each in store.stored_answers(store.select_answers(AnswerSelection()))]


def events(engine, kind):
    """Return the details of one kind of event in order."""
    with engine.connect() as connection:
        statement = sa.text("SELECT detail FROM event WHERE kind = :kind ORDER BY event_id")
        return list(connection.scalars(statement, {"kind": kind}))


class TestRequeue:
    """From done to queued, and to the next answer."""

    def test_the_lease_says_where_the_original_is(self, store):
        """A requeued content is leased for the arrival that was filed, with its place and fresh attempts."""
        arrival = answer(store, finished=make_rejected())
        assert requeue(store) == 1
        assert store.accounting() == Accounting(arrivals=1, results=0, rejected=0, duplicates=0, pending=1, lost=0)
        assert store.unfiled(10) == []
        (lease,) = store.lease(limit=5, lease_seconds=60)
        assert (lease.held_by, lease.attempts) == (arrival.arrival_id, 1)
        assert lease.filed_path == f"rejected/{arrival.arrival_id}.dcm"

    def test_the_header_is_that_of_the_last_answer(self, store):
        """A newer version may read more of the same bytes."""
        answer(store, finished=make_analysed(patient_id="P1"))
        requeue(store)
        store.finish(
            [(lease, make_analysed(patient_id="P2")) for lease in store.lease(limit=1, lease_seconds=60)], MODEL
        )
        assert [row["patient_id"] for row in store.results()] == ["P2"]

    def test_an_original_that_is_pruned_meanwhile(self, store):
        """Nothing is queued whose bytes are gone by then."""
        answer(store)
        (found,) = store.stored_answers(store.select_answers(AnswerSelection()))
        (original,) = found.originals
        store.begin_pruning([Prunable(**dataclasses.asdict(original), size=7)])
        assert store.requeue([(found, original.arrival_id)]) == set()
        assert store.queue_status().queued == 0

    def test_other_answers_move_no_original(self, store):
        """What was filed stays where it is: when it arrives again for another model, and when `process` answers it."""
        answer(store)
        again = make_arrival()
        store.add_arrivals([again], NEWER)
        store.finish([(lease, make_rejected()) for lease in store.lease(limit=1, lease_seconds=60)], NEWER)
        assert [entry.arrival_id for entry in store.unfiled(9)] == [again.arrival_id]
        file_away(store)
        requeue(store)
        store.finish([(lease, make_rejected()) for lease in store.lease(limit=1, lease_seconds=60)], NEWER)
        file_away(store)
        store.record_in_place([(make_arrival(), make_analysed())], OTHER)
        assert store.unfiled(9) == []

    def test_the_next_answer_replaces_the_stored_one(self, store, engine):
        """The row keeps its number and has the new answer only; the events keep what it was."""
        answer(store, finished=make_rejected())
        (before,) = store.results()
        requeue(store)
        assert [row["outcome"] for row in store.results()] == ["not_analysed"]
        (lease,) = store.lease(limit=1, lease_seconds=60)
        assert store.finish([(lease, make_analysed(minute=5))], MODEL) == [lease]
        (row,) = store.results()
        assert (row["result_id"], row["outcome"], row["reason_code"], row["reason"]) == (
            before["result_id"],
            "pneumonia",
            None,
            None,
        )
        assert row["classified_at"] > before["classified_at"]
        assert events(engine, "requeued") == ["unreadable_file"]
        assert events(engine, "finished") == ["unreadable_file", "pneumonia"]
        assert store.accounting() == Accounting(arrivals=1, results=1, rejected=0, duplicates=0, pending=0, lost=0)

    def test_the_answer_of_another_model_is_another_row(self, store):
        """A service with another bundle adds its answer, and the old one stays."""
        answer(store)
        requeue(store)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_rejected())], NEWER)
        assert {row["model_id"] for row in store.results()} == {"test-1.0.0", "test-2.0.0"}
        assert store.accounting().rejected == 1

    def test_a_stale_token_replaces_nothing(self, store):
        """A worker of before the requeue, or whose lease was taken over, cannot write."""
        arrival = make_arrival()
        store.add_arrivals([arrival], MODEL)
        (old,) = store.lease(limit=1, lease_seconds=0)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_analysed())], MODEL)
        file_away(store)
        requeue(store)
        (expired,) = store.lease(limit=1, lease_seconds=0)
        (current,) = store.lease(limit=1, lease_seconds=60)
        for stale in (old, lease, expired):
            assert store.finish([(stale, make_rejected())], MODEL) == []
        assert [row["outcome"] for row in store.results()] == ["pneumonia"]
        assert store.finish([(current, make_rejected())], MODEL) == [current]

    def test_an_answered_original_is_filed_once_more(self, store, engine):
        """Every original that was worked for the content is listed with its place, until it is marked again."""
        first = answer(store, finished=make_rejected())
        second = answer(store, finished=make_rejected(), model=NEWER)
        duplicate = answer_duplicate(store)
        requeue(store)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_analysed())], NEWER)
        entries = store.unfiled(10)
        assert {(each.arrival_id, each.filed_path, each.outcome) for each in entries} == {
            (each.arrival_id, f"rejected/{each.arrival_id}.dcm", Outcome.PNEUMONIA) for each in (first, second)
        }
        (stored,) = store.select_answers(AnswerSelection())
        assert len(store.stored_result(stored).filed_paths) == 3
        file_away(store)
        assert store.unfiled(10) == []
        assert sorted(filed_paths(engine)) == sorted(
            [
                f"processed/{duplicate.arrival_id}.dcm",
                f"processed/{first.arrival_id}.dcm",
                f"processed/{second.arrival_id}.dcm",
            ]
        )

    def test_what_has_just_arrived_is_worked_first(self, store):
        """A requeued content of an old file waits behind a new one, and is not counted as the oldest that waits."""
        answer(store, "old")
        requeue(store)
        assert store.queue_status().oldest_received_at is None
        new = make_arrival("new", minute=60)
        store.add_arrivals([new], MODEL)
        status = store.queue_status()
        assert (status.queued, status.oldest_received_at) == (2, new.received_at)
        leases = [store.lease(limit=1, lease_seconds=60)[0] for _ in range(2)]
        assert leases[0].held_by == new.arrival_id
        store.finish([(lease, make_analysed()) for lease in leases], MODEL)
        later = make_arrival("old", minute=90)  # of another model: arrived, not requeued
        store.add_arrivals([later], NEWER)
        assert store.queue_status().oldest_received_at == later.received_at

    def test_a_repeat_changes_nothing(self, store, engine):
        """Requeued twice, a content is queued once: the second finds it in work."""
        answer(store)
        answers = store.stored_answers(store.select_answers(AnswerSelection()))
        chosen = [(each, each.originals[0].arrival_id) for each in answers]
        assert len(store.requeue(chosen)) == 1
        assert store.requeue(chosen) == set()
        assert obstacles(store) == [Obstacle.IN_WORK]
        store.lease(limit=1, lease_seconds=60)
        assert store.requeue(chosen) == set()
        assert len(events(engine, "requeued")) == 1

    def test_nothing(self, store):
        """No answers are no work and no error."""
        assert store.select_answers(AnswerSelection()) == store.stored_answers([]) == []
        assert store.requeue([]) == set()

    def test_an_original_still_in_the_spool(self, store):
        """What is answered and not yet filed away can be requeued; filed meanwhile, it is filed once more."""
        arrival = make_arrival()
        store.add_arrivals([arrival], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_rejected())], MODEL)
        assert requeue(store) == 1
        store.mark_filed({arrival.arrival_id: "rejected/a.dcm"})  # by a service that had moved it
        (lease,) = store.lease(limit=1, lease_seconds=60)
        assert lease.filed_path == "rejected/a.dcm"
        store.finish([(lease, make_analysed())], MODEL)
        (entry,) = store.unfiled(10)
        assert (entry.filed_path, entry.outcome) == ("rejected/a.dcm", Outcome.PNEUMONIA)

    def test_requeued_again_before_it_was_filed_anew(self, store):
        """A second requeue between answer and filing still knows where the original is."""
        arrival = answer(store, finished=make_rejected())
        for finished in (make_analysed(), make_rejected()):
            assert requeue(store) == 1
            (lease,) = store.lease(limit=1, lease_seconds=60)
            assert lease.filed_path == f"rejected/{arrival.arrival_id}.dcm"
            store.finish([(lease, finished)], MODEL)
        (entry,) = store.unfiled(10)
        assert (entry.filed_path, entry.outcome) == (lease.filed_path, Outcome.NOT_ANALYSED)

    def test_withdrawn(self, store, engine):
        """Where the original is gone the content keeps its answer; one that was not requeued is not withdrawn."""
        answer(store)
        requeue(store)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        assert store.withdraw(lease) is True
        assert store.withdraw(lease) is False
        assert store.finish([(lease, make_rejected())], MODEL) == []
        assert store.accounting().results == 1
        assert events(engine, "withdrawn") == [None]
        store.add_arrivals([make_arrival("other")], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        assert store.withdraw(lease) is False


def answer_duplicate(store, content="content"):
    """Let a file with known bytes arrive and be filed away."""
    arrival = make_arrival(content)
    assert store.add_arrivals([arrival], NEWER) == {arrival.arrival_id: Disposition.DUPLICATE}
    file_away(store)
    return arrival


def filed_paths(engine):
    """Return where the database says that originals are."""
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT filed_path FROM arrival WHERE filed_path IS NOT NULL")))


class TestOthersMeanwhile:
    """What arrives or is processed while a content is queued once more."""

    def test_a_new_arrival_is_a_duplicate(self, store):
        """A copy that arrives meanwhile is a duplicate, at once and after the answer, also for another model."""
        answer(store)
        requeue(store)
        for model in (MODEL, NEWER):
            copy = make_arrival()
            assert store.add_arrivals([copy], model) == {copy.arrival_id: Disposition.DUPLICATE}
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_analysed())], MODEL)
        assert store.accounting() == Accounting(arrivals=3, results=1, rejected=0, duplicates=2, pending=0, lost=0)

    def test_process_does_not_take_the_work_away(self, store):
        """`process` of the same bytes with the same model is a duplicate of the stored answer, which is renewed."""
        answer(store, finished=make_rejected())
        requeue(store)
        copy = make_arrival()
        told = store.record_in_place([(copy, make_analysed())], MODEL)
        assert told == {copy.arrival_id: Disposition.DUPLICATE}
        assert [row["outcome"] for row in store.results()] == ["not_analysed"]
        (lease,) = store.lease(limit=1, lease_seconds=60)
        assert store.finish([(lease, make_analysed())], MODEL) == [lease]

    def test_process_with_another_model_does_not_take_the_work_away(self, store):
        """As for any open content: its answer is stored, and the service gives its own, which replaces the old one."""
        answer(store, finished=make_rejected())
        requeue(store)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        copy = make_arrival()
        told = store.record_in_place([(copy, make_analysed())], NEWER)
        assert told == {copy.arrival_id: Disposition.DUPLICATE}
        assert store.finish([(lease, make_analysed())], MODEL) == [lease]
        assert {row["model_id"]: row["outcome"] for row in store.results()} == {
            MODEL.model_id: "pneumonia",
            NEWER.model_id: "pneumonia",
        }
        assert store.accounting().balances

    def test_a_later_answer_in_place_moves_no_original(self, store):
        """`process` with another model leaves the original of a content that is done where it is."""
        answer(store, finished=make_rejected())
        store.record_in_place([(make_arrival(), make_analysed())], NEWER)
        assert store.unfiled(10) == []

    def test_an_archive_that_arrives_again(self, store):
        """Its next answer replaces the stored one, and is of the newer arrival."""
        answer(store, finished=make_rejected("refused"))
        again = make_arrival(source_name="again.zip")
        told = store.add_arrivals([again], MODEL, [again.content_sha256])
        assert told == {again.arrival_id: Disposition.WORK}
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_rejected("unpacked"))], MODEL)
        (row,) = store.results()
        assert (row["reason"], row["source_name"]) == ("unpacked", "again.zip")
        assert store.accounting() == Accounting(arrivals=2, results=0, rejected=2, duplicates=0, pending=0, lost=0)


class TestObstacles:
    """Contents that cannot be queued."""

    def test_in_place(self, store):
        """A file classified where it lies has no original here; dropped into the inbox as well, it has one."""
        store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        assert obstacles(store) == [Obstacle.IN_PLACE]
        copy = make_arrival()
        store.add_arrivals([copy], MODEL)
        store.mark_filed({copy.arrival_id: "duplicates/copy.dcm"})
        assert requeue(store) == 1
        (lease,) = store.lease(limit=1, lease_seconds=60)
        assert (lease.held_by, lease.filed_path) == (copy.arrival_id, "duplicates/copy.dcm")
        store.finish([(lease, make_rejected())], MODEL)
        assert store.unfiled(10) == []  # a duplicate stays one
        assert store.accounting() == Accounting(arrivals=2, results=0, rejected=1, duplicates=1, pending=0, lost=0)

    def test_pruned(self, store):
        """A content whose originals were removed cannot be queued, not even by who looked before."""
        arrival = answer(store)
        (seen,) = store.stored_answers(store.select_answers(AnswerSelection()))
        path = f"processed/{arrival.arrival_id}.dcm"
        facts = dataclasses.asdict(arrival)
        del facts["is_urgent"]
        store.begin_pruning([Prunable(**facts, filed_path=path)])
        assert obstacles(store) == [Obstacle.PRUNED]
        assert store.requeue([(seen, arrival.arrival_id)]) == set()


class TestSelection:
    """Which answers are meant."""

    @pytest.fixture
    def three(self, store):
        """Return the ids of three answers: rejected at 9:00, analysed at 9:05, and at 9:10 by another model."""
        answer(store, "a", make_rejected())
        answer(store, "b", make_analysed(minute=5))
        answer(store, "c", make_analysed(minute=10, outcome=Outcome.NORMAL), NEWER)
        return sorted(row["result_id"] for row in store.results())

    @pytest.mark.parametrize(
        ("conditions", "expected"),
        [
            ({}, [0, 1, 2]),
            ({"outcome": Outcome.PNEUMONIA}, [1]),
            ({"reason_code": ReasonCode.UNREADABLE_FILE}, [0]),
            ({"reason_code": ReasonCode.LATERAL_VIEW}, []),
            ({"model_id": "test-2.0.0"}, [2]),
            ({"model_id": "test-2.0.0", "outcome": Outcome.PNEUMONIA}, []),
            ({"since": START + dt.timedelta(minutes=65)}, [1, 2]),
            ({"until": START + dt.timedelta(minutes=65)}, [0]),
        ],
    )
    def test_conditions(self, store, three, conditions, expected):
        """Conditions are combined; the oldest answer comes first."""
        assert store.select_answers(AnswerSelection(**conditions)) == [three[number] for number in expected]

    def test_ids(self, store, three):
        """Ids select answers, and unknown ones are counted; other conditions hold too."""
        assert store.select_answers(AnswerSelection(result_ids=(three[2], three[0], 999))) == [three[0], three[2]]
        assert store.select_answers(AnswerSelection(result_ids=(three[0],), outcome=Outcome.NORMAL)) == []
        assert store.unknown_results([*three, 999, 1000]) == 2

    def test_more_ids_than_one_statement_takes(self, store, three, monkeypatch):
        """However many ids there are, each content is selected once, and the oldest answer comes first."""
        answer(store, "b", make_rejected(), NEWER)
        newest = max(row["result_id"] for row in store.results())
        monkeypatch.setattr(requeueing, "_IDS", 2)
        assert store.select_answers(AnswerSelection(result_ids=(newest, three[2], three[0], three[1]))) == [
            three[0],
            newest,
            three[2],
        ]

    def test_only_the_newest_answer_of_a_content_counts(self, store, three):
        """What a newer model has answered since is not selected by the older answer, unless that is named."""
        answer(store, "b", make_rejected(), NEWER)
        assert store.select_answers(AnswerSelection(model_id="test-1.0.0")) == [three[0]]
        assert store.select_answers(AnswerSelection(result_ids=(three[1],))) == [three[1]]
