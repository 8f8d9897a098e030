"""Queue answered contents once more, for a running or the next service."""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from xray_batch.intake import Folders, find_original
from xray_batch.store import AnswerSelection, Obstacle, Store, StoredAnswer

#: Contents queued in one transaction: a service is not kept waiting.
_GROUP: Final = 64


#: What somebody can do about contents that were not queued.
WHAT_TO_DO: Final[Mapping[Obstacle, str]] = {
    Obstacle.IN_WORK: "queued or being processed already",
    Obstacle.IN_PLACE: "classified where they lay, not in the home folder: drop them into the inbox, then requeue",
    Obstacle.PRUNED: "originals removed by prune: drop them into the inbox again, then requeue",
    Obstacle.MISSING: "originals not where they were filed: put them back, or drop them into the inbox",
}


@dataclass(slots=True, kw_only=True)
class Requeued:
    """What became of the selected answers."""

    queued: int = 0  #: contents
    obstacles: Counter[Obstacle] = field(default_factory=Counter)  #: contents that were not queued, by reason
    unknown: int = 0  #: ids that no result has

    def in_words(self, *, dry_run: bool = False) -> Iterator[tuple[int, str]]:
        """Yield counts, each with what it counts: first what was queued, then what was not and what to do about it."""
        yield self.queued, "would be queued" if dry_run else "queued"
        for obstacle, text in WHAT_TO_DO.items():
            if self.obstacles[obstacle]:
                yield self.obstacles[obstacle], f"not queued, {obstacle}: {text}"
        if self.unknown:
            yield self.unknown, "result ids that there are not"


def requeue(
    store: Store,
    folders: Folders,
    selection: AnswerSelection,
    *,
    limit: int | None = None,
    dry_run: bool = False,
    user: str | None = None,
) -> Requeued:
    """Queue the contents of selected answers; what is selected is settled at the start.

    Parameters
    ----------
    limit
        Contents queued at most; the oldest answers come first.
    dry_run
        Change nothing, and return what would have been.
    user
        Who asks for it, for the audit trail; at most 64 characters.
    """
    report = Requeued(unknown=store.unknown_results(selection.result_ids or ()))
    result_ids = store.select_answers(selection)
    start = 0
    while start < len(result_ids) and (limit is None or report.queued < limit):
        group = _GROUP if limit is None else min(_GROUP, limit - report.queued)
        chosen = _choose(store, folders, result_ids[start : start + group], report)
        queued = len(chosen) if dry_run else len(store.requeue(chosen, user))
        report.queued += queued
        # Of the others somebody else has made work since they were looked at.
        report.obstacles[Obstacle.IN_WORK] += len(chosen) - queued
        start += group
    return report


def _choose(
    store: Store, folders: Folders, result_ids: Sequence[int], report: Requeued
) -> list[tuple[StoredAnswer, uuid.UUID]]:
    """Return the contents that can be queued, each with an arrival that has its original; report the obstacles."""
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
    return chosen
