"""The folder of a report: report.html, report.json, predictions.csv and figures/*.png."""

import datetime as dt
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure
from PIL import Image

from xray_batch import DISCLAIMER
from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble, describe_device
from xray_batch.errors import TrainingDataError
from xray_batch.libraries import COMPUTING, versions
from xray_batch.training.bootstrap import RESAMPLES
from xray_batch.training.dataset import LabelledImage, fingerprint
from xray_batch.training.duplicates import ImageHashes
from xray_batch.training.evaluation.facts import REPORT_VERSION, Loss, NotMeasured, Provenance, Report
from xray_batch.training.evaluation.figures import draw_figures
from xray_batch.training.evaluation.measurement import headline_films, measure
from xray_batch.training.evaluation.page import CAPTIONS, render_page
from xray_batch.training.evaluation.predictions import Analysed, Predictions, Task
from xray_batch.training.evaluation.predictions_file import write_predictions
from xray_batch.training.evaluation.stress_set import StressSet, measure_stress
from xray_batch.training.evaluation.top_losses import TopLoss, draw_pictures, top_losses
from xray_batch.training.seen import training_hashes

PREDICTIONS_NAME: Final = "predictions.csv"

#: Films and their patients are patient data.
_MODE: Final = 0o640
_FOLDER_MODE: Final = 0o750

#: Names of the pictures of films that were most wrong, without suffix.
_LOSS: Final = re.compile(r"loss-\d{2,}(-heat)?")

