"""Results by the hour, of which those that are over are not summed up for every look at the page."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from xray_batch.records import HourFigures
from xray_batch.store import Store

#: A requeued file may leave its hour, and an answer may be stored late: hours that are over are read anew after this.
_KEEP_SECONDS: Final = 600.0

#: Hours that still change often: the present one, and the one before it.
_CHANGING: Final = 2


class KeptHours:
    """Keeps hours that are over for ten minutes; a week of 100,000 results takes half a second to sum up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[dt.datetime, HourFigures | None] = {}
        self._kept_since = clock()

    def read(self, store: Store, hours: Sequence[dt.datetime]) -> Sequence[HourFigures | None]:
        """Return the figures of some hours, None for one without results.

        Parameters
        ----------
        hours
            When each begins, in UTC: one after the other without a gap, up to the present one.
        """
        with self._lock:
            if self._clock() - self._kept_since >= _KEEP_SECONDS:
                self._kept.clear()
                self._kept_since = self._clock()
            first = next((hour for hour in hours if hour not in self._kept), hours[-1])
            found = {figures.begins_at: figures for figures in store.hourly_figures(first)}
            known = {hour: found.get(hour) if hour >= first else self._kept[hour] for hour in hours}
            self._kept |= {hour: known[hour] for hour in hours[:-_CHANGING]}
            return list(known.values())
