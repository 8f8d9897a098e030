"""A manifest whose thresholds are round numbers, and films that a model is often right about."""

from collections.abc import Callable

import numpy as np
import pytest
from bundle_factory import make_manifest
from made_up_predictions import make_predictions

from xray_batch.bundle import Manifest, OperatingPoint, OperatingPoints, Proportion
from xray_batch.training.evaluation.predictions import Predictions


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


@pytest.fixture
def overlapping() -> Callable[[int], Predictions]:
    """Make predictions of so many films, of three labels in turn, that are right more often than not."""

    def make(count: int) -> Predictions:
        random = np.random.default_rng(5)
        labels = [["normal", "bacterial_pneumonia", "viral_pneumonia"][number % 3] for number in range(count)]
        means = [random.beta(2, 4) if label == "normal" else random.beta(4, 2) for label in labels]
        return make_predictions(labels, means)

    return make
