"""What `xray-batch calibrate` says of its own figures, and of what to do next."""

import shlex
import subprocess
from types import SimpleNamespace

import pytest

from xray_batch.cli.calibrate import _how_to_install, note
from xray_batch.records import Scaling
from xray_batch.settings import Settings
from xray_batch.training.bootstrap import Estimate

SOUND = Scaling(temperature=1.25, shift=-0.5)


def change(high=-0.01, films=100):
    """Return how the log loss changes on other patients."""
    return Estimate(value=-0.04, low=-0.07, high=high, n=films)


@pytest.mark.parametrize("knows", [True, False])
def test_training_images_that_cannot_be_recognized_are_told(knows):
    """Where the bundle does not record its training images, the output says that nothing was checked."""
    text = note(change(), SOUND, knows_its_training=knows)
    assert ("does not record what it was trained on" in text) is not knows


@pytest.mark.parametrize(("high", "is_told"), [(-0.01, False), (0.0, True), (0.02, True)])
def test_a_calibration_that_does_not_help_is_told(high, is_told):
    """Where the log loss on other patients does not fall by more than chance, the output says what that means."""
    text = note(change(high), SOUND, knows_its_training=True)
    assert "which flatters it" in text
    assert ("do not read the probabilities as frequencies" in text) is is_told


@pytest.mark.parametrize(
    ("temperature", "shift", "is_told"),
    [(0.2, 0.0, True), (5.000000000000001, 0.0, True), (1.0, -5.0, True), (0.3, 4.0, False), (4.0, 0.0, False)],
)
def test_a_fit_that_ends_at_a_bound_is_told(temperature, shift, is_told):
    """Labels that are mixed up, among others, end there: the output says that something is wrong."""
    text = note(change(), Scaling(temperature=temperature, shift=shift), knows_its_training=True)
    assert ("ended at a bound (0.2 to 5, 5 to either side)" in text) is is_told


@pytest.mark.parametrize(("films", "is_told"), [(169, True), (170, False)])
def test_a_sample_that_is_no_reference_for_drift_is_told(films, is_told):
    """Where the films are too few to measure drift against, the output says so."""
    text = note(change(films=films), SOUND, knows_its_training=True)
    assert ("too few to measure drift against" in text) is is_told


def test_the_commands_can_be_pasted(tmp_path):
    """A blank or a quotation mark in a path does not break the commands that install the new bundle."""
    folder, home = tmp_path / "Dr. O'Neill" / "new one", tmp_path / "my home"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
    bundle = SimpleNamespace(manifest=SimpleNamespace(model_id="ward-1.1.0"), folder=folder, sha256="0" * 64)
    said = _how_to_install(SimpleNamespace(bundle=bundle), Settings(home=home))
    (command,) = (line for line in said.splitlines() if line.startswith("Install it:"))
    subprocess.run(["sh", "-c", command.removeprefix("Install it:")], check=True)
    assert (home / "bundles" / "ward-1.1.0" / "manifest.json").is_file()
    assert shlex.split(said.splitlines()[-1])[-4:] == ["--home", str(home), "--bundle", "ward-1.1.0"]
