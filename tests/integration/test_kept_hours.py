"""Hours that are over are not summed up for every look; what changes is."""

import dataclasses
import datetime as dt

from clock import Clock
from store_records import START, make_analysed, make_arrival, make_model

from xray_batch.records import Outcome
from xray_batch.web.hours import KeptHours

#: Five hours, the last of them the present one.
HOURS = [START + dt.timedelta(hours=number) for number in range(5)]


def add(store, name, hour):
    """Store one answer in the middle of an hour."""
    finished = dataclasses.replace(make_analysed(), classified_at=HOURS[hour] + dt.timedelta(minutes=30))
    store.record_in_place([(make_arrival(name), finished)], make_model())


def counts(kept, store, hours=HOURS):
    """Return how many results each hour has; None for one without figures."""
    return [None if each is None else each.outcomes[Outcome.PNEUMONIA] for each in kept.read(store, hours)]


def test_what_is_over_is_kept_for_a_while(store):
    """The present hour and the one before it are read each time; older ones again after ten minutes."""
    clock = Clock()
    kept = KeptHours(clock)
    for hour in (0, 3, 4):
        add(store, f"first {hour}", hour)
    assert counts(kept, store) == [1, None, None, 1, 1]
    for hour in range(5):
        add(store, f"second {hour}", hour)
    assert counts(kept, store) == [1, None, None, 2, 2]
    clock.now += 600
    assert counts(kept, store) == [2, 1, 1, 2, 2]


def test_a_longer_range_is_read_whole(store):
    """Hours that were kept for a shorter range do not hide the older ones."""
    kept = KeptHours(Clock())
    for hour in range(5):
        add(store, f"{hour}", hour)
    assert counts(kept, store, HOURS[1:]) == [1, 1, 1, 1]
    assert counts(kept, store) == [1] * 5
    later = [hour + dt.timedelta(hours=2) for hour in HOURS]
    assert counts(kept, store, later) == [1, 1, 1, None, None]
