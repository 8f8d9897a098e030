"""`xray-batch db upgrade|current|check`."""

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_settings

app = typer.Typer(help="Migrations of the database.", no_args_is_help=True)


@app.command()
def upgrade(home: Home = None, config: Config = None, database_url: DatabaseUrl = None) -> None:
    """Bring the database to the revision this version works with."""
    from xray_batch.revisions import upgrade_database

    revision = upgrade_database(open_settings(home, config, database_url).resolved_database_url)
    typer.echo(f"the database is at revision {revision}")


@app.command()
def current(home: Home = None, config: Config = None, database_url: DatabaseUrl = None) -> None:
    """Print the revision of the database."""
    from xray_batch.revisions import current_revision

    typer.echo(current_revision(open_settings(home, config, database_url).resolved_database_url) or "none")


@app.command()
def check(home: Home = None, config: Config = None, database_url: DatabaseUrl = None) -> None:
    """Compare the database with the schema this version works with; exit code 78 when they differ."""
    from xray_batch.revisions import check_database, head_revision

    check_database(open_settings(home, config, database_url).resolved_database_url)
    typer.echo(f"the database is as revision {head_revision()} describes")
