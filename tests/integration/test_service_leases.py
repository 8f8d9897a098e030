"""What a service holds, over a real database."""

import dataclasses
import datetime as dt

import pytest
import sqlalchemy as sa
from clock import Clock
from store_records import make_arrival, make_model, sha256_of

from xray_batch.schema import ContentRow
from xray_batch.service import leases as leases_module
from xray_batch.service.leases import Leases
from xray_batch.service.metrics import Metrics
from xray_batch.store import ANY_ATTEMPTS

LEASE_SECONDS = 60

#: What the clocks of this process and of the database may differ by.
CLOCKS_APART = dt.timedelta(seconds=1)


@pytest.fixture
def clock():
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
def metrics():
    """Give counters that are all zero."""
    return Metrics()


@pytest.fixture
def leases(store, metrics, clock):
    """Give leases of a service that holds nothing yet, while two contents wait."""
    store.add_arrivals([make_arrival("one", minute=1), make_arrival("two", minute=2)], make_model())
    return Leases(store, metrics, lease_seconds=LEASE_SECONDS, clock=clock)


def let_end_in(engine, seconds):
    """Have all leases end in so many seconds from now."""
    with engine.begin() as connection:
        end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        connection.execute(sa.update(ContentRow).where(ContentRow.state == "leased").values(lease_until=end))


def seconds_left(engine):
    """Return for how long the first content is leased, to within a few."""
    with engine.connect() as connection:
        until = sa.select(ContentRow.lease_until).where(ContentRow.content_sha256 == sha256_of("one"))
        left = connection.execute(until).scalar_one() - dt.datetime.now(dt.UTC)
    return pytest.approx(left.total_seconds(), abs=3)


def test_they_are_made_to_last_longer_from_a_third_on(leases, engine, clock):
    """Before a third of their time the database is not asked; after it the end moves, once."""
    leases.take(1, ANY_ATTEMPTS)
    let_end_in(engine, 10)
    clock.now += LEASE_SECONDS / 3 - 1
    leases.keep()
    assert seconds_left(engine) == 10
    clock.now += 2
    leases.keep()
    assert seconds_left(engine) == LEASE_SECONDS
    let_end_in(engine, 10)
    leases.keep()
    assert seconds_left(engine) == 10


def test_taking_more_keeps_what_is_held(leases, engine, clock):
    """After a wait in which our own leases ended they are kept first, and so are not taken anew."""
    leases.take(1, ANY_ATTEMPTS)
    clock.now += LEASE_SECONDS + 1
    let_end_in(engine, -1)
    assert [lease.content_sha256 for lease in leases.take(5, ANY_ATTEMPTS)] == [sha256_of("two")]
    assert seconds_left(engine) == LEASE_SECONDS


def test_what_others_hold_by_now_is_not_given_back(leases, store, clock):
    """A lease that was lost while the service stood still is no longer ours to return."""
    (lost,) = leases.take(1, ANY_ATTEMPTS)
    store.end_leases()
    (theirs,) = store.lease(limit=1, lease_seconds=LEASE_SECONDS)
    assert theirs.content_sha256 == lost.content_sha256
    clock.now += LEASE_SECONDS
    leases.keep()
    leases.give_back()
    assert store.extend([theirs], LEASE_SECONDS) == [theirs]


def test_what_is_given_back_had_no_attempt(leases, store):
    """A service that drains leaves the files as it found them; it gives each back once."""
    leases.take(5, ANY_ATTEMPTS)
    leases.give_back()
    leases.give_back()
    assert [lease.attempts for lease in store.lease(limit=5, lease_seconds=LEASE_SECONDS)] == [1, 1]


def test_what_has_ended_is_not_given_back(leases, store):
    """An answered content is nobody's any more."""
    first, second = leases.take(5, ANY_ATTEMPTS)
    leases.ended(first)
    leases.give_back()
    (again,) = store.lease(limit=5, lease_seconds=LEASE_SECONDS)
    assert again.content_sha256 == second.content_sha256


def test_a_newer_lease_of_a_content_outlives_the_end_of_an_older_one(leases, store):
    """The answer to a lease that ended by itself says nothing of the one that was taken after it."""
    (older,) = leases.take(1, ANY_ATTEMPTS)
    store.end_leases()
    (newer,) = leases.take(1, ANY_ATTEMPTS)
    assert newer.content_sha256 == older.content_sha256
    leases.ended(older)
    leases.give_back()
    assert store.extend([newer], LEASE_SECONDS) == []


def test_what_is_abandoned_keeps_its_attempt(leases, store):
    """A file that ends the service each time must be found out: nobody gives its attempt back."""
    leases.take(5, ANY_ATTEMPTS)
    leases.abandon()
    leases.give_back()
    assert store.lease(limit=5, lease_seconds=LEASE_SECONDS) == []


def test_it_says_once_that_something_was_taken(leases):
    """The loop asks whether to go round again."""
    assert not leases.has_taken()
    leases.take(5, ANY_ATTEMPTS)
    leases.take(5, ANY_ATTEMPTS)
    assert leases.has_taken()
    assert not leases.has_taken()


@pytest.mark.parametrize(("attempts", "delay"), [(1, 5), (2, 10), (4, 40), (9, 900), (2000, 900)])
def test_the_delay_doubles_up_to_a_limit(leases, engine, attempts, delay):
    """A content that fails again and again is left in peace for longer each time, but never for hours."""
    (lease,) = leases.take(1, ANY_ATTEMPTS)
    start = dt.datetime.now(dt.UTC)
    leases.retry(dataclasses.replace(lease, attempts=attempts), counted=True)
    end = dt.datetime.now(dt.UTC)
    with engine.connect() as connection:
        next_try = sa.select(ContentRow.next_try_at).where(ContentRow.content_sha256 == lease.content_sha256)
        tried_at = connection.execute(next_try).scalar_one() - dt.timedelta(seconds=delay)
    assert start - CLOCKS_APART <= tried_at <= end + CLOCKS_APART


def test_what_is_tried_again_counts_and_is_no_longer_held(leases, store, metrics, monkeypatch):
    """Its attempt is held against it or not, as the loop says, and each is counted for the operators."""
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    first, second = leases.take(5, ANY_ATTEMPTS)
    leases.retry(first, counted=True)
    leases.retry(second, counted=False)
    leases.give_back()
    assert [lease.attempts for lease in store.lease(limit=5, lease_seconds=LEASE_SECONDS)] == [2, 1]
    said = metrics.exposition().decode()
    assert 'xray_retries_total{class="counted"} 1.0' in said
    assert 'xray_retries_total{class="transient"} 1.0' in said


def test_leases_of_a_dead_service_are_counted(leases, store, metrics):
    """The operators see that a service ended with work in hand."""
    store.lease(limit=1, lease_seconds=0)
    leases.take(5, ANY_ATTEMPTS)
    assert "xray_lease_expired_total 1.0" in metrics.exposition().decode()
