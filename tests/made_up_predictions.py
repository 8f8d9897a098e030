"""Predictions for labelled films that were never decoded: what two members say about them is made up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xray_batch.architectures import ARCHITECTURES
from xray_batch.records import Finding
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.evaluation.predictions import FilmPrediction, Predictions

CLASSES = tuple(Finding)


def members_of(p_pneumonia: list[float]) -> np.ndarray:
    """Return what two members say who agree: half of P(pneumonia) is bacterial, the rest mostly viral."""
    p = np.array(p_pneumonia)
    row = np.stack([1 - p, 0.5 * p, 0.4 * p, 0.1 * p], axis=-1)
    return np.stack([row, row])


def predictions_of(images: Sequence[LabelledImage], members: np.ndarray) -> Predictions:
    """Return predictions of no one bundle, as of a cross-validation; `members` has the shape (members, N, classes)."""
    films = tuple(FilmPrediction(image=image, members=members[:, index]) for index, image in enumerate(images))
    return Predictions(films=films, architectures=ARCHITECTURES, classes=CLASSES, model_sha256=None)


def make_predictions(
    labels: list[str], p_pneumonia: list[float], *, patients: list[str] | None = None, source: str = "ward"
) -> Predictions:
    """Return predictions of films from one source; each is of a patient of its own unless `patients` are given."""
    patients = patients or [str(number) for number in range(len(labels))]
    images = [
        LabelledImage(path=Path(f"/films/{number:03}.png"), label=label, patient_id=patient, source=source)
        for number, (label, patient) in enumerate(zip(labels, patients, strict=True))
    ]
    return predictions_of(images, members_of(p_pneumonia))
