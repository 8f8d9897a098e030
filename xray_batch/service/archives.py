"""What the service does with zip archives: nothing, unless the setting `unpack_zip` is on.

The pipeline unpacks an archive to a folder in the spool; from there it goes into the inbox by one rename,
before the archive's own answer is stored.  Its members are then files like any others.  Why that loses and
doubles nothing is told in :mod:`xray_batch.intake.unpacked`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from xray_batch.decode import is_zip
from xray_batch.intake import Claimed, Folders, is_unpacked, meant_by, remove_abandoned
from xray_batch.logs import get_logger
from xray_batch.pipeline.engine import Answered, Job
from xray_batch.records import Lease
from xray_batch.service.disk_thread import DiskThread
from xray_batch.service.faults import DISK_ERRNOS, why
from xray_batch.settings import Settings


class Archives:
    """The zip archives of one service."""

    def __init__(self, folders: Folders, settings: Settings, disk: DiskThread) -> None:
        self._folders = folders
        self._disk = disk
        self._unpacks = settings.unpack_zip
        self._log = get_logger()

    def job(self, path: Path, lease: Lease) -> Job[Lease]:
        """Return the job for a claimed file; an archive out of an archive is not unpacked."""
        unpacks = self._unpacks and not is_unpacked(lease.source_name)
        unpack_in = self._folders.spool if unpacks else None
        return Job(path=path, context=lease, unpack_in=unpack_in, is_urgent=lease.is_urgent)

    def to_unpack(self, claims: Iterable[Claimed]) -> list[Claimed]:
        """Choose the archives that are to be unpacked, whether or not their bytes have an answer.

        That answer may date from a time when archives were refused.
        """
        if not self._unpacks:
            return []
        return [
            claimed
            for claimed in claims
            if not is_unpacked(claimed.source_name) and self._disk.do(is_zip, claimed.path)
        ]

    def members_arrive(self, answered: Answered[Lease]) -> bool:
        """Put the members of an archive, if this was one, into the inbox; False if that is not possible now.

        Raises
        ------
        OSError
            If the disk takes nothing at all.
        """
        if answered.unpacked is None:
            return True
        arrival_id, path = answered.job.context.held_by, answered.job.path
        claim_folder = self._folders.spool / str(arrival_id)
        if path.is_relative_to(claim_folder):
            name = os.fspath(path.relative_to(claim_folder))
        else:  # requeued: it lies where it was filed
            name = meant_by(answered.job.context.source_name)[0]
        try:
            self._disk.do(answered.unpacked.folder.move_into_inbox, self._folders, name, arrival_id)
        except OSError as error:
            self._disk.do(answered.unpacked.folder.remove)
            if error.errno in DISK_ERRNOS:
                raise
            self._log.error("members cannot be moved", arrival_id=str(arrival_id), why=why(error))
            return False
        self._log.info("unpacked", arrival_id=str(arrival_id), members=len(answered.unpacked.files))
        return True

    def clean_up(self) -> None:
        """Remove what a process that died left half unpacked; called in the thread of the disk."""
        remove_abandoned(self._folders.spool)
