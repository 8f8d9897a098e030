"""Labelled images: read the list of them, or the folders they lie in."""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from xray_batch.errors import TrainingDataError
from xray_batch.intake import is_ignored
from xray_batch.records import Finding

#: Classes in the order of the logits.
CLASSES: Final = tuple(Finding)

#: What each label says about the image: the findings that it may be.  `pneumonia` is a coarse label: its
#: cause was never recorded, and the sets that use it were collected before 2020.
TARGETS: Final[dict[str, frozenset[Finding]]] = {
    **{finding.value: frozenset({finding}) for finding in Finding},
    "pneumonia": frozenset({Finding.BACTERIAL_PNEUMONIA, Finding.VIRAL_PNEUMONIA}),
}

#: Where an image belongs, if its list says so.
Side: TypeAlias = Literal["training", "validation", "test"]

SIDES: Final[tuple[Side, ...]] = get_args(Side)

LIST_NAME: Final = "labels.csv"

#: Columns of a list; without `source` its images are of one that is not named.
_NEEDED: Final = frozenset({"file", "label", "patient_id"})
_COLUMNS: Final = _NEEDED | {"source", "split"}

#: Of files that name patients: for their owner and group alone.
PATIENT_DATA_MODE: Final = 0o640


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image, and what is known of it."""

    path: Path
    label: str  #: a key of :data:`TARGETS`
    patient_id: str  #: images of one patient never stand on both sides of a split
    source: str  #: data set the image comes from
    side: Side | None = None  #: where the list puts it; None: not said

    @property
    def patient(self) -> str:
        """Who it shows: sources number their patients without asking each other."""
        return f"{self.source}:{self.patient_id}"

    @property
    def target(self) -> npt.NDArray[np.bool_]:
        """Shape (len(CLASSES),): the findings that the label allows."""
        return np.array([finding in TARGETS[self.label] for finding in CLASSES])


def read_images(data: Path) -> list[LabelledImage]:
    """Read a CSV file, a folder with `labels.csv`, or a folder with one folder for each label.

    Raises
    ------
    TrainingDataError
        As :func:`read_labels` and :func:`read_folders`.
    """
    if data.is_dir() and not (data / LIST_NAME).exists():
        return read_folders(data)
    return read_labels(data)


def read_folders(data: Path) -> list[LabelledImage]:
    """List the files in the folders of `data` that are named for a label, at any depth.

    All are taken for images, for many a DICOM file has no suffix, but lists and what the service ignores by its
    name.  Nothing says who they show, so each file is a patient of its own, named by its path.

    Raises
    ------
    TrainingDataError
        If a folder is not named for a label, or there is no image in any.
    """
    listed = sorted(data.iterdir()) if data.is_dir() else []
    folders = [path for path in listed if path.is_dir() and not is_ignored(path.name)]
    if not folders:
        message = f"{data} holds neither {LIST_NAME} nor folders named for a label: {', '.join(TARGETS)}"
        raise TrainingDataError(message)
    for folder in folders:
        if folder.name.lower() not in TARGETS:
            message = f"{folder} is not named for a label, expected one of {', '.join(TARGETS)}"
            raise TrainingDataError(message)
    images = [
        LabelledImage(
            path=path,
            label=folder.name.lower(),
            patient_id=str(path.relative_to(data)),
            source=data.absolute().name,
        )
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LIST_NAME and not any(map(is_ignored, path.relative_to(folder).parts))
    ]
    if not images:
        message = f"the folders in {data} hold no files; expected images in {' and '.join(f.name for f in folders)}"
        raise TrainingDataError(message)
    return images


def read_labels(data: Path) -> list[LabelledImage]:
    """Read `labels.csv` of a folder, or a CSV file, with columns file, label, patient_id and source.

    `file` is relative to the CSV's folder; a label may be in upper or lower case.  A column `split`
    may say for each image which side it belongs to: training, validation or test.

    Raises
    ------
    TrainingDataError
        If the list or a file is missing, a label or side is unknown, a patient is not named, a column is there twice,
        or a row has more cells than there are columns.
    """
    csv_path = data / LIST_NAME if data.is_dir() else data
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as lines:
            images = [_labelled_image(row, csv_path) for row in _rows(lines, csv_path)]
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


def _rows(lines: Iterable[str], csv_path: Path) -> Iterator[dict[str, str]]:
    """Yield the cells of each row by the names of their columns, without blanks around either."""
    reader = csv.DictReader(lines)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if not _NEEDED.issubset(columns):
        message = (
            f"{csv_path} needs the columns file, label and patient_id, separated by commas; "
            f"found {', '.join(map(repr, columns)) or 'nothing'}"
        )
        raise TrainingDataError(message)
    twice = sorted(name for name in _COLUMNS if columns.count(name) > 1)
    if twice:
        message = f"{csv_path} has the column {twice[0]} more than once; expected each column once"
        raise TrainingDataError(message)
    for row in reader:
        cells = {name.strip(): (cell or "").strip() for name, cell in row.items() if name}
        for name in ("file", "patient_id"):
            if not cells[name]:
                message = f"{csv_path}, line {reader.line_num}: the cell {name} is empty, expected a value"
                raise TrainingDataError(message)
        if any(cell.strip() for cell in row.get(None, ())):
            message = (
                f"{csv_path}, line {reader.line_num}: there are more cells than columns; a text with a comma in it "
                "belongs in quotation marks"
            )
            raise TrainingDataError(message)
        yield cells


def _labelled_image(row: dict[str, str], csv_path: Path) -> LabelledImage:
    file, label = row["file"], row["label"].lower()
    if label not in TARGETS:
        message = f"{csv_path}: label of {file} is {row['label']!r}, expected one of {', '.join(TARGETS)}"
        raise TrainingDataError(message)
    return LabelledImage(
        path=csv_path.parent / file,
        label=label,
        patient_id=row["patient_id"],
        source=row.get("source") or "unnamed",
        side=_side(row.get("split"), file, csv_path),
    )


def _side(text: str | None, file: str, csv_path: Path) -> Side | None:
    side = next((side for side in SIDES if side == text), None)
    if text and side is None:
        message = f"{csv_path}: split of {file} is {text!r}, expected {', '.join(SIDES)} or nothing"
        raise TrainingDataError(message)
    return side


def fingerprint(images: Sequence[LabelledImage]) -> str:
    """Identify a list of labelled images: SHA-256 over the files' hashes, labels and patients, 64 hex digits."""
    digest = hashlib.sha256()
    for image in sorted(images, key=lambda image: image.path):
        content = hashlib.sha256(image.path.read_bytes()).hexdigest()
        digest.update(f"{content},{image.label},{image.patient_id},{image.source}\n".encode())
    return digest.hexdigest()
