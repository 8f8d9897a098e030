"""Which content is taken up next: urgent ones before routine ones, in turn where both wait."""

from collections import deque
from collections.abc import Callable, Iterator

from xray_batch.records import Lease


def in_turn(
    lease: Callable[[int, bool], list[Lease]], together: int, urgent_came: Callable[[], bool]
) -> Iterator[Lease]:
    """Yield leases for as long as there are any, an urgent one first, and never two urgent ones while others wait.

    So an urgent content waits for what was taken up before it, and routine work gets at least every other turn: it
    becomes slower, by half at most, and never stands still.

    Parameters
    ----------
    lease
        Leases at most so many contents, of the urgent ones or of the others.
    together
        Routine contents leased at once, 1 or more; of urgent ones half as many.
    urgent_came
        Tells whether urgent contents were recorded since it was last asked.  Those of other services, and those to be
        tried again, are looked for whenever routine ones are leased.
    """
    urgent: deque[Lease] = deque()
    routine: deque[Lease] = deque()
    at_once = max(1, together // 2)
    was_urgent = more_wait = False
    while True:
        if not urgent and (urgent_came() or more_wait or not routine):
            urgent.extend(lease(at_once, True))
            more_wait = len(urgent) == at_once
        if not routine:
            routine.extend(lease(together, False))
        lane = urgent if urgent and not (was_urgent and routine) else routine
        if not lane:
            return
        was_urgent = lane is urgent
        yield lane.popleft()
