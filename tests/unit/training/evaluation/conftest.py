"""A manifest whose thresholds are round numbers."""

import pytest
from bundle_factory import make_manifest

from xray_batch.bundle import Manifest, OperatingPoint, OperatingPoints, Proportion


def operating_point(threshold: float) -> OperatingPoint:
    """Return a point whose own figures no test reads."""
    share = Proportion(value=0.5, low=0.4, high=0.6, n=100)
    return OperatingPoint(threshold=threshold, sensitivity=share, specificity=share)


@pytest.fixture
def manifest() -> Manifest:
    """Return a manifest without calibration, with thresholds of 0.4, 0.3 and 0.7, the band between the outer two."""
    return make_manifest(
        temperature=1.0,
        threshold_low=0.3,
        threshold_high=0.7,
        disagreement_limit=0.5,
        operating_points=OperatingPoints(
            balanced=operating_point(0.4), high_sensitivity=operating_point(0.3), high_specificity=operating_point(0.7)
        ),
    )
