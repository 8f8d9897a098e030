"""What `xray-batch inspect` tells of a file, and what it keeps to itself."""

import os

import numpy as np
import pytest
from dicom_factory import RAMP, lut_sequence, write_dicom
from installed_command import run_command
from PIL import Image
from pydicom import uid

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.standardize import resize

PATIENT = {
    "PatientName": "Kowalska^Zofia",
    "PatientID": "MRN-48151623",
    "PatientBirthDate": "20210517",
    "PatientAge": None,
    "AccessionNumber": "ACC-90210",
    "StudyDate": "20250623",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77001",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.77002",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.77003",
}
TOLD_ON_REQUEST = ("MRN-48151623", "ACC-90210", "2025-06-23", ".77001", ".77002", ".77003")


@pytest.fixture
def film(tmp_path):
    """Write a MONOCHROME1 film with a VOI LUT, of a patient with attributes that stand out."""
    table = lut_sequence(np.arange(4096, dtype="<u2"), count=4096)
    pixels = decode_file(sample_files() / "06-16-bit.png").pixels
    return write_dicom(
        tmp_path / "film.dcm",
        np.rint(4095 * (1 - resize(pixels, 240, 260))).astype(np.uint16),
        transfer_syntax=uid.JPEGLosslessSV1,
        PhotometricInterpretation="MONOCHROME1",
        VOILUTSequence=table,
        **PATIENT,
    )


def test_explains_a_decode(film, tmp_path):
    """It names encoding, decoder, table, polarity, every check with its value, and the warnings, as JSON."""
    done = run_command("inspect", film, "--home", tmp_path, "--format", "json")
    assert done.code == 0, done.err
    (facts,) = done.rows
    assert facts["transfer_syntax_uid"] == uid.JPEGLosslessSV1
    assert facts["decoder"].startswith("imagecodecs jpeg8")
    assert (facts["rows"], facts["columns"], facts["rendering"]) == (240, 260, "voi_lut")
    assert "polarity: MONOCHROME1, turned round" in facts["steps"]
    assert "voi: VOI LUT Sequence, 4096 entries from 0 on, 0 to 4095" in facts["steps"]
    found = {check["check"]: check["found"] for check in facts["checks"]}
    assert (found["modality"], found["body_part"], found["view"], found["patient_age"]) == (
        "CR",
        "CHEST",
        "PA",
        "within",
    )
    assert facts["warnings"] == []


def test_shows_no_patient(film, tmp_path):
    """Neither output nor log holds an attribute of the patient."""
    done = run_command("inspect", film, "--home", tmp_path)
    assert done.code == 0, done.err
    for secret in (*TOLD_ON_REQUEST, "Kowalska", "Zofia", "2021", "20250623"):
        assert secret not in done.out + done.err


def test_shows_the_patient_on_request(film, tmp_path):
    """`--show-patient` adds identifiers, study date and age, and still no name."""
    done = run_command("inspect", film, "--home", tmp_path, "--show-patient", "--format", "json")
    (facts,) = done.rows
    told = str(facts["patient"])
    assert all(value in told for value in TOLD_ON_REQUEST)
    assert float(facts["patient"]["patient_age"]) == pytest.approx(4.1, abs=0.01)
    assert "Kowalska" not in done.out + done.err


def test_refused_file(tmp_path):
    """A refused file gets all checks, the picture if there is one, and the reason; markup in it stays text."""
    hand = write_dicom(tmp_path / "hand.dcm", BodyPartExamined="[red]HAND", Modality="CR")
    done = run_command("inspect", hand, "--home", tmp_path, COLUMNS="200")
    assert done.code == 0, done.err
    assert "REFUSED (not_a_chest): [red]HAND" in done.out
    assert "check view" in done.out
    assert "72 rows, 90 columns" in done.out
    assert "not_analysed: not_a_chest" in done.out


def test_unreadable_file(tmp_path):
    """A file that is no image is said to be that."""
    text = tmp_path / "text.dcm"
    text.write_text("no image")
    (facts,) = run_command("inspect", text, "--home", tmp_path, "--format", "json").rows
    assert (facts["outcome"], facts["reason_code"], facts["checks"]) == ("not_analysed", "unreadable_file", [])


def test_name_that_is_no_text(tmp_path):
    r"""Bytes of a name that are no UTF-8 are shown as \xNN as in other commands, in a strict locale too."""
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_bytes(b"This is not an image.\n")
    options = ("--home", tmp_path / "home", "--format", "json")
    done = run_command("inspect", path, *options, PYTHONIOENCODING="utf-8:strict")
    assert done.code == 0, done.err
    assert done.rows[0]["file"] == rf"{tmp_path}/\xff.txt"


def test_png(tmp_path):
    """`--png` writes the rendered film and, beside it, the model's input, readable for owner and group alone."""
    film = sample_files() / "04-cr-windowed-jpeg-ls.dcm"
    done = run_command("inspect", film, "--home", tmp_path, "--png", tmp_path / "film.png")
    assert done.code == 0, done.err
    rendered = decode_file(film).pixels
    spec = Bundle(PACKAGED_BUNDLES / "default").manifest.input_spec
    shown = np.asarray(Image.open(tmp_path / "film.png"))
    assert np.array_equal(shown, (rendered * 255).round().astype(np.uint8))
    model_input = np.asarray(Image.open(tmp_path / "film.model-input.png"))
    small = np.asarray(Image.fromarray(rendered).resize(model_input.shape[::-1], Image.Resampling.BILINEAR))
    assert model_input.shape == (spec.rows, spec.columns)
    assert np.corrcoef(model_input.ravel(), small.ravel())[0, 1] > 0.999
    assert (tmp_path / "film.png").stat().st_mode & 0o777 == 0o640


def test_no_film_is_overwritten(tmp_path):
    """`--png` that names the film, itself or by the name of the picture beside it, is refused before any work."""
    film = tmp_path / "film.model-input.png"
    film.write_bytes((sample_files() / "06-16-bit.png").read_bytes())
    before = film.read_bytes()
    for png in (film, tmp_path / "film.png"):
        done = run_command("inspect", film, "--home", tmp_path, "--png", png, TERMINAL_WIDTH="200")
        assert done.code == 2
        assert "names the film itself" in " ".join(done.err.split())
    assert film.read_bytes() == before


def test_png_of_no_picture(tmp_path):
    """Nothing is written for a file without a picture, and stderr says so."""
    cut = write_dicom(tmp_path / "cut.dcm", RAMP.stored)
    cut.write_bytes(cut.read_bytes()[:-2000])
    done = run_command("inspect", cut, "--home", tmp_path, "--png", tmp_path / "film.png")
    assert "not written" in done.err
    assert not (tmp_path / "film.png").exists()
