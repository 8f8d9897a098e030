"""The tally of arrivals is what the view `accounting` counts; and what is read often is indexed."""

import datetime as dt
import re
import threading
import uuid
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from store_records import make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch.database import write_transaction
from xray_batch.errors import ReasonCode
from xray_batch.records import Outcome, ResultOrder, ResultQuery
from xray_batch.store import PruneSelection

README = Path(__file__).resolve().parents[2] / "README.md"

MODEL, OTHER = make_model(), make_model("2.0.0")


def execute(engine, *statements):
    """Change rows as a person would, in one transaction."""
    with write_transaction(engine) as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.fixture
def one_of_each(store):
    """Store with an arrival in every standing, and one content that two models answered differently."""
    store.record_in_place([(make_arrival("analysed"), make_analysed(sop_instance_uid="1"))], MODEL)
    store.record_in_place([(make_arrival("rejected"), make_rejected())], MODEL)
    store.record_duplicates([make_arrival("analysed")])
    store.add_arrivals([make_arrival("waiting")], MODEL)
    store.record_in_place([(make_arrival("twice"), make_analysed(sop_instance_uid="2"))], MODEL)
    store.record_duplicates([make_arrival("twice")])
    store.record_in_place([(make_arrival("twice"), make_rejected())], OTHER)
    return store


def test_one_of_each(one_of_each):
    """The tally and the view agree, and both say what was done."""
    counted, tallied = one_of_each.recount()
    assert tallied == counted == one_of_each.accounting()
    assert (counted.arrivals, counted.results, counted.rejected, counted.duplicates, counted.pending) == (7, 1, 3, 2, 1)


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM result WHERE content_sha256 = '{analysed}'"],
        ["DELETE FROM result WHERE content_sha256 = '{twice}' AND outcome = 'not_analysed'"],
        ["DELETE FROM result WHERE content_sha256 = '{twice}' AND outcome <> 'not_analysed'"],
        ["DELETE FROM result WHERE content_sha256 = '{twice}'"],
        ["UPDATE content SET state = 'done'"],
        ["UPDATE content SET state = 'queued'", "DELETE FROM result", "UPDATE content SET state = 'done'"],
        ["UPDATE arrival SET disposition = 'duplicate'"],
        ["UPDATE arrival SET disposition = 'work'"],
        ["UPDATE arrival SET content_sha256 = '{waiting}'"],
        ["DELETE FROM result", "DELETE FROM arrival"],
        ["DELETE FROM result", "DELETE FROM arrival WHERE disposition = 'duplicate'"],
        [
            "UPDATE result SET outcome = 'not_analysed', reason_code = 'too_small', reason = '', p_normal = NULL,"
            " p_bacterial = NULL, p_viral = NULL, p_covid19 = NULL, threshold_low = NULL, threshold_high = NULL,"
            " disagreement = NULL, heat_in_thorax = NULL, member_probabilities = NULL, input_mean = NULL,"
            " input_std = NULL"
        ],
    ],
)
def test_rows_changed_by_hand(one_of_each, engine, statements):
    """What a person changes is counted like what the store changes: a state that is broken shows at once."""
    names = {name: sha256_of(name) for name in ("analysed", "twice", "waiting")}
    execute(engine, *(statement.format(**names) for statement in statements))
    counted, tallied = one_of_each.recount()
    assert tallied == counted


def test_a_tally_that_is_wrong_is_found(one_of_each, engine):
    """The view counts the rows themselves, and so differs from a tally that somebody has changed."""
    execute(engine, "UPDATE tally SET arrivals = arrivals + 2 WHERE standing = 'rejected'")
    counted, tallied = one_of_each.recount()
    assert (counted.balances, tallied.balances) == (True, True)
    assert tallied.differs_by(counted) == 2


