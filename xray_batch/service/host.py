"""What the service has to do with its host: one at a time, and systemd."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xray_batch.errors import ConfigurationError
from xray_batch.intake import Folders


@contextmanager
def only_service(folders: Folders) -> Iterator[None]:
    """Hold the home folder for one service; a SQLite database must not have two.

    Raises
    ------
    ConfigurationError
        If another process holds it.
    """
    descriptor = os.open(folders.home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        message = f"another xray-batch service works in {folders.home}; with SQLite there can be only one"
        raise ConfigurationError(message) from error
    try:
        yield
    finally:
        os.close(descriptor)


def notify(state: str) -> None:
    """Tell systemd; without `Type=notify` nobody listens, and nothing happens.  See sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # abstract socket
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)
