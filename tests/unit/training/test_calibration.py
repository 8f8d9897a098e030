"""Temperature, thresholds and limit of disagreement, on samples whose right answer is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from calibration_errors import expected_calibration_error

from xray_batch.classify import softmax
from xray_batch.records import Finding, Scaling
from xray_batch.training import calibration
from xray_batch.training.bootstrap import PatientBootstrap
from xray_batch.training.calibration import (
    POINTS,
    Sample,
    cross_fit,
    fit_calibration,
    measure_calibration,
)
from xray_batch.training.metrics import choose_thresholds, rates

CLASSES = tuple(Finding)

PLAIN = Scaling(temperature=1.0, shift=0.0)


def make_sample(count, *, sharpened=1.0, seed=0):
    """Draw findings from known probabilities; two members know them, `sharpened` times as sure as is right."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, len(CLASSES))) * 2
    truth = softmax(logits)
    drawn = (truth.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    member = softmax(logits * sharpened)
    return Sample(
        members=np.stack([member, member]),
        targets=np.eye(len(CLASSES), dtype=bool)[drawn],
        classes=CLASSES,
        patients=[f"P{number}" for number in range(count)],
    )


def test_calibration_error_falls_on_held_out_images():
    """A calibration fitted to an over-confident sample lowers the calibration error of other such images."""
    fitted_to, held_out = make_sample(1500, sharpened=2.5), make_sample(1500, sharpened=2.5, seed=1)
    fitted = fit_calibration(fitted_to)
    assert fitted.scaling.temperature == pytest.approx(2.5, rel=0.15)
    before, after = (
        expected_calibration_error(held_out.positive, held_out.p_pneumonia(scaling))
        for scaling in (PLAIN, fitted.scaling)
    )
    assert after < before / 2


def test_answers_that_lean_to_one_side_are_moved_back():
    """Where every answer leans to pneumonia, the calibration error falls on others of such images."""
    lean = np.array([-1.5, 0.0, 0.0, 0.0])

    def leaning(seed):
        sample = make_sample(1500, seed=seed)
        return replace(sample, members=softmax(np.log(sample.members) + lean))

    fitted, held_out = fit_calibration(leaning(0)), leaning(1)
    before, after = (
        expected_calibration_error(held_out.positive, held_out.p_pneumonia(scaling))
        for scaling in (PLAIN, fitted.scaling)
    )
    assert fitted.scaling.shift == pytest.approx(-1.5, abs=0.2)
    assert after < before / 3


def test_band_and_limit():
    """The band lies between the outer points; one image of a hundred disagrees more than the limit."""
    sample = make_sample(1000)
    members = sample.members.copy()
    members[1] = members[1, ::-1]
    sample = replace(sample, members=members)
    fitted = fit_calibration(sample)
    points = fitted.operating_points
    assert (fitted.threshold_low, fitted.threshold_high) == (
        points.high_sensitivity.threshold,
        points.high_specificity.threshold,
    )
    normal = CLASSES.index(Finding.NORMAL)
    disagreement = abs(members[0, :, normal] - members[1, :, normal])
    assert (disagreement > fitted.disagreement_limit).sum() == 10


def test_films_that_are_changed_move_the_balanced_threshold_alone():
    """The threshold is chosen on what the members say of changed films, too, scaled alike, and of the same films."""
    sample = make_sample(600)
    lean = np.where(np.arange(len(CLASSES)) == CLASSES.index(Finding.NORMAL), -1.5, 0.0)
    asked = replace(sample, changed=softmax(np.log(sample.members) + lean)[None])
    plain, fitted = fit_calibration(sample), fit_calibration(asked)
    expected = choose_thresholds(
        sample.positive,
        sample.p_pneumonia(plain.scaling),
        [replace(sample, members=asked.changed[0]).p_pneumonia(plain.scaling)],
    )
    assert fitted.operating_points.balanced.threshold == expected["balanced"]
    assert fitted.operating_points.balanced.threshold > plain.operating_points.balanced.threshold
    assert (fitted.scaling, fitted.threshold_low, fitted.threshold_high, fitted.disagreement_limit) == (
        plain.scaling,
        plain.threshold_low,
        plain.threshold_high,
        plain.disagreement_limit,
    )
    chosen = np.arange(100, 400)
    assert np.array_equal(asked.take(chosen).changed[0], asked.changed[0][:, chosen])


def test_order_of_classes_does_not_matter():
    """A bundle with other classes first gets the same calibration from the same images."""
    sample = make_sample(600)
    order = [2, 0, 3, 1]
    other = replace(
        sample,
        members=sample.members[:, :, order],
        targets=sample.targets[:, order],
        classes=[CLASSES[index] for index in order],
    )
    assert fit_calibration(other).scaling.temperature == pytest.approx(
        fit_calibration(sample).scaling.temperature, rel=1e-3
    )
    assert np.array_equal(other.positive, sample.positive)
    leaning = Scaling(temperature=1.5, shift=0.5)
    assert np.allclose(other.p_pneumonia(leaning), sample.p_pneumonia(leaning))


def test_old_thresholds_are_measured_on_the_sample():
    """The old calibration keeps its thresholds; its sensitivity and specificity are those of this sample."""
    sample = make_sample(400)
    point = SimpleNamespace(threshold=0.5)
    old = SimpleNamespace(
        scaling=Scaling(temperature=2.0, shift=0.25),
        threshold_low=0.25,
        threshold_high=0.75,
        disagreement_limit=0.5,
        operating_points=SimpleNamespace(**dict.fromkeys(POINTS, point)),
    )
    measured = measure_calibration(old, sample)
    assert (measured.scaling, measured.threshold_low, measured.threshold_high) == (old.scaling, 0.25, 0.75)
    called = sample.p_pneumonia(old.scaling) >= 0.5
    balanced = measured.operating_points.balanced
    assert balanced.threshold == 0.5
    assert balanced.sensitivity.value == called[sample.positive].mean()
    assert balanced.specificity.value == (~called)[~sample.positive].mean()


def test_intervals_are_of_patients():
    """Four copies of every image of a patient make no interval narrower; cross-fitted rates have theirs likewise."""
    once = make_sample(200)
    four_times = once.take(np.tile(np.arange(200), 4))
    fitted, again = (fit_calibration(sample).operating_points.balanced for sample in (once, four_times))
    assert again.sensitivity.n == 4 * fitted.sensitivity.n
    for name in ("sensitivity", "specificity"):
        one, four = (getattr(point, name) for point in (fitted, again))
        assert (four.low, four.high) == pytest.approx((one.low, one.high))
    crossed = cross_fit(four_times)
    found = rates(crossed.called, four_times.positive, four_times.patients)
    assert (crossed.sensitivity, crossed.specificity) == found


def test_cross_fitting_never_measures_on_a_patient_it_was_fitted_to(monkeypatch):
    """Each image is measured once, by a calibration whose sample has no image of its patient."""
    patients = [f"P{number // 3}" for number in range(300)]
    sample = replace(make_sample(300), patients=patients)
    fitted_to = []
    fit = calibration._fit

    def spy(part):
        fitted_to.append({patients[index] for index in find(part, sample)})
        return fit(part)

    monkeypatch.setattr(calibration, "_fit", spy)
    crossed = cross_fit(sample)
    assert len(fitted_to) == 5
    measured = [set(patients) - part for part in fitted_to]
    assert sorted(patient for part in measured for patient in part) == sorted(set(patients))
    assert set(crossed.called) == set(POINTS)
    for point in POINTS:
        assert crossed.sensitivity[point].n == sample.positive.sum()
        assert crossed.specificity[point].n == (~sample.positive).sum()


def test_cross_fitting_measures_once(monkeypatch):
    """Intervals are those of all parts together: none is computed of a part, where nobody would read it."""
    measured = []
    bounds = PatientBootstrap.bounds

    def spy(bootstrap, statistics):
        measured.append(len(statistics))
        return bounds(bootstrap, statistics)

    monkeypatch.setattr(PatientBootstrap, "bounds", spy)
    cross_fit(make_sample(200))
    assert measured == [2 * len(POINTS)]


def find(part, sample):
    """Return which images of a sample are in a part of it; no two have the same probabilities."""
    places = {row.tobytes(): index for index, row in enumerate(sample.members[0])}
    return [places[row.tobytes()] for row in part.members[0]]


def test_cross_fitting_is_less_flattering():
    """With labels that are pure chance, the sensitivity that was fitted is not reached on other patients."""
    random = np.random.default_rng(0)
    members = softmax(random.normal(size=(1, 120, len(CLASSES))))
    targets = np.eye(len(CLASSES), dtype=bool)[random.integers(0, len(CLASSES), 120)]
    sample = Sample(members=members, targets=targets, classes=CLASSES, patients=[f"{number}" for number in range(120)])
    fitted = fit_calibration(sample).operating_points.balanced
    crossed = cross_fit(sample)
    balance = crossed.sensitivity["balanced"].value + crossed.specificity["balanced"].value
    assert balance < fitted.sensitivity.value + fitted.specificity.value
