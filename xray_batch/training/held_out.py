"""What the members say about images that they were not trained on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xray_batch.architectures import ARCHITECTURES
from xray_batch.bundle import Metric
from xray_batch.classify import pool
from xray_batch.errors import TrainingDataError
from xray_batch.records import Finding, Scaling
from xray_batch.spreadsheet import safe_cell
from xray_batch.training.dataset import CLASSES, PATIENT_DATA_MODE, LabelledImage
from xray_batch.training.evaluation.predictions_file import member_column
from xray_batch.training.metrics import auroc, calibration_error, share

_NORMAL = CLASSES.index(Finding.NORMAL)


def is_positive(targets: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell which images have a pneumonia of any cause; `targets` has the shape (N, classes)."""
    normal: npt.NDArray[np.bool_] = targets[:, _NORMAL]
    return ~normal


def p_pneumonia(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return P(pneumonia of any cause), shape (..., N), of probabilities of shape (..., N, classes)."""
    result: npt.NDArray[np.float64] = 1 - probabilities[..., _NORMAL]
    return result


def is_of(images: Sequence[LabelledImage], source: str | None) -> npt.NDArray[np.bool_]:
    """Tell which images come from a source; None: all."""
    return np.array([source in (None, image.source) for image in images])


def check_reference(images: Sequence[LabelledImage], source: str | None) -> None:
    """Refuse, before hours of training, what no threshold can be chosen on afterwards.

    Raises
    ------
    TrainingDataError
        If the held-out images of the reference source lack such with or without pneumonia.
    """
    positive = is_positive(np.stack([image.target for image in images]))[is_of(images, source)]
    if positive.all() or not positive.any():
        sources = ", ".join(sorted({image.source for image in images}))
        message = (
            "thresholds need images with and without pneumonia in the validation split of the reference source; "
            f"it is {source or 'not given'}, there are: {sources}"
        )
        raise TrainingDataError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Images, and what each member said about them without having seen them."""

    name: str  #: how they were held out, for people
    images: Sequence[LabelledImage]
    members: npt.NDArray[np.float64]  #: shape (members, N, classes), each row summing to 1; not calibrated
    inputs: npt.NDArray[np.float64]  #: shape (N, 2): mean and SD of each picture, before it was standardized
    changed: Sequence[npt.NDArray[np.float64]]
    """Likewise `members`, of the images changed in each way of :data:`xray_batch.training.stress.CHANGES`.

    Empty where nothing is chosen on the images.
    """

    @property
    def targets(self) -> npt.NDArray[np.bool_]:
        """Shape (N, classes): the findings that each label allows."""
        return np.stack([image.target for image in self.images])

    def metrics(self, scaling: Scaling, threshold: float) -> list[Metric]:
        """Measure the ensemble on each source that has images with and without pneumonia, and each member alone."""
        sources = sorted({image.source for image in self.images})
        return [metric for source in sources for metric in self._metrics_of(source, scaling, threshold)]

    def _metrics_of(self, source: str, scaling: Scaling, threshold: float) -> list[Metric]:
        chosen = is_of(self.images, source)
        targets, members = self.targets[chosen], self.members[:, chosen]
        positive = is_positive(targets)
        if positive.all() or not positive.any():
            return []
        data = f"{self.name}, {source}"
        patients = [image.patient for image in self.images if image.source == source]
        pooled = pool(members, scaling, CLASSES)
        probability = p_pneumonia(pooled)
        metrics = [
            auroc("AUROC pneumonia", data, positive, probability, patients),
            share("accuracy pneumonia", data, (probability >= threshold) == positive, np.ones_like(positive), patients),
            calibration_error("expected calibration error", data, positive, probability, patients),
        ]
        fine = targets.sum(axis=1) == 1
        if targets[fine & positive].any(axis=0).sum() > 1:  # else there are no kinds to tell apart
            right = targets[np.arange(len(targets)), pooled.argmax(axis=1)]
            metrics.append(share("accuracy finding", data, right, fine, patients))
        for architecture, member in zip(ARCHITECTURES, members, strict=True):
            name = f"AUROC pneumonia, {architecture} alone"
            metrics.append(auroc(name, data, positive, p_pneumonia(member), patients))
        return metrics


def join(parts: Sequence[HeldOut]) -> HeldOut:
    """Put the held-out parts of several folds together, all asked about the same."""
    return HeldOut(
        name=parts[0].name,
        images=[image for part in parts for image in part.images],
        members=np.concatenate([part.members for part in parts], axis=1),
        inputs=np.concatenate([part.inputs for part in parts]),
        changed=[np.concatenate(way, axis=1) for way in zip(*(part.changed for part in parts), strict=True)],
    )


def write_held_out(path: Path, held_out: HeldOut) -> None:
    """Save the predictions as CSV: file, label, patient_id, source, and each member's probabilities.

    `xray-batch evaluate --predictions` reads it.
    """
    names = [member_column(architecture, finding) for architecture in ARCHITECTURES for finding in CLASSES]
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "label", "patient_id", "source", *names])
        for index, image in enumerate(held_out.images):
            probabilities = held_out.members[:, index].ravel().tolist()
            facts = [str(image.path.absolute()), image.label, image.patient_id, image.source]
            writer.writerow([*map(safe_cell, facts), *probabilities])
    path.chmod(PATIENT_DATA_MODE)
