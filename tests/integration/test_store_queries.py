"""What the store tells: the views and the queue, on both engines."""

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa
from store_records import START, make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch import schema
from xray_batch.records import (
    RESULT_COLUMNS,
    Accounting,
    Computation,
    ImageWarning,
    Outcome,
    QueueStatus,
    ResultQuery,
    ResultRecord,
    StoredResult,
)
from xray_batch.store import AnswerSelection, pages, queries

MODEL = make_model()

#: `architecture.md`, "View `results`": a promise to the outside.
PROMISED_COLUMNS = (
    "result_id, outcome, reason_code, reason, p_pneumonia, p_normal, p_bacterial, p_viral, p_covid19, "
    "threshold_low, threshold_high, disagreement, warnings, model_id, model_sha256, preprocess_sha256, "
    "source_name, content_sha256, format, transfer_syntax_uid, study_instance_uid, series_instance_uid, "
    "sop_instance_uid, patient_id, accession_number, study_date, modality, view_position, received_at, "
    "classified_at, processing_seconds, heat_in_thorax, member_probabilities, input_mean, input_std"
)


@pytest.fixture
def three_results(store):
    """Store with three results: pneumonia of P1, normal of P2, not analysed."""
    store.record_in_place(
        [
            (make_arrival("a"), make_analysed(p_normal=0.125, patient_id="P1", minute=1)),
            (
                make_arrival("b"),
                make_analysed(
                    p_normal=0.875,
                    outcome=Outcome.NORMAL,
                    patient_id="P2",
                    study_instance_uid="2.2",
                    minute=2,
                ),
            ),
            (make_arrival("c"), make_rejected()),
        ],
        MODEL,
    )
    return store


class TestResultsView:
    """The view that the outside relies on."""

    def test_columns(self, engine):
        """The view has exactly the promised columns in their order, as do the records and the typed view."""
        promised = tuple(PROMISED_COLUMNS.split(", "))
        with engine.connect() as connection:
            assert tuple(connection.execute(sa.text("SELECT * FROM results")).keys()) == promised
        assert promised == RESULT_COLUMNS
        assert tuple(schema.RESULTS.columns.keys()) == promised

    def test_row(self, store):
        """One row tells everything about an analysed file, with Python's own types."""
        arrival = make_arrival(minute=5)
        finished = make_analysed(p_normal=0.25)
        store.record_in_place([(arrival, finished)], MODEL)
        (row,) = store.results()
        third = pytest.approx(0.25)
        assert row == {
            "result_id": 1,
            "outcome": "pneumonia",
            "reason_code": None,
            "reason": None,
            "p_pneumonia": 0.75,
            "p_normal": 0.25,
            "p_bacterial": third,
            "p_viral": third,
            "p_covid19": third,
            "threshold_low": 0.25,
            "threshold_high": 0.75,
            "disagreement": 0.125,
            "warnings": "",
            "model_id": MODEL.model_id,
            "model_sha256": MODEL.model_sha256,
            "preprocess_sha256": MODEL.preprocess_sha256,
            "source_name": "study/image.dcm",
            "content_sha256": arrival.content_sha256,
            "format": "dicom",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "study_instance_uid": "1.2.3",
            "series_instance_uid": "1.2.3.4",
            "sop_instance_uid": "1.2.3.4.5",
            "patient_id": "P1",
            "accession_number": "A1",
            "study_date": dt.date(2026, 2, 28),
            "modality": "DX",
            "view_position": "PA",
            "received_at": arrival.received_at,
            "classified_at": finished.classified_at,
            "processing_seconds": 0.5,
            "heat_in_thorax": 0.625,
            "member_probabilities": {"resnet34": 0.8125, "resnet50": 0.6875},
            "input_mean": 0.5,
            "input_std": 0.25,
        }
        assert tuple(row) == RESULT_COLUMNS
        assert store.known_answers([arrival.content_sha256], MODEL) == {
            arrival.content_sha256: ResultRecord(**row | {"outcome": Outcome.PNEUMONIA})
        }

    def test_warnings(self, store):
        """Warnings are their codes separated by commas."""
        finished = make_analysed()
        warned = type(finished)(
            **{name: getattr(finished, name) for name in finished.__slots__ if name != "warnings"},
            warnings=(ImageWarning.NO_WINDOW, ImageWarning.VIEW_ABSENT),
        )
        store.record_in_place([(make_arrival(), warned)], MODEL)
        assert [row["warnings"] for row in store.results()] == ["no_window,view_absent"]

    def test_other_time_zone(self, store):
        """A time given in another zone is the same instant, told in UTC."""
        zone = dt.timezone(dt.timedelta(hours=2))
        arrival = make_arrival()
        store.record_in_place(
            [(type(arrival)(**_fields(arrival) | {"received_at": START.astimezone(zone)}), make_analysed())],
            MODEL,
        )
        (row,) = store.results()
        assert row["received_at"] == START
        assert row["received_at"].utcoffset() == dt.timedelta(0)

    def test_naive_time_is_refused(self, store):
        """A time without a zone names no instant and is refused."""
        arrival = make_arrival()
        naive = type(arrival)(**_fields(arrival) | {"received_at": START.replace(tzinfo=None)})
        with pytest.raises(Exception, match="no time zone"):
            store.add_arrivals([naive], MODEL)


