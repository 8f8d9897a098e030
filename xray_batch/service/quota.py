"""What may be claimed after one scan of the inbox."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from xray_batch.intake import InboxFile, is_urgent

#: What claiming may take: answers wait meanwhile, and what is urgent in the inbox, too.
_SECONDS: Final = 0.25

#: Routine files claimed, or hashed, together with urgent ones, which wait until these are, too.
BESIDE_URGENT: Final = 8


class Quota:
    """As many as the spool has room for, of each kind, and there is time for; one at least.

    Parameters
    ----------
    places
        How many urgent files (True) the spool may take, and how many others (False).
    """

    def __init__(self, places: Mapping[bool, int]) -> None:
        self._places = places
        self._until = time.monotonic() + _SECONDS
        self._claimed: Counter[bool] = Counter()
        self.wanted = 0  #: how many were wanted, claimed in the end or not
        self.passed_over: set[bool] = set()  #: kinds of which there may be more; nothing is known of these

    def wants(self, file: InboxFile) -> bool:
        """Tell whether a file may be claimed, the urgent ones first."""
        urgent = is_urgent(file.name)
        is_in_time = not self._claimed or time.monotonic() < self._until
        at_most = BESIDE_URGENT if self._claimed[True] and not urgent else self._places[urgent]
        if is_in_time and self._claimed[urgent] < min(at_most, self._places[urgent]):
            self.wanted += 1
            return True
        self.passed_over.add(urgent)
        return False

    def used(self, file: InboxFile) -> None:
        """Take note that a file has left the inbox."""
        self._claimed[is_urgent(file.name)] += 1

    @property
    def files(self) -> int:
        """How many have left the inbox."""
        return self._claimed.total()

    @property
    def held_back(self) -> set[bool]:
        """Kinds that were passed over for want of room in the spool."""
        return {urgent for urgent in self.passed_over if self._claimed[urgent] >= self._places[urgent]}