#: Libraries that figures and drawings come from, besides those of the answers.
_MEASURING: Final = ("scipy", "matplotlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOrder:
    """What a report is to hold, and where it goes."""

    out: Path  #: folder; files of an earlier report in it are replaced
    data: str  #: where the films come from, for people
    predictions: str  #: where the members' probabilities come from, for people
    command: str
    covid19: bool = False  #: whether the COVID-19 class is measured, too
    stress_films: int = 300  #: of each class, at most; 0: no stress set
    top_losses: int = 12
    resamples: int = RESAMPLES
    seed: int = 0
    address_space: int = 2 << 30  #: bytes that decoding a film once more may take, to change or draw it


def make_report(
    order: ReportOrder, predictions: Predictions, bundle: Bundle, ensemble: Ensemble, *, task: Task
) -> Report:
    """Measure, draw and write; returns what was measured.

    Parameters
    ----------
    predictions
        Of `bundle`, or out-of-fold ones of members that were trained in the same way.
    ensemble
        Of `bundle`: for the stress set and the heat maps.

    Raises
    ------
    TrainingDataError
        If no film was analysed, or the predictions come from another bundle.
    """
    if predictions.model_sha256 not in (None, bundle.sha256):
        message = (
            f"the predictions come from a bundle with manifest SHA-256 {predictions.model_sha256}, "
            f"that of {bundle.manifest.model_id} is {bundle.sha256}"
        )
        raise TrainingDataError(message)
    measured = measure(predictions, bundle.manifest, covid19=order.covid19, resamples=order.resamples, seed=order.seed)
    headline = headline_films(predictions.analysed)
    # What took longest is written first: from the predictions a report can be made again.
    _write_predictions(order.out, predictions, bundle)
    known = training_hashes(bundle)
    stress, no_stress = _stress(order, predictions, ensemble, known, task)
    worst = top_losses(headline, bundle.manifest, order.top_losses)
    losses, pictures = _draw_losses(worst, ensemble, known, order.address_space)
    report = Report(
        version=REPORT_VERSION,
        disclaimer=DISCLAIMER,
        provenance=_provenance(order, predictions, bundle, ensemble, headline),
        tallies=measured.tallies,
        pneumonia=measured.pneumonia,
        findings=measured.findings,
        covid19=measured.covid19,
        subgroups=measured.subgroups,
        attributes_unknown=measured.attributes_unknown,
        stress=stress.facts if stress else None,
        curves=measured.curves,
        top_losses=losses,
        not_measured=(*measured.not_measured, *no_stress),
    )
    figures = draw_figures(report, stress.example if stress else None)
    pictures |= {f"figures/{name}.png": _figure_png(figure) for name, figure in figures.items()}
    _write(order.out, report, pictures)
    return report


def _write_predictions(out: Path, predictions: Predictions, bundle: Bundle) -> None:
    out.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    path = out / PREDICTIONS_NAME
    write_predictions(path, predictions, bundle.manifest)
    path.chmod(_MODE)


def _stress(
    order: ReportOrder, predictions: Predictions, ensemble: Ensemble, known: ImageHashes | None, task: Task
) -> tuple[StressSet | None, tuple[NotMeasured, ...]]:
    """Return the stress set, or why there is none where one is wanted."""
    if not order.stress_films:
        return None, ()
    try:
        stress = measure_stress(
            headline_films(predictions.analysed),
            ensemble,
            known,
            per_class=order.stress_films,
            resamples=order.resamples,
            seed=order.seed,
            address_space=order.address_space,
            task=task,
        )
        why = "no file can be read any more"
    except FloatingPointError:
        stress, why = None, "the networks give no finite numbers for a film that was changed"
    return stress, () if stress else (NotMeasured(figure="stress set", why=why),)


def _draw_losses(
    worst: Sequence[TopLoss], ensemble: Ensemble, known: ImageHashes | None, address_space: int
) -> tuple[tuple[Loss, ...], dict[str, bytes]]:
    losses: list[Loss] = []
    pictures: dict[str, bytes] = {}
    for number, case in enumerate(worst, start=1):
        drawn = draw_pictures(case.film, ensemble, known, address_space=address_space)
        picture, heat_picture = f"figures/loss-{number:02}.png", f"figures/loss-{number:02}-heat.png"
        if drawn:
            pictures |= {picture: _png(drawn.film), heat_picture: _png(drawn.heat)}
        losses.append(
            Loss(
                file=str(case.film.image.path),
                source=case.film.image.source,
                label=case.film.image.label,
                outcome=case.verdict.outcome,
                p_pneumonia=case.verdict.p_pneumonia,
                loss=case.loss,
                seen=drawn.seen if drawn else case.film.seen,
                picture=picture if drawn else None,
                heat_picture=heat_picture if drawn else None,
            )
        )
    return tuple(losses), pictures


def _provenance(
    order: ReportOrder, predictions: Predictions, bundle: Bundle, ensemble: Ensemble, headline: Analysed
) -> Provenance:
    images = [film.image for film in predictions.films]
    measured = predictions.analysed if order.covid19 else headline
    return Provenance(
        model_id=bundle.manifest.model_id,
        model_sha256=bundle.sha256,
        members=predictions.architectures,
        data=order.data,
        data_sha256=_fingerprint(images),
        predictions=order.predictions,
        seen=measured.seen,
        created_at=dt.datetime.now(dt.UTC),
        command=order.command,
        device=describe_device(ensemble.device),
        precision=str(ensemble.dtype).removeprefix("torch."),
        libraries=versions("xray-batch", *COMPUTING, *_MEASURING),
        resamples=order.resamples,
        seed=order.seed,
    )


def _fingerprint(images: Sequence[LabelledImage]) -> str | None:
    """Identify the films; None where one is gone, or must not be read, which is no reason to lose the report."""
    try:
        return fingerprint(images)
    except OSError:
        return None


def _figure_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Description": DISCLAIMER})
    return stream.getvalue()


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _write(out: Path, report: Report, pictures: dict[str, bytes]) -> None:
    """Write page, JSON and pictures; pictures of an earlier report that has more of them are removed, no others."""
    folder = out / "figures"
    for path in (out, folder):
        path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        if stale.stem in CAPTIONS or _LOSS.fullmatch(stale.stem):
            stale.unlink()
    contents = {
        "report.html": render_page(report, pictures).encode(),
        "report.json": (report.model_dump_json(indent=2) + "\n").encode(),
        **pictures,
    }
    for name, content in contents.items():
        (out / name).write_bytes(content)
        (out / name).chmod(_MODE)
