"""A value that is kept for a while."""

import pytest
from clock import Clock

from xray_batch.web.kept import Kept


def test_it_is_found_out_anew_when_it_is_old():
    """Once in so many seconds, however often it is asked for."""
    clock, values = Clock(), iter(range(10))
    kept = Kept(300.0, clock)
    assert [kept.get(lambda: next(values)) for _ in range(3)] == [0, 0, 0]
    clock.now += 299
    assert kept.get(lambda: next(values)) == 0
    clock.now += 1
    assert kept.get(lambda: next(values)) == 1


def test_an_error_is_not_kept():
    """The database may be back at the next request."""
    kept = Kept(300.0, Clock())
    with pytest.raises(ZeroDivisionError):
        kept.get(lambda: 1 // 0)
    assert kept.get(lambda: 1) == 1
