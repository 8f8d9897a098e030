"""The figures of a bundle: known values on known data."""

import numpy as np
import pytest

from xray_batch.bundle import OperatingPoint, OperatingPoints, Proportion
from xray_batch.classify import pool, softmax
from xray_batch.errors import TrainingDataError
from xray_batch.records import Finding
from xray_batch.training import bootstrap, metrics
from xray_batch.training.bootstrap import proportion
from xray_batch.training.metrics import (
    OUTER_TARGET,
    auroc,
    choose_thresholds,
    fit_scaling,
    indeterminate_band,
    is_at_bound,
    measure,
    rates,
    share,
)
from xray_batch.training.statistics import calibration_error

CLASSES = tuple(Finding)


@pytest.fixture
def few_resamples(monkeypatch):
    """Bootstrap with fewer resamples, to be quick."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)


def two_beta(count, seed=0):
    """Return two classes whose probabilities overlap, and patients of one image each."""
    random = np.random.default_rng(seed)
    positive = np.arange(count) % 2 == 0
    probability = np.where(positive, random.beta(4, 2, count), random.beta(2, 4, count))
    return positive, probability, [f"{number:06}" for number in range(count)]


def test_auroc(few_resamples):
    """The area of four known images is 3/4: three of the four pairs are in order."""
    positive, probability = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    metric = auroc("AUROC", "four", positive, probability, ["1", "2", "3", "4"])
    assert (metric.name, metric.data, metric.value, metric.n) == ("AUROC", "four", 0.75, 4)


def test_auroc_interval(few_resamples):
    """The interval holds the value, is repeatable, and shrinks with more images."""
    large, again, small = (auroc("a", "d", *two_beta(count)) for count in (600, 600, 60))
    assert large == again
    for metric in (large, small):
        assert metric.low < metric.value < metric.high
    assert large.high - large.low < (small.high - small.low) / 2


def test_auroc_draws_patients(few_resamples):
    """Images of one patient are drawn together: copies of each image do not make the interval narrower."""
    positive, probability, patients = two_beta(60)
    once = auroc("a", "d", positive, probability, patients)
    four_times = auroc("a", "d", np.tile(positive, 4), np.tile(probability, 4), patients * 4)
    assert (four_times.value, four_times.low, four_times.high) == pytest.approx((once.value, once.low, once.high))
    assert four_times.n == 240


def test_wilson_interval():
    """8 of 10 is 0.8 with a Wilson interval from 0.490 to 0.943."""
    result = proportion(8, 10)
    assert (result.value, result.n) == (0.8, 10)
    assert (result.low, result.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_wilson_interval_of_all():
    """10 of 10 is not certainty: the interval ends at 1 and begins at 0.722."""
    result = proportion(10, 10)
    assert (result.low, result.high) == pytest.approx((0.7224672, 1.0), abs=1e-6)


def each_its_own(count):
    """Name a patient for each of so many images."""
    return [f"{number:06}" for number in range(count)]


def test_share(few_resamples):
    """A share is of the films that are asked about; films of one patient are drawn together."""
    right = np.arange(400) % 4 > 0
    films = np.arange(400) < 200
    alone = share("accuracy", "half", right, films, each_its_own(400))
    assert (alone.name, alone.data, alone.value, alone.n) == ("accuracy", "half", 0.75, 200)
    assert alone.low < 0.75 < alone.high
    copies = share("accuracy", "half", np.repeat(right, 4), np.repeat(films, 4), list(np.repeat(each_its_own(400), 4)))
    assert (copies.value, copies.low, copies.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert copies.n == 800


def test_rates_are_of_patients(few_resamples):
    """Sensitivity and specificity have wider intervals where few patients have many films that are alike."""
    positive, called = np.arange(400) % 2 == 0, {"balanced": np.arange(400) % 40 < 30}
    widths = []
    for patients in (each_its_own(400), [str(number // 10) for number in range(400)]):
        sensitivity, specificity = (found["balanced"] for found in rates(called, positive, patients))
        assert (sensitivity.value, sensitivity.n, specificity.value, specificity.n) == (0.75, 200, 0.25, 200)
        widths.append(sensitivity.high - sensitivity.low)
    assert widths[1] > 2 * widths[0]


NEGATIVE, POSITIVE = [0.1, 0.2, 0.3, 0.6], [0.4, 0.7, 0.8, 0.9]


def known_points(negative=NEGATIVE, positive=POSITIVE):
    """Choose the thresholds of known probabilities, and measure them on these."""
    truth, probability = np.array([False] * len(negative) + [True] * len(positive)), np.array(negative + positive)
    return measure(choose_thresholds(truth, probability), truth, probability, each_its_own(len(truth)))


def test_operating_points():
    """On eight known images the thresholds lie half-way between the images that they separate."""
    points = known_points()
    assert points.balanced.threshold == pytest.approx(0.35)
    assert points.high_sensitivity.threshold == pytest.approx(0.35)
    assert points.high_specificity.threshold == pytest.approx(0.65)
    assert (points.high_sensitivity.sensitivity.value, points.high_sensitivity.specificity.value) == (1.0, 0.75)
    assert (points.high_specificity.sensitivity.value, points.high_specificity.specificity.value) == (0.75, 1.0)
    assert points.high_specificity.sensitivity == proportion(3, 4)  # Wilson's: four patients are few


def test_operating_points_meet_their_targets(few_resamples):
    """On many images the outer points meet their targets, and no other threshold does with less loss."""
    positive, probability, patients = two_beta(2000)
    points = measure(choose_thresholds(positive, probability), positive, probability, patients)

    def reached(threshold):
        return (probability[positive] >= threshold).mean(), (probability[~positive] < threshold).mean()

    low, high = points.high_sensitivity.threshold, points.high_specificity.threshold
    assert reached(low)[0] == points.high_sensitivity.sensitivity.value >= OUTER_TARGET
    assert reached(high)[1] == points.high_specificity.specificity.value >= OUTER_TARGET
    for threshold in np.linspace(0, 1, 500):
        sensitivity, specificity = reached(threshold)
        assert sensitivity < OUTER_TARGET or specificity <= reached(low)[1]
        assert specificity < OUTER_TARGET or sensitivity <= reached(high)[0]
        assert sensitivity + specificity <= sum(reached(points.balanced.threshold)) + 1e-12


def test_the_balanced_threshold_holds_where_films_are_changed():
    """It is chosen where both sets are told apart best at the least; the outer ones are for the films as they are."""
    truth, probability = np.array([False] * 4 + [True] * 4), np.array(NEGATIVE + POSITIVE)
    raised = np.array([0.3, 0.5, 0.6, 0.66, 0.65, 0.9, 0.95, 1.0])  # as by a border: three normal films above 0.35
    plain, changed = choose_thresholds(truth, probability), choose_thresholds(truth, probability, [raised])
    assert plain["balanced"] == pytest.approx(0.35)
    assert changed["balanced"] == pytest.approx(0.65)
    for name in ("high_sensitivity", "high_specificity"):
        assert changed[name] == plain[name]


@pytest.mark.parametrize("positive", [True, False])
def test_operating_points_of_one_class(positive):
    """Without images of both classes there are no thresholds."""
    with pytest.raises(TrainingDataError, match=r"^thresholds need images with and without pneumonia"):
        choose_thresholds(np.full(4, positive), np.linspace(0.2, 0.8, 4))


def test_indeterminate_band():
    """Between the outer thresholds the answer is indeterminate."""
    assert indeterminate_band(known_points()) == pytest.approx((0.35, 0.65))


def test_no_indeterminate_band():
    """Where one threshold meets both targets there is no band: both thresholds are the balanced one."""
    assert indeterminate_band(known_points([0.1, 0.2], [0.8, 0.9])) == pytest.approx((0.5, 0.5))


def test_indeterminate_band_is_never_upside_down():
    """Outer thresholds that cross make no band either."""
    certain = Proportion(value=1.0, low=0.9, high=1.0, n=40)
    low, balanced, high = (
        OperatingPoint(threshold=threshold, sensitivity=certain, specificity=certain) for threshold in (0.3, 0.4, 0.6)
    )
    points = OperatingPoints(balanced=balanced, high_sensitivity=high, high_specificity=low)
    assert indeterminate_band(points) == (0.4, 0.4)


@pytest.mark.parametrize(("temperature", "shift"), [(0.5, 0.0), (1.0, 1.0), (2.0, -0.5)])
def test_fit_scaling(temperature, shift):
    """Probabilities that are too sure, and lean to one side, by known amounts get these."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 4)) * 2
    truth = softmax(logits)
    drawn = (truth.cumsum(axis=1) < random.random((len(truth), 1))).sum(axis=1)
    leaning = (logits + np.array([shift, 0.0, 0.0, 0.0])) * temperature
    fitted = fit_scaling(softmax(leaning)[None], drawn > 0, CLASSES)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.shift == pytest.approx(shift, abs=0.08)


