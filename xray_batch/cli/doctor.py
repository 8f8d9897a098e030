"""`xray-batch doctor`."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_settings
from xray_batch.errors import XrayBatchError
from xray_batch.settings import Settings

#: Below this the service should not be started.
_FREE_BYTES: Final = 5 << 30

#: A tree of more subfolders than this cannot be watched by events; the periodic scan finds files all the same.
_INOTIFY_WATCHES: Final = 8192


@dataclass(frozen=True, slots=True)
class Check:
    """One check and what it found."""

    subject: str
    problem: bool
    text: str


def doctor(
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Check the device, decoders, folders, inotify limits, database, disk and model bundle.

    One line each; exit code 1 when one of them is a problem.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)
    problem = False
    for check in examine(settings):
        problem |= check.problem
        typer.echo(f"{'PROBLEM' if check.problem else 'ok':9}{check.subject:11}{check.text}")
    if problem:
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Check]:
    """Make every check in turn; one that fails does not stop the others."""
    checks: dict[str, Callable[[Settings], str]] = {
        "device": _device,
        "folders": _folders,
        "inotify": _inotify,
        "disk": _disk,
        "database": _database,
        "bundle": _bundle,
    }
    for subject, check in checks.items():
        try:
            yield Check(subject, problem=False, text=check(settings))
        except (XrayBatchError, OSError, RuntimeError) as error:
            yield Check(subject, problem=True, text=(str(error).splitlines() or [type(error).__name__])[0])
    yield from _decoders()


def _device(settings: Settings) -> str:
    import torch

    from xray_batch.classify import select_device, select_dtype

    device = select_device(settings.device)
    precision = str(select_dtype(settings.precision, device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device.type} ({name}), {precision}, torch {torch.__version__}"


def _decoders() -> Iterator[Check]:
    """Name each transfer syntax with what reads it here; `selftest` shows that it does."""
    from xray_batch.decode import transfer_syntaxes

    for syntax in transfer_syntaxes():
        text = f"{syntax.name} ({syntax.uid}): {syntax.decoder}"
        yield Check("decoder", problem=not syntax.is_available, text=text)


def _folders(settings: Settings) -> str:
    from xray_batch.intake import Folders

    Folders(settings.home.absolute()).create()
    return f"{settings.home.absolute()}, inbox, spool and the rest are there, on one file system"


def _inotify(settings: Settings) -> str:
    watches = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text(encoding="ascii"))
    instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
    if watches < _INOTIFY_WATCHES or instances < 1:
        message = (
            f"fs.inotify.max_user_watches is {watches} and max_user_instances {instances}: raise them with sysctl, "
            "or files in many subfolders wait for the periodic scan"
        )
        raise OSError(message)
    return f"{watches} watches, {instances} instances"


def _disk(settings: Settings) -> str:
    free = shutil.disk_usage(settings.home).free
    if free < _FREE_BYTES:
        message = f"{free / (1 << 30):.1f} GiB free, at least {_FREE_BYTES >> 30} are needed"
        raise OSError(message)
    return f"{free / (1 << 30):.1f} GiB free"


def _database(settings: Settings) -> str:
    from xray_batch.cli.options import open_store
    from xray_batch.database import head_revision, sqlite_path

    with open_store(settings) as store:
        accounting = store.accounting()
    if not accounting.balances:
        message = f"the accounting does not balance: {accounting.lost} of {accounting.arrivals} arrivals are lost"
        raise OSError(message)
    kind = "SQLite" if sqlite_path(settings.resolved_database_url) else "PostgreSQL"
    return f"{kind} at revision {head_revision()}, {accounting.arrivals} arrivals, all accounted for"


def _bundle(settings: Settings) -> str:
    from xray_batch.bundle import find_bundle
    from xray_batch.intake import Folders

    bundle = find_bundle(settings.bundle, Folders(settings.home).bundles)
    bundle.load_networks()
    bundle.load_gate()
    return f"{bundle.manifest.model_id}, all hashes match, manifest SHA-256 {bundle.sha256[:12]}"
