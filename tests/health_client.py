"""What a running service says over the socket in its home folder."""

import http.client
import os
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the socket in a home folder, however long its path."""

    def __init__(self, home: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._home = home

    def connect(self) -> None:
        """Connect to the socket."""
        folder = os.open(self._home, os.O_PATH)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(f"/proc/self/fd/{folder}/health.sock")
        os.close(folder)


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    """Return status and text of one answer."""
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def ask(home: Path, path: str) -> str:
    """Return the whole answer to one request, its head included."""
    connection = UnixConnection(home)
    connection.request("GET", path)
    answer = connection.getresponse()
    return f"{answer.status} {answer.reason}\n{answer.headers}\n{answer.read().decode()}"
