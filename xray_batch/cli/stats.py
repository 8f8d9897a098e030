"""`xray-batch stats`."""

import csv
import enum
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Home, open_bundle, open_settings
from xray_batch.cli.output import bars_on, check_picture_path, console_for_tables
from xray_batch.cli.process import TABLE_FILES, short_name
from xray_batch.export import csv_cell, json_line
from xray_batch.spreadsheet import LineFeeds
from xray_batch.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

    from xray_batch.pipeline.survey import FileFacts, Totals

_COLUMNS: Final = (
    *("file", "format", "rows", "columns", "bits", "min", "max", "mean", "sd"),
    *("input_min", "input_max", "input_mean", "input_sd", "reason_code", "reason"),
)


#: Width of the table where it goes to no terminal: each file keeps to its line.
_WIDTH: Final = 120

#: On a narrow terminal the pairs of figures are broken before a file loses its name.
_NAME_WIDTH: Final = 12


class StatsFormat(enum.StrEnum):
    """How facts about images are written."""

    TABLE = "table"
    JSON = "json"  #: one object per file, and one of all
    CSV = "csv"  #: one row per file


def stats(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write histograms of all pixels here, as PNG.")] = None,
    form: Annotated[
        StatsFormat, typer.Option("--format", help="A table, a line of JSON per file, or CSV.")
    ] = StatsFormat.TABLE,
    bundle: BundleName = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Tell what images are like: dimensions, bits, and the range, mean and SD of their pixels; nothing is stored.

    Of the film as it is rendered, 0 black and 1 white, and of the bundle's model input, in SD of its training split;
    of several files, also of all together.  Exit code 1 when no file could be read.
    """
    settings = open_settings(home, config, database_url, bundle=bundle)

    from rich.console import Console

    from xray_batch.pipeline.engine import check_fit
    from xray_batch.pipeline.named_files import find_files
    from xray_batch.pipeline.survey import Totals, survey_files

    if out is not None:
        check_picture_path(out, find_files(paths), "--out")
    found = open_bundle(settings)
    check_fit(found)
    spec = found.manifest.input_spec
    errors, totals = Console(stderr=True), Totals()
    with bars_on(errors) as progress:
        files = sum(1 for _ in find_files(paths))
        report = _Report(form, paths, errors, files)
        for facts in progress.track(survey_files(find_files(paths), spec, settings), files, description="measure"):
            totals.add(facts)
            report.show(facts)
    report.end(totals)
    if out is not None and totals.films:
        from xray_batch.cli.histogram import write_histograms

        write_histograms(out, totals, spec, found.manifest.model_id)
    if not totals.films:
        raise typer.Exit(1)


class _Report:
    """Shows files as they are measured, or a table's worth of them at the end, and all together."""

    def __init__(self, form: StatsFormat, paths: Sequence[Path], errors: "Console", files: int) -> None:
        self._form = form
        self._paths = paths
        self._errors = errors
        self._as_table = files <= TABLE_FILES
        self._shown: list[FileFacts] = []
        self._csv = csv.DictWriter(LineFeeds(sys.stdout), _COLUMNS)
        if form is StatsFormat.CSV:
            self._csv.writeheader()

    def show(self, facts: "FileFacts") -> None:
        """Show a file, or keep it for the table; of many files, those that were not read are named at once."""
        if self._form is StatsFormat.JSON:
            typer.echo(json_line(_row(facts)))
        elif self._form is StatsFormat.CSV:
            self._csv.writerow({name: csv_cell(value) for name, value in _row(facts).items()})
        elif self._as_table:
            self._shown.append(facts)
        elif facts.reason_code is not None:
            line = visible(f"{_name(facts)}: {facts.reason_code}. {facts.reason}")
            self._errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)

    def end(self, totals: "Totals") -> None:
        """Show the table, and what several files are like together."""
        if self._form is StatsFormat.JSON and totals.files > 1:
            typer.echo(json_line({"summary": dict(_summary(totals))}))
        elif self._form is StatsFormat.TABLE:
            _print_table(self._shown, self._paths)
            if totals.files > 1:
                _print_summary(totals)
            if not totals.files:
                typer.echo("There was no file.")


