"""`xray-batch process`."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_settings, open_store
from xray_batch.cli.output import Format, json_line, print_table, progress_columns, visible

if TYPE_CHECKING:
    from rich.console import Console

    from xray_batch.pipeline.in_place import Summary
    from xray_batch.settings import Settings

#: With more files than this the table of single files would scroll away: only the summary is printed.
TABLE_FILES = 60


def process(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    form: Annotated[Format, typer.Option("--format", help="A table, or a line of JSON per file.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Classify files and folders where they are, once.

    Exit code 0 when every file has an outcome, `not_analysed` included.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)
    summary = run_process(paths, settings, form)
    if summary.failed or not summary.files:
        raise typer.Exit(1)


def run_process(paths: Sequence[Path], settings: "Settings", form: Format) -> "Summary":
    """Classify `paths` with a progress bar on stderr, and report on stdout."""
    from rich.console import Console
    from rich.progress import Progress

    from xray_batch.bundle import find_bundle
    from xray_batch.intake import Folders, printable
    from xray_batch.pipeline.engine import Pipeline
    from xray_batch.pipeline.in_place import FileAnswer, find_files, process_in_place

    errors = Console(stderr=True)
    shown: list[FileAnswer] = []
    bundle = find_bundle(settings.bundle, Folders(settings.home).bundles)
    progress = Progress(*progress_columns(), console=errors, disable=not errors.is_terminal)
    with open_store(settings) as store, Pipeline(bundle, settings) as pipeline, progress:
        task = progress.add_task("classify", total=sum(1 for _ in find_files(paths)))

        def on_answers(answers: Sequence[FileAnswer]) -> None:
            progress.advance(task, len(answers))
            if form is Format.JSON:
                for answer in answers:
                    typer.echo(json_line(asdict(answer.result)))
            else:
                shown.extend(answers[: TABLE_FILES + 1 - len(shown)])

        def on_failure(path: Path, why: str) -> None:
            progress.advance(task)
            name = visible(printable(os.fspath(path)))
            errors.print(f"{name}: {why}", style="red", markup=False, highlight=False, soft_wrap=True)

        summary = process_in_place(
            find_files(paths),
            pipeline,
            store,
            max_attempts=settings.max_attempts,
            on_answers=on_answers,
            on_failure=on_failure,
        )
    if form is Format.TABLE:
        if len(shown) <= TABLE_FILES:
            print_table({**asdict(answer.result), "source_name": _short(answer.path, paths)} for answer in shown)
        _print_summary(summary, Console())
    return summary


def _short(path: Path, given: Sequence[Path]) -> str:
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
    table.add_row("failed", str(len(summary.failed)))
    table.add_row("total", str(summary.files), style="bold")
    console.print(table)
    if summary.duplicates:
        console.print(f"{summary.duplicates} of them had the same bytes as a file answered before.")
    if not summary.files:
        console.print("There was no file.")
