"""What may be claimed after one scan."""

from pathlib import Path

import pytest

from xray_batch.intake import InboxFile
from xray_batch.service import quota as quota_module
from xray_batch.service.quota import BESIDE_URGENT, Quota


def take(quota, urgent, routine):
    """Claim what the quota wants of so many files, urgent ones first; return the names."""
    names = [f"urgent/{number}.png" for number in range(urgent)] + [f"{number}.png" for number in range(routine)]
    taken = []
    for name in names:
        file = InboxFile(inbox=Path("/inbox"), name=name, size=1, device=1, inode=1, mtime_ns=0, ctime_ns=0)
        if quota.wants(file):
            quota.used(file)
            taken.append(name)
    assert quota.files == len(taken)
    return taken


@pytest.fixture
def _no_time(monkeypatch):
    monkeypatch.setattr(quota_module, "_SECONDS", -1.0)


def test_room_of_each_kind():
    """Neither takes the places of the other; what finds none is held back."""
    quota = Quota({True: 3, False: 2})
    assert take(quota, 4, 0) == ["urgent/0.png", "urgent/1.png", "urgent/2.png"]
    assert take(Quota({True: 0, False: 2}), 1, 3) == ["0.png", "1.png"]
    assert (quota.passed_over, quota.held_back) == ({True}, {True})


def test_all_of_a_small_drop():
    """More than one transaction takes, and nothing is passed over."""
    quota = Quota({True: 256, False: 1024})
    assert len(take(quota, 0, 200)) == 200
    assert (quota.passed_over, quota.held_back) == (set(), set())


def test_few_routine_files_beside_urgent_ones():
    """The others can be claimed at the next scan: they are not held back for want of room."""
    quota = Quota({True: 256, False: 1024})
    assert len(take(quota, 2, 100)) == 2 + BESIDE_URGENT
    assert (quota.passed_over, quota.held_back) == ({False}, set())


@pytest.mark.usefixtures("_no_time")
def test_one_at_least():
    """On a disk that takes long for one claim, too, the inbox empties."""
    quota = Quota({True: 256, False: 1024})
    assert take(quota, 0, 3) == ["0.png"]
    assert (quota.passed_over, quota.held_back) == ({False}, set())
    assert take(Quota({True: 256, False: 0}), 1, 1) == ["urgent/0.png"]
