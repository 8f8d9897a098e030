"""The way into the service: complete files go from the inbox to the spool, and into the database."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from xray_batch.decode import ends_early, has_ended
from xray_batch.intake import (
    Claimed,
    Folders,
    InboxFile,
    LeftAlone,
    SettleTracker,
    claim,
    claim_ids,
    claimed_by,
    claims_in_spool,
    content_sha256,
    hash_claimed,
    is_urgent,
    scan,
)
from xray_batch.logs import get_logger
from xray_batch.pipeline.engine import Answered
from xray_batch.pipeline.room import Room, disks_of, look_for_room
from xray_batch.records import Arrival, Disposition, Lease, ModelIdentity
from xray_batch.service.archives import Archives
from xray_batch.service.disk_thread import DiskThread
from xray_batch.service.faults import DISK_ERRNOS, why
from xray_batch.service.metrics import Metrics
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Files claimed at once, and recorded in one transaction.
_GROUP: Final = 64

#: Files in the spool at most; the others wait in the inbox.  Urgent ones have room of their own, so that neither kind
#: keeps the other out.
_SPOOL_FILES: Final = 1024
_SPOOL_URGENT: Final = 256

#: Routine files claimed together with urgent ones, which wait until these are claimed and hashed too.
_BESIDE_URGENT: Final = 8

_SCAN_SECONDS_AT_LEAST: Final = 0.1


class Intake:
    """Takes in what has arrived, one group at a time.

    Parameters
    ----------
    model
        Files whose bytes it has answered are duplicates.
    disk
        Does all that touches the folders.
    keep_alive
        Called between two files; hashing a large one takes a while.
    """

    def __init__(
        self,
        folders: Folders,
        store: Store,
        model: ModelIdentity,
        archives: Archives,
        settings: Settings,
        metrics: Metrics,
        *,
        disk: DiskThread,
        keep_alive: Callable[[], None],
    ) -> None:
        self._metrics = metrics
        self._folders = folders
        self._store = store
        self._model = model
        self._archives = archives
        self._settings = settings
        self._disk = disk
        self._keep_alive = keep_alive
        self._log = get_logger()
        self._tracker = SettleTracker(
            folders.inbox,
            settings.settle_seconds,
            incomplete_seconds=settings.incomplete_seconds,
            ends_early=ends_early,
            has_ended=has_ended,
        )
        self._disks = disks_of(settings)
        self.can_read_inbox = False  #: at the last look
        self.room = Room(free_bytes=0, floor_bytes=0)  #: on the disks, at the last look
        self._left_alone: Counter[str] = Counter()
        self._just_claimed: set[uuid.UUID] = set()  #: by us, since the last look into the spool
        self._recorded: dict[uuid.UUID, bool] = {}  #: arrivals in the spool that the database knows; whether urgent
        self._urgent_came = False

    def run(self, renamed: Collection[str] = ()) -> float:
        """Claim what is complete in the inbox, and record what is in the spool and not recorded.

        One group at a time, so that neither a huge drop nor a full spool keeps the service from its work.
        An inbox that cannot be read, a share that is down for instance, stops nothing else.

        Parameters
        ----------
        renamed
            Names that files are said to have got by a rename; see :class:`~xray_batch.intake.SettleTracker`.

        Returns
        -------
        float
            Seconds until it is worth while to look again.

        Raises
        ------
        OSError
            If the disk takes nothing at all.
        """
        more = waiting = False
        self.can_read_inbox = True
        try:
            with self._metrics.stages.labels("claim").time():
                more, waiting = self._disk.do(self._claim_complete, renamed)
        except OSError as error:
            if error.errno in DISK_ERRNOS:
                raise
            self.can_read_inbox = False
            self._log.error("inbox cannot be read", why=why(error))
        if self._record_claims() or more:
            return 0.0
        settings = self._settings
        # A file that has not settled is looked at again as soon as it may have.
        seconds = min(settings.settle_seconds, settings.scan_seconds) if waiting else settings.scan_seconds
        return max(seconds, _SCAN_SECONDS_AT_LEAST)

    def look_for_room(self) -> bool:
        """Look whether the disks have room for more, and say when that changes; asks nothing of the database.

        Raises
        ------
        OSError
            If a folder that the service fills is not there.
        """
        return self._note_room(self._disk.do(self._measure_room))

    def _measure_room(self) -> Room:
        return look_for_room(self._disks, self._settings.disk_floor_mb)

    def _note_room(self, room: Room) -> bool:
        if room.for_claims != self.room.for_claims:
            report = self._log.info if room.for_claims else self._log.error
            said = "the disk has room again" if room.for_claims else "the disk is nearly full: nothing is taken in"
            report(said, free_mb=room.free_bytes >> 20, floor_mb=room.floor_bytes >> 20)
        self.room = room
        return room.for_claims

    def is_for_recorded_bytes(self, answered: Answered[Lease]) -> bool:
        """Tell whether an answer is for the bytes that the database knows; if not, record what the bytes are now.

        A sender who kept his file open, where the kernel does not tell, can write on after we have hashed it.
        """
        lease = answered.job.context
        if answered.content_sha256 == lease.content_sha256:
            return True
        claimed = self._disk.do(claimed_by, self._folders, lease.held_by)
        if claimed is None:  # queued once more: where it was filed nobody but us should write
            return answered.content_sha256 is None and self._is_filed(answered.job.path, lease)
        arrival = self._arrival(claimed)
        if arrival is None:  # still being written
            return False
        if arrival.content_sha256 == lease.content_sha256:
            return answered.content_sha256 is None  # refused unread; otherwise it was others for a moment
        disposition = self._store.rebind(lease, arrival, self._model)
        self._log.warning("changed after it was claimed", arrival_id=str(arrival.arrival_id), disposition=disposition)
        return False

    def _is_filed(self, path: Path, lease: Lease) -> bool:
        """Tell whether an original that was filed away still has its bytes."""
        try:
            return self._disk.do(content_sha256, path) == lease.content_sha256
        except OSError as error:
            self._log.error("original cannot be read", arrival_id=str(lease.held_by), why=why(error))
            return False

    @property
    def longest_wait(self) -> float:
        """For how many seconds the file that waits longest has been in the inbox as it is."""
        return self._tracker.longest_wait

    def forget(self, arrival_ids: Collection[uuid.UUID]) -> None:
        """Make room: these have left the spool."""
        for arrival_id in arrival_ids:
            self._recorded.pop(arrival_id, None)

    def urgent_came(self) -> bool:
        """Tell whether anything urgent was recorded since the last call."""
        came, self._urgent_came = self._urgent_came, False
        return came

    def _claim_complete(self, renamed: Collection[str]) -> tuple[bool, bool]:
        """Claim complete files of the inbox; tell whether more can be claimed, and whether some are incomplete."""
        start = time.monotonic()
        found = scan(self._folders.inbox)
        self._metrics.scanned(time.monotonic() - start)
        self._metrics.inbox.set(len(found.files))
        self._metrics.ignored.set(found.left_alone[LeftAlone.IGNORED_FOR_LONG])
        if not self._note_room(self._measure_room()):
            self._tracker.complete(found.files, renamed)  # they go on settling
            return False, False
        claimed: Counter[bool] = Counter()  #: urgent ones, and others
        refused: Counter[str] = Counter()
        places = self._places_in_spool()
        passed_over: set[bool] = set()  #: kinds of which there may be more than are claimed at once

        def is_wanted(file: InboxFile) -> bool:
            urgent = is_urgent(file.name)
            group = _BESIDE_URGENT if claimed[True] and not urgent else _GROUP
            if claimed[urgent] < min(group, places[urgent]):
                return True
            passed_over.add(urgent)
            return False

        for file in self._tracker.complete(found.files, renamed, is_wanted):
            try:
                if taken := claim(file, self._folders):
                    self._just_claimed.add(taken.arrival_id)
                claimed[is_urgent(file.name)] += 1
            except OSError as error:
                if error.errno in DISK_ERRNOS:
                    raise
                refused[why(error)] += 1
        if passed_over:  # nothing is known of these
            return any(places[urgent] for urgent in passed_over), True
        self._tell_of_left_files(Counter({str(kind): count for kind, count in found.left_alone.items()}) + refused)
        return False, len(found.files) > claimed.total() + refused.total() + self._tracker.unreadable

    def _tell_of_left_files(self, left: Counter[str]) -> None:
        """Say, when it changes, how many files stay in the inbox, and why."""
        left += Counter(unreadable=self._tracker.unreadable)
        if left != self._left_alone:
            self._log.warning("files left in the inbox", **left)
            self._left_alone = left

    def _places_in_spool(self) -> dict[bool, int]:
        """Return how many more urgent files the spool may take, and how many others."""
        urgent = sum(self._recorded.values())
        return {True: max(0, _SPOOL_URGENT - urgent), False: max(0, _SPOOL_FILES - (len(self._recorded) - urgent))}

    def _record_claims(self) -> bool:
        """Record one group of what is in the spool and not recorded, urgent first; tell whether there is more."""
        ids = self._disk.do(claim_ids, self._folders)
        for gone in self._recorded.keys() - ids:  # others may have filed some away
            del self._recorded[gone]
        fresh, self._just_claimed = self._just_claimed, set()  # to record one that another has recorded changes nothing
        new = self._disk.do(self._look_into, ids - self._recorded.keys())
        new.sort(key=lambda claimed: not claimed.is_urgent)
        for start in range(0, len(new), _GROUP):
            group = new[start : start + _GROUP]
            asked = [claimed.arrival_id for claimed in group if claimed.arrival_id not in fresh]
            known = self._store.recorded(asked) if asked else ()
            self._recorded |= {
                claimed.arrival_id: claimed.is_urgent for claimed in group if claimed.arrival_id in known
            }
            self._record_arrivals([claimed for claimed in group if claimed.arrival_id not in self._recorded])
            if any(claimed.arrival_id in self._recorded for claimed in group):
                return len(new) > start + _GROUP
        return False

    def _look_into(self, arrival_ids: Collection[uuid.UUID]) -> list[Claimed]:
        return list(claims_in_spool(self._folders, arrival_ids))

    def _arrival(self, claimed: Claimed) -> Arrival | None:
        """Learn what a claimed file is; None if that is not possible now."""
        self._keep_alive()
        try:
            return self._disk.do(hash_claimed, claimed)
        except OSError as error:
            self._log.error("claimed file cannot be read", arrival_id=str(claimed.arrival_id), why=why(error))
            return None

    def _record_arrivals(self, claims: Sequence[Claimed]) -> None:
        group = [arrival for claimed in claims if (arrival := self._arrival(claimed)) is not None]
        if not group:
            return
        archives = {claimed.arrival_id for claimed in self._archives.to_unpack(claims)}
        again = {arrival.content_sha256 for arrival in group if arrival.arrival_id in archives}
        dispositions = self._store.add_arrivals(group, self._model, again)
        self._recorded |= {arrival.arrival_id: arrival.is_urgent for arrival in group}
        self._urgent_came |= any(arrival.is_urgent for arrival in group)
        for arrival in group:
            disposition = dispositions[arrival.arrival_id]
            if disposition is Disposition.DUPLICATE:
                self._metrics.duplicates.inc()
            self._log.info(
                "arrived",
                arrival_id=str(arrival.arrival_id),
                disposition=disposition,
                urgent=arrival.is_urgent,
                size=arrival.size,
            )