def _name(facts: "FileFacts") -> str:
    from xray_batch.intake import printable

    return printable(str(facts.path))


def _row(facts: "FileFacts") -> dict[str, object]:
    """Return what is said of one file, under :data:`_COLUMNS`."""
    row: dict[str, object] = dict.fromkeys(_COLUMNS)
    row |= {"file": _name(facts), "format": facts.source_format, "bits": facts.bits}
    row |= {"reason_code": facts.reason_code, "reason": facts.reason}
    if facts.rendered is not None:
        row |= {"rows": facts.rendered.rows, "columns": facts.rendered.columns}
    for prefix, pixels in (("", facts.rendered), ("input_", facts.model_input)):
        if pixels is not None:
            row |= {f"{prefix}min": pixels.smallest, f"{prefix}max": pixels.largest}
            row |= {f"{prefix}mean": pixels.mean, f"{prefix}sd": pixels.std}
    return row


def _summary(totals: "Totals") -> Iterator[tuple[str, object]]:
    """Yield what is said of all files together, by name."""
    yield from (("files", totals.files), ("films", totals.films), ("refused", dict(totals.refused.most_common())))
    for name, ends in (("rows", totals.rows), ("columns", totals.columns)):
        yield from ((f"{name}_{which}", end) for which, end in zip(("min", "max"), ends or (None, None), strict=True))
    yield "pixels", totals.rendered.count
    for prefix, pixels in (("", totals.rendered), ("input_", totals.model_input)):
        yield f"{prefix}mean", pixels.mean if pixels.count else None
        yield f"{prefix}sd", pixels.std if pixels.count else None


def _print_table(shown: Sequence["FileFacts"], paths: Sequence[Path]) -> None:
    """Print a line per film, then those that were not read; nothing of a name is taken as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console = console_for_tables(_WIDTH)
    table = Table(
        "file",
        "format",
        "rows x columns",
        "bits",
        "min, max",
        "mean, SD",
        "input mean, SD",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.columns[0].overflow, table.columns[0].min_width = "fold", _NAME_WIDTH
    for column in table.columns[1:]:
        column.justify = "right"
    for facts in shown:
        film, model_input = facts.rendered, facts.model_input
        if film is not None and model_input is not None:
            table.add_row(
                Text(visible(short_name(facts.path, paths))),
                facts.source_format,
                f"{film.rows} x {film.columns}",
                str(facts.bits),
                f"{film.smallest:.3f}, {film.largest:.3f}",
                f"{film.mean:.3f}, {film.std:.3f}",
                f"{model_input.mean:.3f}, {model_input.std:.3f}",
            )
    if table.row_count:
        console.print(table)
    for facts in shown:
        if facts.reason_code is not None:
            typer.echo(visible(f"not read: {short_name(facts.path, paths)}: {facts.reason_code}. {facts.reason}"))


def _print_summary(totals: "Totals") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("all files", "", title="Summary", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("read", str(totals.films))
    for reason_code, count in totals.refused.most_common():
        table.add_row(f"not read: {reason_code}", str(count))
    if totals.rows and totals.columns:
        table.add_row("rows", "{} to {}".format(*totals.rows))
        table.add_row("columns", "{} to {}".format(*totals.columns))
        table.add_row("pixels", f"{totals.rendered.count:,}")
        table.add_row("mean and SD, rendered (0 to 1)", f"{totals.rendered.mean:.4f}, {totals.rendered.std:.4f}")
        table.add_row("mean and SD, model input (SD)", f"{totals.model_input.mean:.4f}, {totals.model_input.std:.4f}")
    Console().print(table)
