"""A word to systemd."""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Tell systemd; without `Type=notify` nobody listens, and nothing happens.  See sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # abstract socket
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)
