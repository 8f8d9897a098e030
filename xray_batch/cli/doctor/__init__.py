"""`xray-batch doctor`."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Final

import typer

from xray_batch.cli.doctor import bundle as bundles
from xray_batch.cli.doctor import database, folders, machine, service
from xray_batch.cli.doctor.check import Check, Examiner, Level
from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_settings
from xray_batch.cli.output import Format
from xray_batch.errors import XrayBatchError
from xray_batch.settings import Settings

#: What is looked at, in this order; the decoders come last, a line each.
CHECKS: Final[dict[str, Examiner]] = {
    "device": machine.device,
    "folders": folders.folders,
    "access": folders.access,
    "rename": folders.rename,
    "leases": folders.leases,
    "inotify": machine.inotify,
    "disk": machine.disk,
    "database": database.database,
    "clock": database.clock,
    "bundle": bundles.bundle,
    "service": service.service,
    "systemd": service.systemd,
}


def doctor(
    form: Annotated[Format, typer.Option("--format", help="How to write the checks.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Check device, decoders, folders, file system, inotify, disk, database, clock, model bundle and service.

    One line each, ok, note or PROBLEM; exit code 1 when one of them is a problem.  Nothing is made or changed.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)
    problem = False
    for check in examine(settings):
        problem |= check.level is Level.PROBLEM
        if form is Format.JSON:
            typer.echo(json.dumps(asdict(check)))
        else:
            level = check.level.upper() if check.level is Level.PROBLEM else check.level
            typer.echo(f"{level:9}{check.subject:11}{check.text}")
    if problem:
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Check]:
    """Make every check in turn; one that fails does not stop the others."""
    for subject, examiner in CHECKS.items():
        try:
            level, text = examiner(settings)
        except (XrayBatchError, OSError, RuntimeError) as error:
            level, text = Level.PROBLEM, (str(error).splitlines() or [type(error).__name__])[0]
        yield Check(subject, level, text)
    yield from machine.decoders()
