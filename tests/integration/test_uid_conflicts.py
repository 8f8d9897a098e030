"""Other bytes under a SOP Instance UID that is known: both are kept and answered, the later one is flagged."""

import threading

import pytest
import sqlalchemy as sa
from store_records import make_analysed, make_arrival, make_model, make_rejected

MODEL = make_model()
NEWER = make_model("2.0.0")


def take(store, *contents, model=MODEL):
    """Record arrivals and lease them; return the leases by content, in their order."""
    for minute, content in enumerate(contents):
        store.add_arrivals([make_arrival(content, minute=minute)], model)
    return store.lease(limit=9, lease_seconds=60)


def flags(store, model=MODEL):
    """Return which rows of a model are flagged, in the order of the answers."""
    rows = sorted(store.results(), key=lambda row: row["result_id"])
    return [row["warnings"] == "uid_conflict" for row in rows if row["model_sha256"] == model.model_sha256]


def test_the_later_one_is_flagged(store, engine):
    """The first is reported as ever, the second has the warning, and an event."""
    for content in ("first", "second"):
        (lease,) = take(store, content)
        store.finish([(lease, make_analysed())], MODEL)
    assert flags(store) == [False, True]
    assert store.accounting().results == 2
    with engine.connect() as connection:
        events = connection.execute(sa.text("SELECT content_sha256 FROM event WHERE kind = 'uid_conflict'")).all()
    assert [tuple(event) for event in events] == [(lease.content_sha256,)]


def test_two_of_one_group(store):
    """Of contents that are answered together, the first is the first."""
    leases = take(store, "a", "b", "c")
    store.finish([(lease, make_analysed()) for lease in leases], MODEL)
    assert flags(store) == [False, True, True]


def test_two_at_once(store):
    """Of two that are answered in the same moment, exactly one is flagged."""
    leases = take(store, "first", "second")
    barrier = threading.Barrier(2)

    def finish(lease):
        barrier.wait()
        store.finish([(lease, make_analysed())], MODEL)

    threads = [threading.Thread(target=finish, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flags(store) == [False, True]


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_a_newer_model_changes_nothing_about_who_was_first(store, order):
    """When both are answered anew, in whatever order, it is the same one that is flagged."""
    for content in ("first", "second"):
        (lease,) = take(store, content)
        store.finish([(lease, make_analysed())], MODEL)
    for lease in take(store, *order, model=NEWER):
        store.finish([(lease, make_analysed())], NEWER)
    assert flags(store, NEWER) == [content == "second" for content in order]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_analysed(sop_instance_uid="1.2"), make_analysed(sop_instance_uid="1.3")),
        (make_analysed(sop_instance_uid=None), make_analysed(sop_instance_uid=None)),
        (make_analysed(), make_rejected()),
    ],
    ids=["other UIDs", "no UID", "no header"],
)
def test_no_conflict(store, first, second):
    """PNG and JPEG have no UID, and different films have different ones."""
    leases = take(store, "first", "second")
    store.finish(list(zip(leases, (first, second), strict=True)), MODEL)
    assert flags(store) == [False, False]
