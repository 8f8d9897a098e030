"""`xray-batch demo`."""

from pathlib import Path
from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Device, open_settings
from xray_batch.cli.output import Format
from xray_batch.settings import DATABASE_NAME


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

    from pydantic import SecretStr

    from xray_batch import DISCLAIMER
    from xray_batch.cli.process import Named, run_process
    from xray_batch.demo import sample_files

    home = home or Path(tempfile.mkdtemp(prefix="xray-batch-demo-"))
    settings = open_settings(home, config, database_url, device=device)
    folder = settings.home
    if not database_url:  # never the database of an installation
        fresh = SecretStr(f"sqlite:///{folder.absolute() / DATABASE_NAME}")
        settings = settings.model_copy(update={"database_url": fresh})
    typer.echo("Sample studies: real children's films (Kermany et al. 2018, CC BY 4.0) with invented patients,")
    typer.echo("and a few files that must be refused.  " + DISCLAIMER + "\n")
    summary = run_process(Named((sample_files(),)), settings, Format.TABLE)
    database = "the given database" if database_url else folder / DATABASE_NAME
    typer.echo(f"\nThe answers are rows of the view `results` in {database}")
    typer.echo("Try next:\n")
    where = "--database-url ..." if database_url else f"--home {folder}"
    typer.echo(f"  xray-batch results {where} --outcome pneumonia")
    typer.echo(f"  xray-batch results {where} --format json --limit 1")
    query = "SELECT source_name, outcome, round(p_pneumonia, 3), reason_code FROM results"
    if not database_url:
        typer.echo(f'  sqlite3 {database} "{query}"')
    if summary.failed:
        raise typer.Exit(1)
