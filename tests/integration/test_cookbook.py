"""Every query of the README's cookbook runs on both engines, with the drivers that its readers use."""

import contextlib
import dataclasses
import datetime as dt
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from store_records import START, make_analysed, make_arrival, make_model, make_rejected

from xray_batch.database import sqlite_path
from xray_batch.records import Finished, ImageWarning, Outcome
from xray_batch.revisions import open_database
from xray_batch.store import Store

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")

#: Of the demo, as in the cookbook.
STUDY = "1.2.826.0.1.3680043.8.498.32015502043136980038768278894378015266"


def cookbook() -> dict[str, str]:
    """Return the cookbook's queries by the comment above each."""
    text = README.partition("### Query cookbook\n")[2].partition("\n#")[0]
    (block,) = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    queries = {}
    for query in block.strip().split(";"):
        if query.strip():
            comment, _, statement = query.strip().partition("\n")
            queries[comment.removeprefix("-- ")] = statement
    return queries


QUERIES = cookbook()


def at(finished: Finished, time: dt.datetime, *, warnings: Sequence[ImageWarning] = ()) -> Finished:
    """Return the same answer, given at another time and with these warnings."""
    return dataclasses.replace(finished, classified_at=time, warnings=tuple(warnings))


@pytest.fixture
def filled(database_url):
    """Fill a database with answers of today and of 1 March 2026, one of them by two models; return its URL."""
    # Whatever the time is when the query runs, this is not before its day began.
    today = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    march = START + dt.timedelta(hours=1)
    old, new = make_model("1.0.0"), make_model("2.0.0")
    likely = make_analysed(sop_instance_uid=None, p_normal=0.125, patient_id="DEMO-001", study_instance_uid=STUDY)
    likelier = make_analysed(sop_instance_uid=None, p_normal=0.0625, patient_id="DEMO-002")
    unclear = make_analysed(sop_instance_uid=None, p_normal=0.5, outcome=Outcome.INDETERMINATE, patient_id="DEMO-003")
    normal = make_analysed(sop_instance_uid=None, p_normal=0.875, outcome=Outcome.NORMAL, patient_id="DEMO-001")
    first = make_arrival("first", source_name="first.dcm")
    with contextlib.closing(Store(open_database(database_url))) as store:
        store.register_model(old)
        store.register_model(new)
        store.record_in_place(
            [
                (first, at(likely, today)),
                (make_arrival("second", source_name="second.dcm"), at(likelier, today)),
                (
                    make_arrival("third", source_name="third.dcm"),
                    at(unclear, march, warnings=[ImageWarning.VIEW_ABSENT, ImageWarning.BURNED_IN_ANNOTATION]),
                ),
                (make_arrival("fourth", source_name="fourth.dcm"), at(normal, march)),
                (make_arrival("fifth", source_name="fifth.txt"), at(make_rejected(), march)),
            ],
            old,
        )
        store.record_duplicates([make_arrival("first", source_name="again.dcm")])
        changed = make_analysed(p_normal=0.875, outcome=Outcome.NORMAL, patient_id="DEMO-001", study_instance_uid=STUDY)
        store.record_in_place([(make_arrival("first", source_name="first.dcm"), at(changed, march))], new)
    return database_url


def run(url: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query as the reader of the README would, without any code of ours."""
    path = sqlite_path(url)
    if path is None:
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()  # type: ignore[arg-type] # text of the README
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_there_are_at_least_eight():
    """The cookbook has its eight queries, each with a comment that says what it is for."""
    assert len(QUERIES) >= 8
    assert all(statement.startswith("SELECT") for statement in QUERIES.values())


@pytest.mark.parametrize("name", QUERIES)
def test_query_runs_and_finds_something(filled, name):
    """A query of the cookbook runs on this engine and finds a row in a store that has all there is to find."""
    assert run(filled, QUERIES[name])


def test_positives_of_today(filled):
    """Today's positives come with the most probable first; those of other days do not come."""
    rows = run(filled, QUERIES["Positives of today, most probable first"])
    assert rows == [("second.dcm", "DEMO-002", "A1", 0.9375), ("first.dcm", "DEMO-001", "A1", 0.875)]


def test_reasons(filled):
    """Files that were not analysed are counted by reason."""
    assert run(filled, QUERIES["Why files were not analysed, counted"]) == [("unreadable_file", 1)]


def test_indeterminate(filled):
    """Only the indeterminate film is listed, with its thresholds."""
    rows = run(filled, QUERIES["Indeterminate films, for a second look"])
    assert rows == [("third.dcm", "DEMO-003", 0.5, 0.25, 0.75, 0.125)]


def test_history(filled):
    """A patient's history has every answer on that patient, by every model, and nobody else's."""
    rows = run(filled, QUERIES["One patient's history"])
    assert sorted((outcome, model_id) for *_, outcome, _, model_id in rows) == [
        ("normal", "test-1.0.0"),
        ("normal", "test-2.0.0"),
        ("pneumonia", "test-1.0.0"),
    ]


def test_study(filled):
    """A study's images are found by its UID."""
    rows = run(filled, QUERIES["The images of one study"])
    assert {(series, outcome) for series, _, _, outcome, *_ in rows} == {
        ("1.2.3.4", "pneumonia"),
        ("1.2.3.4", "normal"),
    }


def test_throughput(filled):
    """Files and positives are counted by day, written in the same way by both engines."""
    rows = run(filled, QUERIES["Throughput per day"])
    assert rows[0][:3] == ("2026-03-01", 4, 0)
    assert rows[0][3] == pytest.approx((3 * 0.5 + 0.25) / 4)
    assert [row[1:3] for row in rows[1:]] == [(2, 2)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", rows[1][0])


def test_side_by_side(filled):
    """A film that two versions answered comes once, with both probabilities."""
    rows = run(filled, QUERIES["Two model versions side by side, largest difference first"])
    assert rows == [("first.dcm", "test-1.0.0", 0.875, "test-2.0.0", 0.125)]


def test_one_network_alone(filled):
    """A film is found on which the networks fall on both sides, with what each says."""
    (row, *_) = run(filled, QUERIES["Films that the networks put on both sides of 0.7 (->> needs SQLite 3.38)"])
    assert row[2:] == (0.8125, 0.6875)


def test_pictures(filled):
    """Mean, SD and probability are those of the films that were analysed in a month, for each model."""
    rows = run(filled, QUERIES["What the pictures are like, month by month and model by model"])
    assert rows[:2] == [
        ("2026-03", "test-1.0.0", 2, 0.5, 0.25, 0.3125),
        ("2026-03", "test-2.0.0", 1, 0.5, 0.25, 0.125),
    ]


def test_account(filled):
    """The account balances: seven files seen, all of them accounted for, none lost."""
    assert run(filled, QUERIES["Does the account balance? Both numbers are equal, and lost is 0"]) == [(7, 7, 0)]


def test_warnings(filled):
    """A film is found by one of its warnings."""
    rows = run(filled, QUERIES["Answers on films with text in the pixels"])
    assert rows == [("third.dcm", "indeterminate", 0.5, "view_absent,burned_in_annotation")]
