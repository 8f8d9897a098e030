"""The log: fixed text and fields, as JSON or for people, on stderr."""

import datetime as dt
import io
import json
import logging
from pathlib import Path

import pytest
import structlog

from xray_batch.logs import configure_logs, get_logger

LIBRARIES = ("pydicom", "PIL", "sqlalchemy", "alembic", "watchdog")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def restored_logging():
    """Leave the process's logging as it was."""
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    yield
    structlog.reset_defaults()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_json_form():
    """A line of JSON holds the text, the level, the time in UTC and the fields, and nothing else."""
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)
    before = dt.datetime.now(dt.UTC)
    get_logger().warning("file answered", outcome="normal", seconds=0.25)
    line = json.loads(stream.getvalue())
    assert before <= dt.datetime.fromisoformat(line.pop("timestamp")) <= dt.datetime.now(dt.UTC)
    assert line == {"event": "file answered", "level": "warning", "outcome": "normal", "seconds": 0.25}


def test_a_full_disk_ends_nothing():
    """An entry that cannot be written is dropped: the service that logged it goes on."""
    written = 0
    # Closing the stream tries once more: only then is there an error.
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("w", encoding="utf-8") as full:
        configure_logs("info", "json", stream=full)
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(get_logger(), level)("entry")
            written += 1
    assert written == 5


def test_one_line_each():
    """Each entry is one line, whatever its fields hold."""
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)
    get_logger().info("first", code="two\nlines")
    get_logger().info("second")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "second"]


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level(level, logged):
    """What is below the level is not logged."""
    stream = io.StringIO()
    configure_logs(level, "json", stream=stream)
    log = get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("something happened")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == logged


def test_stderr(capsys):
    """The log goes to stderr, where it does not mix with results."""
    configure_logs("info", "json")
    get_logger().info("started")
    output = capsys.readouterr()
    assert output.out == ""
    assert json.loads(output.err)["event"] == "started"


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
        ("console", Terminal, False),
    ],
)
def test_form(form, stream, is_json):
    """`auto` is for people on a terminal and JSON elsewhere; a form that is asked for is used."""
    target = stream()
    configure_logs("info", form, stream=target)
    get_logger().info("started", workers=2)
    assert target.getvalue().startswith("{") is is_json
    assert "started" in target.getvalue()
    assert "workers" in target.getvalue()


def test_colours_only_on_a_terminal():
    """A form for people that goes to a file has no escape sequences."""
    streams = {True: Terminal(), False: io.StringIO()}
    for stream in streams.values():
        configure_logs("info", "console", stream=stream)
        get_logger().error("failed")
    assert {terminal: "\x1b[" in stream.getvalue() for terminal, stream in streams.items()} == {
        True: True,
        False: False,
    }


@pytest.mark.parametrize("library", [*LIBRARIES, "sqlalchemy.engine", "PIL.PngImagePlugin"])
def test_libraries_are_silent(library, caplog):
    """What libraries log, values of attributes among it, reaches no handler."""
    configure_logs("debug", "json")
    logging.getLogger(library).error("Invalid value for Patient's Name: Nobody^Knows")
    assert caplog.records == []


def test_a_closed_stream_ends_nothing():
    """A line for a stream that is closed is lost, and whoever wrote it goes on."""
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)
    stream.close()
    get_logger().error("nobody reads this")
