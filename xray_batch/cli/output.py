"""Rows for people and for programs."""

import enum
import mimetypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, TextIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from xray_batch import DISCLAIMER
from xray_batch.export import Row, load_arrow, write_csv, write_json_lines, write_parquet
from xray_batch.records import Outcome
from xray_batch.visible import visible

_STYLES: Final = {
    Outcome.PNEUMONIA: "bold red",
    Outcome.NORMAL: "green",
    Outcome.INDETERMINATE: "yellow",
    Outcome.NOT_ANALYSED: "dim",
}

#: Rows of one table; of more than these there are several, so that it is printed as it is read.
_TABLE_ROWS: Final = 1000


class Format(enum.StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"  #: one object per line


class ExportFormat(enum.StrEnum):
    """How rows of the view `results` are written."""

    TABLE = "table"
    JSON = "json"  #: one object per line, keys as the view's columns
    CSV = "csv"
    PARQUET = "parquet"


def write_rows(rows: Iterable[Row], form: ExportFormat, output: Path | None) -> None:
    """Write rows of the view `results` to `output`, or to stdout; no part of a file is left where that fails."""
    if form is ExportFormat.PARQUET:
        if output is None:
            raise typer.BadParameter("a Parquet file needs a name: add --output FILE")
        load_arrow()  # an earlier file is not given up for what cannot be written
    if output is None:
        _write_text(rows, form, sys.stdout, Console())
        return
    output.touch(mode=0o640)  # results are patient data
    with _whole(output):
        if form is ExportFormat.PARQUET:
            write_parquet(rows, output)
        else:
            with output.open("w", newline="", encoding="utf-8") as stream:
                _write_text(rows, form, stream, Console(file=stream, width=200))


@contextmanager
def _whole(output: Path) -> Iterator[None]:
    """Remove a file that was not written to its end: it looks like one that has everything."""
    try:
        yield
    except BaseException:
        if output.is_file():
            with suppress(OSError):
                output.resolve().unlink()
        raise


def _write_text(rows: Iterable[Row], form: ExportFormat, stream: TextIO, console: Console) -> None:
    if form is ExportFormat.JSON:
        write_json_lines(rows, stream)
    elif form is ExportFormat.CSV:
        write_csv(rows, stream)
    else:
        print_table(rows, console)


def print_table(rows: Iterable[Row], console: Console | None = None) -> None:
    """Print what people look at, one line per file; the other formats have all columns of the view."""
    console = console or Console()
    source = iter(rows)
    group = list(islice(source, _TABLE_ROWS))
    while following := list(islice(source, _TABLE_ROWS)):
        console.print(_table(group, None))
        group = following
    console.print(_table(group, DISCLAIMER))


def _table(rows: Sequence[Row], caption: str | None) -> Table:
    table = Table("file", "outcome", "P(pneumonia)", "note", caption=caption, caption_justify="left")
    table.columns[0].overflow = "fold"
    table.columns[2].justify = "right"
    for row in rows:
        probability, note = row["p_pneumonia"], row["reason_code"] or row["warnings"]
        table.add_row(
            Text(visible(str(row["source_name"]))),
            str(row["outcome"]),
            f"{probability:.3f}" if isinstance(probability, float) else "",
            str(note).replace(",", ", "),
            style=_STYLES[Outcome(str(row["outcome"]))],
        )
    return table


def console_for_tables(width: int) -> Console:
    """Return a console on stdout that is `width` wide where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


def bars_on(console: Console) -> Progress:
    """Return bars, shown on a terminal alone: a name, how many of how many, the time taken and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show bars on a terminal's stderr: announce a piece of work of so many films, and advance it by some."""
    with bars_on(Console(stderr=True)) as bars:

        def task(description: str, total: int) -> Callable[[int], None]:
            identifier = bars.add_task(description, total=total)
            return lambda films: bars.advance(identifier, films)

        yield task


def check_picture_path(out: Path, films: Iterable[Path], option: str) -> None:
    """Refuse to write a PNG over a film, where none can be written, or as what it is not, before any work is done.

    Raises
    ------
    typer.BadParameter
        Naming the option and what is wrong with it.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        raise typer.BadParameter(f"{option} is in a folder that is not there: {folder}")
    if out.is_dir():
        raise typer.BadParameter(f"{option} is a folder, {out}; name a file")
    if not os.access(out if out.exists() else folder, os.W_OK):
        raise typer.BadParameter(f"{option} cannot be written: no permission for {out}")
    if out.exists() and any(_is_same_file(out, film) for film in films):
        raise typer.BadParameter(f"{option} names the film itself, {out}; name another file")
    if mimetypes.guess_type(out.name)[0] not in (None, "image/png"):
        raise typer.BadParameter(f"{option} is {out}, but a PNG is written; name it {out.with_suffix('.png').name}")


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # it is not there, or cannot even be asked for
        return False
