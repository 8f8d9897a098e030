"""Rows of the view `results` as files: JSON lines, CSV, Parquet."""

import csv
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import IO, Final

from xray_batch.errors import ConfigurationError
from xray_batch.records import RESULT_COLUMNS
from xray_batch.spreadsheet import LineFeeds, safe_cell

Row = Mapping[str, object]

#: Columns of numbers, beside those whose names say so.
_NUMBERS: Final = frozenset({"disagreement", "processing_seconds", "heat_in_thorax"})

#: Rows of one group in a Parquet file.
_GROUP_ROWS: Final = 10_000


def write_json_lines(rows: Iterable[Row], file: IO[str]) -> None:
    """Write one object per line, keys as the view's columns."""
    file.writelines(json_line(row) + "\n" for row in rows)


def json_line(row: Row) -> str:
    """Return one row as a JSON object on one line."""
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)


def write_csv(rows: Iterable[Row], file: IO[str]) -> None:
    """Write a heading and one line per row."""
    writer = csv.writer(LineFeeds(file))
    writer.writerow(RESULT_COLUMNS)
    writer.writerows([csv_cell(row[name]) for name in RESULT_COLUMNS] for row in rows)


def csv_cell(value: object) -> object:
    """Return a value as CSV has it, and text so that no spreadsheet runs it."""
    text = _plain(_flat(value))
    return safe_cell(text) if isinstance(text, str) else text


def _flat(value: object) -> object:
    """Return a value as a cell has it: of an object its JSON text, as the database keeps it."""
    return json.dumps(value) if isinstance(value, dict) else value


def load_arrow() -> tuple[ModuleType, ModuleType]:
    """Return pyarrow, and its module for Parquet files.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet


def write_parquet(rows: Iterable[Row], file: Path | IO[bytes]) -> None:
    """Write a Parquet file to a path or a binary file.

    Raises
    ------
    ConfigurationError
        If pyarrow is not installed.
    """
    pa, pq = load_arrow()
    schema = pa.schema([(name, _arrow_type(pa, name)) for name in RESULT_COLUMNS])
    with pq.ParquetWriter(file, schema) as writer:
        for group in _groups(rows):
            cells = [{name: _flat(value) for name, value in row.items()} for row in group]
            writer.write_table(pa.Table.from_pylist(cells, schema=schema))


def _arrow_type(pa: ModuleType, name: str) -> object:
    if name == "result_id":
        return pa.int64()
    if name in ("received_at", "classified_at"):
        return pa.timestamp("us", tz="UTC")
    if name == "study_date":
        return pa.date32()
    if name.startswith(("p_", "threshold_", "input_")) or name in _NUMBERS:
        return pa.float64()
    return pa.string()


def _groups(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    iterator = iter(rows)
    while group := list(islice(iterator, _GROUP_ROWS)):
        yield group


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return value