def test_scaling_is_bounded():
    """Answers that are all right do not make the temperature vanish, and labels of one class move by so much."""
    members = softmax(np.eye(4) * 3)[None]
    assert fit_scaling(members, np.arange(4) > 0, CLASSES).temperature == pytest.approx(0.2, rel=0.01)
    assert -5.0 <= fit_scaling(np.full((1, 4, 4), 0.25), np.zeros(4, dtype=bool), CLASSES).shift < -4.0


@pytest.mark.parametrize("is_swapped", [True, False])
def test_labels_that_are_mixed_up_end_at_a_bound(is_swapped):
    """Where what is called normal has pneumonia, the fit ends at a bound; with the labels as they are it does not."""
    random = np.random.default_rng(0)
    members = softmax(random.normal(size=(1000, 4)) * 2)[None]
    positive = random.random(1000) < 1 - members[0, :, 0]
    assert is_at_bound(fit_scaling(members, positive ^ is_swapped, CLASSES)) is is_swapped


@pytest.mark.parametrize("kind", [1, 3], ids=["too sure of the cause", "sure of COVID-19"])
def test_causes_do_not_move_the_scaling(kind):
    """Where P(pneumonia) is right it stays, however sure the members are of the wrong cause."""
    random = np.random.default_rng(0)
    p_pneumonia = random.random(20_000)
    positive = random.random(20_000) < p_pneumonia
    cause = np.full((20_000, 3), 0.01)
    cause[:, kind - 1] = 0.98
    members = np.column_stack([1 - p_pneumonia, p_pneumonia[:, None] * cause])[None]
    pooled = pool(members, fit_scaling(members, positive, CLASSES), CLASSES)
    assert expected_calibration_error(positive, 1 - pooled[:, 0]) < 0.02


