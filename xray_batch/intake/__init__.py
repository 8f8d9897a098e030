"""Find files in the inbox, wait until they are complete, claim them, and file them away at the end.

First stage: intake -> decode -> standardize -> classify -> store.
May import: watchdog, and ``errors`` and ``records`` of this package.
It opens no database, reads no image, and logs nothing: no file name can leave it that way.

The path of a file::

    inbox/a/b/x.dcm
      | scan            every few seconds; events of the watcher only make it come sooner
      | settle          unchanged for a while or renamed into the inbox, and nobody has it open for writing
      v claim           one rename; the new folder's name is the arrival id
    spool/<arrival id>/a/b/x.dcm
      | hash            SHA-256 -> Arrival; the database records it; the later stages work on it
      v file_away       one rename that never replaces anything
    processed/2026/03/31/a/b/x.dcm   or   rejected/a/b/x.dcm, x.dcm.reason.json   or   duplicates/a/b/x.dcm
      | requeue         answered once more where it lies; file_away moves it if the answer asks for that
      v prune           removed, where somebody asks for that: nothing else ever removes a file

At every moment a file has exactly one name, in one of these folders, so that a crash can neither lose
nor double it.  There are no marker files: which step comes next is read from where the file lies, by
:func:`claims_in_spool` and from the database.
"""

from xray_batch.intake.claims import (
    Claimed,
    claim,
    claim_ids,
    claimed_by,
    claimed_file,
    claims_in_spool,
    hash_claimed,
)
from xray_batch.intake.filing import content_sha256, file_away, find_original
from xray_batch.intake.folders import Folders
from xray_batch.intake.inbox import InboxFile, LeftAlone, Scan, is_ignored, is_urgent, remove_empty_subfolders, scan
from xray_batch.intake.names import meant_by, printable
from xray_batch.intake.probe import can_lease, can_rename_no_replace, event_comes
from xray_batch.intake.pruning import Found, look_at_filed, remove_filed
from xray_batch.intake.settle import SettleTracker
from xray_batch.intake.unpacked import UnpackFolder, is_unpacked, remove_abandoned
from xray_batch.intake.watcher import InboxWatcher, WatchMode

__all__ = [
    "Claimed",
    "Folders",
    "Found",
    "InboxFile",
    "InboxWatcher",
    "LeftAlone",
    "Scan",
    "SettleTracker",
    "UnpackFolder",
    "WatchMode",
    "can_lease",
    "can_rename_no_replace",
    "claim",
    "claim_ids",
    "claimed_by",
    "claimed_file",
    "claims_in_spool",
    "content_sha256",
    "event_comes",
    "file_away",
    "find_original",
    "hash_claimed",
    "is_ignored",
    "is_unpacked",
    "is_urgent",
    "look_at_filed",
    "meant_by",
    "printable",
    "remove_abandoned",
    "remove_empty_subfolders",
    "remove_filed",
    "scan",
]
