"""Connections to the page that ask for nothing end; those that are being answered do not."""

import asyncio
import socket
import threading
import time

import pytest
import uvicorn

from xray_batch.web import protocol

#: Instead of the ten seconds.
HEAD_SECONDS = 1.0


async def answer(scope, receive, send):
    """Answer with nothing, `/slow` after a while."""
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5 * HEAD_SECONDS)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
def connect(monkeypatch):
    """Serve, and make connections."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", HEAD_SECONDS)
    config = uvicorn.Config(answer, http=protocol.ImpatientProtocol, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        made = []

        def connect():
            made.append(socket.create_connection(listening.getsockname(), timeout=30))
            return made[-1]

        yield connect
        for connection in made:
            connection.close()
        server.should_exit = True
        thread.join(30)


def is_ended(connection, drip=b""):
    """Send a byte from time to time until the other side ends the connection; tell whether it has within a minute."""
    until = time.monotonic() + 60
    connection.settimeout(HEAD_SECONDS / 5)
    while time.monotonic() < until:
        try:
            if connection.recv(1) == b"":
                return True
        except TimeoutError:
            connection.sendall(drip)
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("drip", [b"", b"G"])
def test_who_asks_for_nothing(connect, drip):
    """Neither silence nor a byte now and then holds a connection."""
    assert is_ended(connect(), drip)


def test_who_stops_asking(connect):
    """Nor does the beginning of a second request."""
    connection = connect()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 204")
    assert is_ended(connection, b"G")


def test_an_answer_that_takes_long(connect):
    """A heat map is waited for, and another one after it."""
    connection = connect()
    for _ in range(2):
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")