class TestResultsQuery:
    """Filters of the results."""

    @pytest.mark.parametrize(
        ("query", "contents"),
        [
            (ResultQuery(), "bac"),
            (ResultQuery(outcome=Outcome.NORMAL), "b"),
            (ResultQuery(outcome=Outcome.NOT_ANALYSED), "c"),
            (ResultQuery(patient_id="P1"), "a"),
            (ResultQuery(patient_id="' OR 1=1 --"), ""),
            (ResultQuery(study_instance_uid="2.2"), "b"),
            (ResultQuery(min_probability=0.5), "a"),
            (ResultQuery(min_probability=0.875), "a"),
            (ResultQuery(since=START + dt.timedelta(hours=1, minutes=1)), "ba"),
            (ResultQuery(until=START + dt.timedelta(hours=1, minutes=1)), "c"),
            (ResultQuery(limit=2), "ba"),
            (ResultQuery(limit=0), ""),
            (ResultQuery(outcome=Outcome.PNEUMONIA, patient_id="P2"), ""),
        ],
    )
    def test_filter(self, three_results, query, contents):
        """Each filter restricts, and the newest answer comes first."""
        rows = three_results.results(query)
        assert [row["content_sha256"] for row in rows] == [sha256_of(content) for content in contents]

    @pytest.mark.parametrize("text", ["P\udcff", "P\x00"], ids=["no text", "NUL"])
    def test_what_a_database_cannot_hold(self, text, three_results):
        """It is looked for as it is stored; a terminal gives any bytes to a command."""
        for query in (ResultQuery(patient_id=text), ResultQuery(identifier=text), ResultQuery(study_instance_uid=text)):
            assert list(three_results.results(query)) == []
        assert three_results.select_answers(AnswerSelection(model_id=text)) == []
        three_results.record_in_place([(make_arrival("d"), make_analysed(patient_id=text))], MODEL)
        (row,) = three_results.results(ResultQuery(patient_id=text))
        assert row["content_sha256"] == sha256_of("d")

    def test_pages(self, three_results, monkeypatch):
        """Rows are read in pages without gaps or repeats, also among equal times."""
        monkeypatch.setattr(pages, "PAGE_ROWS", 3)
        three_results.record_in_place([(make_arrival(f"more {number}"), make_rejected()) for number in range(7)], MODEL)
        ids = [row["result_id"] for row in three_results.results()]
        assert len(ids) == len(set(ids)) == 10
        assert [row["result_id"] for row in three_results.results(ResultQuery(limit=5))] == ids[:5]

    def test_no_transaction_between_pages(self, three_results, engine, monkeypatch):
        """While the caller works with a row, no connection is in use."""
        monkeypatch.setattr(pages, "PAGE_ROWS", 1)
        rows = three_results.results()
        next(rows)
        assert engine.pool.checkedout() == 0

    def test_known_answers_of_many(self, three_results, monkeypatch):
        """More contents than fit in one statement can be asked for."""
        monkeypatch.setattr(queries, "_CHUNK", 2)
        wanted = [sha256_of(content) for content in "xaybzc"]
        assert set(three_results.known_answers(wanted, MODEL)) == {sha256_of(content) for content in "abc"}


