"""`xray-batch selftest`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_bundle, open_settings
from xray_batch.cli.output import Format, console_for_tables
from xray_batch.export import json_line

if TYPE_CHECKING:
    from xray_batch.golden.kit import Verdict

#: Width of the table where it goes to no terminal: each file keeps to its line.
_WIDTH: Final = 200


def selftest(
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Compare pixels alone; without the model this takes seconds.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="A table, or a line of JSON per file.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Prove this installation: decode and classify golden files with known answers.

    One film, encoded by independent programs in every transfer syntax and in many ways of storing it, must
    give the same pixels and the same probability, and files that must be refused must be, for their reason.
    Nothing is stored.  Exit code 0 when all pass.
    """
    from xray_batch.golden.kit import read_kit
    from xray_batch.golden.rendering import check_renderings

    settings = open_settings(home, config, database_url, bundle=bundle, device=device)
    kit = read_kit()
    verdicts = check_renderings(kit, settings)
    if not no_model:
        from xray_batch.golden.probability import check_probabilities

        verdicts = check_probabilities(kit, verdicts, open_bundle(settings), settings)
    if form is Format.JSON:
        for verdict in verdicts:
            typer.echo(json_line(_row(verdict)))
    else:
        _print_table(verdicts)
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


def _row(verdict: "Verdict") -> dict[str, object]:
    """Return a verdict as the one JSON object of its file."""
    golden = verdict.golden
    return {
        "file": golden.file,
        "shows": golden.shows,
        "transfer_syntax_uid": golden.transfer_syntax_uid,
        "encoder": golden.encoder,
        "decoder": verdict.decoder,
        "reason_code": golden.reason_code,
        "passed": verdict.passed,
        "problem": verdict.problem,
        "difference": verdict.difference,
        "tolerance": golden.tolerance,
        "p_difference": verdict.p_difference,
        "p_tolerance": golden.p_tolerance,
    }


def _print_table(verdicts: Sequence["Verdict"]) -> None:
    """Print a line per file, the problems, and the sentence that is the result."""
    from rich.table import Table
    from rich.text import Text

    console = console_for_tables(_WIDTH)
    table = Table("", "file", "decoder", "largest difference", "|dp|")
    table.columns[1].overflow = "fold"
    for column in table.columns[3:]:
        column.justify = "right"
    for verdict in verdicts:
        golden = verdict.golden
        shows = f"refused as {golden.reason_code}: {golden.shows}" if golden.reason_code else golden.shows
        table.add_row(
            Text("pass", "green") if verdict.passed else Text("FAIL", "bold red"),
            Text(shows),
            Text(verdict.decoder),
            "" if verdict.difference is None else f"{verdict.difference:.6f}",
            "" if verdict.p_difference is None else f"{verdict.p_difference:.6f}",
        )
    console.print(table)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    for verdict in failed:
        typer.echo(f"FAIL {verdict.golden.file} ({verdict.golden.shows}, by {verdict.decoder}): {verdict.problem}")
    typer.echo(_sentence(len(verdicts), [verdict.golden.file for verdict in failed]))


def _sentence(files: int, failed: Sequence[str]) -> str:
    """Say the result, and of which installation."""
    from xray_batch.libraries import versions

    found = versions("imagecodecs", "pydicom", "pillow", "xray-batch")
    installation = ", ".join(f"{name} {version}" for name, version in found.items())
    if not failed:
        return f"all {files} golden files pass on this installation: {installation}"
    names = ", ".join(failed)
    return f"{len(failed)} of {files} golden files FAIL on this installation ({installation}): {names}"
