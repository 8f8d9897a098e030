"""What was answered over time, counted by both engines."""

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa
from store_records import START, make_analysed, make_arrival, make_model, make_rejected

from xray_batch.records import DriftReference, Outcome, ReferenceBins
from xray_batch.revisions import open_database
from xray_batch.store import Store

MODEL, OTHER = make_model("1.0.0"), make_model("2.0.0")
EDGES = tuple(tenth / 10 for tenth in range(1, 10))
BINS = ReferenceBins(edges=EDGES, shares=(0.1,) * 10, n=1000)
REFERENCE = DriftReference(p_pneumonia=BINS, input_mean=BINS, input_std=replace(BINS, edges=(0.25,) * 9))

#: Two days, from midnight on.
DAYS = [dt.datetime(2026, 3, day, tzinfo=dt.UTC) for day in (1, 2, 3)]


def at(finished, time):
    """Return the same answer, given at another time."""
    return replace(finished, classified_at=time)


def in_bins(*numbers):
    """Return counts by bin from the numbers of bins that have one result each."""
    return tuple(numbers.count(number) for number in range(10))


@pytest.fixture
def engine(database_url):
    """Fill a database: three results on the first day, one on the second at its first moment, and what is not asked."""
    engine = open_database(database_url)
    store = Store(engine)
    store.register_model(MODEL)
    store.register_model(OTHER)
    film = make_analysed(sop_instance_uid=None, p_normal=0.25, input_mean=0.45)
    answers = [
        at(film, DAYS[0]),
        at(make_analysed(sop_instance_uid=None, p_normal=0.875, outcome=Outcome.NORMAL, input_mean=0.5), START),
        at(make_rejected(), START),
        at(make_analysed(sop_instance_uid=None, p_normal=1.0, outcome=Outcome.NORMAL, input_mean=0.0), DAYS[1]),
        at(film, DAYS[0] - dt.timedelta(microseconds=1)),
        at(film, DAYS[2]),
    ]
    store.record_in_place([(make_arrival(str(number)), answer) for number, answer in enumerate(answers)], MODEL)
    store.record_in_place([(make_arrival("of another model"), at(film, START))], OTHER)
    yield engine
    engine.dispose()


def test_results_are_counted(engine):
    """Each span has the outcomes and the bins of its results, of this model alone; its end belongs to the next."""
    first, second = Store(engine).trends(DAYS, MODEL.model_sha256, REFERENCE)
    assert (first.since, first.until, second.until) == tuple(DAYS)
    assert first.outcomes == {
        Outcome.PNEUMONIA: 1,
        Outcome.NORMAL: 1,
        Outcome.INDETERMINATE: 0,
        Outcome.NOT_ANALYSED: 1,
    }
    assert first.counts == {"p_pneumonia": in_bins(7, 1), "input_mean": in_bins(4, 5), "input_std": in_bins(9, 9)}
    assert (sum(second.outcomes.values()), second.outcomes[Outcome.NORMAL]) == (1, 1)
    assert second.counts == {"p_pneumonia": in_bins(0), "input_mean": in_bins(0), "input_std": in_bins(9)}


def test_rows_of_before(engine):
    """Results without mean and SD are in no bin of these, and counted where they have a number."""
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE result SET input_mean = NULL, input_std = NULL"))
    first, _ = Store(engine).trends(DAYS, MODEL.model_sha256, REFERENCE)
    assert first.counts == {"p_pneumonia": in_bins(7, 1), "input_mean": in_bins(), "input_std": in_bins()}


def test_without_a_reference(engine):
    """A bundle without a reference has its outcomes counted, and no bins."""
    first, second = Store(engine).trends(DAYS, MODEL.model_sha256, None)
    assert (first.outcomes[Outcome.PNEUMONIA], first.counts, second.counts) == (1, {}, {})


def test_no_span(engine):
    """One boundary, or none, makes no span."""
    store = Store(engine)
    assert (
        store.trends(DAYS[:1], MODEL.model_sha256, REFERENCE) == store.trends([], MODEL.model_sha256, REFERENCE) == []
    )
