"""What the service says of itself over HTTP: `/livez`, `/readyz` and `/metrics`, to this machine alone.

The thread that answers reads only what the loop has put down.  It asks no database, disk or share, any of which
may hang; and it could not keep a dead loop alive, because what is live is told from the loop's last beat.
"""

import os
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from types import TracebackType
from typing import Final, Self

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from xray_batch.intake import Folders
from xray_batch.logs import get_logger
from xray_batch.service.faults import why
from xray_batch.service.metrics import Metrics
from xray_batch.settings import host_and_port

#: A loop that has not beaten for so long has stopped: decoding one file may take a minute.
LIVE_SECONDS: Final = 100.0

#: The socket in the home folder belongs to service and group, like everything there.
_SOCKET_MODE: Final = 0o660

_REQUEST_SECONDS: Final = 5.0

#: Answered at a time: each takes a thread and a descriptor, which the service needs for its films.
_CONNECTIONS: Final = 32
_LONGEST_PATH: Final = 107  #: of a Unix socket, see unix(7)


class Health:
    """Whether the service lives and is ready; the loop writes, the answering threads read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._beat_at = clock()
        self._checks: dict[str, bool] = dict.fromkeys(("database", "disk", "inbox", "model", "decoders"), False)

    def beat(self) -> None:
        """Say that the loop gets on."""
        with self._lock:
            self._beat_at = self._clock()

    def report(self, **checks: bool) -> None:
        """Say how some of `database`, `disk`, `inbox`, `model` and `decoders` are: usable or not."""
        with self._lock:
            self._checks |= checks

    @property
    def is_live(self) -> bool:
        """Whether the loop has beaten a moment ago; a database or a disk that is down does not stop it."""
        with self._lock:
            return self._clock() - self._beat_at < LIVE_SECONDS

    @property
    def checks(self) -> Mapping[str, bool]:
        """What has to be usable for the service to be of use."""
        with self._lock:
            return dict(self._checks)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What others may ask of a service at any time, from before it has a database and a model."""

    health: Health = field(default_factory=Health)
    metrics: Metrics = field(default_factory=Metrics)


class HealthServer:
    """Answers requests in threads of its own, while it is entered.

    Parameters
    ----------
    address
        `unix` for `health.sock` in the home folder, `HOST:PORT`, or `off`.
    """

    def __init__(self, address: str, home: Path, vitals: Vitals) -> None:
        self._address = address
        self._home = home
        self._handler = type("Handler", (_Handler,), {"health": vitals.health, "metrics": vitals.metrics})
        self._server: BaseServer | None = None
        self._folder: int | None = None
        self._log = get_logger()

    def __enter__(self) -> Self:
        """Begin to answer; where that is impossible, the service does its work all the same."""
        if self._address == "off":
            return self
        try:
            self._server = self._listen_unix() if self._address == "unix" else self._listen_tcp()
        except OSError as error:
            self._log.error("no health endpoint", why=why(error))
            return self
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            if self._address == "unix":
                remover = threading.Thread(target=self._remove_socket, daemon=True)
                remover.start()
                remover.join(_REQUEST_SECONDS)  # it may be on a share that hangs, which must not hold up the end
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    @property
    def _socket(self) -> Path:
        return Folders(self._home).health_socket

    def _listen_tcp(self) -> BaseServer:
        host, port = host_and_port(self._address)
        server = type("Server", (_TCPServer,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
        listening: BaseServer = server((host, port), self._handler)
        return listening

    def _listen_unix(self) -> BaseServer:
        """Listen on the socket, in place of one that a dead process has left.

        Raises
        ------
        OSError
            EADDRINUSE, if somebody answers there: another service of this home folder.
        """
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._socket.lstat().st_mode) and not _answers(self._short_name()):
                self._socket.unlink()
        server = _UnixServer(self._short_name(), self._handler)
        self._socket.chmod(_SOCKET_MODE)
        return server

    def _remove_socket(self) -> None:
        with suppress(OSError):
            self._socket.unlink(missing_ok=True)

    def _short_name(self) -> str:
        """Return the path of the socket, or one that leads there and is short enough."""
        if len(os.fsencode(self._socket)) <= _LONGEST_PATH:
            return os.fspath(self._socket)
        if self._folder is None:
            self._folder = os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._socket.name}"


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


class _BoundedServer(ThreadingMixIn, TCPServer):
    """Answers each connection in a thread, so many at a time; where one comes too many, the oldest is cut off.

    An honest one is answered within milliseconds.  Whoever on this machine only holds them takes nothing from the
    service, and keeps nobody else from an answer.
    """

    daemon_threads = True

    def __init__(self, address: str | tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        self._open: deque[socket.socket] = deque()
        super().__init__(address, handler)  # type: ignore[arg-type] # of a Unix socket it is a path

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override] # no UDP
        """Begin to answer."""
        if not self._free.acquire(blocking=False):
            with suppress(IndexError, OSError):  # it has ended by itself
                self._open[0].shutdown(socket.SHUT_RDWR)
            self._free.acquire()
        self._open.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override] # no UDP
        """End a connection, answered or not."""
        self._open.remove(request)
        super().shutdown_request(request)
        self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""


class _TCPServer(_BoundedServer):
    allow_reuse_address = True


class _UnixServer(_BoundedServer, UnixStreamServer):
    """The same on a Unix socket."""


class _Handler(BaseHTTPRequestHandler):
    health: Health
    metrics: Metrics
    timeout = _REQUEST_SECONDS
    server_version = "xray-batch"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        if self.path == "/livez":
            self._answer(self.health.is_live, "the loop gets on" if self.health.is_live else "the loop has stopped")
        elif self.path == "/readyz":
            checks = self.health.checks
            ready = self.health.is_live and all(checks.values())
            self._answer(ready, "\n".join(f"{name}: {'ok' if ok else 'not usable'}" for name, ok in checks.items()))
        elif self.path == "/metrics":
            self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, self.metrics.exposition())
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there are /livez, /readyz and /metrics\n")

    def _answer(self, good: bool, text: str) -> None:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._send(status, "text/plain; charset=utf-8", text.encode() + b"\n")

    def _send(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: stderr is the log's."""