class TestStoredResult:
    """What is needed to recompute one result."""

    COMPUTATION = Computation(
        device="cpu AVX2, 2 threads", precision="float32", libraries="torch 2.14.1", batch_images=7
    )

    def test_computation_and_places(self, store):
        """A result comes with its row, its computation, and every place of its content, the newest first."""
        arrivals = [make_arrival("a", minute=minute, source_name=f"{minute}.dcm") for minute in range(3)]
        store.add_arrivals(arrivals[:2], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, replace(make_analysed(), computation=self.COMPUTATION))], MODEL)
        store.mark_filed({arrivals[0].arrival_id: "processed/0.dcm", arrivals[1].arrival_id: "duplicates/1.dcm"})
        store.record_duplicates(arrivals[2:])
        store.record_in_place([(make_arrival("b"), make_rejected())], MODEL)
        (known,) = store.known_answers([sha256_of("a")], MODEL).values()
        stored = store.stored_result(known.result_id)
        assert stored == StoredResult(
            record=known,
            computation=self.COMPUTATION,
            filed_paths=("duplicates/1.dcm", "processed/0.dcm"),
            in_place_names=("2.dcm",),
        )

    def test_computation_that_is_not_known(self, store):
        """Of an answer without a computation, and of all that are older than these columns, it is None."""
        store.record_in_place([(make_arrival("a"), make_rejected())], MODEL)
        (known,) = store.known_answers([sha256_of("a")], MODEL).values()
        assert store.stored_result(known.result_id).computation is None

    def test_unknown_result(self, three_results):
        """A number that no result has gives None."""
        assert three_results.stored_result(99) is None


class TestAuditTrail:
    """What has happened to one content, and the models that answered."""

    def test_events_of_one_content(self, store):
        """The events of a content come oldest first, with their details, and those of others do not."""
        store.add_arrivals([make_arrival("a"), make_arrival("b", minute=1)], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, make_analysed())], MODEL)
        store.add_view(sha256_of("a"), "radiologist")
        trail = store.audit_trail(sha256_of("a"))
        assert [(event.kind, event.detail) for event in trail.events] == [
            ("arrived", "work"),
            ("leased", "attempt_1"),
            ("finished", "pneumonia"),
            ("viewed", "radiologist"),
        ]
        assert trail.is_complete
        assert all(event.at.tzinfo for event in trail.events)

    def test_newest_events(self, store):
        """Of many events the newest come, and it is told that there are others."""
        for number in range(4):
            store.add_view(sha256_of("a"), f"reader-{number}")
        trail = store.audit_trail(sha256_of("a"), most=3)
        assert [event.detail for event in trail.events] == ["reader-1", "reader-2", "reader-3"]
        assert not trail.is_complete
        assert store.audit_trail(sha256_of("a"), most=4).is_complete

    def test_stored_model(self, store):
        """A model that has answered is known with its manifest; another is not."""
        model = store.stored_model(MODEL.model_sha256)
        assert (model.model_id, model.manifest) == (MODEL.model_id, MODEL.manifest)
        assert store.stored_model("0" * 64) is None


class TestQueueAndAccounting:
    """How much work waits, and where everything is."""

    def test_empty(self, store):
        """An empty database balances."""
        assert store.queue_status() == QueueStatus(queued=0, leased=0, oldest_received_at=None)
        accounting = store.accounting()
        assert accounting == Accounting(arrivals=0, results=0, rejected=0, duplicates=0, pending=0, lost=0)
        assert accounting.balances

    def test_queue(self, store):
        """Waiting and leased contents are counted, with the oldest of both."""
        store.add_arrivals([make_arrival(f"{minute}", minute=minute) for minute in (1, 2, 3)], MODEL)
        store.lease(limit=1, lease_seconds=60)
        assert store.queue_status() == QueueStatus(
            queued=2, leased=1, oldest_received_at=START + dt.timedelta(minutes=1)
        )

    def test_database_clock(self, store):
        """The database tells an aware time that is about now."""
        assert abs(store.now() - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)

    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM result",
            "UPDATE content SET state = 'done', lease_token = NULL, lease_until = NULL",
        ],
    )
    def test_inconsistency_shows_as_lost(self, store, engine, damage):
        """Work that is done without an answer is counted as lost, not forgotten."""
        if damage.startswith("DELETE"):
            store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        else:
            store.add_arrivals([make_arrival()], MODEL)
        with engine.begin() as connection:
            connection.execute(sa.text(damage))
        accounting = store.accounting()
        assert (accounting.arrivals, accounting.lost) == (1, 1)
        assert not accounting.balances


def _fields(record):
    return {name: getattr(record, name) for name in record.__slots__}
