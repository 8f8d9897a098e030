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
from xray_batch.records import Finding
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
        of the images, only some images have a side, or one side lacks images with or without pneumonia.
    """
    listed, images = len(images), [image for image in images if image.side != "test"]
    if not images:
        message = f"all {listed} images have the side 'test'; none is left for training"
        raise TrainingDataError(message)
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
    placed = [image.side for image in images]
    if any(placed) and None in placed:
        message = f"{placed.count(None)} images have no side in the column split, but others have; name all or none"
        raise TrainingDataError(message)
    if not has_own_split(images):
        _check_labels(images, "the images")
        return
    for side in ("training", "validation"):
        _check_labels([image for image in images if image.side == side], f"the images of the side {side!r}")


def has_own_split(images: Sequence[LabelledImage]) -> bool:
    """Tell whether the list says which images are held out."""
    return any(image.side == "validation" for image in images)


def _check_labels(images: Sequence[LabelledImage], what: str) -> None:
    labels = sorted({image.label for image in images})
    if Finding.NORMAL not in labels or len(labels) < 2:
        found = " and ".join(labels) or "nothing"
        message = f"{what} need both normal and a pneumonia among their labels; found {found}"
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
    if has_own_split(images):
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


def check_splits(images: Sequence[LabelledImage], groups: npt.NDArray[np.intp], splits: Sequence[Split]) -> None:
    """Refuse, before anything is trained, a training side without any image of normal, or of pneumonia.

    That happens where few groups have one of both.  A single validation side needs both, too; parts that are held out
    in turn are looked at together, by `check_reference`.  A training side needs two groups: the limits of the gate are
    chosen on other patients than its layer is fitted to.

    Raises
    ------
    TrainingDataError
        If such a side lacks one; the message says which, and how many groups have it.
    """
    normal = np.array([image.label == Finding.NORMAL for image in images])
    is_single = len(splits) == 1
    for number, split in enumerate(splits, start=1):
        name = "the split" if is_single else f"fold {number}"
        sides = {"training": split.training} | ({"validation": split.validation} if is_single else {})
        everything = np.concatenate([split.training, split.validation])
        for what, chosen in (("normal", normal), ("pneumonia", ~normal)):
            lacking = next((side for side, indices in sides.items() if not chosen[indices].any()), None)
            if lacking is not None:
                found = groups[everything[chosen[everything]]]
                message = (
                    f"the {lacking} side of {name} has no image of {what}: there are too few, {len(found)} that are "
                    f"not set aside, of {len(np.unique(found))} patients (copies of one image count as one patient); "
                    "add images of other patients"
                )
                raise TrainingDataError(message)
        if len(np.unique(groups[split.training])) < 2:
            message = (
                f"all images of the training side of {name} show one patient (copies of one image count as one "
                "patient); add images of other patients"
            )
            raise TrainingDataError(message)


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
    out, counted from 1 as the folders `fold-1`, ... are, and every image is for training in the others.
    """
    folds = np.zeros(len(images), dtype=np.intp)
    for number, split in enumerate(splits, start=1):
        folds[split.validation] = number
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "label", "patient_id", "source", "group", "split", "fold"])
        for image, group, fold in zip(images, groups, folds, strict=True):
            side: Side = "test" if image.side == "test" else "validation" if fold else "training"
            row = [str(image.path.absolute()), image.label, image.patient_id, image.source]
            writer.writerow([*map(safe_cell, row), group, side, fold or ""])
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
