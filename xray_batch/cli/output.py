"""Rows for people and for programs."""

import csv
import datetime as dt
import enum
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from xray_batch import DISCLAIMER
from xray_batch.records import RESULT_COLUMNS, Outcome
from xray_batch.spreadsheet import safe_cell

Row = Mapping[str, object]

_STYLES: Final = {
    Outcome.PNEUMONIA: "bold red",
    Outcome.NORMAL: "green",
    Outcome.INDETERMINATE: "yellow",
    Outcome.NOT_ANALYSED: "dim",
}


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
    """Write rows of the view `results` to `output`, or to stdout."""
    if output:
        output.touch(mode=0o640)  # results are patient data
    if form is ExportFormat.PARQUET:
        _write_parquet(rows, output)
        return
    if form is ExportFormat.TABLE and output is None:
        print_table(rows)
        return
    stream = output.open("w", newline="", encoding="utf-8") if output else sys.stdout
    try:
        if form is ExportFormat.JSON:
            stream.writelines(json_line(row) + "\n" for row in rows)
        elif form is ExportFormat.CSV:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(RESULT_COLUMNS)
            writer.writerows([csv_cell(row[name]) for name in RESULT_COLUMNS] for row in rows)
        else:
            print_table(rows, Console(file=stream, width=200))
    finally:
        if output:
            stream.close()


def print_table(rows: Iterable[Row], console: Console | None = None) -> None:
    """Print what people look at, one line per file; the other formats have all columns of the view."""
    console = console or Console()
    table = Table("file", "outcome", "P(pneumonia)", "note", caption=DISCLAIMER, caption_justify="left")
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
    console.print(table)


def visible(text: str) -> str:
    """Escape what a sender's file name could make a terminal do."""
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in text)


def progress_columns() -> list[ProgressColumn]:
    """Return what a progress bar shows: its name, how many of how many, the time taken and the time left."""
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show bars on a terminal's stderr: announce a piece of work of so many films, and advance it by some."""
    console = Console(stderr=True)
    with Progress(*progress_columns(), console=console, disable=not console.is_terminal) as bars:

        def task(description: str, total: int) -> Callable[[int], None]:
            identifier = bars.add_task(description, total=total)
            return lambda films: bars.advance(identifier, films)

        yield task


def json_line(row: Row) -> str:
    """Return one row as a JSON object on one line."""
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return value


def check_picture_path(out: Path, films: Iterable[Path], option: str) -> None:
    """Refuse to write a picture over a film, or where none can be written, before any work is done.

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


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # it is not there, or cannot even be asked for
        return False


def _flat(value: object) -> object:
    """Return a value as a cell has it: of an object its JSON text, as the database keeps it."""
    return json.dumps(value) if isinstance(value, dict) else value


def csv_cell(value: object) -> object:
    """Return a value as CSV has it, and text so that no spreadsheet runs it."""
    text = _plain(_flat(value))
    return safe_cell(text) if isinstance(text, str) else text


def _write_parquet(rows: Iterable[Row], output: Path | None) -> None:
    if output is None:
        raise typer.BadParameter("a Parquet file needs a name: add --output FILE")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise typer.BadParameter("Parquet needs pyarrow: pip install pyarrow") from error
    schema = pa.schema([(name, _arrow_type(pa, name)) for name in RESULT_COLUMNS])
    with pq.ParquetWriter(output, schema) as writer:
        for page in _pages(rows, 10_000):
            cells = [{name: _flat(value) for name, value in row.items()} for row in page]
            writer.write_table(pa.Table.from_pylist(cells, schema=schema))


def _arrow_type(pa: object, name: str) -> object:
    if name == "result_id":
        return pa.int64()  # type: ignore[attr-defined] # pyarrow publishes no types
    if name in ("received_at", "classified_at"):
        return pa.timestamp("us", tz="UTC")  # type: ignore[attr-defined]
    if name == "study_date":
        return pa.date32()  # type: ignore[attr-defined]
    if name.startswith(("p_", "threshold_", "input_")) or name in (
        *("disagreement", "processing_seconds", "heat_in_thorax"),
    ):
        return pa.float64()  # type: ignore[attr-defined]
    return pa.string()  # type: ignore[attr-defined]


def _pages(rows: Iterable[Row], size: int) -> Iterator[Sequence[Row]]:
    iterator = iter(rows)
    while page := list(islice(iterator, size)):
        yield page
