"""When the circuit breaker opens, and how it closes."""

import pytest
from clock import Clock

from xray_batch.service.breaker import CircuitBreaker


@pytest.fixture
def clock():
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
def breaker(clock):
    """Give a breaker that has seen nothing."""
    return CircuitBreaker(clock)


def fail(breaker, times):
    """Let so many attempts fail; return how many of them began a pause."""
    return sum(breaker.failed() for _ in range(times))


def test_a_few_failures_open_nothing(breaker):
    """A handful of poisonous files is not a broken service."""
    assert fail(breaker, 29) == 0
    assert not breaker.is_open


def test_it_opens_when_nearly_everything_fails(breaker):
    """The thirtieth failure among the last fifty attempts begins a pause, and further ones no second."""
    for number in range(100):
        breaker.succeeded() if number % 2 else breaker.failed()
    assert not breaker.is_open
    assert fail(breaker, 20) == 1
    assert breaker.is_open
    assert breaker.pause_seconds == 15


def test_after_the_pause_one_file_is_tried(breaker, clock):
    """Failing too, it doubles the pause, up to a quarter of an hour."""
    fail(breaker, 30)
    pauses = []
    for _ in range(8):
        pauses.append(breaker.pause_seconds)
        clock.now += pauses[-1]
        assert breaker.is_open
        assert breaker.pause_seconds == 0
        assert breaker.failed()
    assert pauses == [15, 30, 60, 120, 240, 480, 900, 900]


def test_one_answer_closes_it(breaker, clock):
    """What went wrong before is forgotten."""
    fail(breaker, 30)
    clock.now += 15
    breaker.succeeded()
    assert not breaker.is_open
    assert fail(breaker, 29) == 0
    assert fail(breaker, 1) == 1
    assert breaker.pause_seconds == 15
