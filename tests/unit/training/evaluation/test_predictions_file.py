"""`predictions.csv`: what is written is read back, and what is wrong is named."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from made_up_predictions import make_predictions

from xray_batch.errors import ReasonCode, TrainingDataError
from xray_batch.records import Rejection, SourceFormat
from xray_batch.training.evaluation.predictions import FilmFacts
from xray_batch.training.evaluation.predictions_file import COLUMNS, read_predictions, write_predictions


@pytest.fixture
def predictions():
    """Return three films: one with all facts, one without any, one that was refused."""
    made = make_predictions(
        ["normal", "pneumonia", "covid19_pneumonia"], [0.125, 0.9, 0.5], patients=["=1+1", "b", "c"]
    )
    facts = FilmFacts(
        source_format=SourceFormat.DICOM,
        modality="DX",
        view_position="PA",
        patient_age=1.5,
        bits_stored=12,
        rows=2048,
        columns=1024,
        input_mean=0.4375,
        input_std=0.25,
    )
    rejection = Rejection(reason_code=ReasonCode.LATERAL_VIEW, reason='View is "LL", expected PA or AP.')
    films = (
        replace(made.films[0], facts=facts, seen=True),
        made.films[1],
        replace(made.films[2], members=None, rejection=rejection),
    )
    return replace(made, films=films, model_sha256="a" * 64)


def rows_of(path):
    """Return a CSV file as dicts."""
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_round_trip(predictions, manifest, tmp_path):
    """Everything that a report is made from is read as it was written, to the last digit."""
    write_predictions(tmp_path / "predictions.csv", predictions, manifest)
    read = read_predictions(tmp_path / "predictions.csv", manifest)
    assert (read.architectures, read.classes, read.model_sha256) == (
        predictions.architectures,
        predictions.classes,
        predictions.model_sha256,
    )
    for back, film in zip(read.films, predictions.films, strict=True):
        assert (back.image, back.facts, back.rejection) == (film.image, film.facts, film.rejection)
        assert back.seen == film.seen
        assert np.array_equal(back.members, film.members) if film.members is not None else back.members is None


def test_columns(predictions, manifest, tmp_path):
    """A row says what the film is, what the bundle makes of it, and what each member says."""
    write_predictions(tmp_path / "predictions.csv", predictions, manifest)
    first, _, refused = rows_of(tmp_path / "predictions.csv")
    assert list(first)[: len(COLUMNS)] == list(COLUMNS)
    assert list(first)[len(COLUMNS)] == "resnet34_normal"
    assert (first["outcome"], float(first["p_pneumonia"]), float(first["p_normal"])) == ("normal", 0.125, 0.875)
    assert float(first["resnet50_bacterial_pneumonia"]) == 0.0625
    assert (refused["outcome"], refused["reason_code"], refused["p_pneumonia"]) == ("not_analysed", "lateral_view", "")


def test_no_cell_is_a_formula(predictions, manifest, tmp_path):
    """A patient called =1+1 is text in a spreadsheet."""
    write_predictions(tmp_path / "predictions.csv", predictions, manifest)
    assert rows_of(tmp_path / "predictions.csv")[0]["patient_id"] == "'=1+1"


def test_relative_files(predictions, manifest, tmp_path):
    """A file without folder is beside the list, as in a list of labels."""
    write_predictions(path := tmp_path / "predictions.csv", predictions, manifest)
    path.write_text(path.read_text(encoding="utf-8").replace("/films/", ""), encoding="utf-8")
    assert read_predictions(path, manifest).films[0].image.path == tmp_path / "000.png"


def test_labels_in_any_case(predictions, manifest, tmp_path):
    """NORMAL is normal, as in a list of labels."""
    write_predictions(path := tmp_path / "predictions.csv", predictions, manifest)
    path.write_text(path.read_text(encoding="utf-8").replace(",normal,", ",NORMAL,", 1), encoding="utf-8")
    assert read_predictions(path, manifest).films[0].image.label == "normal"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("resnet50_normal", "resnet18_normal", "lacks the columns resnet50_normal"),
        (",normal,", ",healthy,", "label of /films/000.png is 'healthy', expected one of normal, "),
        ("0.875", "0.5", "000.png cannot be read: the probabilities of a member are not numbers from 0 that sum to 1"),
        ("0.0625", "nan", "are not numbers from 0 that sum to 1"),
        ("lateral_view", "sideways", "002.png cannot be read: 'sideways' is not a valid ReasonCode"),
        (",2048,", ",tall,", "000.png cannot be read"),
        (",1.5,", ",inf,", "patient_age is 'inf', expected years"),
        (",True,", ",yes,", "000.png cannot be read: seen is 'yes', expected True, False or nothing"),
        (",b,", ",,", "patient_id is empty in the row of /films/001.png"),
        ("/films/001.png", "", "file is empty in the row of a film without a name"),
    ],
)
def test_what_is_wrong_is_named(predictions, manifest, tmp_path, old, new, sentence):
    """A list that cannot be read is one sentence with the row and what is accepted."""
    write_predictions(path := tmp_path / "predictions.csv", predictions, manifest)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(TrainingDataError) as raised:
        read_predictions(path, manifest)
    assert sentence in str(raised.value)


def test_a_spreadsheet_writes_truth_in_capitals(predictions, manifest, tmp_path):
    """A file that a spreadsheet saved still tells which films are of the training."""
    write_predictions(path := tmp_path / "predictions.csv", predictions, manifest)
    path.write_text(path.read_text(encoding="utf-8").replace(",True,", ",TRUE,"), encoding="utf-8")
    assert [film.seen for film in read_predictions(path, manifest).films] == [True, None, None]


def test_rows_of_two_bundles(predictions, manifest, tmp_path):
    """Rows of two bundles are refused; rows that name none are taken with the bundle that others name."""
    write_predictions(path := tmp_path / "predictions.csv", predictions, manifest)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("a" * 64, "b" * 64, 1), encoding="utf-8")
    with pytest.raises(TrainingDataError, match="holds rows of 2 bundles"):
        read_predictions(path, manifest)
    path.write_text(text.replace("a" * 64, "", 1), encoding="utf-8")
    assert read_predictions(path, manifest).model_sha256 == "a" * 64


def test_no_list(manifest, tmp_path):
    """A list that is not there, or empty, is named."""
    with pytest.raises(TrainingDataError, match=r"cannot read the predictions .*absent\.csv: No such file"):
        read_predictions(tmp_path / "absent.csv", manifest)
    (tmp_path / "empty.csv").write_text("file,label\n", encoding="utf-8")
    with pytest.raises(TrainingDataError, match="lists no film"):
        read_predictions(tmp_path / "empty.csv", manifest)
