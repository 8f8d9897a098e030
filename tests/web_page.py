"""The worklist page as its users reach it: the real `xray-batch web` process, and requests over HTTP."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from installed_command import PATIENCE_SECONDS, clean_environment


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str] = field(repr=False)  #: names in lower case
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass(frozen=True)
class WebPage:
    """A running `xray-batch web`."""

    port: int
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything that it logged."""
        return self.log_path.read_text(encoding="utf-8")

    def get(self, path: str, headers: Mapping[str, str] | None = None, **parameters: str) -> Answer:
        """Ask for a page."""
        return self._ask("GET", f"{path}?{urlencode(parameters)}" if parameters else path, headers or {}, None)

    def head(self, path: str) -> Answer:
        """Ask for what a page would say of itself."""
        return self._ask("HEAD", path, {}, None)

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
        """Send a form as a browser does from a page of the same site."""
        of_a_form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        return self._ask("POST", path, of_a_form | dict(headers or {}), urlencode(fields))

    def put(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Ask for what no page does."""
        return self._ask("PUT", path, headers, None)

    def _ask(self, method: str, path: str, headers: Mapping[str, str], body: str | None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()


@contextmanager
def running_web(home: Path, log_path: Path, **variables: str) -> Iterator[WebPage]:
    """Run `xray-batch web` on a free port of the loopback interface until it is left, then end it by SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"XRAY_BATCH_WEB_ADDRESS": f"127.0.0.1:{port}"} | variables
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "xray_batch", "web", "--home", os.fspath(home)],
            stdout=log,
            stderr=log,
            env=clean_environment(**settings),
        )
    page = WebPage(port, process, log_path)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while '"event": "ready"' not in page.log:
            assert process.poll() is None and time.monotonic() < deadline, page.log
            time.sleep(0.05)
        yield page
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)
