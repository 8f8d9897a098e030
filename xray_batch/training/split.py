"""Split labelled images into sides that share no patient and no copy of an image."""

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from xray_batch.errors import TrainingDataError
from xray_batch.spreadsheet import safe_cell
from xray_batch.training.dataset import PATIENT_DATA_MODE, LabelledImage, Side

#: Largest share of the images that one group may have: more, and there is nothing to hold out.
_LARGEST_GROUP: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Indices into the list of images; no group is on both sides."""

    training: npt.NDArray[np.intp]
    validation: npt.NDArray[np.intp]


def check_images(images: Sequence[LabelledImage], folds: int) -> None:
    """Refuse, before anything is decoded, what cannot be split.

    Raises
    ------
    TrainingDataError
        If there are fewer than two labels, too few patients or images for the folds, one patient has most
        of the images, or only some images have a side.
    """
    if len({image.label for image in images}) < 2:
        message = f"all images have the label {images[0].label!r}; a classifier needs at least two"
        raise TrainingDataError(message)
    patients = Counter(image.patient for image in images)
    name, count = patients.most_common(1)[0]
    if count > _LARGEST_GROUP * len(images):
        message = f"patient {name!r} has {count} of {len(images)} images; is patient_id the patient?"
        raise TrainingDataError(message)
    labels = Counter(_stratum(image) for image in images)
    if max(labels.values()) < folds:
        message = f"no label of any source has as many as {folds} images; the held-out part would be a matter of luck"
        raise TrainingDataError(message)
    if len(patients) < folds:
        message = f"{len(patients)} patients cannot be split into {folds} parts"
        raise TrainingDataError(message)
    placed = [image.side for image in images if image.side != "test"]
    if any(placed) and not all(side == "training" or side == "validation" for side in placed):
        message = f"{placed.count(None)} images have no side in the column split, but others have; name all or none"
        raise TrainingDataError(message)


def make_splits(images: Sequence[LabelledImage], groups: npt.NDArray[np.intp], *, folds: int, seed: int) -> list[Split]:
    """Make `folds` splits, each holding out another equal part, with the labels in proportion.

    Images of the side `test` are on neither side.  Where the list says which are for training and which
    for validation, that is the one split.

    Parameters
    ----------
    groups
        Shape (N,): from :func:`xray_batch.training.duplicates.group_images`.

    Raises
    ------
    TrainingDataError
        If the list puts one group on two sides; the message names two images of it.
    """
    _check_sides(images, groups)
    sides = np.array([image.side or "" for image in images])
    if (sides == "validation").any():
        return [Split(training=np.flatnonzero(sides == "training"), validation=np.flatnonzero(sides == "validation"))]
    indices = np.flatnonzero(sides != "test")
    if len(set(groups[indices].tolist())) < folds:
        message = f"the images are copies of so few pictures that they cannot be split into {folds} parts"
        raise TrainingDataError(message)
    labels = np.array([_stratum(image) for image in images])[indices]
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A rare label cannot be in every part; which parts have it is no concern of the others.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return [
            Split(training=indices[training], validation=indices[validation])
            for training, validation in splitter.split(labels, labels, groups=groups[indices])
        ]


def make_leaking_splits(images: Sequence[LabelledImage], *, folds: int, seed: int) -> list[Split]:
    """Make `folds` splits by image, as older work did: other films of a held-out patient are in training.

    Only for comparison with such work: the figures are too good.
    """
    indices = np.flatnonzero([image.side != "test" for image in images])
    labels = np.array([_stratum(image) for image in images])[indices]
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    return [
        Split(training=indices[training], validation=indices[validation])
        for training, validation in splitter.split(labels, labels)
    ]


def find_test_images(images: Sequence[LabelledImage]) -> npt.NDArray[np.intp]:
    """Return the indices of the images of the side `test`."""
    return np.flatnonzero([image.side == "test" for image in images])


def write_split(
    path: Path, images: Sequence[LabelledImage], groups: npt.NDArray[np.intp], splits: Sequence[Split]
) -> None:
    """Save where each image is, as CSV: file, label, patient_id, source, group, split, fold.

    With one split, `split` is training or validation; with several, `fold` is the one that holds the image
    out, and every image is for training in the others.
    """
    folds = np.full(len(images), -1)
    for number, split in enumerate(splits):
        folds[split.validation] = number
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "label", "patient_id", "source", "group", "split", "fold"])
        for image, group, fold in zip(images, groups, folds, strict=True):
            side: Side = "test" if image.side == "test" else "validation" if fold >= 0 else "training"
            row = [str(image.path), image.label, image.patient_id, image.source]
            writer.writerow([*map(safe_cell, row), group, side, fold if fold >= 0 else ""])
    path.chmod(PATIENT_DATA_MODE)


def _check_sides(images: Sequence[LabelledImage], groups: npt.NDArray[np.intp]) -> None:
    seen: dict[int, LabelledImage] = {}
    for image, group in zip(images, groups.tolist(), strict=True):
        other = seen.setdefault(group, image)
        if image.side != other.side:
            why = "show one patient" if image.patient == other.patient else "are one film or linked by copies of films"
            message = f"{other.path} ({other.side}) and {image.path} ({image.side}) {why}: the sides would leak"
            raise TrainingDataError(message)


def _stratum(image: LabelledImage) -> str:
    return f"{image.source}:{image.label}"
