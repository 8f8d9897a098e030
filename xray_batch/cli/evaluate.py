"""`xray-batch evaluate`."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_bundle, open_settings
from xray_batch.cli.output import progress_bars

if TYPE_CHECKING:
    from xray_batch.bundle import Bundle
    from xray_batch.settings import Settings
    from xray_batch.training.evaluation.facts import Report
    from xray_batch.training.evaluation.predictions import Predictions


def evaluate(
    out: Annotated[Path, typer.Option(help="Folder of the report; an earlier report there is replaced.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with labels.csv (file, label, patient_id, source), a CSV, or a folder per label."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Instead of --data: predictions.csv of a report, to make it anew.")
    ] = None,
    covid19: Annotated[bool, typer.Option("--covid19", help="Measure the COVID-19 class, too; not reliable.")] = False,
    stress_films: Annotated[
        int, typer.Option(min=0, help="Films of each class in the stress set, at most; 0 leaves it out.")
    ] = 300,
    worst: Annotated[int, typer.Option("--top-losses", min=0, help="Films to show that were most wrong.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and of the films of the stress set.")] = 0,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Measure a bundle on labelled images, and write a report: a page, JSON, figures and every prediction.

    Thresholds are the bundle's; nothing is fitted to the images.  Research use only.
    """
    if (data is None) == (predictions is None):
        raise typer.BadParameter("give either --data or --predictions")
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)
    _check_out(out)

    from xray_batch.classify import Ensemble
    from xray_batch.training.dataset import read_images
    from xray_batch.training.evaluation.predictions import predict
    from xray_batch.training.evaluation.predictions_file import read_predictions
    from xray_batch.training.evaluation.report import ReportOrder, make_report

    found = open_bundle(settings)
    listed = read_images(data) if data else []
    images = [image for image in listed if image.side == "test"] or listed
    ensemble = Ensemble.from_settings(found, settings)
    source = ("--data", data) if data else ("--predictions", predictions)
    order = ReportOrder(
        out=out,
        data=str(data or predictions),
        predictions=f"read from {predictions}" if predictions else "computed for this report",
        command=_command(settings, source, out, covid19=covid19, stress_films=stress_films, worst=worst, seed=seed),
        covid19=covid19,
        stress_films=stress_films,
        top_losses=worst,
        seed=seed,
        address_space=settings.decode_memory_mb << 20,
    )
    if len(images) < len(listed):
        typer.echo(f"measured are the {len(images)} of {len(listed)} films that the list sets aside as test", err=True)
    with progress_bars() as task:
        if predictions:
            films = read_predictions(predictions, found.manifest)
            _say_whose(films, found, predictions)
        else:
            films = predict(images, found, ensemble, settings, task=task)
        report = make_report(order, films, found, ensemble, task=task)
    print_summary(report, out)


def _say_whose(films: "Predictions", bundle: "Bundle", path: Path) -> None:
    """Say which bundle is taken for that of predictions that name none, as those of a cross-validation."""
    if films.model_sha256 is None:
        typer.echo(
            f"{path} names no bundle: measured as if from {bundle.manifest.model_id}, with its temperature and "
            "thresholds; --bundle names another",
            err=True,
        )


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be written to, before any work is done; none is made for a report that fails.

    Raises
    ------
    typer.BadParameter
        Naming what is wrong with it.
    """
    for folder in (out.absolute(), out.absolute() / "figures"):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir():
            raise typer.BadParameter(f"--out is to be a folder, {nearest} is none")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise typer.BadParameter(f"--out cannot be written: no permission in {nearest}")


def _command(
    settings: "Settings",
    source: tuple[str, Path | None],
    out: Path,
    *,
    covid19: bool,
    stress_films: int,
    worst: int,
    seed: int,
) -> str:
    """Name what decides the report, and no URL of a database, which may hold a password."""
    options: dict[str, object] = {
        "--bundle": settings.bundle,
        "--device": settings.device,
        "--stress-films": stress_films,
        "--top-losses": worst,
        "--seed": seed,
    }
    words = ["xray-batch", "evaluate", *source, "--out", out, *(["--covid19"] if covid19 else [])]
    return shlex.join(map(str, [*words, *(word for option in options.items() for word in option)]))


def print_summary(report: "Report", out: Path) -> None:
    """Say how many films were measured, the figures that matter most, and where the report is."""
    from xray_batch.training.evaluation.figures import interval

    pneumonia = report.pneumonia
    listed = sum(tally.films for tally in report.tallies)
    refused = sum(sum(tally.not_analysed.values()) for tally in report.tallies)
    typer.echo(f"{listed} films, {refused} not analysed; {pneumonia.films} measured for pneumonia against normal")
    if report.provenance.seen:
        typer.echo(f"{report.provenance.seen} of the measured films are in the training data: the figures are too good")
    if report.stress and report.stress.seen:
        typer.echo(
            f"{report.stress.seen} of the {report.stress.films} films of the stress set are in the training data: "
            "its figures are too good"
        )
    typer.echo(f"AUROC {interval(pneumonia.auroc)}")
    for point in pneumonia.operating_points:
        typer.echo(
            f"{point.name}, threshold {point.threshold:.3f}: "
            f"sensitivity {interval(point.sensitivity)}, specificity {interval(point.specificity)}"
        )
    typer.echo(f"The report is {out / 'report.html'}. {report.disclaimer}")
