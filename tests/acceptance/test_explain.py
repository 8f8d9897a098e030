"""What `xray-batch explain` draws and says, and what it keeps to itself."""

import os
import shutil

import numpy as np
import pytest
from dicom_factory import write_dicom
from installed_command import run_command
from PIL import Image
from pydicom import uid

from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.standardize import resize

FILM = sample_files() / "02-cr-monochrome1-jpeg-lossless.dcm"

PATIENT = {
    "PatientName": "Kowalska^Zofia",
    "PatientID": "MRN-48151623",
    "PatientAge": "004Y",
    "AccessionNumber": "ACC-90210",
    "StudyDate": "20250623",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77001",
    "InstitutionName": "St Jude",
}


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Explain one film, once for all; return the picture and the facts."""
    folder = tmp_path_factory.mktemp("explained")
    done = run_command("explain", FILM, "--out", folder / "heat.png", "--home", folder, "--format", "json")
    assert done.code == 0, done.err
    (facts,) = done.rows
    return folder / "heat.png", facts


def test_draws_and_tells(explained):
    """It writes the film beside the film with its heat, and says on stdout what the model says."""
    path, facts = explained
    assert facts["outcome"] == "pneumonia"
    assert [member["architecture"] for member in facts["members"]] == ["resnet34", "resnet50"]
    assert all(member["p_pneumonia"] > 0.5 for member in facts["members"])
    assert 0 < facts["heat_in_thorax"] < 1
    assert (facts["heat_map"], facts["picture"]) == ("ensemble", str(path))
    picture = np.asarray(Image.open(path)).astype(int)
    rows, columns = (round(768 / max(shape) * side) for shape in [decode_file(FILM).pixels.shape] for side in shape)
    left, right = picture[52 : 52 + rows, 24 : 24 + columns], picture[52 : 52 + rows, -24 - columns : -24]
    film = resize(decode_file(FILM).pixels, rows, columns)
    assert np.abs(left[..., 0] / 255 - film).max() < 0.01
    assert not np.ptp(left, axis=2).any()
    assert np.ptp(right, axis=2).max() > 50
    assert path.stat().st_mode & 0o777 == 0o640


def test_it_is_what_is_stored(explained, tmp_path):
    """Share and members on stdout, and the share in the picture's text chunk, are those of the view `results`."""
    path, facts = explained
    run_command("process", FILM, "--home", tmp_path)
    (stored,) = run_command("results", "--home", tmp_path, "--format", "json").rows
    members = {member["architecture"]: member["p_pneumonia"] for member in facts["members"]}
    assert stored["member_probabilities"] == pytest.approx(members, abs=1e-3)
    assert stored["heat_in_thorax"] == pytest.approx(facts["heat_in_thorax"], abs=1e-3)
    assert stored["p_pneumonia"] == pytest.approx(facts["p_pneumonia"], abs=1e-3)
    chunks = Image.open(path).text
    assert float(chunks["heat_in_thorax"]) == pytest.approx(facts["heat_in_thorax"], abs=1e-4)
    assert "Research use only" in chunks["Disclaimer"]


def test_one_member(explained, tmp_path):
    """`--member` shows the map of one network, and the share is that of this map."""
    shares = {}
    for member in ("resnet34", "resnet50"):
        options = ("--member", member, "--home", tmp_path, "--format", "json")
        (facts,) = run_command("explain", FILM, "--out", tmp_path / f"{member}.png", *options).rows
        assert facts["heat_map"] == member
        shares[member] = facts["heat_in_thorax"]
    path, facts = explained
    assert shares["resnet34"] != shares["resnet50"]
    assert facts["heat_in_thorax"] == pytest.approx(np.mean(list(shares.values())), abs=1e-4)
    pictures = {path.read_bytes(), *((tmp_path / f"{member}.png").read_bytes() for member in shares)}
    assert len(pictures) == 3


def test_no_patient_leaves(tmp_path):
    """No attribute of the header is in the output, the log, or the bytes and text chunks of the picture."""
    pixels = decode_file(sample_files() / "06-16-bit.png").pixels
    film = write_dicom(
        tmp_path / "film-of-Zofia.dcm",
        np.rint(4095 * resize(pixels, 240, 260)).astype(np.uint16),
        transfer_syntax=uid.JPEGLosslessSV1,
        **PATIENT,
    )
    done = run_command("explain", film, "--out", tmp_path / "heat.png", "--home", tmp_path)
    assert done.code == 0, done.err
    image = Image.open(tmp_path / "heat.png")
    image.load()
    assert set(image.text) == {"Software", "Disclaimer", "heat_in_thorax", "heat_map", "model_id", "p_pneumonia"}
    told = done.out + done.err + repr(image.info) + (tmp_path / "heat.png").read_bytes().decode("latin-1")
    for secret in ("Kowalska", "Zofia", "MRN-48151623", "004Y", "ACC-90210", "20250623", ".77001", "Jude"):
        assert secret not in told