def test_a_wrong_tally_is_mended_as_the_readme_says(one_of_each, engine):
    """Its statements make the tally anew, which is then kept as before."""
    (statements,) = re.findall(r"```sql\n(DELETE FROM tally;.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    execute(engine, "UPDATE tally SET arrivals = 7", *filter(str.strip, statements.split(";")))
    one_of_each.add_arrivals([make_arrival("later")], MODEL)
    counted, tallied = one_of_each.recount()
    assert tallied == counted


def test_what_is_rolled_back_is_not_counted(one_of_each, engine):
    """The tally changes in the transaction that changes the rows, or not at all."""
    before = one_of_each.accounting()
    with pytest.raises(KeyboardInterrupt), write_transaction(engine) as connection:
        connection.execute(sa.text("UPDATE content SET state = 'done'"))
        raise KeyboardInterrupt
    assert one_of_each.recount() == (before, before)


def test_many_at_once(store):
    """Whatever several services do at the same time, the tally is what there is in the end."""

    def work(number):
        for turn in range(8):
            names = [f"{(turn * 3 + each + number) % 12}" for each in range(4)]
            store.add_arrivals([make_arrival(name) for name in names], (MODEL, OTHER)[number % 2])
            leases = store.lease(limit=3, lease_seconds=60)
            store.release(leases[:1])
            answers = [(lease, make_rejected() if turn % 2 else make_analysed()) for lease in leases[1:]]
            store.finish(answers, (MODEL, OTHER)[number % 2])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted, tallied = store.recount()
    assert tallied == counted
    assert counted.balances
    assert counted.arrivals == 4 * 8 * 4


def test_nobody_waits_for_a_tally(database_url, store, engine):
    """While one transaction has counted and not ended, another on PostgreSQL counts and ends."""
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT tally_add('pending', 1)"))
        for number in range(3):
            store.add_arrivals([make_arrival(f"{number}")], MODEL)
        assert store.accounting().pending == 3
        connection.rollback()
    rows = "SELECT count(*) FROM tally WHERE standing = 'pending'"
    with engine.connect() as connection:
        assert connection.scalar(sa.text(rows)) == 2  # as many as there were transactions at once
    counted, tallied = store.recount()
    assert tallied == counted


# -- indexes --------------------------------------------------------------------------------------


@contextmanager
def statements_of(engine):
    """Collect what is executed, with its parameters."""
    found = []

    def collect(_connection, _cursor, statement, parameters, _context, _many):
        found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", collect)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", collect)


def plan_of(engine, statement, parameters):
    """Return the plan of a statement, as text; on PostgreSQL that for a table too large to be read whole."""
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return "\n".join(row[3] for row in rows)
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))


NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
SUSPICIOUS = ResultQuery(order=ResultOrder.MOST_SUSPICIOUS)


@pytest.mark.parametrize(
    ("read", "index"),
    [
        (lambda store: store.recent_results(NOW), "ix_result_outcome"),
        (lambda store: store.recent_results(NOW), "ix_result_classified_at"),
        (lambda store: store.queue_status(), "ix_content_open"),
        (lambda store: store.end_leases(), "ix_content_open"),
        (lambda store: store.prunings_begun(64), "ix_arrival_pruning"),
        (lambda store: store.unfiled(64), "ix_arrival_unfiled"),
        (lambda store: store.prunings_begun(64, uuid.uuid4()), "ix_arrival_pruning"),
        (lambda store: store.page(SUSPICIOUS, 50), "ix_result_p_normal"),
        (lambda store: store.page(replace(SUSPICIOUS, outcome=Outcome.NORMAL), 50), "ix_result_outcome_p_normal"),
        (lambda store: store.page(ResultQuery(reason_code=ReasonCode.TRUNCATED), 50), "ix_result_reason_code"),
    ],
)
def test_what_is_read_often_uses_its_index(store, engine, read, index):
    """What a start, `status` and the worklist ask is looked up, not looked for."""
    with statements_of(engine) as executed:
        read(store)
    plans = [plan_of(engine, *each) for each in executed if "SELECT" in each[0] and "strftime" not in each[0]]
    assert any(index in plan for plan in plans), plans


def test_an_account_reads_no_arrival(store, engine):
    """It costs the same whether there are a thousand arrivals or a million."""
    with statements_of(engine) as executed:
        store.accounting()
    ((statement, _),) = [each for each in executed if "SELECT" in each[0]]
    assert "FROM tally" in " ".join(statement.split())


def test_prunable_by_the_newest_answer(store):
    """The outcome that selects an original is that of its newest answer, and of no other."""
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    for model, answer in ((MODEL, make_rejected()), (OTHER, make_analysed())):
        store.add_arrivals([make_arrival()], model)
        leases = store.lease(limit=1, lease_seconds=60)
        store.finish([(lease, answer) for lease in leases], model)
        store.mark_filed({lease.held_by: f"processed/{lease.held_by}" for lease in leases})
    for answer, expected in ((make_rejected(), 0), (make_analysed(), 2)):
        selection = PruneSelection(filed_before=later, folders=("processed",), outcome=answer.outcome)
        assert len(store.prunable(selection, 64)) == expected
