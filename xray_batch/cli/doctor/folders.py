"""Checks of the home folder, and of what its file system can do."""

import os
import stat
import tempfile
from pathlib import Path

from xray_batch.cli.doctor.check import Level
from xray_batch.settings import DATABASE_NAME, Settings

_OTHERS = stat.S_IRWXO

_NOT_YET = (Level.NOTE, "no folder yet to try it in")


def _private(home: Path) -> list[Path]:
    """Return the folders that files are moved between, the inbox first."""
    from xray_batch.intake import Folders

    folders = Folders(home)
    return [folders.inbox, folders.spool, folders.processed, folders.rejected, folders.duplicates]


def folders(settings: Settings) -> tuple[Level, str]:
    """Look whether the folders are there, can be written and are on one file system."""
    from xray_batch.intake import Folders
    from xray_batch.mounts import is_network
    from xray_batch.pipeline.service_state import read_service_state

    home = settings.home.absolute()
    places = _private(home)
    there = [place for place in places if place.exists()]
    for place in there:
        try:
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            return Level.PROBLEM, f"{place} cannot be written: {error.strerror}"
    if len({place.stat().st_dev for place in there}) > 1:
        return Level.PROBLEM, f"the folders in {home} are on several file systems; files are moved by rename: use one"
    if missing := [place.name for place in places if place not in there]:
        parent = next(folder for folder in (home, *home.parents) if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            return Level.PROBLEM, f"{home} has no {', '.join(missing)}, and this user can make nothing in {parent}"
        if read_service_state(Folders(home)) is not None:  # what is mounted elsewhere must not be made here
            return Level.PROBLEM, f"{home} has no {', '.join(missing)}: what is missing is made at the next start alone"
        return Level.NOTE, f"{home} has no {', '.join(missing)} yet: the service makes what is missing"
    if is_network(home):
        return Level.NOTE, f"{home} is on a network file system: it is scanned only, and files settle for longer"
    return Level.OK, f"{home}: inbox, spool and the rest are there, writable, on one local file system"


def access(settings: Settings) -> tuple[Level, str]:
    """Look whether films and results are kept from other users of this machine."""
    home = settings.home.absolute()
    places = [place for place in (home / DATABASE_NAME, *_private(home)) if place.exists()]
    if not home.exists():
        return Level.NOTE, f"{home} is not there yet"
    if not all(place.stat().st_mode & stat.S_IXOTH for place in (home, *home.parents)):
        return Level.OK, "other users of this machine cannot enter the home folder"
    if exposed := [place.name for place in places if place.stat().st_mode & _OTHERS]:
        named = ", ".join(exposed)
        return Level.PROBLEM, f"other users of this machine have access to {named} in {home}: chmod -R o= {home}"
    return Level.OK, "other users of this machine have no access to films and results"


def rename(settings: Settings) -> tuple[Level, str]:
    """Try renameat2 in the spool."""
    from xray_batch.intake import Folders, can_rename_no_replace

    spool = Folders(settings.home.absolute()).spool
    if not spool.is_dir():
        return _NOT_YET
    if can_rename_no_replace(spool):
        return Level.OK, "renameat2 moves a file in one step and replaces none"
    return (
        Level.NOTE,
        "no renameat2 here: files are filed away by link and unlink, and must be the service's own",
    )


def leases(settings: Settings) -> tuple[Level, str]:
    """Try a lease on a file in the inbox."""
    from xray_batch.intake import Folders, can_lease

    inbox = Folders(settings.home.absolute()).inbox
    if not inbox.is_dir():
        return _NOT_YET
    if not can_lease(inbox):
        return Level.NOTE, "no file leases here: the kernel does not tell who writes, and files settle twice as long"
    return Level.OK, f"file leases tell whether a file of user {os.geteuid()} is being written; others settle longer"
