"""Queue answered contents once more, for a running or the next service."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from xray_batch.intake import Folders, find_original
from xray_batch.store import AnswerSelection, Obstacle, Store

#: Contents queued in one transaction: a service is not kept waiting.
_GROUP: Final = 64


@dataclass(slots=True, kw_only=True)
class Requeued:
    """What became of the selected answers."""

    queued: int = 0  #: contents
    obstacles: Counter[Obstacle] = field(default_factory=Counter)  #: contents that were not queued, by reason
    unknown: int = 0  #: ids that no result has


def requeue(
    store: Store, folders: Folders, selection: AnswerSelection, *, limit: int | None = None, dry_run: bool = False
) -> Requeued:
    """Queue the contents of selected answers; what is selected is settled at the start.

    Parameters
    ----------
    limit
        Contents queued at most; the oldest answers come first.
    dry_run
        Change nothing, and return what would have been.
    """
    report = Requeued(unknown=store.unknown_results(selection.result_ids or ()))
    result_ids = store.select_answers(selection)
    start = 0
    while start < len(result_ids) and (limit is None or report.queued < limit):
        group = _GROUP if limit is None else min(_GROUP, limit - report.queued)
        _requeue_group(store, folders, result_ids[start : start + group], report, dry_run)
        start += group
    return report


def _requeue_group(store: Store, folders: Folders, result_ids: Sequence[int], report: Requeued, dry_run: bool) -> None:
    chosen = []
    for answer in store.stored_answers(result_ids):
        if answer.obstacle is not None:
            report.obstacles[answer.obstacle] += 1
            continue
        holder = next((each for each in answer.originals if find_original(folders, each) is not None), None)
        if holder is None:
            report.obstacles[Obstacle.MISSING] += 1
        else:
            chosen.append((answer, holder.arrival_id))
    queued = len(chosen) if dry_run else len(store.requeue(chosen))
    report.queued += queued
    # Of the others somebody else has made work since they were looked at.
    report.obstacles[Obstacle.IN_WORK] += len(chosen) - queued
