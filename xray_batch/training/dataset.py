"""Labelled images: read the list, split it by patient, decode and resize once."""

import csv
import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from xray_batch.decode import decode_file
from xray_batch.errors import RejectedInputError, TrainingDataError, TransientError
from xray_batch.records import Finding
from xray_batch.standardize import resize

#: Classes in the order of the logits.
CLASSES: Final = tuple(Finding)

#: What each label says about the image: the findings that it may be.  `pneumonia` is a coarse label: its
#: cause was never recorded, and the sets that use it were collected before 2020.
TARGETS: Final[dict[str, frozenset[Finding]]] = {
    **{finding.value: frozenset({finding}) for finding in Finding},
    "pneumonia": frozenset({Finding.BACTERIAL_PNEUMONIA, Finding.VIRAL_PNEUMONIA}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One line of the list of labels."""

    path: Path
    label: str  #: a key of :data:`TARGETS`
    patient_id: str  #: images of one patient never stand on both sides of a split
    source: str  #: data set the image comes from

    @property
    def target(self) -> npt.NDArray[np.bool_]:
        """Shape (len(CLASSES),): the findings that the label allows."""
        return np.array([finding in TARGETS[self.label] for finding in CLASSES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Indices into the list of images; no patient is on both sides."""

    training: npt.NDArray[np.intp]
    validation: npt.NDArray[np.intp]


def read_labels(data: Path) -> list[LabelledImage]:
    """Read `labels.csv` of a folder, or a CSV file, with columns file, label, patient_id and source.

    `file` is relative to the CSV's folder.

    Raises
    ------
    TrainingDataError
        If the list or a file is missing, a label is unknown, or a patient is not named.
    """
    csv_path = data / "labels.csv" if data.is_dir() else data
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as lines:
            images = [_labelled_image(row, csv_path) for row in csv.DictReader(lines)]
    except OSError as error:
        message = f"cannot read the list of labels {csv_path}: {error.strerror}"
        raise TrainingDataError(message) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"the list of labels {csv_path} is not CSV in UTF-8: {error}"
        raise TrainingDataError(message) from error
    if not images:
        message = f"{csv_path} lists no image"
        raise TrainingDataError(message)
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        message = f"{csv_path} lists {len(missing)} files that do not exist, the first is {missing[0]}"
        raise TrainingDataError(message)
    return images


def _labelled_image(row: dict[str, str | None], csv_path: Path) -> LabelledImage:
    file, label, patient_id = row.get("file"), row.get("label"), row.get("patient_id")
    if not file or not patient_id:
        message = (
            f"{csv_path} needs the columns file, label, patient_id and source; found {', '.join(filter(None, row))}"
        )
        raise TrainingDataError(message)
    if label not in TARGETS:
        message = f"{csv_path}: label of {file} is {label!r}, expected one of {', '.join(TARGETS)}"
        raise TrainingDataError(message)
    return LabelledImage(
        path=csv_path.parent / file, label=label, patient_id=patient_id, source=row.get("source") or "unnamed"
    )


def split_by_patient(images: Sequence[LabelledImage], *, folds: int, seed: int) -> Split:
    """Hold out one of `folds` equal parts, by patient, with the labels in proportion.

    Raises
    ------
    TrainingDataError
        If there are fewer than two labels, or too few patients or images for the folds.
    """
    labels = np.array([f"{image.source}:{image.label}" for image in images])
    patients = np.array([f"{image.source}:{image.patient_id}" for image in images])
    if len({image.label for image in images}) < 2:
        message = f"all images have the label {images[0].label!r}; a classifier needs at least two"
        raise TrainingDataError(message)
    if len(set(patients)) < folds:
        message = f"{len(set(patients))} patients cannot be split into {folds} parts"
        raise TrainingDataError(message)
    if max(Counter(labels.tolist()).values()) < folds:
        message = f"no label of any source has as many as {folds} images; the held-out part would be a matter of luck"
        raise TrainingDataError(message)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A rare label cannot be in every part; which parts have it is no concern of one split.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        training, validation = next(iter(splitter.split(labels, labels, groups=patients)))
    return Split(training=training, validation=validation)


def load_pixels(
    images: Sequence[LabelledImage], rows: int, columns: int, *, progress: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    """Decode and resize every image, as the service does.

    Returns
    -------
    numpy.ndarray
        Shape (N, rows, columns), float32 in [0, 1], MONOCHROME2.

    Raises
    ------
    TrainingDataError
        If an image cannot be decoded; the message names it and says why.
    """
    pixels = np.empty((len(images), rows, columns), dtype=np.float32)
    for index, image in enumerate(images):
        try:
            pixels[index] = resize(decode_file(image.path).pixels, rows, columns)
        except RejectedInputError as error:
            message = f"{image.path} cannot be used for training ({error.reason_code}): {error}"
            raise TrainingDataError(message) from error
        except TransientError as error:
            message = f"{image.path} cannot be read: {error}"
            raise TrainingDataError(message) from error
        progress(1)
    return pixels


def fingerprint(images: Sequence[LabelledImage]) -> str:
    """Identify a list of labelled images: SHA-256 over the files' hashes, labels and patients, 64 hex digits."""
    digest = hashlib.sha256()
    for image in sorted(images, key=lambda image: image.path):
        content = hashlib.sha256(image.path.read_bytes()).hexdigest()
        digest.update(f"{content},{image.label},{image.patient_id},{image.source}\n".encode())
    return digest.hexdigest()


def write_split(path: Path, images: Sequence[LabelledImage], split: Split) -> None:
    """Save which image is on which side, as CSV: file, label, patient_id, source, split."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "label", "patient_id", "source", "split"])
        for name, indices in (("training", split.training), ("validation", split.validation)):
            for image in (images[index] for index in indices):
                writer.writerow([image.path, image.label, image.patient_id, image.source, name])
