"""Files on their way: seen, leased, and filed away."""

import datetime as dt
import enum
import uuid
from dataclasses import dataclass

from xray_batch.records.answers import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One file seen, whether or not its bytes were seen before."""

    arrival_id: uuid.UUID  #: fixed when the file is claimed; names its spool folder
    source_name: str  #: path as the sender gave it, relative to the inbox or as on the command line
    content_sha256: str  #: 64 lower-case hex digits
    size: int  #: bytes
    received_at: dt.datetime  #: aware, UTC
    is_urgent: bool = False  #: to be answered before what is not


class Disposition(enum.StrEnum):
    """What happens with one arrival; decided once, when it is recorded."""

    WORK = "work"  #: Its content is to be classified, or was.
    DUPLICATE = "duplicate"  #: Its content is answered already, or another arrival holds it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The file of one arrival from the inbox, in the spool or filed away."""

    arrival_id: uuid.UUID
    source_name: str  #: escaped
    content_sha256: str
    received_at: dt.datetime  #: aware, UTC
    filed_path: str | None = None
    """Where it was filed, relative to the home folder, escaped; None while that is not recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to answer one content for a while."""

    content_sha256: str
    held_by: uuid.UUID  #: arrival whose original holds the bytes
    source_name: str  #: of that arrival, escaped
    received_at: dt.datetime  #: of that arrival; aware, UTC
    filed_path: str | None  #: of that arrival's original; see :attr:`Original.filed_path`
    size: int  #: bytes
    attempts: int  #: tries so far, this one included
    token: uuid.UUID  #: proves the lease; stale once somebody else took the content
    expired: bool = False  #: taken over: whoever had it before did not end it in time
    is_urgent: bool = False

    @property
    def original(self) -> Original:
        """The file whose bytes the lease is for."""
        return Original(
            arrival_id=self.held_by,
            source_name=self.source_name,
            content_sha256=self.content_sha256,
            received_at=self.received_at,
            filed_path=self.filed_path,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfiled(Original):
    """An original that can be filed away, or once more after another answer."""

    disposition: Disposition
    outcome: Outcome | None  #: of the content's latest result; None for a duplicate
    reason_code: str | None  #: set where `outcome` is NOT_ANALYSED
    reason: str | None  #: likewise; may quote the file, so never logged
