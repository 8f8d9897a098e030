"""A survey of files through real decode workers."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import write_dicom
from input_specs import make_spec
from installed_command import make_bad_files, make_films
from PIL import Image

from xray_batch.decode import decode_file
from xray_batch.pipeline.survey import FAILED, survey_files
from xray_batch.records import SourceFormat
from xray_batch.settings import Settings
from xray_batch.standardize import prepare

REPOSITORY = Path(__file__).resolve().parent.parent.parent

SPEC = make_spec()
SETTINGS = Settings(decode_workers=2)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Have the workers import the package that is tested, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def test_facts_of_a_film(tmp_path):
    """A film has the facts of its rendered pixels, its stored bits, and those of its model input."""
    dicom = write_dicom(tmp_path / "film.dcm")
    png = tmp_path / "film.png"
    Image.fromarray((np.random.default_rng(0).random((70, 90)) * 65535).astype(np.uint16)).save(png)
    found = list(survey_files([dicom, png], SPEC, SETTINGS))
    assert [facts.path for facts in found] == [dicom, png]
    assert [(facts.source_format, facts.bits) for facts in found] == [(SourceFormat.DICOM, 12), (SourceFormat.PNG, 16)]
    for facts in found:
        image = decode_file(facts.path)
        pixels, model_input = image.pixels.astype(np.float64), prepare(image, SPEC).pixels.astype(np.float64)
        for measured, expected in ((facts.rendered, pixels), (facts.model_input, model_input)):
            assert (measured.rows, measured.columns) == expected.shape
            assert (measured.smallest, measured.largest) == (expected.min(), expected.max())
            assert (measured.mean, measured.std) == pytest.approx((expected.mean(), expected.std()), abs=1e-9)


def test_files_that_cannot_be_read(tmp_path):
    """Each bad file has its reason code and a sentence; what the system cannot open has failed."""
    bad = make_bad_files(tmp_path / "bad")
    absent, pipe = tmp_path / "absent", tmp_path / "pipe"
    os.mkfifo(pipe)
    found = list(survey_files([*bad, absent, pipe], SPEC, SETTINGS))
    expected = [*bad.values(), FAILED, "unreadable_file"]
    assert [facts.reason_code for facts in found] == expected
    assert all(facts.reason and facts.rendered is None and facts.model_input is None for facts in found)
    assert found[len(bad)].reason == "No such file or directory"


def test_order_and_bounded_memory(tmp_path):
    """Facts come in the order of the files, and files are looked at no further than four per worker ahead."""
    films, taken = make_films(tmp_path / "films", 30), []

    def watched():
        for film in films:
            taken.append(film)
            yield film

    seen = []
    for facts in survey_files(watched(), SPEC, SETTINGS):
        assert len(taken) - len(seen) <= 4 * SETTINGS.decode_workers
        seen.append(facts.path)
    assert seen == films


def test_an_early_end(tmp_path):
    """Whoever stops in the middle leaves no worker behind."""
    found = survey_files(make_films(tmp_path / "films", 12), SPEC, SETTINGS)
    next(found)
    found.close()
    children = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread of another test has ended since
            children += (task / "children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [command for command in commands if b"xray_batch.pipeline.worker" in command]


def test_no_files():
    """No files have no facts."""
    assert list(survey_files([], SPEC, SETTINGS)) == []
