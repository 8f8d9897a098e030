"""Lists of results a page at a time: every order, both directions, every filter, on both engines."""

import datetime as dt
from dataclasses import replace

import pytest
from store_records import START, make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch.errors import ReasonCode
from xray_batch.records import Outcome, OutcomeCounts, PageKey, ResultOrder, ResultQuery
from xray_batch.store import pages

MODEL = make_model()

#: P(normal) of each content; None was not analysed.  Two are alike.
FILMS = {"a": 0.5, "b": None, "c": 0.125, "d": 0.5, "e": 0.875, "f": None, "g": 0.25}


@pytest.fixture
def films(store):
    """Store with seven results, each a minute younger than the one before, two of them not analysed."""
    answers = []
    for minute, (content, p_normal) in enumerate(FILMS.items()):
        at = START + dt.timedelta(minutes=minute)
        if p_normal is None:
            finished = replace(make_rejected(), classified_at=at)
        else:
            outcome = (
                Outcome.NORMAL if p_normal > 0.75 else Outcome.PNEUMONIA if p_normal < 0.3 else Outcome.INDETERMINATE
            )
            analysed = make_analysed(p_normal=p_normal, outcome=outcome, patient_id=f"Pat_{content}%1")
            header = replace(
                analysed.header, modality="CR" if content in "ac" else "DX", accession_number=f"ACC-{content}"
            )
            finished = replace(analysed, classified_at=at, header=header)
        answers.append((make_arrival(content), finished))
    store.record_in_place(answers, MODEL)
    return store


def outcome_of(p_normal):
    """Return the outcome by thresholds that make each of them happen."""
    if p_normal > 0.75:
        return Outcome.NORMAL
    return Outcome.PNEUMONIA if p_normal < 0.3 else Outcome.INDETERMINATE


def contents(records):
    """Return the contents of results by their one-letter names."""
    names = {sha256_of(content): content for content in FILMS}
    return "".join(names[record.content_sha256] for record in records)


#: When contents are answered once more.
LATER = START + dt.timedelta(days=1)


def answer_again(store, *sha256s):
    """Have contents arrive and be answered once more: as normal, later than all others."""
    arrivals = [replace(make_arrival(), content_sha256=sha256) for sha256 in sha256s]
    store.add_arrivals(arrivals, MODEL, again=sha256s)
    answer = replace(make_analysed(p_normal=0.8125, outcome=Outcome.NORMAL), classified_at=LATER)
    store.finish([(lease, answer) for lease in store.lease(limit=len(sha256s), lease_seconds=60)], MODEL)


ORDERED = {
    ResultOrder.NEWEST: "gfedcba",
    ResultOrder.OLDEST: "abcdefg",
    ResultOrder.MOST_SUSPICIOUS: "cgade" + "bf",
    ResultOrder.LEAST_SUSPICIOUS: "edagc" + "fb",
}


@pytest.mark.parametrize("order", ResultOrder)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_pages_forwards_and_back(films, order, size):
    """Whatever the order and the size of a page, all results come once, in order, forwards and on the way back."""
    query = ResultQuery(order=order)
    page = films.page(query, size)
    assert page.previous is None
    there = [page]
    while page.next is not None:
        page = films.page(query, size, after=page.next)
        there.append(page)
    assert "".join(contents(page.records) for page in there) == ORDERED[order]
    back = [page]
    while page.previous is not None:
        page = films.page(query, size, before=page.previous)
        back.append(page)
    assert page.next is not None or len(there) == 1
    assert [contents(page.records) for page in reversed(back)] == [contents(page.records) for page in there]


@pytest.mark.parametrize("order", ResultOrder)
def test_all_rows_in_any_order(films, order, monkeypatch):
    """What an export reads, in pages of its own, is in the same order."""
    monkeypatch.setattr(pages, "PAGE_ROWS", 2)
    rows = list(films.results(ResultQuery(order=order)))
    assert [row["content_sha256"] for row in rows] == [sha256_of(content) for content in ORDERED[order]]
    assert list(films.results(ResultQuery(order=order, limit=6))) == rows[:6]


