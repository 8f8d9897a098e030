"""Checks of the machine: device, decoders, inotify and disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from xray_batch.cli.doctor.check import Check, Level
from xray_batch.settings import Settings

#: A tree of more subfolders than this cannot be watched by events; the periodic scan finds files all the same.
_INOTIFY_WATCHES: Final = 8192

_LIMITS: Final = Path("/proc/sys/fs/inotify")


def device(settings: Settings) -> tuple[Level, str]:
    """Name the device that the networks run on."""
    import torch

    from xray_batch.classify import select_device, select_dtype

    device = select_device(settings.device)
    precision = str(select_dtype(settings.precision, device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return Level.OK, f"{device.type} ({name}), {precision}, torch {torch.__version__}"


def decoders() -> Iterator[Check]:
    """Name each transfer syntax with what reads it here; `selftest` shows that it does."""
    from xray_batch.decode import transfer_syntaxes

    for syntax in transfer_syntaxes():
        text = f"{syntax.name} ({syntax.uid}): {syntax.decoder}"
        yield Check("decoder", Level.OK if syntax.is_available else Level.PROBLEM, text)


def inotify(settings: Settings) -> tuple[Level, str]:
    """Set a watch on the inbox, and see whether an event comes."""
    from xray_batch.intake import Folders, event_comes
    from xray_batch.mounts import is_network

    watches, instances = (
        int((_LIMITS / name).read_text(encoding="ascii")) for name in ("max_user_watches", "max_user_instances")
    )
    limits = f"{watches} watches, {instances} instances"
    inbox = Folders(settings.home.absolute()).inbox
    if is_network(inbox):
        return Level.NOTE, f"the inbox is on a network file system, which has no events: it is scanned ({limits})"
    if inbox.is_dir() and not event_comes(inbox):
        cure = "raise fs.inotify.max_user_instances and max_user_watches with sysctl; until then the inbox is scanned"
        return Level.PROBLEM, f"no event of the file system comes from the inbox ({limits}): {cure}"
    if watches < _INOTIFY_WATCHES:
        cure = "raise fs.inotify.max_user_watches with sysctl, or files in many subfolders wait for the periodic scan"
        return Level.NOTE, f"{limits}: {cure}"
    return Level.OK, f"{limits}, " + ("an event came" if inbox.is_dir() else "no inbox yet to watch")


def disk(settings: Settings) -> tuple[Level, str]:
    """Compare the free space of home folder and database with the floor of the service."""
    from xray_batch.pipeline.room import disks_of, look_for_room

    room = look_for_room([_existing(place) for place in disks_of(settings)], settings.disk_floor_mb)
    text = f"{room.free_bytes / (1 << 30):.1f} GiB free, the floor is {room.floor_bytes / (1 << 30):.1f} GiB"
    if room.free_inodes < room.floor_inodes:
        text += f", {room.free_inodes} inodes free, the floor is {room.floor_inodes}"
    return (Level.OK, text) if room.for_claims else (Level.PROBLEM, f"{text}: nothing is taken in")


def _existing(path: Path) -> Path:
    """Return a folder, or what it will be made in."""
    return next(place for place in (path, *path.parents) if place.exists())
