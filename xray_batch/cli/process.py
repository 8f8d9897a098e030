"""`xray-batch process`."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from xray_batch.cli.output import Format, bars_on, print_table
from xray_batch.errors import ConfigurationError
from xray_batch.export import json_line
from xray_batch.libraries import uncollected
from xray_batch.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from xray_batch.pipeline.in_place import FileAnswer, Summary
    from xray_batch.settings import Settings

#: With more files than this the table of single files would scroll away: only the summary is printed.
TABLE_FILES = 60


#: A list of paths that is read from stdin.
STDIN = Path("-")


def process(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files and folders.", show_default=False)] = None,
    files_from: Annotated[
        Path | None,
        typer.Option(
            "--files-from",
            help="List of more of them, one per line; - reads it from stdin.",
            metavar="FILE",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Do it on a Ray cluster: HOST:PORT, ray://HOST:PORT or auto.", metavar="ADDRESS"),
    ] = None,
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
    if not paths and files_from is None:
        raise typer.BadParameter("name a file or a folder, or a list of them with --files-from")
    if files_from not in (None, STDIN) and not os.access(files_from, os.R_OK):
        raise typer.BadParameter(f"the list {files_from} of --files-from cannot be read")
    settings = open_settings(
        home, config, database_url, bundle=bundle, device=device, decode=decode, unpack_zip=unpack_zip
    )
    summary = run_process(Named(tuple(paths or ()), files_from), settings, form, ray)
    if summary.failed or not summary.files:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Named:
    """What is to be classified."""

    paths: tuple[Path, ...]  #: files and folders
    files_from: Path | None = None  #: list of more

    def find(self) -> Iterator[Path]:
        """Yield the files while they are being found."""
        from xray_batch.pipeline.named_files import find_files, read_list

        yield from find_files(self.paths)
        if self.files_from == STDIN:
            yield from find_files(read_list(sys.stdin.buffer))
        elif self.files_from is not None:
            with self.files_from.open("rb") as lines:
                yield from find_files(read_list(lines))

    @property
    def can_be_counted(self) -> bool:
        """Whether the files can be found a second time."""
        if self.files_from is None:
            return True
        return self.files_from != STDIN and self.files_from.is_file()  # a pipe gives them once


def run_process(named: Named, settings: "Settings", form: Format, ray: str | None = None) -> "Summary":
    """Classify files with a progress bar on stderr, and report on stdout.

    Parameters
    ----------
    ray
        Address of the cluster to do it on; None: here.
    """
    from rich.console import Console

    errors = Console(stderr=True)
    progress = bars_on(errors)
    report = _Report(form, progress, errors)
    workforce = _this_machine(settings, report) if ray is None else _cluster(settings, ray, report)
    with workforce as classify, progress:
        if errors.is_terminal and named.can_be_counted:  # the work does not wait for its total
            threading.Thread(target=report.count, args=(named.find(),), daemon=True).start()
        summary = classify(named.find())
    if form is Format.TABLE:
        if len(report.shown) <= TABLE_FILES:
            print_table(
                {**asdict(answer.result), "source_name": short_name(answer.path, named.paths)}
                for answer in report.shown
            )
        _print_summary(summary, Console())
    return summary


@contextmanager
def _this_machine(settings: "Settings", report: "_Report") -> "Iterator[Callable[[Iterable[Path]], Summary]]":
    """Start what classifies files here."""
    with uncollected():
        from xray_batch.bundle import find_bundle
        from xray_batch.intake import Folders, remove_abandoned
        from xray_batch.pipeline.engine import Pipeline
        from xray_batch.pipeline.in_place import process_in_place

    folders = Folders(settings.home.absolute())
    remove_abandoned(folders.spool)
    bundle = find_bundle(settings.bundle, folders.bundles)
    with open_store(settings) as store, Pipeline(bundle, settings) as pipeline:
        yield lambda files: process_in_place(
            files,
            pipeline,
            store,
            max_attempts=settings.max_attempts,
            on_answers=report.on_answers,
            on_failure=report.on_failure,
            unpack_in=folders.spool if settings.unpack_zip else None,
            on_unpacked=report.on_unpacked,
        )


@contextmanager
def _cluster(settings: "Settings", address: str, report: "_Report") -> "Iterator[Callable[[Iterable[Path]], Summary]]":
    """Connect to a Ray cluster, where files are classified by the same functions.

    Raises
    ------
    ConfigurationError
        If the database is SQLite, which only one machine can use.
    """
    from xray_batch.bundle import find_bundle
    from xray_batch.cluster import Listeners, connected, process_on_cluster
    from xray_batch.database import sqlite_path
    from xray_batch.intake import Folders
    from xray_batch.pipeline.engine import check_fit

    if sqlite_path(settings.resolved_database_url) is not None:
        message = (
            "--ray needs PostgreSQL: the nodes of a cluster cannot share a SQLite file; name it with database_url_file "
            "or --database-url"
        )
        raise ConfigurationError(message)
    home = settings.home.absolute()
    bundle = find_bundle(settings.bundle, Folders(home).bundles)
    check_fit(bundle)
    with open_store(settings):
        pass  # it is there, and at the right revision
    name = str(bundle.folder.absolute()) if "/" in settings.bundle else settings.bundle
    everywhere = settings.model_copy(update={"home": home, "bundle": name})
    listeners = Listeners(
        on_answers=report.on_answers,
        on_failure=report.on_failure,
        on_unpacked=report.on_unpacked,
        on_loss=report.on_loss,
    )
    with connected(address) as ray:
        yield lambda files: process_on_cluster(files, ray, everywhere, bundle.sha256, listeners)


class _Report:
    """Shows a run's progress, and its answers as they come or a table's worth of them at the end."""

    def __init__(self, form: Format, progress: "Progress", errors: "Console") -> None:
        self.shown: list[FileAnswer] = []
        self._form = form
        self._progress = progress
        self._errors = errors
        self._answers = sys.stdout  #: also where a library prints to `sys.stdout` meanwhile
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
                typer.echo(json_line(asdict(answer.result)), file=self._answers)
        else:
            self.shown.extend(answers[: TABLE_FILES + 1 - len(self.shown)])

    def on_failure(self, path: Path, why: str) -> None:
        """Name a file that has no outcome."""
        from xray_batch.intake import printable

        self._advance(1)
        name = visible(printable(os.fspath(path)))
        self._errors.print(f"{name}: {why}", style="red", markup=False, highlight=False, soft_wrap=True)

    def on_loss(self, node: str, why: str) -> None:
        """Say that a worker of a cluster was lost; nothing else is."""
        message = f"a worker on node {node} was lost ({why}); what it had not done is done again"
        self._errors.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)

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
