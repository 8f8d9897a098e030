"""Calibrate a trained ensemble and put its facts together."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from xray_batch.architectures import ARCHITECTURES
from xray_batch.bundle import (
    HASHES_NAME,
    AgeFacts,
    DriftFacts,
    GateFacts,
    HashFacts,
    InputFacts,
    Manifest,
    MemberFacts,
    TrainingFacts,
    member_files,
)
from xray_batch.classify import pool
from xray_batch.drift import take_reference
from xray_batch.libraries import COMPUTING, versions
from xray_batch.records import InputSpec, Scaling
from xray_batch.training.calibration import Calibration, Sample, fit_calibration
from xray_batch.training.dataset import CLASSES, LabelledImage
from xray_batch.training.held_out import HeldOut, is_of, p_pneumonia
from xray_batch.training.order import TrainingOptions, TrainingOrder
from xray_batch.training.stress import CHANGES

INTENDED_USE: Final = (
    "Research on frontal chest radiographs like those of the training data. "
    "Not a medical device; not for diagnosis, triage or rule-out."
)

#: Where no source is the reference.
ALL_SOURCES: Final = "all sources"

#: Added to how images were held out where no two are of one patient: then nothing may be known of patients.
NO_TWO_OF_ONE_PATIENT: Final = "no two images of one patient"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a training came to."""

    training: Sequence[LabelledImage]
    held_out: HeldOut
    tested: HeldOut | None  #: images that nothing was calibrated on either
    sha256: str  #: of the list
    member_sha256: Sequence[str]  #: of the members' files
    hashes_sha256: str  #: of the file with the training images' hashes
    gate: GateFacts
    notes: str  #: for the model card


def reference(options: TrainingOptions) -> str:
    """Name the source that everything is calibrated on."""
    return options.reference_source or ALL_SOURCES


def calibrate_on(held_out: HeldOut, reference_source: str | None) -> Calibration:
    """Fit scaling, thresholds and limits to the held-out images of one source, or all.

    Raises
    ------
    TrainingDataError
        As :func:`xray_batch.training.calibration.fit_calibration`.
    """
    chosen = np.flatnonzero(is_of(held_out.images, reference_source))
    sample = Sample(
        members=held_out.members,
        targets=held_out.targets,
        classes=CLASSES,
        patients=[image.patient for image in held_out.images],
        changed=held_out.changed,
    )
    return fit_calibration(sample.take(chosen))


def drift_facts(held_out: HeldOut, reference_source: str | None, scaling: Scaling) -> DriftFacts:
    """Return what drift will be measured against: the held-out images of one source, or all, that `scaling` is of."""
    chosen = is_of(held_out.images, reference_source)
    p = p_pneumonia(pool(held_out.members[:, chosen], scaling, CLASSES))
    return DriftFacts.of(
        f"{held_out.name}, {reference_source or ALL_SOURCES}", take_reference(p, held_out.inputs[chosen])
    )


def make_manifest(order: TrainingOrder, spec: InputSpec, evidence: Evidence) -> Manifest:
    """Return the facts of a bundle."""
    options, held_out = order.options, evidence.held_out
    calibration = calibrate_on(held_out, options.reference_source)
    threshold = calibration.operating_points.balanced.threshold
    measured = [held_out] if evidence.tested is None else [held_out, evidence.tested]
    return Manifest(
        id=options.id,
        version=options.version,
        created_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
        architecture=" + ".join(ARCHITECTURES),
        classes=CLASSES,
        input=InputFacts(channels=1, **asdict(spec)),
        members=tuple(
            MemberFacts(architecture=architecture, file=file, sha256=sha256)
            for architecture, file, sha256 in zip(
                ARCHITECTURES, member_files(ARCHITECTURES), evidence.member_sha256, strict=True
            )
        ),
        temperature=calibration.scaling.temperature,
        log_odds_shift=calibration.scaling.shift,
        threshold_low=calibration.threshold_low,
        threshold_high=calibration.threshold_high,
        disagreement_limit=calibration.disagreement_limit,
        gate=evidence.gate,
        operating_points=calibration.operating_points,
        training=_training_facts(order, evidence),
        metrics=tuple(metric for part in measured for metric in part.metrics(calibration.scaling, threshold)),
        calibration=None,
        drift_reference=drift_facts(held_out, options.reference_source, calibration.scaling),
        licence=options.licence,
        notes=evidence.notes,
        intended_use=INTENDED_USE,
        intended_ages=AgeFacts(**asdict(options.intended_ages)) if options.intended_ages else None,
        libraries=versions(*COMPUTING),
    )


def _training_facts(order: TrainingOrder, evidence: Evidence) -> TrainingFacts:
    return TrainingFacts(
        name=order.data.absolute().name,
        sha256=evidence.sha256,
        images=_counts(evidence.training),
        held_out_images=_counts(evidence.held_out.images),
        held_out=evidence.held_out.name,
        hashes=HashFacts(file=HASHES_NAME, sha256=evidence.hashes_sha256),
        recipes={architecture: asdict(recipe) for architecture, recipe in order.options.recipes.items()},
        starting_weights=order.starting_weights,
        reference=reference(order.options),
        balanced_under=tuple(CHANGES),
    )


def _counts(images: Sequence[LabelledImage]) -> dict[str, int]:
    return dict(sorted(Counter(f"{image.source}: {image.label}" for image in images).items()))
