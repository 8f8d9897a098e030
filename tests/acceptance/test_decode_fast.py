"""`--decode fast`: JPEG 2000 at a lower resolution, told apart from what is exact, and what it costs."""

import shutil
import sqlite3
from contextlib import closing

import imagecodecs
import numpy as np
import pytest
import torch
from dicom_factory import write_dicom
from engines import on_sqlite
from installed_command import run_command
from PIL import Image
from pydicom import uid

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.records import Outcome
from xray_batch.standardize import find_least_side, prepare, resize

ON_CPU = {"XRAY_BATCH_DEVICE": "cpu", "XRAY_BATCH_PRECISION": "float32"}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Write a JPEG 2000 film of 1028 x 1024 pixels of 12 bits, with a window."""
    pixels = resize(decode_file(sample_files() / "07-photo.jpeg").pixels, 1028, 1024)
    return write_dicom(
        tmp_path_factory.mktemp("films") / "film.dcm",
        np.rint(4095 * pixels).astype(np.uint16),
        transfer_syntax=uid.JPEG2000Lossless,
        WindowCenter=2048,
        WindowWidth=4096,
    )


def process(home, path, *options, **variables):
    """Classify one file on the CPU, and return its row and what the command says of duplicates."""
    done = run_command("process", path, "--home", home, "--format", "json", *options, **(ON_CPU | variables))
    assert done.code == 0, done.err
    (row,) = done.rows
    return row


@pytest.fixture(scope="module")
def _answered(film, tmp_path_factory):
    home = tmp_path_factory.mktemp("answered")
    return home, process(home, film, "--decode", "fast"), process(home, film)


@pytest.fixture
def answered(_answered, tmp_path):
    """Return the rows of one film, decoded fast and exactly, in a home folder of the test's own."""
    home, fast, exact = _answered
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    return fast, exact


def renderings(home):
    """Return how each result was rendered, as the table has it."""
    with closing(sqlite3.connect(home / "results.sqlite3")) as connection:
        return [text for (text,) in connection.execute("SELECT rendering FROM result ORDER BY result_id")]


def test_fast_and_exact_are_two_answers(film, answered, tmp_path):
    """Each mode has its own row of the same bytes, which says how they were decoded; exact is the default."""
    fast, exact = answered
    assert [row["result_id"] for row in answered] == [1, 2]
    assert fast["preprocess_sha256"] != exact["preprocess_sha256"]
    assert renderings(tmp_path) == ["window:LINEAR; decoded at 1/2", "window:LINEAR"]
    assert "reduced_resolution" in fast["warnings"].split(",")
    assert "reduced_resolution" not in exact["warnings"].split(",")
    assert fast["p_pneumonia"] != exact["p_pneumonia"]
    assert fast["p_pneumonia"] == pytest.approx(exact["p_pneumonia"], abs=0.02)
    again = [process(tmp_path, film, "--decode", "exact"), process(tmp_path, film, XRAY_BATCH_DECODE="fast")]
    assert [row["result_id"] for row in again] == [2, 1]


@pytest.mark.usefixtures("answered")
def test_replay_decodes_as_the_row_says(tmp_path):
    """A result is recomputed in the mode that it was made in, to the last bit, whatever the setting is now."""
    for result_id, now in (("1", "exact"), ("2", "fast")):
        variables = ON_CPU | {"XRAY_BATCH_DECODE": now}
        done = run_command("replay", result_id, "--home", tmp_path, "--format", "json", **variables)
        assert done.code == 0, done.out + done.err
        assert done.rows[0]["bit_equal"]


@on_sqlite
def test_the_service_decodes_fast(film, watched):
    """The service takes the mode from its settings."""
    watched.start(XRAY_BATCH_DECODE="fast", **ON_CPU)
    watched.wait_until_ready()
    shutil.copy(film, watched.inbox / "film.dcm")
    watched.wait_until_idle(1)
    watched.stop()
    (row,) = watched.results()
    assert "reduced_resolution" in row["warnings"].split(",")


def test_inspect_shows_what_fast_does(film, tmp_path):
    """`inspect` decodes as asked, and says to how many rows and columns."""
    done = run_command("inspect", film, "--decode", "fast", "--home", tmp_path, "--format", "json")
    (facts,) = done.rows
    assert (facts["rows"], facts["columns"]) == (514, 512)
    assert facts["steps"][0] == "decoded at 1/2: 514 rows and 512 columns, approximately"
    assert "reduced_resolution" in facts["warnings"]


def test_explain_tells_of_the_same_answer(film, answered, tmp_path):
    """`explain` decodes as asked: its probability is that of the result in the same mode."""
    fast, _ = answered
    arguments = ("explain", film, "--out", tmp_path / "heat.png", "--decode", "fast", "--home", tmp_path)
    (facts,) = run_command(*arguments, "--format", "json", **ON_CPU).rows
    assert facts["p_pneumonia"] == pytest.approx(fast["p_pneumonia"], abs=1e-6)
    assert "reduced_resolution" in facts["warnings"]


def test_a_mode_that_is_none(film, tmp_path):
    """Another word for the mode is a configuration error, which names the two."""
    done = run_command("process", film, "--decode", "faster", "--home", tmp_path)
    assert done.code == 78
    assert "'exact' or 'fast'" in done.err


def test_real_films_keep_their_answers(shared_data, tmp_path):
    """Films of full resolution move by at most 0.02, and none goes from one answer to the opposite one.

    They are the ones that the README has the figures of.
    """
    bundle = Bundle(PACKAGED_BUNDLES / "default")
    spec = bundle.manifest.input_spec
    ensemble = Ensemble(bundle, device=torch.device("cpu"), dtype=torch.float32, batch_size=8)
    answers, reduced = [], 0
    names = sorted((shared_data / "fullres").glob("*.jpeg"))
    for name in names:
        cells = np.asarray(Image.open(name).convert("L"))
        stream = bytes(imagecodecs.jpeg2k_encode(cells, level=0, reversible=True, codecformat="j2k"))
        path = write_dicom(tmp_path / "film.dcm", cells, transfer_syntax=uid.JPEG2000Lossless, stream=stream)
        images = decode_file(path), decode_file(path, find_least_side(spec))
        reduced += images[1].rendering != images[0].rendering
        answers.append(tuple(ensemble.examine([prepare(image, spec)])[0] for image in images))
    drifts = [abs(exact.p_pneumonia - fast.p_pneumonia) for (exact, _), (fast, _) in answers]
    changed = [(exact.outcome, fast.outcome) for (exact, _), (fast, _) in answers if exact.outcome != fast.outcome]
    assert (len(names), reduced) == (24, 16)
    assert max(drifts) <= 0.02
    assert sum(drifts) / len(drifts) <= 0.002
    assert all(Outcome.INDETERMINATE in outcomes for outcomes in changed)
    assert all(exact.rejection == fast.rejection for (_, exact), (_, fast) in answers)
