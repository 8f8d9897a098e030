"""Urgent and routine contents in turn."""

import itertools

import pytest

from xray_batch.service.lanes import in_turn


class Queue:
    """What waits, by lane; hands out at most what is asked for."""

    def __init__(self, urgent: str, routine: str) -> None:
        self.lanes = {True: list(urgent), False: list(routine)}
        self.came = False

    def lease(self, limit, urgent):
        """Take the first."""
        taken, self.lanes[urgent] = self.lanes[urgent][:limit], self.lanes[urgent][limit:]
        return taken

    def urgent_came(self):
        """Tell once."""
        came, self.came = self.came, False
        return came

    def in_turn(self, together=4):
        """Return the order as text."""
        return in_turn(self.lease, together, self.urgent_came)


@pytest.mark.parametrize("together", [1, 2, 4, 16])
@pytest.mark.parametrize(
    ("urgent", "routine", "order"),
    [
        ("", "", ""),
        ("AB", "", "AB"),
        ("", "abc", "abc"),
        ("A", "abc", "Aabc"),
        ("ABC", "abcd", "AaBbCcd"),
        ("ABCDE", "a", "AaBCDE"),
    ],
)
def test_urgent_first_and_every_other_turn_for_the_rest(urgent, routine, order, together):
    """However many are leased at once; where only one kind waits it has every turn."""
    assert "".join(Queue(urgent, routine).in_turn(together)) == order


def test_what_comes_in_between_goes_before_what_is_leased():
    """Routine contents that are leased, but not taken up yet, let it pass."""
    queue = Queue("", "abcdefgh")
    turns = queue.in_turn()
    assert "".join(itertools.islice(turns, 2)) == "ab"
    queue.lanes[True].append("A")
    queue.came = True
    assert "".join(itertools.islice(turns, 3)) == "Acd"
    queue.lanes[True].append("B")  # of another service, which tells nobody here
    assert "".join(turns) == "Befgh"


def test_an_endless_row_of_urgent_ones_does_not_starve_the_rest():
    """Every other one is a routine one."""
    queue = Queue("A" * 1000, "a" * 100)
    assert list(itertools.islice(queue.in_turn(), 200)).count("a") == 100
