"""`xray-batch bench`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_bundle, open_settings
from xray_batch.cli.output import Format, check_picture_path, console_for_tables, progress_bars
from xray_batch.export import json_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from xray_batch.bench.measures import Machine, Report, Times

#: A 43 cm plate at 0.2 mm, about what computed radiography gives.
_SIDE = 2000

#: Width of the tables where they go to no terminal.
_WIDTH = 150


def bench(
    files: Annotated[int, typer.Option(min=10, help="Files in the mix that goes from end to end.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="How often everything is timed.")] = 3,
    side: Annotated[int, typer.Option(min=64, max=8000, help="Rows, and columns, of a film.")] = _SIDE,
    results: Annotated[
        int, typer.Option(min=0, help="Time the worklist page too, on a database of so many made-up results.")
    ] = 0,
    form: Annotated[Format, typer.Option("--format", help="Tables, or a line of JSON per measurement.")] = Format.TABLE,
    figure: Annotated[Path | None, typer.Option(help="Draw the figures here too, as PNG.")] = None,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Measure how fast this machine is: each step alone, and all of it beside two other ways to do the same work.

    Films of realistic size are made in a temporary folder (about 1 GB) from the packaged samples; nothing else is
    read or written, the database least of all.  Takes some six minutes on two cores; fewer --files and --repeats
    take less.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device, decode="exact")
    if figure is not None:
        check_picture_path(figure, (), "--figure")

    from rich.console import Console

    from xray_batch.bench.machine import describe_machine
    from xray_batch.bench.run import Extent, run_benchmark

    found = open_bundle(settings)
    machine = describe_machine(settings)
    _warn_of_load(machine, Console(stderr=True))
    extent = Extent(files=files, repeats=repeats, side=side, results=results)
    with progress_bars() as progress:
        report = run_benchmark(found, settings, extent, machine, progress)
    if form is Format.JSON:
        for row in _rows(report):
            typer.echo(json_line(row))
    else:
        _print_tables(report)
    if figure is not None:
        from xray_batch.bench.figure import write_figure

        write_figure(figure, report)


def _warn_of_load(machine: "Machine", errors: "Console") -> None:
    if not machine.is_quiet:
        text = f"The machine is not quiet (load average {machine.load_average:.2f}): the figures will be too low."
        errors.print(text, style="yellow", highlight=False, soft_wrap=True)


def _rows(report: "Report") -> Iterator[dict[str, object]]:
    """Yield the measurements as JSON objects; `kind` tells them apart."""
    extent = {"side": report.side, "repeats": report.repeats, "mix": report.mix}
    yield {"kind": "machine", **asdict(report.machine), **extent}
    for kind, measured in (
        ("stages", report.stages),
        ("forward", report.forwards),
        ("ceiling", (report.ceiling,)),
        ("end_to_end", report.runs),
        ("worklist", report.worklist),
    ):
        yield from ({"kind": kind, **asdict(row)} for row in measured)


def _print_tables(report: "Report") -> None:
    from xray_batch.bench.machine import machine_lines

    console = console_for_tables(_WIDTH)
    for line in machine_lines(report.machine):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    tables = [_stage_table(report), _forward_table(report), _end_to_end_table(report)]
    for table in tables + ([_worklist_table(report)] if report.worklist else []):
        console.print()
        console.print(table)


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(*texts, *numbers, title=title, title_justify="left", caption_justify="left")
    for column in table.columns[len(texts) :]:
        column.justify = "right"
    return table


def _stage_table(report: "Report") -> "Table":
    table = _table(
        f"One film of {report.side} x {report.side} from file to model input, in one process: ms, median (best)",
        ("encoding",),
        ("MB", "read", "decode", "render", "resize", "all, core-ms"),
    )
    for stage in report.stages:
        steps = (_both(step) for step in (stage.read, stage.decode, stage.render, stage.resize))
        table.add_row(stage.encoding, f"{stage.file_bytes / 1e6:.2f}", *steps, f"{stage.core_ms:.1f}")
    return table


def _forward_table(report: "Report") -> "Table":
    table = _table(
        "The ensemble alone",
        ("device", "precision"),
        ("batch", "ms/image", "images/s", "core-ms/image", "|dp| max", "|dp| mean"),
    )
    for found in report.forwards:
        numbers = (f"{found.images_per_second:.1f}", f"{found.core_ms:.1f}")
        drift = (f"{found.drift_max:.4f}", f"{found.drift_mean:.4f}")
        table.add_row(found.device, found.precision, str(found.batch_images), _both(found.image), *numbers, *drift)
    return table


def _end_to_end_table(report: "Report") -> "Table":
    mix = ", ".join(f"{share} % {name}" for name, share in report.mix.items())
    table = _table(
        f"End to end: {report.runs[0].files} files, {mix}",
        ("", "precision"),
        ("workers", "answers", "images/s (best)", "CPU s", "memory, GB", "share of the ceiling"),
    )
    ceiling = report.ceiling
    for run in report.runs:
        table.add_row(
            run.contender,
            run.precision,
            str(run.workers),
            str(run.answers),
            f"{run.images_per_second:.2f} ({run.best_images_per_second:.2f})",
            f"{run.cpu_seconds:.1f}",
            f"{run.memory_bytes / 1e9:.2f}",
            "" if run.share_of_ceiling is None else f"{100 * run.share_of_ceiling:.0f} %",
        )
    table.caption = (
        f"Ceiling: {ceiling.cores} cores x 1000 / ({ceiling.preprocess_core_ms:.1f} + {ceiling.forward_core_ms:.1f} "
        f"core-ms per image); {ceiling.images_per_second:.2f} images/s if no core ever waited."
    )
    return table


def _worklist_table(report: "Report") -> "Table":
    title = f"The worklist page on {report.worklist[0].results:,} results in SQLite: server time, ms, median (best)"
    table = _table(title, ("request",), ("ms",))
    for page in report.worklist:
        table.add_row(page.request, _both(page.server))
    return table


def _both(times: "Times") -> str:
    return f"{times.median_ms:.1f} ({times.best_ms:.1f})"
