"""How much room on a disk is enough."""

import os
from types import SimpleNamespace

import pytest

from xray_batch.pipeline.room import look_for_room

GB = 1 << 30


@pytest.fixture
def disks(monkeypatch):
    """Replace what the system says of some disks by (size, free) in GiB, and the same in inodes."""
    sizes = {}

    def statvfs(folder):
        size, free, inodes, free_inodes = (*sizes[folder], 0, 0)[:4]
        return SimpleNamespace(
            f_frsize=4096,
            f_blocks=size * GB // 4096,
            f_bavail=free * GB // 4096,
            f_files=inodes,
            f_favail=free_inodes,
        )

    monkeypatch.setattr(os, "statvfs", statvfs)
    return sizes


@pytest.mark.parametrize(
    ("size", "free", "for_claims", "for_work"),
    [
        (1000, 5, True, True),
        (1000, 4, False, True),
        (1000, 1, False, True),
        (1000, 0, False, False),
        (40, 2, True, True),
    ],
)
def test_floor(disks, size, free, for_claims, for_work):
    """Five GiB of a large disk, 5 % of a small one; a fifth of that stops everything."""
    disks["home"] = (size, free)
    room = look_for_room(["home"], 5120)
    assert (room.for_claims, room.for_work) == (for_claims, for_work)


@pytest.mark.parametrize(
    ("inodes", "free", "for_claims"),
    [(9_000_000, 4096, True), (9_000_000, 4095, False), (1000, 50, True), (0, 0, True)],
)
def test_floor_of_inodes(disks, inodes, free, for_claims):
    """So many files, or 5 % of a small number; some file systems have no number.  Answers need none: work goes on."""
    disks |= {"home": (1000, 500, inodes, free), "database": (1000, 100)}
    room = look_for_room(["home", "database"], 5120)
    assert (room.for_claims, room.for_work) == (for_claims, True)


def test_the_fullest_disk_counts(disks):
    """The database may be on another disk than the films."""
    disks |= {"home": (1000, 500), "database": (100, 3)}
    assert not look_for_room(["home", "database"], 5120).for_claims
    assert look_for_room(["home"], 5120).for_claims
