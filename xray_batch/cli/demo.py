"""`xray-batch demo`."""

from pathlib import Path
from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Device, open_settings
from xray_batch.cli.output import Format


def demo(
    device: Device = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder for the demo's database; a fresh temporary one if not given.")
    ] = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Classify the packaged sample studies into a fresh database, and show the answers.

    Works offline.  The patients are invented.
    """
    import tempfile

    from xray_batch import DISCLAIMER
    from xray_batch.cli.process import run_process
    from xray_batch.demo import sample_files

    folder = home or Path(tempfile.mkdtemp(prefix="xray-batch-demo-"))
    settings = open_settings(folder, config, database_url, device=device)
    typer.echo("Sample studies: real children's films (Kermany et al. 2018, CC BY 4.0) with invented patients,")
    typer.echo("and a few files that must be refused.  " + DISCLAIMER + "\n")
    summary = run_process([sample_files()], settings, Format.TABLE)
    typer.echo(f"\nThe answers are rows of the view `results` in {_place(settings.resolved_database_url, folder)}")
    typer.echo("Try next:\n")
    typer.echo(f"  xray-batch results --home {folder} --outcome pneumonia")
    typer.echo(f"  xray-batch results --home {folder} --format json --limit 1")
    query = "SELECT source_name, outcome, round(p_pneumonia, 3), reason_code FROM results"
    typer.echo(f'  sqlite3 {folder / "results.sqlite3"} "{query}"')
    if summary.failed:
        raise typer.Exit(1)


def _place(url: str, folder: Path) -> str:
    return str(folder / "results.sqlite3") if url.startswith("sqlite") else "the given database"
