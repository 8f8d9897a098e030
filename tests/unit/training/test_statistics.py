"""Statistics of weighted films: the same as other programs give, and as counting by hand gives."""

import math

import numpy as np
import pytest
from calibration_errors import expected_calibration_error
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from xray_batch.training.statistics import (
    area_under_roc,
    average_precision,
    calibration_error,
    log_loss,
    macro_f1,
    mean,
    predictive_values,
    recalibration,
    share,
)

EVERYTHING = np.ones(200, np.bool_)


@pytest.fixture
def films():
    """Return truth, probabilities with ties, and how often each film is in a sample, some not at all."""
    random = np.random.default_rng(1)
    positive = random.random(200) < 0.6
    probability = np.round(np.where(positive, random.beta(3, 2, 200), random.beta(2, 3, 200)), 2)
    return positive, probability, random.poisson(1.0, 200).astype(np.float64)


def test_area_under_roc_is_that_of_scikit_learn(films):
    """With ties and weights, the area is the one that scikit-learn gives."""
    positive, probability, weights = films
    statistic = area_under_roc(positive, probability, EVERYTHING)
    assert statistic.of(weights) == pytest.approx(roc_auc_score(positive, probability, sample_weight=weights))
    assert statistic.of(statistic.unweighted) == pytest.approx(roc_auc_score(positive, probability))


def test_average_precision_is_that_of_scikit_learn(films):
    """With ties and weights, the average precision is the one that scikit-learn gives."""
    positive, probability, weights = films
    expected = average_precision_score(positive, probability, sample_weight=weights)
    assert average_precision(positive, probability, EVERYTHING).of(weights) == pytest.approx(expected)


def test_a_statistic_of_some_films_leaves_the_others(films):
    """Films that a figure is not about change nothing, whatever they are."""
    positive, probability, weights = films
    some = np.arange(200) < 120
    expected = roc_auc_score(positive[:120], probability[:120], sample_weight=weights[:120])
    assert area_under_roc(positive, probability, some).of(weights) == pytest.approx(expected)


def test_weights_are_copies(films):
    """A film of weight 3 counts as three films, for every kind of statistic."""
    positive, probability, weights = films
    copies = np.repeat(np.arange(200), weights.astype(int))
    everything = np.ones(len(copies), np.bool_)
    pairs = [
        (calibration_error(positive, probability), calibration_error(positive[copies], probability[copies])),
        (recalibration(positive, probability)[0], recalibration(positive[copies], probability[copies])[0]),
        (mean(probability, EVERYTHING), mean(probability[copies], everything)),
        (share(positive, EVERYTHING, "at all"), share(positive[copies], everything, "at all")),
    ]
    for weighted, copied in pairs:
        assert weighted.of(weights) == pytest.approx(copied.of(copied.unweighted))


def test_calibration_error_is_that_of_a_loop(films):
    """The sorted sums measure what a loop over equally filled bins measures."""
    positive, probability, _ = films
    statistic = calibration_error(positive, probability)
    assert statistic.of(statistic.unweighted) == pytest.approx(expected_calibration_error(positive, probability))


def test_calibration_error_does_not_depend_on_the_order_of_the_list():
    """Films of one probability are one bin, whichever of them come first: here it is right for half of them."""
    positive, probability = np.arange(100) < 50, np.full(100, 0.5)
    for order in (np.arange(100), np.random.default_rng(0).permutation(100)):
        statistic = calibration_error(positive[order], probability)
        assert statistic.of(statistic.unweighted) == 0


def fitted(log_odds, positive, weights=None):
    """Fit the truth to log odds with scikit-learn, without a penalty."""
    return LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds[:, None], positive, sample_weight=weights)


