"""`predictions.csv`: what became of each film, one per row, from which a report can be made again."""

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Manifest
from xray_batch.errors import ReasonCode, TrainingDataError
from xray_batch.records import Finding, Outcome, Rejection, SourceFormat
from xray_batch.spreadsheet import LineFeeds, cell_text, safe_cell
from xray_batch.training.dataset import TARGETS, LabelledImage
from xray_batch.training.evaluation.predictions import FilmFacts, FilmPrediction, Predictions, verdict

#: Largest distance from 1 of probabilities that ought to sum to it.
_TOLERANCE: Final = 1e-3

#: Columns before those of the members.
COLUMNS: Final = (
    *("file", "label", "source", "patient_id", "outcome"),
    *("p_pneumonia", *(f"p_{finding}" for finding in Finding), "disagreement", "reason_code", "reason"),
    *("format", "modality", "view_position", "patient_age", "bits_stored", "rows", "columns"),
    *("input_mean", "input_std"),
    *("seen", "model_sha256"),
)


def member_column(architecture: str, finding: Finding) -> str:
    """Name the column of what one member says of one finding, before calibration: `resnet34_normal`."""
    return f"{architecture}_{finding}"


def write_predictions(path: Path, predictions: Predictions, manifest: Manifest) -> None:
    """Write one row per film; `file` is absolute, so that the file can be moved."""
    members = [
        member_column(architecture, finding)
        for architecture in predictions.architectures
        for finding in predictions.classes
    ]
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(LineFeeds(lines), [*COLUMNS, *members])
        writer.writeheader()
        for film in predictions.films:
            row = _facts_row(film, predictions) | _answer_row(film, predictions, manifest)
            writer.writerow({name: safe_cell(str(value)) for name, value in row.items() if value is not None})


def _facts_row(film: FilmPrediction, predictions: Predictions) -> dict[str, object]:
    facts = asdict(film.facts)
    return {
        "file": film.image.path.absolute(),
        "label": film.image.label,
        "source": film.image.source,
        "patient_id": film.image.patient_id,
        "format": facts.pop("source_format"),
        **facts,
        "seen": film.seen,
        "model_sha256": predictions.model_sha256,
    }


def _answer_row(film: FilmPrediction, predictions: Predictions, manifest: Manifest) -> dict[str, object]:
    said = verdict(film, predictions.classes, manifest)
    if said is None or film.members is None:
        rejection = film.rejection
        return {
            "outcome": Outcome.NOT_ANALYSED,
            "reason_code": rejection.reason_code if rejection else None,
            "reason": rejection.reason if rejection else None,
        }
    return {
        "outcome": said.outcome,
        "p_pneumonia": said.p_pneumonia,
        **{f"p_{finding}": probability for finding, probability in said.probabilities.items()},
        "disagreement": said.disagreement,
        **{
            member_column(architecture, finding): float(film.members[number, index])
            for number, architecture in enumerate(predictions.architectures)
            for index, finding in enumerate(predictions.classes)
        },
    }


def read_predictions(path: Path, manifest: Manifest) -> Predictions:
    """Read a file of :func:`write_predictions`, or one that somebody else made with the same columns.

    Needed are file, label, source, patient_id and the members' probabilities; of the others, outcome and
    calibrated probabilities are made anew from `manifest`.

    Raises
    ------
    TrainingDataError
        If a column is missing, a cell is not what it ought to be, or the rows come from more than one bundle.
    """
    architectures = tuple(member.architecture for member in manifest.members)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        message = f"cannot read the predictions {path}: {error.strerror}"
        raise TrainingDataError(message) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"the predictions {path} are not CSV in UTF-8: {error}"
        raise TrainingDataError(message) from error
    needed = ["file", "label", "source", "patient_id"]
    needed += [member_column(architecture, finding) for architecture in architectures for finding in manifest.classes]
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing or not rows:
        message = f"{path} lists no film" if not rows else f"{path} lacks the columns {', '.join(missing)}"
        raise TrainingDataError(message)
    cells = [{name: cell_text(cell or "") for name, cell in row.items() if name} for row in rows]
    models = {named for row in cells if (named := row.get("model_sha256"))}
    if len(models) > 1:
        message = f"{path} holds rows of {len(models)} bundles, by their model_sha256; give those of one alone"
        raise TrainingDataError(message)
    return Predictions(
        films=tuple(_film(row, architectures, manifest, path) for row in cells),
        architectures=architectures,
        classes=manifest.classes,
        model_sha256=models.pop() if models else None,
    )


def _film(row: Mapping[str, str], architectures: tuple[str, ...], manifest: Manifest, path: Path) -> FilmPrediction:
    label = row["label"].lower()
    if label not in TARGETS:
        message = f"{path}: label of {row['file']} is {row['label']!r}, expected one of {', '.join(TARGETS)}"
        raise TrainingDataError(message)
    empty = next((name for name in ("file", "patient_id") if not row[name]), None)
    if empty:
        message = f"{path}: {empty} is empty in the row of {row['file'] or 'a film without a name'}"
        raise TrainingDataError(message)
    image = LabelledImage(
        path=path.parent / row["file"], label=label, patient_id=row["patient_id"], source=row["source"]
    )
    try:
        members, rejection = _answer(row, architectures, manifest)
        facts, seen = _facts(row), _seen(row.get("seen", ""))
    except ValueError as error:
        message = f"{path}: the row of {row['file']} cannot be read: {error}"
        raise TrainingDataError(message) from error
    return FilmPrediction(image=image, facts=facts, members=members, rejection=rejection, seen=seen)


def _seen(cell: str) -> bool | None:
    """Read True and False as this program writes them, and as spreadsheets do."""
    known = {"": None, "true": True, "false": False}
    if cell.lower() not in known:
        message = f"seen is {cell!r}, expected True, False or nothing"
        raise ValueError(message)
    return known[cell.lower()]


def _answer(
    row: Mapping[str, str], architectures: tuple[str, ...], manifest: Manifest
) -> tuple[npt.NDArray[np.float64] | None, Rejection | None]:
    """Return what the members say, or why they say nothing."""
    if row.get("reason_code"):
        return None, Rejection(reason_code=ReasonCode(row["reason_code"]), reason=row.get("reason", ""))
    members = np.array(
        [
            [float(row[member_column(architecture, finding)]) for finding in manifest.classes]
            for architecture in architectures
        ]
    )
    is_probability = np.isfinite(members).all() and (members >= 0).all()
    if not is_probability or np.abs(members.sum(axis=1) - 1).max() > _TOLERANCE:
        message = "the probabilities of a member are not numbers from 0 that sum to 1"
        raise ValueError(message)
    return members, None


def _facts(row: Mapping[str, str]) -> FilmFacts:
    age = float(row["patient_age"]) if row.get("patient_age") else None
    if age is not None and not math.isfinite(age):
        message = f"patient_age is {row['patient_age']!r}, expected years"
        raise ValueError(message)
    return FilmFacts(
        source_format=SourceFormat(row["format"]) if row.get("format") else None,
        modality=row.get("modality") or None,
        view_position=row.get("view_position") or None,
        patient_age=age,
        **{name: int(row[name]) if row.get(name) else None for name in ("bits_stored", "rows", "columns")},
        input_mean=float(row["input_mean"]) if row.get("input_mean") else None,
        input_std=float(row["input_std"]) if row.get("input_std") else None,
    )
