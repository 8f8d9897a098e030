"""Structured logging to stderr: JSON in service, readable on a terminal.

A log line has a fixed text and details as fields.  No patient attribute, file name, path or text of another's
exception is ever a field: files are known by their arrival id, errors by our own words, class or errno.
"""

import logging
import sys
import traceback
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def configure_logs(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "json", "console"],
    *,
    stream: TextIO | None = None,
) -> None:
    """Send log lines of at least `level` to `stream`, stderr if None."""
    stream = stream or sys.stderr
    renderer: Processor = structlog.processors.JSONRenderer()
    if form == "console" or (form == "auto" and stream.isatty()):
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )
    # Libraries log what they like, values of attributes among it: only the fact that they did gets through.
    for name in ("pydicom", "PIL", "sqlalchemy", "alembic", "watchdog", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Lines:
    """Writes each entry as a line; one that cannot be written, for lack of space, reader or stream, ends nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = _write


def get_logger() -> FilteringBoundLogger:
    """Return the logger; what it does is decided by :func:`configure_logs`."""
    return cast(FilteringBoundLogger, structlog.get_logger())


def own_frames(error: BaseException) -> list[str]:
    """Tell where in this package an error came by: no message and no value, which may quote a file."""
    package = f"{__package__.partition('.')[0]}/"
    return [
        f"{package}{frame.filename.rpartition(package)[2]}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if package in frame.filename
    ]
