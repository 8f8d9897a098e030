"""The way out of the service: originals of everything that is done go to where people look for them."""

import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Final

from xray_batch.errors import LostFileError
from xray_batch.intake import Folders, file_away, printable, remove_empty_subfolders
from xray_batch.logs import get_logger
from xray_batch.records import Unfiled
from xray_batch.service.archives import Archives
from xray_batch.service.disk_thread import DiskThread
from xray_batch.service.faults import why
from xray_batch.service.metrics import Metrics
from xray_batch.store import Store

#: Files filed away in one transaction.
_GROUP: Final = 64

#: Between two tries to file away what could not be moved, and to remove what is left over.
_TIDY_SECONDS: Final = 60.0


class Filing:
    """Files away what the database says is done; what cannot be moved now is tried again later."""

    def __init__(self, folders: Folders, store: Store, archives: Archives, metrics: Metrics, disk: DiskThread) -> None:
        self._folders = folders
        self._store = store
        self._archives = archives
        self._metrics = metrics
        self._disk = disk
        self._log = get_logger()
        self._stuck: set[uuid.UUID] = set()  #: arrivals that could not be moved
        self._tidy_at = 0.0

    def run(self) -> Iterator[Collection[uuid.UUID]]:
        """File away a group at a time; yield which arrivals are filed, so that the caller can see to other things."""
        if time.monotonic() > self._tidy_at:
            self._disk.do(self._tidy)
            self._tidy_at = time.monotonic() + _TIDY_SECONDS
        after: uuid.UUID | None = None
        while done := self._store.unfiled(_GROUP, after):
            after = done[-1].arrival_id
            with self._metrics.stages.labels("file_away").time():
                filed: dict[uuid.UUID, str] = {}
                for unfiled in done:
                    if unfiled.arrival_id not in self._stuck:
                        self._disk.do(self._file_one, unfiled, filed)
                self._store.mark_filed(filed)
            yield filed.keys()

    def _tidy(self) -> None:
        self._stuck.clear()
        self._archives.clean_up()
        with suppress(OSError):  # an inbox that cannot be read; taking files in says so
            remove_empty_subfolders(self._folders.inbox)

    def _file_one(self, unfiled: Unfiled, filed: dict[uuid.UUID, str]) -> None:
        """Move one original and add where it is to `filed`."""
        try:
            path = file_away(self._folders, unfiled)
        except LostFileError:
            self._log.critical("file lost", arrival_id=str(unfiled.arrival_id))
            self._stuck.add(unfiled.arrival_id)
        except OSError as error:
            self._log.error("file cannot be moved", arrival_id=str(unfiled.arrival_id), why=why(error))
            self._stuck.add(unfiled.arrival_id)
        else:
            filed[unfiled.arrival_id] = printable(os.fspath(path.relative_to(self._folders.home)))
