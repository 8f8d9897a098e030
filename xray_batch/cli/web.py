"""`xray-batch web`."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_settings, open_store
from xray_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from xray_batch.store import Store


def web(
    address: Annotated[
        str | None,
        typer.Option("--web-address", help="`unix` for web.sock in the home folder, or an IP address and a port."),
    ] = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the worklist page until stopped by SIGTERM or Ctrl-C.

    Without a token file or a reverse proxy that names its users, it is for this machine alone.
    """
    settings = open_settings(home, config, database_url, web_address=address)

    from xray_batch.intake import Folders

    try:
        from xray_batch.web import serve
    except ModuleNotFoundError as error:
        message = (
            f"the worklist page needs more than is installed: pip install 'xray-batch[web]' ({error.name} is missing)"
        )
        raise ConfigurationError(message) from error
    with ExitStack() as stack:

        def open_it() -> "Store":
            return stack.enter_context(open_store(settings, create=False))

        serve(settings, Folders(settings.home.absolute()), open_it)
