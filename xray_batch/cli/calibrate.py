"""`xray-batch calibrate`."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xray_batch import DISCLAIMER
from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_bundle, open_settings
from xray_batch.cli.output import Format, console_for_tables, progress_bars
from xray_batch.export import json_line

if TYPE_CHECKING:
    from xray_batch.bundle import Metric, Proportion
    from xray_batch.records import Scaling
    from xray_batch.settings import Settings
    from xray_batch.training.bootstrap import Estimate
    from xray_batch.training.calibration import Calibration
    from xray_batch.training.recalibrate import Recalibrated

_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")

#: Width of the table where it goes to no terminal.
_WIDTH: Final = 140

_HONESTY: Final = (
    "The columns on the sample are measured on the very images that the new calibration was fitted to, which "
    "flatters it. The last column does not: each fifth of the patients is measured with a calibration fitted to "
    "the other four."
)

_NO_BETTER: Final = (
    "Against the old calibration the cross-fitted log loss did not fall by more than chance: a temperature and a shift "
    "could not mend the probabilities, there was little to mend, or the films are too few to tell. The thresholds fit "
    "your films; do not read the probabilities as frequencies."
)

_AT_BOUND: Final = (
    "The temperature, or the shift, ended at a bound ({:g} to {:g}, {:g} to either side), where no sound calibration "
    "ends: labels are mixed up, or the films are too few or of another kind. Do not use this bundle before you know."
)

_NOT_CHECKED: Final = (
    "This bundle does not record what it was trained on: whether some of your films are among that is not checked."
)

_NO_DRIFT: Final = "The films are too few to measure drift against; that takes 170."


def calibrate(
    labels: Annotated[
        Path, typer.Option(help="Your labelled films: a CSV (file, label, patient_id, source), or a folder with it.")
    ],
    out: Annotated[Path, typer.Option(help="New folder that becomes the bundle.")],
    version: Annotated[
        str | None, typer.Option(help="Version of the new bundle; the old one with its minor part raised if not given.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="A table, or one JSON object.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Fit temperature, shift, thresholds and limit of disagreement to your own films, and write a new bundle.

    The weights stay as they are, byte for byte.  At least 50 images of normal and 50 of pneumonia are needed,
    each of 30 patients; what the service would refuse is left out, and what the list has on the side `test`.
    Films that the bundle was trained on are refused.
    """
    if version is not None and not _VERSION.fullmatch(version):
        raise typer.BadParameter(f"--version is {version!r}, expected three numbers such as 1.2.0")
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)

    from xray_batch.training.recalibrate import CalibrationOrder, recalibrate

    found = open_bundle(settings)
    order = CalibrationOrder(labels=labels, out=out, version=version)
    with progress_bars() as task:
        done = recalibrate(found, order, settings, task=task)
    if form is Format.JSON:
        typer.echo(json_line(_facts(done)))
    else:
        _print(done, settings)


def _facts(done: "Recalibrated") -> dict[str, object]:
    """Return everything that is shown, as the JSON object has it."""
    manifest, crossed = done.bundle.manifest, done.crossed
    calibration = manifest.calibration
    return {
        "bundle": str(done.bundle.folder),
        "model_id": manifest.model_id,
        "model_sha256": done.bundle.sha256,
        "calibration": calibration.model_dump(mode="json") if calibration else None,
        "set_aside": done.set_aside,
        "copies": done.copies,
        "before": _calibration_facts(done.before, done.errors["before"]),
        "after": _calibration_facts(done.after, done.errors["after"]),
        "cross_fitted": {
            "operating_points": {
                name: {
                    "sensitivity": crossed.sensitivity[name].model_dump(),
                    "specificity": crossed.specificity[name].model_dump(),
                }
                for name in crossed.called
            },
            "expected_calibration_error": _interval_facts(done.errors["cross_fitted"]),
            "log_loss_change": done.log_loss_change.model_dump(),
        },
        "note": f"{_note(done)} {DISCLAIMER}",
    }


def _calibration_facts(calibration: "Calibration", error: "Metric") -> dict[str, object]:
    return {
        "temperature": calibration.scaling.temperature,
        "log_odds_shift": calibration.scaling.shift,
        "threshold_low": calibration.threshold_low,
        "threshold_high": calibration.threshold_high,
        "disagreement_limit": calibration.disagreement_limit,
        "operating_points": calibration.operating_points.model_dump(),
        "expected_calibration_error": _interval_facts(error),
    }


def _interval_facts(metric: "Metric") -> dict[str, object]:
    return {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}


