"""What `xray-batch calibrate` says of its own figures."""

import pytest

from xray_batch.bundle import Metric
from xray_batch.cli.calibrate import note


def errors_of(crossed, films=100):
    """Return the calibration errors before, after, and on other patients."""
    return {
        name: Metric(name="expected calibration error", data="films", value=value, low=0.0, high=1.0, n=films)
        for name, value in (("before", 0.08), ("after", 0.01), ("cross_fitted", crossed))
    }


@pytest.mark.parametrize("knows", [True, False])
def test_training_images_that_cannot_be_recognized_are_told(knows):
    """Where the bundle does not record its training images, the output says that nothing was checked."""
    text = note(errors_of(0.04), knows_its_training=knows)
    assert ("does not record what it was trained on" in text) is not knows


@pytest.mark.parametrize(("crossed", "is_told"), [(0.04, False), (0.08, True), (0.09, True)])
def test_a_calibration_that_does_not_help_is_told(crossed, is_told):
    """Where the calibration error does not fall on other patients, the output says what that means."""
    text = note(errors_of(crossed), knows_its_training=True)
    assert "which flatters it" in text
    assert ("do not read the probabilities as frequencies" in text) is is_told


@pytest.mark.parametrize(("films", "is_told"), [(169, True), (170, False)])
def test_a_sample_that_is_no_reference_for_drift_is_told(films, is_told):
    """Where the films are too few to measure drift against, the output says so."""
    text = note(errors_of(0.04, films), knows_its_training=True)
    assert ("too few to measure drift against" in text) is is_told
