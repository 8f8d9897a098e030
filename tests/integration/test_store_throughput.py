"""What the operations page asks the database: results by the hour, and refusals by reason."""

import dataclasses
import datetime as dt

import sqlalchemy as sa
from store_records import START, make_analysed, make_arrival, make_model, make_rejected

from xray_batch.errors import ReasonCode
from xray_batch.records import HourFigures, Outcome, Rejection, Times
from xray_batch.store import AnswerSelection

MODEL = make_model()


def answer(store, number, finished, waited):
    """Store one answer of a file that had waited so many seconds."""
    arrival = dataclasses.replace(
        make_arrival(f"{number}"), received_at=finished.classified_at - dt.timedelta(seconds=waited)
    )
    store.add_arrivals([arrival], MODEL)
    (lease,) = store.lease(limit=1, lease_seconds=60)
    store.finish([(lease, finished)], MODEL)
    store.mark_filed({entry.arrival_id: f"processed/{number}" for entry in store.unfiled(10)})


def refusal(code, minute):
    """Return a refusal for a reason, so many minutes after the start."""
    answer = Rejection(reason_code=code, reason="a reason")
    return dataclasses.replace(make_rejected(), answer=answer, classified_at=START + dt.timedelta(minutes=minute))


def test_an_hour_sums_up_its_results(store):
    """Counts by outcome, and nearest-rank percentiles of both times with fractions; hours without are left out."""
    for number in range(20):
        finished = dataclasses.replace(make_analysed(minute=number), processing_seconds=(number + 1) / 100)
        answer(store, number, finished, waited=number + 0.5)
    answer(store, "later", make_analysed(outcome=Outcome.NORMAL, minute=180), waited=7200)
    first, second = store.hourly_figures(START)
    assert first.begins_at == START + dt.timedelta(hours=1)
    assert first.begins_at.tzinfo is dt.UTC
    assert first.outcomes == dict.fromkeys(Outcome, 0) | {Outcome.PNEUMONIA: 20}
    assert first.processing == Times(median=0.1, p95=0.19)
    assert first.answering is not None
    assert (round(first.answering.median, 3), round(first.answering.p95, 3)) == (9.5, 18.5)
    assert second == HourFigures(
        begins_at=START + dt.timedelta(hours=4),
        outcomes=dict.fromkeys(Outcome, 0) | {Outcome.NORMAL: 1},
        processing=Times(median=0.5, p95=0.5),
        answering=second.answering,
    )
    assert store.hourly_figures(START + dt.timedelta(hours=2)) == [second]
    assert store.hourly_figures(START + dt.timedelta(hours=5)) == []


def test_a_requeued_file_has_no_time_from_received_to_answered(store):
    """It was asked for long after it was received: that says nothing of how fast the service is."""
    answer(store, 1, make_analysed(), waited=3)
    (chosen,) = store.stored_answers(store.select_answers(AnswerSelection()))
    store.requeue([(chosen, chosen.originals[0].arrival_id)])
    (lease,) = store.lease(limit=1, lease_seconds=60)
    store.finish([(lease, make_analysed(minute=600))], MODEL)
    (figures,) = store.hourly_figures(START)
    assert figures.begins_at == START + dt.timedelta(hours=11)
    assert figures.answering is None


def test_a_clock_that_is_behind_makes_no_negative_time(store):
    """The receiving machine's clock may be ahead of the answering one's."""
    answer(store, 1, make_analysed(), waited=-2)
    (figures,) = store.hourly_figures(START)
    assert figures.answering == Times(median=0.0, p95=0.0)


def test_reasons_are_counted_the_most_frequent_first(store):
    """All of them, or those of late; films that were analysed have none."""
    codes = [ReasonCode.TRUNCATED, ReasonCode.LATERAL_VIEW, ReasonCode.LATERAL_VIEW, ReasonCode.COLOR_IMAGE]
    for number, code in enumerate(codes):
        answer(store, number, refusal(code, number), waited=1)
    answer(store, "analysed", make_analysed(), waited=1)
    assert list(store.count_reasons().items()) == [("lateral_view", 2), ("color_image", 1), ("truncated", 1)]
    assert store.count_reasons(START + dt.timedelta(minutes=2)) == {"color_image": 1, "lateral_view": 1}


def test_the_audit_trail_names_who_asked(store, engine):
    """One event for each content, beside the one that keeps what the answer was; none where nobody is named."""
    for number in range(2):
        answer(store, number, make_analysed(), waited=1)
    one, other = store.stored_answers(store.select_answers(AnswerSelection()))
    store.requeue([(one, one.originals[0].arrival_id)], "alice@example.org")
    store.requeue([(other, other.originals[0].arrival_id)])
    with engine.connect() as connection:
        statement = "SELECT content_sha256, kind, detail FROM event WHERE kind LIKE 'requ%' ORDER BY event_id"
        found = [tuple(row) for row in connection.execute(sa.text(statement))]
    assert found == [
        (one.content_sha256, "requeued", "pneumonia"),
        (one.content_sha256, "requested", "alice@example.org"),
        (other.content_sha256, "requeued", "pneumonia"),
    ]
