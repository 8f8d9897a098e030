"""`xray-batch process`."""

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import (
    BundleName,
    Config,
    DatabaseUrl,
    Decode,
    Device,
    Home,
    UnpackZip,
    open_settings,
    open_store,
)
from xray_batch.cli.output import Format, json_line, print_table, progress_columns, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from xray_batch.pipeline.in_place import FileAnswer, Summary
    from xray_batch.settings import Settings

#: With more files than this the table of single files would scroll away: only the summary is printed.
TABLE_FILES = 60


def process(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    form: Annotated[Format, typer.Option("--format", help="A table, or a line of JSON per file.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    decode: Decode = None,
    unpack_zip: UnpackZip = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Classify files and folders where they are, once.

    Exit code 0 when every file has an outcome, `not_analysed` included.
    """
    settings = open_settings(
        home, config, database_url, bundle=bundle, device=device, decode=decode, unpack_zip=unpack_zip
    )
    summary = run_process(paths, settings, form)
    if summary.failed or not summary.files:
        raise typer.Exit(1)


def run_process(paths: Sequence[Path], settings: "Settings", form: Format) -> "Summary":
    """Classify `paths` with a progress bar on stderr, and report on stdout."""
    from rich.console import Console
    from rich.progress import Progress

    from xray_batch.bundle import find_bundle
    from xray_batch.intake import Folders, remove_abandoned
    from xray_batch.pipeline.engine import Pipeline
    from xray_batch.pipeline.in_place import find_files, process_in_place

    errors = Console(stderr=True)
    folders = Folders(settings.home.absolute())
    remove_abandoned(folders.spool)
    bundle = find_bundle(settings.bundle, folders.bundles)
    progress = Progress(*progress_columns(), console=errors, disable=not errors.is_terminal)
    with open_store(settings) as store, Pipeline(bundle, settings) as pipeline, progress:
        report = _Report(form, progress, errors)
        if errors.is_terminal:  # the work does not wait for its total
            threading.Thread(target=report.count, args=(find_files(paths),), daemon=True).start()
        summary = process_in_place(
            find_files(paths),
            pipeline,
            store,
            max_attempts=settings.max_attempts,
            on_answers=report.on_answers,
            on_failure=report.on_failure,
            unpack_in=folders.spool if settings.unpack_zip else None,
            on_unpacked=report.on_unpacked,
        )
    if form is Format.TABLE:
        if len(report.shown) <= TABLE_FILES:
            print_table(
                {**asdict(answer.result), "source_name": short_name(answer.path, paths)} for answer in report.shown
            )
        _print_summary(summary, Console())
    return summary


class _Report:
    """Shows a run's progress, and its answers as they come or a table's worth of them at the end."""

    def __init__(self, form: Format, progress: "Progress", errors: "Console") -> None:
        self.shown: list[FileAnswer] = []
        self._form = form
        self._progress = progress
        self._errors = errors
        self._counted: int | None = None  #: files found; None until all are
        self._members = 0  #: files found in archives
        self._task = progress.add_task("classify", total=None)

    def count(self, files: Iterable[Path]) -> None:
        """Find out how many files there are; may run beside everything else."""
        self._counted = sum(1 for _ in files)

    def _advance(self, files: int) -> None:
        total = None if self._counted is None else self._counted + self._members
        self._progress.update(self._task, advance=files, total=total)

    def on_answers(self, answers: "Sequence[FileAnswer]") -> None:
        """Show answered files."""
        self._advance(len(answers))
        if self._form is Format.JSON:
            for answer in answers:
                typer.echo(json_line(asdict(answer.result)))
        else:
            self.shown.extend(answers[: TABLE_FILES + 1 - len(self.shown)])

    def on_failure(self, path: Path, why: str) -> None:
        """Name a file that has no outcome."""
        from xray_batch.intake import printable

        self._advance(1)
        name = visible(printable(os.fspath(path)))
        self._errors.print(f"{name}: {why}", style="red", markup=False, highlight=False, soft_wrap=True)

    def on_unpacked(self, members: int) -> None:
        """Take note that there are more files than those that were named."""
        self._members += members


def short_name(path: Path, given: Sequence[Path]) -> str:
    """Name a file as people will recognise it: relative to the folder that they named."""
    from xray_batch.intake import printable

    folder = next((folder for folder in given if path != folder and path.is_relative_to(folder)), None)
    return printable(os.fspath(path.relative_to(folder) if folder else path))


def _print_summary(summary: "Summary", console: "Console") -> None:
    from rich.table import Table

    table = Table("outcome", "files", title="Summary", title_justify="left")
    table.columns[1].justify = "right"
    for outcome, count in summary.outcomes.items():
        table.add_row(outcome, str(count))
    table.add_row("failed", str(summary.failed))
    table.add_row("total", str(summary.files), style="bold")
    console.print(table)
    if summary.duplicates:
        console.print(f"{summary.duplicates} of them had the same bytes as a file answered before.")
    if not summary.files:
        console.print("There was no file.")
