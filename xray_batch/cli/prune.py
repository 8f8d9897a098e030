"""`xray-batch prune`."""

import datetime as dt
import json
import re
from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_settings, open_store
from xray_batch.cli.output import Format
from xray_batch.errors import ConfigurationError
from xray_batch.records import Outcome

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def prune(
    older_than: Annotated[str, typer.Option(help="Filed away longer ago than this: 12h, 90d, 2w.", show_default=False)],
    outcome: Annotated[Outcome | None, typer.Option(help="Only of files with this outcome.")] = None,
    processed: Annotated[bool, typer.Option("--processed", help="Those in processed/.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Those in rejected/, with their reasons.")] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Those in duplicates/.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    form: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Remove filed originals for good, while or without the service running; their results stay.

    Without --processed, --rejected or --duplicates all three.  Files that the database does not know, or
    whose bytes have changed, are left alone.  Exit code 1 when an original was missing, changed or could
    not be removed.
    """
    age = _parse_duration(older_than)
    settings = open_settings(home, config, database_url)

    from xray_batch.intake import Folders
    from xray_batch.pipeline.retention import prune as remove
    from xray_batch.store import PruneSelection

    folders = Folders(settings.home.absolute())
    wanted = {folders.processed: processed, folders.rejected: rejected, folders.duplicates: duplicates}
    for folder in wanted:
        if not folder.is_dir():
            raise ConfigurationError(f"there is no folder {folder}; name the home folder of the database with --home")
    names = tuple(folder.name for folder, is_wanted in wanted.items() if is_wanted or not any(wanted.values()))
    with open_store(settings, create=False) as store:
        selection = PruneSelection(filed_before=store.now() - age, folders=names, outcome=outcome)
        report = remove(store, folders, selection, dry_run=dry_run)
    if form is Format.JSON:
        counts = {name: getattr(report, name) for name in ("removed", "bytes", "missing", "changed", "failed")}
        typer.echo(json.dumps({**counts, "dry_run": dry_run}))
    else:
        removed = "would be removed" if dry_run else "removed"
        typer.echo(f"{report.removed:8}  originals {removed}, {report.bytes / 1e6:.1f} MB")
        for count, text in (
            (report.missing, "not where they were filed: somebody removed or moved them"),
            (report.changed, "left alone: their bytes are not those that were filed, or have a second name"),
            (report.failed, "not removed: the system refused; run again"),
        ):
            if count:
                typer.echo(f"{count:8}  {text}")
    if not report.is_complete:
        raise typer.Exit(1)


def _parse_duration(text: str) -> dt.timedelta:
    """Read a number of hours, days or weeks; at least one, so that no slip of the finger takes everything."""
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if found is None:
        raise typer.BadParameter(f"--older-than is {text!r}, expected a number and h, d or w: 12h, 90d, 2w")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})