def test_recalibration_is_logistic_regression(films):
    """The slope is the one that scikit-learn fits to the log odds."""
    positive, probability, weights = films
    clipped = np.clip(probability, 0.01, 0.99)
    fit = fitted(np.log(clipped / (1 - clipped)), positive, weights)
    slope, _ = recalibration(positive, clipped)
    assert slope.of(weights) == pytest.approx(fit.coef_[0, 0], abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_recalibration_of_what_is_far_too_sure(seed):
    """A bundle whose log odds are three times too large has a slope, and it is that of scikit-learn."""
    random = np.random.default_rng(seed)
    log_odds = random.normal(0, 3, 300)
    positive = random.random(300) < 1 / (1 + np.exp(-0.3 * log_odds))
    slope, in_the_large = recalibration(positive, 1 / (1 + np.exp(-log_odds)))
    assert slope.of(slope.unweighted) == pytest.approx(fitted(log_odds, positive).coef_[0, 0], abs=1e-4)
    assert math.isfinite(in_the_large.of(in_the_large.unweighted))


@pytest.mark.parametrize("spread", [0.1, 1, 6])
@pytest.mark.parametrize("prevalence", [0.05, 0.5, 0.9])
def test_calibration_in_the_large(spread, prevalence):
    """With this shift of the log odds, and the slope as it is, as many films are expected as have pneumonia."""
    random = np.random.default_rng(4)
    log_odds = np.clip(random.normal(0, spread, 300), -13, 13)
    positive, weights = np.arange(300) < 300 * prevalence, random.poisson(1.0, 300).astype(np.float64)
    shift = recalibration(positive, 1 / (1 + np.exp(-log_odds)))[1].of(weights)
    assert weights @ (1 / (1 + np.exp(-log_odds - shift))) == pytest.approx(weights @ positive)


def test_probabilities_that_are_too_low():
    """Calibration in the large is above 0 where probabilities are too low, whatever the slope."""
    random = np.random.default_rng(6)
    log_odds = random.normal(2, 2, 4000)
    positive = random.random(4000) < 1 / (1 + np.exp(-0.5 * log_odds - 1.5))
    _, in_the_large = recalibration(positive, 1 / (1 + np.exp(-log_odds)))
    assert positive.mean() > (1 / (1 + np.exp(-log_odds))).mean()
    assert in_the_large.of(in_the_large.unweighted) > 0.05
    _, turned = recalibration(~positive, 1 / (1 + np.exp(log_odds)))
    assert turned.of(turned.unweighted) < -0.05


def test_probabilities_that_are_far_too_low():
    """A shift from one in a million to nine in ten is found, too, though the curve is flat where the search begins."""
    _, in_the_large = recalibration(np.arange(10) < 9, np.full(10, 1e-6))
    assert in_the_large.of(np.ones(10)) == pytest.approx(math.log(9) + math.log(1e6), abs=1e-4)


def test_recalibration_of_true_probabilities():
    """Probabilities that are right have slope 1 and intercept 0; twice the log odds have slope 1/2."""
    log_odds = np.linspace(-3, 3, 61)
    probability = 1 / (1 + np.exp(-log_odds))
    both = np.concatenate([probability, probability])
    positive = np.arange(122) < 61
    weights = np.concatenate([probability, 1 - probability])
    slope, intercept = recalibration(positive, both)
    assert (slope.of(weights), intercept.of(weights)) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    extreme = 1 / (1 + np.exp(-2 * np.concatenate([log_odds, log_odds])))
    assert recalibration(positive, extreme)[0].of(weights) == pytest.approx(0.5)


def test_recalibration_of_separate_classes_has_no_slope():
    """Where the classes are wholly apart no finite slope is best; a shift is."""
    positive = np.arange(20) >= 10
    slope, in_the_large = recalibration(positive, np.where(positive, 0.9, 0.1) + np.linspace(-0.05, 0.05, 20))
    assert math.isnan(slope.of(slope.unweighted))
    assert in_the_large.of(in_the_large.unweighted) == pytest.approx(0, abs=0.5)


def test_one_class_has_no_recalibration():
    """Films of one class have neither."""
    for statistic in recalibration(np.ones(20, np.bool_), np.linspace(0.1, 0.9, 20)):
        assert math.isnan(statistic.of(statistic.unweighted))


def test_macro_f1_of_an_answer_without_label():
    """A class that is an answer and no label counts, with an F1 of 0; one that is neither does not."""
    random = np.random.default_rng(3)
    target, chosen = random.integers(0, 2, 60), random.integers(0, 3, 60)
    everything = np.ones(60, np.bool_)
    statistic = macro_f1(target, chosen, 3, everything)
    assert statistic.of(statistic.unweighted) == pytest.approx(f1_score(target, chosen, average="macro"))
    two = macro_f1(target, np.minimum(chosen, 1), 3, everything)
    expected = f1_score(target, np.minimum(chosen, 1), average="macro")
    assert two.of(two.unweighted) == pytest.approx(expected)


def test_macro_f1_is_that_of_scikit_learn():
    """Weights included, the mean of the classes' F1 is the one that scikit-learn gives."""
    random = np.random.default_rng(2)
    target, chosen = random.integers(0, 3, 90), random.integers(0, 3, 90)
    weights = random.poisson(1.0, 90).astype(np.float64)
    statistic = macro_f1(target, chosen, 3, np.ones(90, np.bool_))
    expected = f1_score(target, chosen, average="macro", sample_weight=weights)
    assert statistic.of(weights) == pytest.approx(expected)


def test_predictive_values():
    """At a prevalence of 20 %, sensitivity 0.9 and specificity 0.8 make a PPV of 18/34 and an NPV of 64/66."""
    number = np.arange(200)
    sensitivity = share(number < 90, number < 100, "with pneumonia")
    specificity = share(number < 180, number >= 100, "without pneumonia")
    ppv, npv = predictive_values(sensitivity, specificity, 0.2)
    assert ppv.of(np.ones(200)) == pytest.approx(18 / 34)
    assert npv.of(np.ones(200)) == pytest.approx(64 / 66)
    assert ppv.films.all()  # it is about those of both shares


def test_log_loss_is_bounded():
    """A film that is wrong for certain has a large loss, and a finite one."""
    losses = log_loss(np.array([True, False, True]), np.array([0.5, 0.5, 0.0]))
    assert losses[:2] == pytest.approx(math.log(2))
    assert 10 < losses[2] < 20


def test_a_sample_without_both_classes_has_no_area(films):
    """NaN says that a sample does not have what it takes."""
    positive, probability, _ = films
    assert math.isnan(area_under_roc(positive, probability, EVERYTHING).of(positive.astype(np.float64)))
    assert math.isnan(average_precision(positive, probability, EVERYTHING).of((~positive).astype(np.float64)))
    needs = area_under_roc(positive, probability, films=positive).needs
    assert [bool(kind.any()) for kind in needs.values()] == [True, False]
