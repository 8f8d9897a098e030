"""`xray-batch bundle list|show|verify`."""

from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_bundle, open_settings

app = typer.Typer(help="Model bundles.", no_args_is_help=True)

Name = Annotated[str | None, typer.Argument(help="Its name, or a path; the one in use if not given.")]


@app.command("list")
def list_bundles(home: Home = None, config: Config = None, database_url: DatabaseUrl = None) -> None:
    """List the packaged and the installed bundles; a star marks the one in use."""
    from xray_batch.bundle import Bundle, bundle_folders
    from xray_batch.bundle_folders import named_folder
    from xray_batch.errors import BundleError
    from xray_batch.intake import Folders

    settings = open_settings(home, config, database_url)
    installed = Folders(settings.home).bundles
    folders, used = bundle_folders(installed), named_folder(settings.bundle, installed)
    if used is not None and used not in folders:
        folders.append(used)
    for folder in folders:
        mark = "*" if folder == used else " "
        try:
            typer.echo(f"{mark} {folder.name:24}{Bundle(folder).manifest.model_id:32}{folder}")
        except BundleError as error:
            typer.echo(f"{mark} {folder.name:24}{error}")


@app.command()
def show(name: Name = None, home: Home = None, config: Config = None, database_url: DatabaseUrl = None) -> None:
    """Print the model card of a bundle."""
    from xray_batch.bundle import MODEL_CARD_NAME
    from xray_batch.visible import visible

    bundle = open_bundle(open_settings(home, config, database_url), name)
    card = (bundle.folder / MODEL_CARD_NAME).read_text(encoding="utf-8", errors="replace")
    for line in card.split("\n"):  # it is text of whoever made the bundle
        typer.echo(visible(line.expandtabs()))
    typer.echo(f"manifest SHA-256: {bundle.sha256}\nfolder: {bundle.folder}")


@app.command()
def verify(name: Name = None, home: Home = None, config: Config = None, database_url: DatabaseUrl = None) -> None:
    """Check every fact and every hash of a bundle, and that its weights fit its networks and this version."""
    from xray_batch.pipeline.engine import check_fit

    bundle = open_bundle(open_settings(home, config, database_url), name)
    check_fit(bundle)
    bundle.load_networks()
    bundle.load_gate()
    bundle.load_hashes()
    members = len(bundle.manifest.members)
    typer.echo(f"{bundle.manifest.model_id} is complete and unchanged ({members} members and a gate)")
