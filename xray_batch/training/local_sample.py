"""What a site's labelled films must be for a bundle to be calibrated on them.

Each film counts once, the bundle was trained on none, none is also among those that are set aside for a last
measurement, and there are enough of them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xray_batch.bundle import Bundle, Manifest
from xray_batch.errors import TrainingDataError
from xray_batch.records import Finding
from xray_batch.settings import Settings
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.duplicates import ImageHashes, find_copies, join_hashes, merge_copies
from xray_batch.training.evaluation.predictions import FilmPrediction, Task, hash_films

#: Images of normal, and of pneumonia, without which a threshold at 98 % would be a matter of luck.
MIN_IMAGES: Final = 50

#: Patients of each, likewise.
MIN_PATIENTS: Final = 30

_LEAKS: Final = "what is set aside would not be independent"


def without_copies(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Keep one of the files with the same bytes: a film counts once.

    Raises
    ------
    TrainingDataError
        If their labels contradict each other, or their patients differ.
    """
    contents = [_content(image.path) for image in images]
    first: dict[str | Path, LabelledImage] = {}
    for image, content in zip(images, contents, strict=True):
        other = first.setdefault(content, image)
        if image.patient != other.patient:
            message = (
                f"{other.path} and {image.path} have the same bytes and not the same patient: "
                f"{other.patient} and {image.patient}; a film has one patient"
            )
            raise TrainingDataError(message)
    return merge_copies(images, contents)


def check_test_side(images: Sequence[LabelledImage]) -> None:
    """Refuse what would make a later measurement on the side `test` too good.

    Raises
    ------
    TrainingDataError
        If a patient is on that side and on another.
    """
    patients = {image.patient: image for image in images if image.side == "test"}
    for image in images:
        other = patients.get(image.patient)
        if image.side != "test" and other is not None:
            message = f"{other.path} (test) and {image.path} show one patient: {_LEAKS}"
            raise TrainingDataError(message)


def _content(path: Path) -> str | Path:
    """Return what tells whether files are copies: the SHA-256, or the path where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """The films of the side `test` that can be decoded."""

    paths: list[Path]
    hashes: ImageHashes  #: of each


def hash_aside(images: Sequence[LabelledImage], manifest: Manifest, settings: Settings, task: Task) -> SetAside | None:
    """Hash the films of the side `test`; None where there are none."""
    aside = [image for image in images if image.side == "test"]
    hashes = hash_films(aside, manifest, settings, task=task) if aside else []
    decoded = [(image.path, hashed) for image, hashed in zip(aside, hashes, strict=True) if hashed is not None]
    if not decoded:
        return None
    return SetAside(paths=[path for path, _ in decoded], hashes=join_hashes([hashed for _, hashed in decoded]))


def refuse_aside(aside: SetAside | None, film: FilmPrediction) -> None:
    """Refuse a film that is also on the side `test`, as the same file or as the same picture encoded anew.

    Raises
    ------
    TrainingDataError
        Naming both files.
    """
    if aside is None or film.hashes is None or film.members is None:  # what is not answered is left out
        return
    for _, index in find_copies(film.hashes, aside.hashes):
        message = f"{aside.paths[index]} (test) and {film.image.path} are copies of one film: {_LEAKS}"
        raise TrainingDataError(message)


def refuse_seen(bundle: Bundle, film: FilmPrediction) -> None:
    """Refuse a film that the bundle was trained on: its answer to it is too good to calibrate on.

    Raises
    ------
    TrainingDataError
        Naming it.
    """
    if film.seen:
        message = (
            f"{film.image.path} is, or is a copy of, an image that {bundle.manifest.model_id} was trained on; "
            "calibrate on films that it has not seen; `xray-batch evaluate` marks those that it has in the column "
            "`seen` of predictions.csv"
        )
        raise TrainingDataError(message)


def check_size(images: Sequence[LabelledImage], patients: Sequence[str], left_out: dict[str, int]) -> None:
    """Refuse a sample that is too small to choose thresholds on.

    Parameters
    ----------
    patients
        Whom each image shows.
    left_out
        Files without an answer, per reason.

    Raises
    ------
    TrainingDataError
        If there are fewer than :data:`MIN_IMAGES` images, or :data:`MIN_PATIENTS` patients, of normal or of
        pneumonia; it names what was left out.
    """
    found = {}
    for name, is_normal in (("normal", True), ("pneumonia", False)):
        chosen = [
            patient
            for image, patient in zip(images, patients, strict=True)
            if (image.label == Finding.NORMAL) is is_normal
        ]
        found[name] = (len(chosen), len(set(chosen)))
    if all(count >= MIN_IMAGES and shown >= MIN_PATIENTS for count, shown in found.values()):
        return
    counts = " and ".join(f"{count} images of {name} ({shown} patients)" for name, (count, shown) in found.items())
    message = f"the sample has {counts}; needed are {MIN_IMAGES} images of each, and {MIN_PATIENTS} patients"
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        message += f"; {sum(left_out.values())} listed files were left out: {reasons}"
    raise TrainingDataError(message)