@pytest.mark.parametrize("order", ResultOrder)
def test_an_answer_that_is_replaced_while_all_are_read(films, order, monkeypatch):
    """Each result is given once, wherever another answer has put it in the order meanwhile."""
    monkeypatch.setattr(pages, "PAGE_ROWS", 2)
    rows = films.results(ResultQuery(order=order))
    read = [next(rows), next(rows)]
    answer_again(films, read[0]["content_sha256"], sha256_of(ORDERED[order][-1]))
    read += rows
    assert [row["content_sha256"] for row in read] == [sha256_of(content) for content in ORDERED[order]]
    assert read[-1]["classified_at"] == LATER


def test_an_answer_that_is_no_longer_of_the_query(films, monkeypatch):
    """What another answer has made something else meanwhile is left out."""
    monkeypatch.setattr(pages, "PAGE_ROWS", 1)
    rows = films.results(ResultQuery(outcome=Outcome.NOT_ANALYSED))
    assert next(rows)["content_sha256"] == sha256_of("f")
    answer_again(films, sha256_of("b"))
    assert list(rows) == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (ResultQuery(identifier="pat_c"), "c"),
        (ResultQuery(identifier="acc-D"), "d"),
        (ResultQuery(identifier="%1"), "gedca"),
        (ResultQuery(identifier="t%a"), ""),
        (ResultQuery(identifier="' OR 1=1 --"), ""),
        (ResultQuery(modality="CR"), "ca"),
        (ResultQuery(modality="CR", view_position="AP"), ""),
        (ResultQuery(view_position="PA", max_probability=0.5), "eda"),
        (ResultQuery(reason_code=ReasonCode.UNREADABLE_FILE), "fb"),
        (ResultQuery(reason_code=ReasonCode.TRUNCATED), ""),
        (ResultQuery(min_probability=0.5, max_probability=0.5), "da"),
        (ResultQuery(min_probability=0.75), "gc"),
        (ResultQuery(content_sha256=sha256_of("e")), "e"),
        (ResultQuery(outcome=Outcome.INDETERMINATE, modality="DX"), "d"),
    ],
)
@pytest.mark.parametrize("few", [0, 2000])
def test_filter(films, query, found, few, monkeypatch):
    """Each filter restricts, whether what it names is looked up first, being few, or not."""
    monkeypatch.setattr(pages, "_FEW", few)
    assert contents(films.page(query, 50).records) == found
    of_any_outcome = replace(query, outcome=None)
    assert films.page(query, 50, most=2000).counts.total == len(films.page(of_any_outcome, 50).records)


def test_counts(films):
    """Results are counted by outcome, those of other outcomes than the query's too."""
    counts = {Outcome.PNEUMONIA: 2, Outcome.NORMAL: 1, Outcome.INDETERMINATE: 2, Outcome.NOT_ANALYSED: 2}
    whole = OutcomeCounts(outcomes=counts, is_complete=True)
    assert films.page(ResultQuery(), 1, most=7).counts == whole
    assert films.page(ResultQuery(outcome=Outcome.NORMAL), 1, most=7).counts == whole
    of_cr = films.page(ResultQuery(modality="CR", outcome=Outcome.NORMAL), 1, most=7).counts
    assert (of_cr.total, of_cr.outcomes[Outcome.PNEUMONIA], of_cr.is_complete) == (2, 1, True)


def test_nothing_is_counted_unasked(films):
    """A page alone costs no count."""
    assert films.page(ResultQuery(modality="CR"), 1).counts is None


def test_counting_ends(films):
    """Where there are more results than shall be counted, the count says so; exactly as many is not more."""
    assert films.page(ResultQuery(view_position="PA"), 1, most=4).counts.is_complete is False
    assert films.page(ResultQuery(view_position="PA"), 1, most=5).counts.is_complete is True
    assert films.page(ResultQuery(), 1, most=4).counts.is_complete is True  # all, from an index alone


def test_key_of_a_result_that_is_gone(films):
    """A page can begin behind a key that no result has any more, as a link kept for long may ask."""
    page = films.page(ResultQuery(), 2, after=PageKey(value=START + dt.timedelta(minutes=3), result_id=0))
    assert contents(page.records) == "cb"
