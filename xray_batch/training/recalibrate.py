"""Calibrate a bundle anew on a site's own labelled films; its weights and its gate stay as they are.

The sample is decoded, judged and run as the service does it: what the service would not answer has no part
in the thresholds of its answers.
"""

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Bundle, CalibrationFacts, DriftFacts, Manifest, Metric, write_manifest
from xray_batch.classify import Ensemble
from xray_batch.drift import take_reference
from xray_batch.errors import ConfigurationError
from xray_batch.pipeline.engine import check_fit
from xray_batch.records import Scaling
from xray_batch.settings import Settings
from xray_batch.training.bootstrap import Estimate
from xray_batch.training.calibration import (
    Calibration,
    CrossFit,
    Sample,
    cross_fit,
    fit_calibration,
    measure_calibration,
)
from xray_batch.training.dataset import CLASSES, LabelledImage, fingerprint, read_labels
from xray_batch.training.duplicates import ImageHashes, group_images, join_hashes
from xray_batch.training.evaluation.predictions import FilmPrediction, Task, predict
from xray_batch.training.local_sample import (
    SetAside,
    check_size,
    check_test_side,
    hash_aside,
    refuse_aside,
    refuse_seen,
    without_copies,
)
from xray_batch.training.metrics import auroc, calibration_error, sample_patients, share
from xray_batch.training.model_card import model_card
from xray_batch.training.statistics import log_loss, mean

#: In the data of a figure, in front of the bundle that it was measured with.
_AS: Final = ", as "


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOrder:
    """What to calibrate on, and where to."""

    labels: Path  #: CSV file, or a folder with `labels.csv`
    out: Path  #: becomes the bundle
    version: str | None  #: of the new bundle; None: the minor part of the old one raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibrated:
    """The new bundle, and what calibrations old and new achieve on the sample."""

    bundle: Bundle
    set_aside: int  #: images that the list has on the side `test`: nothing is fitted to them
    copies: int  #: files that had the same bytes as another, and were counted once
    before: Calibration  #: the old one, measured on the sample
    after: Calibration  #: fitted to the sample, and measured on it
    crossed: CrossFit  #: fitted to four fifths of the patients, measured on the others
    errors: dict[str, Metric]  #: expected calibration error `before`, `after` and `cross_fitted`
    log_loss_change: Estimate  #: cross-fitted less before, film by film; below 0: better


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """The images that the bundle answers, and what its members say about them."""

    images: list[LabelledImage]
    hashes: list[ImageHashes]  #: of each image
    members: npt.NDArray[np.float64]  #: shape (members, N, classes)
    inputs: npt.NDArray[np.float64]  #: shape (N, 2): mean and SD of each model input, before it was standardized
    left_out: dict[str, int]  #: files that get no answer, per reason

    def patients(self) -> list[str]:
        """Say who each image shows; patients with copies of one film are one, however the list names them."""
        if not self.images:
            return []
        groups = group_images([image.patient for image in self.images], join_hashes(self.hashes))
        return [str(group) for group in groups.tolist()]


def recalibrate(bundle: Bundle, order: CalibrationOrder, settings: Settings, *, task: Task) -> Recalibrated:
    """Carry out `order` and write the new bundle.

    Parameters
    ----------
    task
        Announces a piece of work of so many images and returns a function to advance it.

    Raises
    ------
    TrainingDataError
        If the list or the sample cannot be used; the message says what was found and what is needed.
    ConfigurationError
        If the folder is not empty, the version not above the old one, or the bundle not for this version.
    """
    check_fit(bundle)
    version = next_version(bundle.manifest.version, order.version)
    _check_empty(order.out)
    listed = read_labels(order.labels)
    usable = [image for image in listed if image.side != "test"]
    set_aside = len(listed) - len(usable)
    not_asked = {"of the side 'test'": set_aside} if set_aside else {}
    check_test_side(listed)
    images = without_copies(usable)
    check_size(images, [image.patient for image in images], not_asked)
    aside = hash_aside(listed, bundle.manifest, settings, task)
    answered = _answer(images, aside, bundle, settings, task)
    patients = answered.patients()
    check_size(answered.images, patients, not_asked | answered.left_out)
    sample = Sample(
        members=answered.members,
        targets=np.stack([image.target for image in answered.images])[
            :, [CLASSES.index(finding) for finding in bundle.manifest.classes]
        ],
        classes=bundle.manifest.classes,
        patients=patients,
    )
    after, crossed = fit_calibration(sample), cross_fit(sample)
    facts = _facts(bundle, order, answered, len(set(patients)))
    errors = _errors(sample, bundle.manifest.scaling, after.scaling, crossed, facts.name)
    drift = DriftFacts.of(facts.name, take_reference(sample.p_pneumonia(after.scaling), answered.inputs))
    manifest = _manifest(bundle.manifest, version, facts, drift, after, _metrics(sample, crossed, errors, facts.name))
    return Recalibrated(
        bundle=_write(bundle, manifest, order.out),
        set_aside=set_aside,
        copies=len(usable) - len(images),
        before=measure_calibration(bundle.manifest, sample),
        after=after,
        crossed=crossed,
        errors=errors,
        log_loss_change=_log_loss_change(sample, bundle.manifest.scaling, crossed),
    )


