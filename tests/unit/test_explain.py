"""What `xray-batch explain` says of an answer, and what it and `inspect` say where the networks fail."""

import json

import pytest
from bundle_factory import copy_bundle, read_facts, write_facts
from typer.testing import CliRunner

from xray_batch.classify import Ensemble
from xray_batch.cli import app
from xray_batch.demo import sample_files


def test_no_finite_numbers(tmp_path, monkeypatch):
    """A film that the networks give no finite numbers for is one sentence, exit code 1, and no picture."""

    def fail(ensemble, model_input):
        raise FloatingPointError

    monkeypatch.setattr(Ensemble, "explain", fail)
    film = sample_files() / "06-16-bit.png"
    done = CliRunner().invoke(app, ["explain", str(film), "--out", str(tmp_path / "heat.png"), "--home", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr == (
        f"{film} is not analysed: attempts_exhausted. The networks give no finite numbers for the picture.\n"
    )
    assert not (tmp_path / "heat.png").exists()


def test_inspect_tells_of_it(tmp_path, monkeypatch):
    """`inspect` shows such a film with the same reason."""

    def fail(ensemble, inputs):
        raise FloatingPointError

    monkeypatch.setattr(Ensemble, "examine", fail)
    film = sample_files() / "06-16-bit.png"
    done = CliRunner().invoke(app, ["inspect", str(film), "--home", str(tmp_path), "--format", "json"])
    assert json.loads(done.stdout)["reason_code"] == "attempts_exhausted"


@pytest.mark.parametrize(
    ("limit", "is_divided"), [(0.0, True), (1.0, False)], ids=["the networks disagree", "the networks agree"]
)
def test_why_an_answer_is_indeterminate(limit, is_divided, bundle_folder, tmp_path):
    """Thresholds have the digits of the probability; where the networks disagree too much, that is said."""
    folder = copy_bundle(bundle_folder, tmp_path / "bundle")
    thresholds = {"threshold_low": 0.00012, "threshold_high": 0.99994}
    write_facts(folder, read_facts(folder) | thresholds | {"disagreement_limit": limit})
    film, out = sample_files() / "06-16-bit.png", tmp_path / "heat.png"
    options = ["--bundle", str(folder), "--home", str(tmp_path)]
    done = CliRunner().invoke(app, ["explain", str(film), "--out", str(out), *options])
    assert done.exit_code == 0, done.stderr
    assert ": indeterminate (normal below 0.0001, pneumonia from 0.9999)" in done.stdout
    assert (", up to 0.0000 an answer is given" in done.stdout) == is_divided
    assert ("they differ by" in done.stdout) == is_divided
