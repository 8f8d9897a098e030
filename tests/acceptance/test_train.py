"""Training as a user runs it: a list or folders, a configuration file, an interruption, a bundle that works."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from installed_command import PATIENCE_SECONDS, clean_environment, run_command
from PIL import Image

COUNT = 40


def write_film(path: Path, random: np.random.Generator, *, striped: bool) -> None:
    """Write a small picture that is no copy of another; stripes stand for a pneumonia."""
    background = np.kron(random.integers(0, 100, (16, 16)), np.ones((4, 4), dtype=int))
    stripes = 60 * (np.arange(64) // 4 % 2) if striped else 30
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((30 + stripes + background).astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Make a data set of folders."""
    random = np.random.default_rng(0)
    for number in range(COUNT):
        striped = number % 2 == 1
        name = "BACTERIAL_PNEUMONIA" if striped else "NORMAL"
        write_film(tmp_path / "films" / name / f"{number}.png", random, striped=striped)
    return tmp_path / "films"


@pytest.fixture
def config(tmp_path):
    """Write a configuration file with a short recipe."""
    path = tmp_path / "train.toml"
    path.write_text('device = "cpu"\n[train]\nid = "striped"\nstages = "32x2@0.02"\nbatch_size = 8\nmixup = 0.5\n')
    return path


def test_an_interrupted_training_goes_on(folders, config, tmp_path):
    """A training that is killed goes on where it was, and its bundle classifies."""
    out = tmp_path / "bundle"
    options = ["train", "--data", folders, "--out", out, "--config", config, "--home", tmp_path / "home"]
    command = [sys.executable, "-m", "xray_batch", *map(str, options)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment())
        checkpoint = out / "training" / "resnet34.checkpoint.safetensors"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not checkpoint.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run_command(*options)
    assert done.code == 0, done.err
    assert "resnet34 epoch 1/2" not in done.err
    told = (tmp_path / "log").read_text() + done.err  # it may have got so far before it was killed
    epoch = next(line for line in told.splitlines() if line.startswith("resnet34 epoch 2/2"))
    assert epoch.endswith("(finding)")  # a line of a log is not broken
    with (out / "training" / "resnet34.csv").open(encoding="utf-8", newline="") as lines:
        assert [row["epoch"] for row in csv.DictReader(lines)] == ["0", "1"]
    answers = run_command(
        "process", folders, "--home", tmp_path / "home", "--bundle", out, "--device", "cpu", "--format", "json"
    )
    assert {row["model_id"] for row in answers.rows} == {"striped-1.0.0"}
    assert "the figures are too good" in (out / "MODEL_CARD.md").read_text(
        encoding="utf-8"
    )  # nobody knows the patients
    assert len(answers.rows) == COUNT


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda films: (films / "NORMAL" / "0.png").write_bytes(b"x"), "1 of 40 images cannot be used for training"),
        (lambda films: (films / "NORMAL").rename(films / "fine"), "fine is not named for a label"),
        (
            lambda films: [path.unlink() for path in (films / "NORMAL").iterdir()],
            "all images have the label 'bacterial_pneumonia'; a classifier needs at least two",
        ),
    ],
    ids=["unreadable", "folder", "one class"],
)
def test_bad_data_end_early(spoil, sentence, folders, config, tmp_path):
    """Data that cannot be trained on end with one sentence and exit 1, before any epoch."""
    spoil(folders)
    done = run_command("train", "--data", folders, "--out", tmp_path / "bundle", "--config", config)
    assert done.code == 1
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert "epoch" not in done.err


def test_a_wrong_option_is_a_configuration_error(folders, config, tmp_path):
    """A misspelt option of the file is named, and nothing is begun."""
    config.write_text("[train]\nfold = 5\n")
    done = run_command("train", "--data", folders, "--out", tmp_path / "bundle", "--config", config)
    assert done.code == 78
    assert "wrong training option 'fold'" in done.err
    assert not (tmp_path / "bundle").exists()