def expected_calibration_error(positive, probability, bins=15):
    """Measure it as the bundle's figures do."""
    statistic = calibration_error(positive, probability, bins)
    return statistic.of(statistic.unweighted)


def test_calibration_error_of_perfect_calibration():
    """Probabilities that come true as often as they say have next to no calibration error."""
    random = np.random.default_rng(0)
    probability = random.random(50_000)
    assert expected_calibration_error(random.random(50_000) < probability, probability) < 0.01


@pytest.mark.parametrize(
    ("positive", "probability", "bins", "error"),
    [
        ([True, False] * 15, [0.8] * 30, 15, 0.3),
        ([False, True, True, True], [0.1, 0.1, 0.9, 0.9], 2, 0.25),
        ([True, True, False], [1.0, 1.0, 0.0], 15, 0.0),
        ([False, False], [1.0, 1.0], 15, 1.0),
    ],
)
def test_calibration_error(positive, probability, bins, error):
    """The error of known images is known: the mean distance of frequency and probability over the bins."""
    computed = expected_calibration_error(np.array(positive), np.array(probability), bins)
    assert computed == pytest.approx(error)


def test_calibration_error_does_not_depend_on_the_order():
    """Shuffled images have the same calibration error."""
    positive, probability, _ = two_beta(300)
    order = np.random.default_rng(1).permutation(300)
    assert expected_calibration_error(positive[order], probability[order]) == pytest.approx(
        expected_calibration_error(positive, probability)
    )


def test_the_interval_of_a_calibration_error_holds_it():
    """Of films that are calibrated by chance all samples are less so; the interval begins with the films themselves."""
    positive = np.tile([True, False], 30)
    metric = metrics.calibration_error(
        "error", "data", positive, np.full(60, 0.5), [str(number) for number in range(60)]
    )
    assert (metric.value, metric.low) == (0.0, 0.0)
    assert metric.high > 0.0