def _print(done: "Recalibrated", settings: "Settings") -> None:
    """Print the old and the new calibration side by side, and what to do with the new bundle."""
    from rich.table import Table

    console = console_for_tables(_WIDTH)
    manifest, facts = done.bundle.manifest, done.bundle.manifest.calibration
    if facts:
        typer.echo(f"{sum(facts.images.values())} images of {facts.patients} patients in {facts.name}:")
        for name, count in facts.images.items():
            typer.echo(f"{count:8} {name}")
        for reason, count in facts.left_out.items():
            typer.echo(f"{count:8} left out: {reason}")
    if done.set_aside:
        typer.echo(f"{done.set_aside:8} left out: of the side 'test'")
    if done.copies:
        typer.echo(f"{done.copies:8} left out: the same bytes as another file of the list")
    was = facts.derived_from if facts else "before"
    table = Table("", f"{was}, on the sample", f"{manifest.model_id}, on the sample", "cross-fitted")
    for row in _rows(done):
        table.add_row(*row)
    console.print(table)
    typer.echo(f"In brackets: 95 % intervals. {_note(done)}")
    typer.echo(f"\n{DISCLAIMER}\n")
    typer.echo(_how_to_install(done, settings))


def _rows(done: "Recalibrated") -> "Iterator[tuple[str, ...]]":
    """Yield the rows of the table: what it is, before, after, and cross-fitted."""
    before, after = done.before, done.after
    scalings = (before.scaling, after.scaling)
    yield ("temperature", *(f"{scaling.temperature:.3f}" for scaling in scalings), "")
    yield ("shift of the log odds", *(f"{scaling.shift:+.3f}" for scaling in scalings), "")
    for name in done.crossed.called:
        old, new = getattr(before.operating_points, name), getattr(after.operating_points, name)
        yield (f"{name.replace('_', ' ')} threshold", f"{old.threshold:.4f}", f"{new.threshold:.4f}", "")
        yield ("  sensitivity", *map(_share, (old.sensitivity, new.sensitivity, done.crossed.sensitivity[name])))
        yield ("  specificity", *map(_share, (old.specificity, new.specificity, done.crossed.specificity[name])))
    yield (
        "indeterminate band",
        *(f"{each.threshold_low:.4f} - {each.threshold_high:.4f}" for each in (before, after)),
        "",
    )
    yield ("limit of disagreement", f"{before.disagreement_limit:.3f}", f"{after.disagreement_limit:.3f}", "")
    yield ("calibration error (ECE)", *(_share(done.errors[key]) for key in ("before", "after", "cross_fitted")))
    change = done.log_loss_change
    yield ("change of the log loss", "", "", f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})")


def note(log_loss_change: "Estimate", scaling: "Scaling", *, knows_its_training: bool) -> str:
    """Say how the figures are to be read, what did not get better, and what cannot be checked or told."""
    from xray_batch.drift import least_results
    from xray_batch.training.metrics import LARGEST_SHIFT, TEMPERATURES, is_at_bound

    said = [_HONESTY]
    if is_at_bound(scaling):
        said.append(_AT_BOUND.format(*TEMPERATURES, LARGEST_SHIFT))
    if log_loss_change.high >= 0:
        said.append(_NO_BETTER)
    if not knows_its_training:
        said.append(_NOT_CHECKED)
    if least_results(log_loss_change.n) is None:
        said.append(_NO_DRIFT)
    return " ".join(said)


def _note(done: "Recalibrated") -> str:
    knows = done.bundle.manifest.training.hashes is not None
    return note(done.log_loss_change, done.after.scaling, knows_its_training=knows)


def _share(share: "Proportion | Metric") -> str:
    return f"{share.value:.3f} ({share.low:.3f} - {share.high:.3f})"


def _how_to_install(done: "Recalibrated", settings: "Settings") -> str:
    from xray_batch.intake import Folders

    name, folder, home = done.bundle.manifest.model_id, done.bundle.folder.absolute(), settings.home.absolute()
    target = Folders(home).bundles / name
    make, copy = shlex.join(["mkdir", "-p", str(target.parent)]), shlex.join(["cp", "-r", str(folder), str(target)])
    return (
        f"The bundle is {folder}, manifest SHA-256 {done.bundle.sha256}.\n"
        f"Install it:  {make} && {copy}\n"
        f'Activate it: bundle = "{name}" in the configuration file, then start the service anew.\n'
        f"Try it:      xray-batch process FILE {shlex.join(['--home', str(home), '--bundle', name])}"
    )
