"""Serve the pages until stopped: on a port, or on a Unix socket in the home folder."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn

from xray_batch.errors import ConfigurationError
from xray_batch.intake import Folders
from xray_batch.logs import get_logger
from xray_batch.settings import Settings, host_and_port
from xray_batch.store import Store
from xray_batch.systemd import notify
from xray_batch.web.access import AccessControl
from xray_batch.web.application import make_application
from xray_batch.web.protocol import ImpatientProtocol
from xray_batch.web.site import open_site

#: In the home folder; for owner and group, as the whole folder is.
SOCKET_NAME: Final = "web.sock"
_SOCKET_MODE: Final = 0o660

#: Requests that are being answered may take so long when told to stop.
_DRAIN_SECONDS: Final = 10


class _Server(uvicorn.Server):
    """Says where it listens, and tells systemd that it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            get_logger().info("ready", pid=os.getpid())
            notify("READY=1")


def serve(settings: Settings, folders: Folders, open_store: Callable[[], Store]) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Raises
    ------
    ConfigurationError
        If the token file or the address cannot be used, or the database is not at this version's revision.
    """
    access = AccessControl(settings)
    with open_site(settings, folders, open_store) as site:
        listening = _listen(settings.web_address, folders.home / SOCKET_NAME)
        config = uvicorn.Config(
            make_application(site, access),
            http=ImpatientProtocol,
            log_config=None,  # an access log would hold addresses, and those may hold a patient's identifier
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who asks is told by the settings alone
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        try:
            _Server(config).run([listening])
        finally:
            if settings.web_address == "unix":
                (folders.home / SOCKET_NAME).unlink(missing_ok=True)


def _listen(address: str, path: Path) -> socket.socket:
    try:
        if address == "unix":
            return _listen_unix(path)
        host, port = host_and_port(address)
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        message = f"the worklist page cannot be served at {address}: {error.strerror or error}"
        raise ConfigurationError(message) from error
    return listening


def _listen_unix(path: Path) -> socket.socket:
    """Listen on the socket, in place of one that a dead process has left.

    Raises
    ------
    ConfigurationError
        If somebody answers there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if path.exists() and probe.connect_ex(os.fspath(path)) == 0:
            message = f"another xray-batch web answers at {path}"
            raise ConfigurationError(message)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(path))
    path.chmod(_SOCKET_MODE)
    return listening
