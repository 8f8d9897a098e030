"""Records in and out of the database; the only way the other modules reach it.

Last stage: intake -> decode -> standardize -> classify -> store.
May import: sqlalchemy, and ``schema``, ``database``, ``records`` and ``errors`` of this package.
No row, session or connection leaves it.

The state machine of one content::

    add_arrivals --> queued --lease--> leased --finish--> done
                       ^                 |
                       +-- release ------+  attempt not counted: the service drains
                       +-- retry_later --+  after a delay, attempt counted if the file may be at fault
                       +-- end_leases ---+  attempt counted: the holder is known to be gone
                       +-- rebind -------+  to what the file's bytes are now; a writer was faster than we
                       (an expired lease may be taken by anybody, attempt counted)
    done --requeue--> queued, behind what has just arrived; its answer stays until the next replaces it
    leased --withdraw--> done                                as it was, where a requeued original is gone

Work is at least once, effects are exactly once: every function may be repeated after a crash or
a lost connection, and may race with any other in any number of processes.  A lease's token fences
off a worker that comes too late, and one result per content, model and preprocessing is kept.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from xray_batch.database import read_transaction, write_transaction
from xray_batch.records import (
    Accounting,
    Arrival,
    AuditTrail,
    Disposition,
    DriftReference,
    EngineFacts,
    Finished,
    HourFigures,
    Lease,
    ModelIdentity,
    PageKey,
    QueueStatus,
    RecentResults,
    ResultPage,
    ResultQuery,
    ResultRecord,
    StoredModel,
    StoredResult,
    Trend,
    Unfiled,
)
from xray_batch.store import answers, filing, pages, queries, retention, throughput
from xray_batch.store import arrivals as arriving
from xray_batch.store import leases as leasing
from xray_batch.store import requeue as requeueing
from xray_batch.store import trends as counting
from xray_batch.store.leases import RETRY_SECONDS_AT_MOST
from xray_batch.store.requeue import AnswerSelection, Obstacle, StoredAnswer
from xray_batch.store.retention import Prunable, PruneSelection

__all__ = [
    "ANY_ATTEMPTS",
    "RETRY_SECONDS_AT_MOST",
    "AnswerSelection",
    "Obstacle",
    "Prunable",
    "PruneSelection",
    "Store",
    "StoredAnswer",
]

# Longer than other files of this package: nearly all of it is what the methods of the one class promise.

#: As many as the column of the database holds.
ANY_ATTEMPTS: Final = range(2**31 - 1)


class Store:
    """The database of one installation, for all threads of a process.

    Each method is one short transaction, and raises :class:`DatabaseUnavailableError` when the
    database cannot be reached, is locked or too slow; the same call may then be repeated.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Work with an engine from :func:`xray_batch.revisions.open_database`."""
        self._engine = engine

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()

    def register_model(self, model: ModelIdentity) -> None:
        """Record the bundle in use; needed once before any answer of it is stored."""
        with write_transaction(self._engine) as connection:
            answers.register_model(connection, model)

    # -- work ---------------------------------------------------------------------------------

    def add_arrivals(
        self, arrivals: Sequence[Arrival], model: ModelIdentity, again: Collection[str] = ()
    ) -> dict[uuid.UUID, Disposition]:
        """Record files from the inbox and queue their contents; at most a few hundred at once.

        An arrival is a DUPLICATE when its content is answered for `model`, or is queued or leased
        for another arrival; otherwise it is WORK, and a content done by an older model is queued
        again.  An arrival recorded before keeps its disposition.

        A content that waits for its first answer becomes urgent when it arrives again as urgent.

        Contents in `again`, by SHA-256, are WORK although they are answered; the next answer replaces the stored one.

        Returns
        -------
        dict
            One disposition for each of `arrivals`.
        """
        with write_transaction(self._engine) as connection:
            return arriving.add_arrivals(connection, arrivals, model, again)

    def recorded(self, arrival_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Return which of some arrivals :meth:`add_arrivals` has recorded; at most a few hundred at once."""
        with read_transaction(self._engine) as connection:
            return arriving.recorded(connection, arrival_ids)

    def lease(
        self, *, limit: int, lease_seconds: float, attempts: range = ANY_ATTEMPTS, urgent: bool | None = None
    ) -> list[Lease]:
        """Take at most `limit` contents to answer, urgent ones first, then oldest first; count one attempt for each.

        Only those that had so many `attempts` before are taken; of them only the urgent ones, or only the others,
        unless `urgent` is None.

        Taken are contents queued and due, and contents whose lease has expired by the database's
        clock.  A content answered too often is leased all the same: the caller looks at
        `attempts` and finishes it as ATTEMPTS_EXHAUSTED.
        """
        with write_transaction(self._engine) as connection:
            return leasing.lease(connection, limit=limit, lease_seconds=lease_seconds, attempts=attempts, urgent=urgent)

    def finish(self, finished: Sequence[tuple[Lease, Finished]], model: ModelIdentity) -> list[Lease]:
        """Store answers and end their leases, all in one transaction.

        The answer of a requeued content replaces that of the same model and preprocessing, whose id it takes.

        Returns
        -------
        list
            The leases that were still held.  For the others nothing was written: somebody else
            has the content or has answered it.

        Raises
        ------
        DatabaseRefusedError
            If one answer breaks a constraint; nothing of the group was written.
        """
        with write_transaction(self._engine) as connection:
            return leasing.finish(connection, finished, model)

    def release(self, leases: Sequence[Lease]) -> list[Lease]:
        """Give contents back untried: queued again, the attempt not counted.

        Returns those that were still held.
        """
        with write_transaction(self._engine) as connection:
            return leasing.release(connection, leases)

    def end_leases(self) -> int:
        """Queue everything leased again, attempts counted; returns how many contents.

        Only for whoever knows that all holders are gone: the one service of a SQLite database.
        """
        with write_transaction(self._engine) as connection:
            return leasing.end_leases(connection)

    def retry_later(self, lease: Lease, delay_seconds: float, *, counted: bool = True) -> bool:
        """Give a content back for a later try, in :data:`RETRY_SECONDS_AT_MOST` at most; False when no longer held.

        An attempt that failed through no fault of the file is not `counted`.
        """
        with write_transaction(self._engine) as connection:
            return leasing.retry_later(connection, lease, delay_seconds, counted=counted)

    def rebind(self, lease: Lease, arrival: Arrival, model: ModelIdentity) -> Disposition | None:
        """Record that the file of `lease` has other bytes by now, and queue those.

        Parameters
        ----------
        arrival
            The arrival that holds the lease, with the hash and size that its file has now.

        Returns
        -------
        Disposition or None
            What the arrival is with its new bytes; None when the lease is no longer held, and nothing was changed.
        """
        with write_transaction(self._engine) as connection:
            return arriving.rebind(connection, lease, arrival, model)

    def withdraw(self, lease: Lease) -> bool:
        """Let a requeued content keep its answer; False when no longer held, or not requeued."""
        with write_transaction(self._engine) as connection:
            return leasing.withdraw(connection, lease)

    def extend(self, leases: Sequence[Lease], lease_seconds: float) -> list[Lease]:
        """Let leases end `lease_seconds` from now; returns those that are still held."""
        with write_transaction(self._engine) as connection:
            return leasing.extend(connection, leases, lease_seconds)

    # -- filing -------------------------------------------------------------------------------

    def unfiled(self, limit: int, after: uuid.UUID | None = None) -> list[Unfiled]:
        """List arrivals from the inbox that are duplicates or answered, and not yet filed away.

        Those of a requeued content are listed again once it is answered; `filed_path` says where they were filed.

        Ordered by `arrival_id`; `after` continues behind the last one of the previous list, so
        that a file which cannot be moved does not hold up the others.
        """
        with read_transaction(self._engine) as connection:
            return filing.unfiled(connection, limit, after)

    def mark_filed(self, paths: Mapping[uuid.UUID, str]) -> None:
        """Record where originals lie now, relative to the home folder; the first path is kept."""
        with write_transaction(self._engine) as connection:
            filing.mark_filed(connection, paths)

    # -- once more ----------------------------------------------------------------------------

    def select_answers(self, selection: AnswerSelection) -> list[int]:
        """Return the ids of selected answers, one for each content, oldest first."""
        with read_transaction(self._engine) as connection:
            return requeueing.select_answers(connection, selection)

    def unknown_results(self, result_ids: Sequence[int]) -> int:
        """Count those of some ids that no result has."""
        with read_transaction(self._engine) as connection:
            return requeueing.unknown_results(connection, result_ids)

    def stored_answers(self, result_ids: Sequence[int]) -> list[StoredAnswer]:
        """Return answers with where their bytes are; at most a few hundred at once."""
        with read_transaction(self._engine) as connection:
            return requeueing.stored_answers(connection, result_ids)

    def requeue(self, chosen: Sequence[tuple[StoredAnswer, uuid.UUID]], user: str | None = None) -> set[str]:
        """Queue contents once more, each for an arrival that has its original; at most a few hundred at once.

        Nothing is moved, and the stored answer stays until the next one.  What has just arrived is worked first.
        The audit trail gets an event `requeued` for each, and one `requested` with the `user` if somebody is named.

        Returns
        -------
        set
            The contents that were queued.  The others are in work meanwhile, or their original is being removed.
        """
        with write_transaction(self._engine) as connection:
            return requeueing.requeue(connection, chosen, user)

    # -- retention ----------------------------------------------------------------------------

    def prunable(self, selection: PruneSelection, limit: int, after: uuid.UUID | None = None) -> list[Prunable]:
        """List originals to remove, ordered and continued as by :meth:`unfiled`.

        Not among them are those of contents that are queued or leased: their bytes are still needed.
        """
        with read_transaction(self._engine) as connection:
            return retention.prunable(connection, selection, limit, after)

    def prunings_begun(self, limit: int, after: uuid.UUID | None = None) -> list[Prunable]:
        """List originals that :meth:`begin_pruning` has named and :meth:`end_pruning` has not, in the same order."""
        with read_transaction(self._engine) as connection:
            return retention.begun(connection, limit, after)

    def begin_pruning(self, originals: Collection[Prunable]) -> set[uuid.UUID]:
        """Say in the audit trail that originals are removed; from now on nobody relies on them.

        Returns
        -------
        set
            The arrivals whose original may go now: not those whose content was queued, or that were moved, meanwhile.
        """
        with write_transaction(self._engine) as connection:
            return retention.begin(connection, originals)

    def end_pruning(self, arrival_ids: Collection[uuid.UUID]) -> None:
        """Record that the originals of these arrivals are gone."""
        with write_transaction(self._engine) as connection:
            retention.end(connection, arrival_ids)

    # -- one-shot batch -----------------------------------------------------------------------

    def known_answers(self, content_sha256s: Sequence[str], model: ModelIdentity) -> dict[str, ResultRecord]:
        """Return the stored answers of `model`, by SHA-256, of those contents that have one."""
        return queries.known_answers(self._engine, content_sha256s, model)

    def record_in_place(
        self, finished: Sequence[tuple[Arrival, Finished]], model: ModelIdentity
    ) -> dict[uuid.UUID, Disposition]:
        """Record files that stay where they are, with their answers, all in one transaction.

        An arrival whose content is answered for `model`, perhaps a moment ago by somebody else,
        becomes a DUPLICATE and the stored answer is kept.  When a service has the content queued
        or leased, the arrival in place is a DUPLICATE too: this answer is stored, but the content
        stays with the service, whose model may be another, and whose answer replaces that of the
        same model.

        Returns
        -------
        dict
            One disposition for each arrival; :meth:`known_answers` has the answers.
        """
        with write_transaction(self._engine) as connection:
            return arriving.record_in_place(connection, finished, model)

    def record_duplicates(self, arrivals: Sequence[Arrival]) -> dict[uuid.UUID, Disposition]:
        """Record files that stay where they are and whose contents :meth:`known_answers` named.

        Returns
        -------
        dict
            One disposition for each arrival: DUPLICATE, unless it was recorded before.
        """
        with write_transaction(self._engine) as connection:
            return arriving.record_duplicates(connection, arrivals)

    # -- reading ------------------------------------------------------------------------------

    def results(self, query: ResultQuery | None = None) -> Iterator[dict[str, object]]:
        """Yield rows of the view `results`, in the order of the query: newest `classified_at` first.

        Keys are :data:`~xray_batch.records.RESULT_COLUMNS` in their order.  Rows are read in
        pages, and no transaction is open while the caller works with one.  They are those that there
        are at the start, each once; an answer that is replaced meanwhile is given as it is then, or
        left out where it is no longer of the query.
        """
        return pages.results(self._engine, query or ResultQuery())

    def page(
        self,
        query: ResultQuery,
        size: int,
        *,
        after: PageKey | None = None,
        before: PageKey | None = None,
        most: int | None = None,
    ) -> ResultPage:
        """Read `size` results behind `after`, or before `before`, or from the start; `query.limit` has no say.

        All results of the query are counted if `most` is given; where it has conditions, counting ends with so many.
        """
        with read_transaction(self._engine) as connection:
            return pages.page(connection, query, size, after, before, most)

    def add_view(self, content_sha256: str, user: str) -> None:
        """Say in the audit trail that a user of the worklist page, at most 64 characters, is shown a film."""
        with write_transaction(self._engine) as connection:
            now = answers.database_now(connection)
            answers.add_events(connection, "viewed", [(None, content_sha256, user)], now)

    def stored_result(self, result_id: int) -> StoredResult | None:
        """Return one result with what is needed to recompute it, None if there is no such result."""
        with read_transaction(self._engine) as connection:
            return queries.stored_result(connection, result_id)

    def audit_trail(self, content_sha256: str, most: int = 200) -> AuditTrail:
        """Return what has happened to a content: its newest events, oldest first."""
        with read_transaction(self._engine) as connection:
            return queries.audit_trail(connection, content_sha256, most)

    def stored_model(self, model_sha256: str) -> StoredModel | None:
        """Return what is known of a bundle that gave answers; None if none had such a manifest."""
        with read_transaction(self._engine) as connection:
            return queries.stored_model(connection, model_sha256)

    def accounting(self) -> Accounting:
        """Return where every arrival is, by the tally that the database keeps; as quick for many as for few."""
        with read_transaction(self._engine) as connection:
            return queries.accounting(connection)

    def recount(self) -> tuple[Accounting, Accounting]:
        """Return where every arrival is by the view `accounting`, which reads them all, and by the tally.

        Both as of one moment: if they differ, the database is broken, or was changed with its triggers disabled.
        """
        with read_transaction(self._engine) as connection:
            return queries.recount(connection)

    def queue_status(self) -> QueueStatus:
        """Return how much work waits."""
        with read_transaction(self._engine) as connection:
            return queries.queue_status(connection)

    def recent_results(self, since: dt.datetime) -> RecentResults:
        """Count the results whose `classified_at` is at or after an aware time, by outcome."""
        with read_transaction(self._engine) as connection:
            return queries.recent_results(connection, since)

    def trends(
        self, boundaries: Sequence[dt.datetime], model_sha256: str, reference: DriftReference | None
    ) -> list[Trend]:
        """Count what one model answered, span by span: by outcome, and in the bins of its bundle's reference.

        Parameters
        ----------
        boundaries
            Aware times in order: each span begins at one and ends before the next, so there is one span fewer.
        reference
            From :attr:`xray_batch.bundle.Manifest.drift_reference`; None counts outcomes alone.
        """
        with read_transaction(self._engine) as connection:
            return counting.trends(connection, boundaries, model_sha256, reference)

    def hourly_figures(self, since: dt.datetime) -> list[HourFigures]:
        """Return the hours with results at or after an aware time, the oldest first."""
        with read_transaction(self._engine) as connection:
            return throughput.hourly_figures(connection, since)

    def count_reasons(self, since: dt.datetime | None = None) -> dict[str, int]:
        """Count the results that are not analysed by reason code, the most frequent first."""
        with read_transaction(self._engine) as connection:
            return throughput.count_reasons(connection, since)

    def describe_engine(self) -> EngineFacts:
        """Return which database this is."""
        with read_transaction(self._engine) as connection:
            return queries.describe_engine(connection)

    def check_writable(self) -> None:
        """Prove that results could be stored now; nothing is.

        Raises
        ------
        DatabaseRefusedError
            If the role may not write.
        """
        with write_transaction(self._engine) as connection:
            queries.check_writable(connection)

    def now(self) -> dt.datetime:
        """Return the database's clock; proves that the database answers."""
        with read_transaction(self._engine) as connection:
            return answers.database_now(connection)
