"""`xray-batch explain` and `inspect` where the networks fail."""

import json

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
