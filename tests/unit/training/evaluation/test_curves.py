"""Curves on films whose counts are known."""

import numpy as np
import pytest

from xray_batch.training.bootstrap import PatientBootstrap
from xray_batch.training.evaluation.curves import measure_curves


@pytest.fixture
def curves():
    """Measure 100 films, ten at each value: of the 50 with pneumonia, 30 are above all others and 20 below all."""
    probability = np.repeat([0.95, 0.92, 0.9, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05], 10)
    positive = np.repeat([True, True, True, False, False, False, False, False, True, True], 10)
    labels = np.where(positive, "viral_pneumonia", "normal")
    bootstrap = PatientBootstrap([str(number) for number in range(100)], resamples=200, seed=0)
    return measure_curves(positive, probability, labels, bootstrap)


def at(curve, x):
    """Return a curve's height at one point of its grid."""
    return curve.y[int(np.argmin(np.abs(np.array(curve.x) - x)))]


def test_roc(curves):
    """Three fifths of the films with pneumonia are found without a false positive, all only with all."""
    assert at(curves.roc, 0) == pytest.approx(0.6)
    assert at(curves.roc, 0.99) == pytest.approx(0.6)
    assert at(curves.roc, 1) == 1


def test_precision_recall(curves):
    """The first three fifths are found at a PPV of 1, the rest at that of calling 90 and 100 films pneumonia."""
    assert at(curves.precision_recall, 0.6) == 1
    assert at(curves.precision_recall, 0.8) == pytest.approx(4 / 9)
    assert at(curves.precision_recall, 1) == pytest.approx(0.5)


def test_net_benefit(curves):
    """At a threshold of 0.35, 30 are rightly and 30 wrongly called so; to call all is worth less."""
    odds = 0.35 / 0.65
    assert at(curves.net_benefit, 0.35) == pytest.approx((3 - 3 * odds) / 10)
    assert at(curves.net_benefit_treat_all, 0.35) == pytest.approx((5 - 5 * odds) / 10)


def test_a_film_at_the_threshold_is_called_pneumonia(curves):
    """The decision curve calls what the product calls: at or above."""
    odds = 0.6 / 0.4
    assert at(curves.net_benefit, 0.6) == pytest.approx((3 - 1 * odds) / 10)


def test_bands_hold_their_curve(curves):
    """Every curve lies within its band."""
    for curve in (curves.roc, curves.precision_recall, curves.net_benefit, curves.net_benefit_treat_all):
        assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))
        assert any(low < high for low, high in zip(curve.low, curve.high, strict=True))


def test_histogram_and_calibration_hold_every_film(curves):
    """No film is outside the bins."""
    assert sum(sum(counts) for counts in curves.histogram.values()) == 100
    assert sum(part.observed.n for part in curves.calibration) == 100
    assert list(curves.histogram) == ["normal", "viral_pneumonia"]


def test_films_of_one_probability_are_in_one_bin(curves):
    """Ten films at each value are ten bins, not fifteen that tear them apart by their order in the list."""
    assert [part.observed.n for part in curves.calibration] == [10] * 10
    assert [part.probability for part in curves.calibration] == pytest.approx(
        [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9, 0.92, 0.95]
    )
