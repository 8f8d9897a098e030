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
    LeftAlone,
    SettleTracker,
    claim,
    claim_ids,
    claimed_by,
    claims_in_spool,
    content_sha256,
    hash_claimed,
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
from xray_batch.service.quota import BESIDE_URGENT, Quota
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Files recorded in one transaction.
_GROUP: Final = 64

#: What the hashing of a group may take: answers wait meanwhile, and so does what is urgent.
_HASH_SECONDS: Final = 0.25

#: Files in the spool at most; the others wait in the inbox.  Urgent ones have room of their own, so that neither kind
#: keeps the other out.
_SPOOL_FILES: Final = 1024
_SPOOL_URGENT: Final = 256

#: Of that room, so much must be free before a full spool is filled again: a scan of a huge inbox takes a second.
_REFILL_SHARE: Final = 0.25

#: Between two scans, at least; and so many times what the last one took, for an inbox of 100,000 files.
_SCAN_SECONDS_AT_LEAST: Final = 0.1
_TIMED_SCANS_APART: Final = 10.0


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
        self._inbox_trouble: str | None = None  #: why not, at the last look
        self.room = Room(free_bytes=0, floor_bytes=0)  #: on the disks, at the last look
        self._left_alone: Counter[str] = Counter()
        self._just_claimed: dict[uuid.UUID, bool] = {}  #: by us, and not recorded yet; whether urgent
        self._recorded: dict[uuid.UUID, bool] = {}  #: arrivals in the spool that the database knows; whether urgent
        self._doubted: dict[uuid.UUID, bool] = {}  #: likewise, to be asked for once more
        self._urgent_came = False
        self._scanned_at = float("-inf")
        self._more = False  #: at the last scan, more could be claimed
        self._waiting = False  #: at the last scan, some were not complete yet
        self._held_back: set[bool] = set()  #: kinds, urgent or not, for which the spool had no room left then
        self._is_behind = False  #: some in the spool are not recorded yet
        self.scan_seconds = 0.0  #: what the last scan took

    def run(self, renamed: Collection[str] = ()) -> float:
        """Claim what is complete in the inbox, and record what is in the spool and not recorded.

        Some at a time, so that neither a huge drop nor a full spool keeps the service from its work.  What was claimed
        is recorded before the next scan, unless that is due or a name was given; a scan that so was left out comes
        right after.
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
        is_due = time.monotonic() >= self._scanned_at + self._seconds_to_next()
        scans = bool(renamed) or not self._is_behind or is_due
        if scans:
            self._claim(renamed)
        self._is_behind = self._record_claims()
        return self._seconds_to_next() if scans and not self._is_behind and not self._more else 0.0

    def _seconds_to_next(self) -> float:
        """Return the time between two scans; a file that has not settled is looked at again as soon as it may have."""
        settings = self._settings
        seconds = min(settings.settle_seconds, settings.scan_seconds) if self._waiting else settings.scan_seconds
        return max(seconds, _SCAN_SECONDS_AT_LEAST, _TIMED_SCANS_APART * self.scan_seconds)

    def _claim(self, renamed: Collection[str]) -> None:
        self._more = self._waiting = False
        self._held_back = set()
        trouble = None
        try:
            with self._metrics.stages.labels("claim").time():
                self._disk.do(self._claim_complete, renamed)
        except OSError as error:
            if error.errno in DISK_ERRNOS:
                raise
            trouble = why(error)
        finally:
            self._scanned_at = time.monotonic()
        self._note_inbox(trouble)

    def _note_inbox(self, trouble: str | None) -> None:
        """Say, when that changes, why the inbox cannot be read, or that it can again."""
        if trouble is not None and trouble != self._inbox_trouble:
            self._log.error("inbox cannot be read", why=trouble)
        elif trouble is None and self._inbox_trouble is not None:
            self._log.info("inbox can be read again")
        self._inbox_trouble = trouble
        self.can_read_inbox = trouble is None

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
            report(
                said,
                free_mb=room.free_bytes >> 20,
                floor_mb=room.floor_bytes >> 20,
                free_inodes=room.free_inodes,
                floor_inodes=room.floor_inodes,
            )
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

    def forget(self, arrival_ids: Collection[uuid.UUID]) -> bool:
        """Make room: these have left the spool; tell whether there is room again for what was held back."""
        for arrival_id in arrival_ids:
            self._recorded.pop(arrival_id, None)
            self._doubted.pop(arrival_id, None)
        places = self._places_in_spool()
        return any(places[urgent] >= _REFILL_SHARE * _spool_room(urgent) for urgent in self._held_back)

    def ask_again(self) -> None:
        """Ask the database anew what it knows: it may be another one, restored or taken over, and know less."""
        self._doubted |= self._recorded
        self._recorded.clear()

    def urgent_came(self) -> bool:
        """Tell whether anything urgent was recorded since the last call."""
        came, self._urgent_came = self._urgent_came, False
        return came

    def _claim_complete(self, renamed: Collection[str]) -> None:
        """Claim complete files of the inbox, and take note of what is left there."""
        start = time.monotonic()
        found = scan(self._folders.inbox)
        self._metrics.inbox.set(len(found.files))
        self._metrics.ignored.set(found.left_alone[LeftAlone.IGNORED_FOR_LONG])
        self.scan_seconds = time.monotonic() - start
        self._metrics.scanned(self.scan_seconds)
        if not self._note_room(self._measure_room()):
            self._tracker.complete(found.files, renamed)  # they go on settling
            return
        refused: Counter[str] = Counter()
        quota = Quota(self._places_in_spool())
        for file in self._tracker.complete(found.files, renamed, quota.wants):
            try:
                if taken := claim(file, self._folders):
                    self._just_claimed[taken.arrival_id] = taken.is_urgent
                quota.used(file)
            except OSError as error:
                if error.errno in DISK_ERRNOS:
                    raise
                refused[why(error)] += 1
        self._held_back = quota.held_back
        self._more = quota.passed_over != self._held_back
        self._waiting = quota.wanted > quota.files + refused.total() + self._tracker.unreadable
        if not quota.passed_over:
            self._tell_of_left_files(Counter({str(kind): count for kind, count in found.left_alone.items()}) + refused)

    def _tell_of_left_files(self, left: Counter[str]) -> None:
        """Say, when it changes, how many files stay in the inbox, and why."""
        left += Counter(unreadable=self._tracker.unreadable)
        if left != self._left_alone and left:
            self._log.warning("files left in the inbox", **left)
        elif left != self._left_alone:
            self._log.info("no file is left in the inbox")
        self._left_alone = left

    def _places_in_spool(self) -> dict[bool, int]:
        """Return how many more urgent files the spool may take, and how many others."""
        taken = Counter((self._doubted | self._recorded | self._just_claimed).values())
        return {urgent: max(0, _spool_room(urgent) - taken[urgent]) for urgent in (True, False)}

    def _record_claims(self) -> bool:
        """Record one group of what is in the spool and not recorded, urgent first; tell whether there is more."""
        ids = self._disk.do(claim_ids, self._folders)
        for taken in (self._recorded, self._doubted, self._just_claimed):
            for gone in taken.keys() - ids:  # others may have filed some away
                del taken[gone]
        new = self._disk.do(self._look_into, ids - self._recorded.keys())
        new.sort(key=lambda claimed: not claimed.is_urgent)
        urgent = sum(claimed.is_urgent for claimed in new)
        size = min(_GROUP, urgent + BESIDE_URGENT) if urgent else _GROUP
        for start in range(0, len(new), size):
            group = new[start : start + size]
            # Our own are not asked for: to record one that another has recorded changes nothing.
            asked = [claimed.arrival_id for claimed in group if claimed.arrival_id not in self._just_claimed]
            known = self._store.recorded(asked) if asked else ()
            self._recorded |= {
                claimed.arrival_id: claimed.is_urgent for claimed in group if claimed.arrival_id in known
            }
            unknown = [claimed for claimed in group if claimed.arrival_id not in self._recorded]
            looked_at = self._record_arrivals(unknown)
            if any(claimed.arrival_id in self._recorded for claimed in group):
                return looked_at < len(unknown) or len(new) > start + size
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

    def _record_arrivals(self, claims: Sequence[Claimed]) -> int:
        """Hash as many as there is time for, and record them; return how many that were."""
        until = time.monotonic() + _HASH_SECONDS
        group: list[Arrival] = []
        looked_at = 0
        for claimed in claims:
            if group and time.monotonic() > until:
                break
            looked_at += 1
            if (arrival := self._arrival(claimed)) is not None:
                group.append(arrival)
        if not group:
            return looked_at
        archives = {claimed.arrival_id for claimed in self._archives.to_unpack(claims)}
        again = {arrival.content_sha256 for arrival in group if arrival.arrival_id in archives}
        dispositions = self._store.add_arrivals(group, self._model, again)
        for arrival in group:
            self._recorded[arrival.arrival_id] = arrival.is_urgent
            self._just_claimed.pop(arrival.arrival_id, None)
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
        return looked_at


def _spool_room(urgent: bool) -> int:
    return _SPOOL_URGENT if urgent else _SPOOL_FILES
