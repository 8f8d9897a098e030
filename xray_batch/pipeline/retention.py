"""Remove originals whose time is over; what the database says about them stays.

The order is that of :mod:`xray_batch.store.retention`: the event first, then the file, then the end of it.  After a
crash in between, the next run removes what was begun before it does anything else.
"""

import errno
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from xray_batch.intake import Folders, Found, look_at_filed, remove_filed
from xray_batch.store import Prunable, PruneSelection, Store

#: Originals removed between two transactions.
_GROUP: Final = 64

#: Nothing can be removed at all.
_DISK_ERRNOS: Final = frozenset({errno.EROFS})


@dataclass(slots=True, kw_only=True)
class Pruned:
    """What became of the selected originals."""

    removed: int = 0
    bytes: int = 0  #: of those
    missing: int = 0  #: not where they were filed
    changed: int = 0  #: other bytes than those that were filed: left alone
    failed: int = 0  #: the system refused

    @property
    def is_complete(self) -> bool:
        """Whether nothing was found that a person should look at."""
        return not (self.missing or self.changed or self.failed)


def prune(store: Store, folders: Folders, selection: PruneSelection, *, dry_run: bool = False) -> Pruned:
    """Remove the selected originals, and what an interrupted run left.

    Parameters
    ----------
    dry_run
        Change nothing, compare sizes only, and return what would have been.

    Raises
    ------
    OSError
        If the disk takes no change at all; run again for what is left.
    """
    report = Pruned()
    if not dry_run:
        for group in _groups(store.prunings_begun):
            _remove(store, folders, [original for original in group if _may_go(folders, original, report)], report)
    for group in _groups(lambda limit, after: store.prunable(selection, limit, after)):
        looked_at = [original for original in group if _is_there(folders, original, report, thorough=not dry_run)]
        if dry_run:
            _count(looked_at, report)
        else:
            begun = store.begin_pruning(looked_at)
            _remove(store, folders, [original for original in looked_at if original.arrival_id in begun], report)
    return report


def _groups(page: Callable[[int, uuid.UUID | None], list[Prunable]]) -> Iterator[list[Prunable]]:
    after: uuid.UUID | None = None
    while group := page(_GROUP, after):
        after = group[-1].arrival_id
        yield group


def _is_there(folders: Folders, original: Prunable, report: Pruned, *, thorough: bool) -> bool:
    """Tell whether the file is the original; count what else it is."""
    found = _look(folders, original, report, thorough=thorough)
    report.missing += found is Found.NOTHING
    return found is Found.ORIGINAL


def _may_go(folders: Folders, original: Prunable, report: Pruned) -> bool:
    """Tell likewise whether what an earlier run began can be ended; that it is gone is what was wanted."""
    return _look(folders, original, report, thorough=True) in (Found.ORIGINAL, Found.NOTHING)


def _look(folders: Folders, original: Prunable, report: Pruned, *, thorough: bool) -> Found | None:
    try:
        found = look_at_filed(folders, original, original.size, thorough=thorough)
    except OSError as error:
        if error.errno in _DISK_ERRNOS:
            raise
        report.failed += 1
        return None
    report.changed += found is Found.CHANGED
    return found


def _remove(store: Store, folders: Folders, originals: list[Prunable], report: Pruned) -> None:
    gone = []
    try:
        for original in originals:
            try:
                remove_filed(folders, original)
            except OSError as error:
                if error.errno in _DISK_ERRNOS:
                    raise
                report.failed += 1
            else:
                gone.append(original)
    finally:
        store.end_pruning([original.arrival_id for original in gone])
        _count(gone, report)


def _count(originals: list[Prunable], report: Pruned) -> None:
    report.removed += len(originals)
    report.bytes += sum(original.size for original in originals)