@pytest.mark.parametrize(
    ("sample", "code"),
    [
        ("08-lateral-view.dcm", "lateral_view"),
        ("10-not-an-image.dcm", "unreadable_file"),
        ("upside-down", "out_of_distribution"),
    ],
)
def test_refused_file(sample, code, tmp_path):
    """A file refused for header, bytes or picture ends with a sentence, exit code 1, and no picture."""
    path = sample_files() / sample
    if sample == "upside-down":
        path = tmp_path / "film.png"
        Image.open(sample_files() / "07-photo.jpeg").convert("L").rotate(180).save(path)
    done = run_command("explain", path, "--out", tmp_path / "heat.png", "--home", tmp_path / "home")
    assert done.code == 1
    assert f"is not analysed: {code}. " in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "heat.png").exists()


def test_refused_file_in_json(tmp_path):
    """In JSON a refusal is an object with outcome and reason code, and the exit code is 1 as well."""
    path = sample_files() / "08-lateral-view.dcm"
    done = run_command("explain", path, "--out", tmp_path / "heat.png", "--home", tmp_path, "--format", "json")
    (facts,) = done.rows
    assert (facts["outcome"], facts["reason_code"], facts["picture"]) == ("not_analysed", "lateral_view", None)
    assert done.code == 1


def test_names_that_are_no_text(tmp_path):
    r"""Bytes of a name that are no UTF-8 are shown as \xNN as in other commands, in a strict locale too."""
    film, text = (tmp_path / os.fsdecode(name) for name in (b"\xff.png", b"\xff.txt"))
    film.write_bytes(FILM.read_bytes())
    text.write_bytes(b"This is not an image.\n")
    options = ("--out", tmp_path / os.fsdecode(b"heat\xff.png"), "--home", tmp_path / "home")
    for form in ("json", "table"):
        refused = run_command("explain", text, *options, "--format", form, PYTHONIOENCODING="utf-8:strict")
        assert refused.code == 1
        assert (refused.rows[0]["file"] if form == "json" else refused.err).count(r"/\xff.txt") == 1
        done = run_command("explain", film, *options, "--format", form, PYTHONIOENCODING="utf-8:strict")
        assert done.code == 0, done.err
        assert (done.rows[0]["picture"] if form == "json" else done.out).count(r"/heat\xff.png") == 1


def test_refused_for_the_age(tmp_path):
    """With `age_policy = "refuse"` a patient of other ages than the bundle's has no picture."""
    pixels = decode_file(sample_files() / "06-16-bit.png").pixels
    film = write_dicom(tmp_path / "film.dcm", np.rint(4095 * pixels).astype(np.uint16), PatientAge="080Y")
    options = ("explain", film, "--out", tmp_path / "heat.png", "--home", tmp_path)
    refused = run_command(*options, XRAY_BATCH_AGE_POLICY="refuse")
    assert refused.code == 1
    assert "age_out_of_range" in refused.err
    flagged = run_command(*options)
    assert flagged.code == 0, flagged.err
    assert "age_out_of_range" in flagged.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--member", "resnet18"], "the bundle has resnet34 and resnet50"),
        (["--out", "film.dcm"], "--out names the film itself"),
    ],
)
def test_wrong_usage(options, sentence, tmp_path):
    """A network that the bundle has not, and a picture in place of the film, are wrong usage."""
    film = shutil.copy(FILM, tmp_path / "film.dcm")
    before = film.read_bytes()
    out = [] if "--out" in options else ["--out", "heat.png"]
    done = run_command("explain", film, *options, *out, "--home", "home", cwd=tmp_path, COLUMNS="200")
    assert done.code == 2
    assert sentence in done.err
    assert film.read_bytes() == before


def test_no_such_file(tmp_path):
    """A file that is not there is one sentence and exit code 1."""
    done = run_command("explain", tmp_path / "absent.dcm", "--out", tmp_path / "heat.png", "--home", tmp_path)
    assert done.code == 1
    assert "No such file" in done.err
    assert done.err.count("\n") == 1
