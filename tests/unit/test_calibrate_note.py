"""What `xray-batch calibrate` says of its own figures."""

import pytest

from xray_batch.bundle import Metric
from xray_batch.cli.calibrate import note


@pytest.mark.parametrize(("crossed", "is_told"), [(0.04, False), (0.08, True), (0.09, True)])
def test_a_calibration_that_does_not_help_is_told(crossed, is_told):
    """Where the calibration error does not fall on other patients, the output says what that means."""
    errors = {
        name: Metric(name="expected calibration error", data="films", value=value, low=0.0, high=1.0, n=100)
        for name, value in (("before", 0.08), ("after", 0.01), ("cross_fitted", crossed))
    }
    text = note(errors)
    assert "which flatters it" in text
    assert ("do not read the probabilities as frequencies" in text) is is_told