def next_version(old: str, asked: str | None) -> str:
    """Return the version of the new bundle: the one asked for, else the old one with its minor part raised.

    Raises
    ------
    ConfigurationError
        If the one asked for is not above the old one.
    """
    major, minor, _ = _parts(old)
    if asked is None:
        return f"{major}.{minor + 1}.0"
    if _parts(asked) <= _parts(old):
        message = f"the version is {asked}, expected one above {old}, that of the bundle it is derived from"
        raise ConfigurationError(message)
    return asked


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _check_empty(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        message = f"{out} exists already, expected a new or an empty folder"
        raise ConfigurationError(message)


def _answer(
    images: Sequence[LabelledImage],
    aside: SetAside | None,
    bundle: Bundle,
    settings: Settings,
    task: Task,
) -> _Answered:
    """Ask the members about the images as the service does, as long as none of them was seen or is set aside."""
    ensemble = Ensemble.from_settings(bundle, settings)

    def check(film: FilmPrediction) -> None:
        refuse_seen(bundle, film)
        refuse_aside(aside, film)

    predictions = predict(images, bundle, ensemble, settings, task=task, check=check)
    answered = predictions.analysed
    return _Answered(
        images=[film.image for film in answered.films],
        hashes=[film.hashes for film in answered.films if film.hashes is not None],
        members=answered.members if answered.films else np.empty((0, 0, 0)),
        inputs=np.array([(film.facts.input_mean, film.facts.input_std) for film in answered.films], np.float64),
        left_out=dict(
            sorted(Counter(film.rejection.reason_code.value for film in predictions.films if film.rejection).items())
        ),
    )


def _facts(bundle: Bundle, order: CalibrationOrder, answered: _Answered, patients: int) -> CalibrationFacts:
    counts = Counter(f"{image.source}: {image.label}" for image in answered.images)
    return CalibrationFacts(
        derived_from=bundle.manifest.model_id,
        derived_from_sha256=bundle.sha256,
        calibrated_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
        name=order.labels.absolute().name,
        sha256=fingerprint(answered.images),
        images=dict(sorted(counts.items())),
        patients=patients,
        left_out=answered.left_out,
    )


def _errors(sample: Sample, old: Scaling, new: Scaling, crossed: CrossFit, name: str) -> dict[str, Metric]:
    """Measure the calibration error with the old scaling, with the new one, and cross-fitted."""
    probabilities = {
        "before": sample.p_pneumonia(old),
        "after": sample.p_pneumonia(new),
        "cross_fitted": crossed.p_pneumonia,
    }
    return {
        key: calibration_error("expected calibration error", _data(name), sample.positive, p_pneumonia, sample.patients)
        for key, p_pneumonia in probabilities.items()
    }


def _log_loss_change(sample: Sample, old: Scaling, crossed: CrossFit) -> Estimate:
    """Measure how the log loss changes, film by film, from the old scaling to one fitted to other patients."""
    before, now = (log_loss(sample.positive, p) for p in (sample.p_pneumonia(old), crossed.p_pneumonia))
    change = mean(now - before, np.ones(len(now), np.bool_))
    [(low, high)] = sample_patients(sample.patients).bounds([change])
    return Estimate(value=float((now - before).mean()), low=low, high=high, n=len(now))


def _data(name: str) -> str:
    return f"{name}, each fifth of the patients calibrated on the others"


def _metrics(sample: Sample, crossed: CrossFit, errors: dict[str, Metric], name: str) -> list[Metric]:
    """Return the figures of the new bundle, all of them cross-fitted."""
    positive, patients, data = sample.positive, sample.patients, _data(name)
    right = crossed.called["balanced"] == positive
    metrics = [
        auroc("AUROC pneumonia", data, positive, crossed.p_pneumonia, patients),
        share("accuracy pneumonia", data, right, np.ones_like(positive), patients),
        errors["cross_fitted"],
    ]
    for point in crossed.called:
        label = point.replace("_", " ")
        for kind, found in (("sensitivity", crossed.sensitivity), ("specificity", crossed.specificity)):
            metrics.append(Metric(name=f"{kind}, {label} threshold", data=data, **found[point].model_dump()))
    return metrics


def _manifest(
    old: Manifest,
    version: str,
    facts: CalibrationFacts,
    drift: DriftFacts,
    calibration: Calibration,
    metrics: Sequence[Metric],
) -> Manifest:
    """Return the new facts; the date, the libraries and the training remain those of the weights."""
    kept = [
        metric if _AS in metric.data else metric.model_copy(update={"data": f"{metric.data}{_AS}{old.model_id}"})
        for metric in old.metrics
    ]
    return Manifest(
        **(
            old.model_dump()
            | {
                "version": version,
                "temperature": calibration.scaling.temperature,
                "log_odds_shift": calibration.scaling.shift,
                "threshold_low": calibration.threshold_low,
                "threshold_high": calibration.threshold_high,
                "disagreement_limit": calibration.disagreement_limit,
                "operating_points": calibration.operating_points,
                "calibration": facts,
                "drift_reference": drift,
                "metrics": (*metrics, *kept),
            }
        )
    )


def _write(old: Bundle, manifest: Manifest, out: Path) -> Bundle:
    """Copy weights and gate, write manifest and card, and check all of it as `bundle verify` does."""
    out.mkdir(parents=True, exist_ok=True)
    for name in old.hashed_files:
        shutil.copyfile(old.folder / name, out / name)
    write_manifest(out, manifest, model_card(manifest))
    bundle = Bundle(out)
    bundle.load_networks()
    bundle.load_gate()
    bundle.load_hashes()
    return bundle
