"""Intervals: patients are drawn whole, and figures that cannot be measured say why."""

import re

import numpy as np
import pytest

from xray_batch.training.bootstrap import LEAST_PATIENTS, PatientBootstrap, proportion
from xray_batch.training.statistics import area_under_roc, predictive_values, recalibration, share


def bootstrap(patients, resamples=400):
    """Return a bootstrap over patients."""
    return PatientBootstrap(patients, resamples=resamples, seed=0)


def test_patients_are_drawn_whole():
    """Films of one patient are in a sample equally often, and a sample has as many patients as there are."""
    patients = ["a", "b", "a", "c", "b", "a"]
    for weights in bootstrap(patients).weights():
        assert weights[0] == weights[2] == weights[5]
        assert weights[1] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3


def test_samples_are_the_same_each_time():
    """Two figures of one report are measured on the same samples, so that they can be compared."""
    drawn = bootstrap([str(number) for number in range(20)])
    assert np.array_equal(list(drawn.weights()), list(drawn.weights()))


def test_interval_of_a_share():
    """Of 400 films of 400 patients, 100 are right: the interval is that of the binomial distribution."""
    right = np.arange(400) < 100
    everything = np.ones(400, np.bool_)
    found, missing = bootstrap([str(number) for number in range(400)], 2000).estimate(
        {"right": share(right, everything, "at all")}
    )
    reach = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert missing == {}
    assert found["right"].value == 0.25
    assert found["right"].low == pytest.approx(0.25 - reach, abs=0.006)
    assert found["right"].high == pytest.approx(0.25 + reach, abs=0.006)
    assert found["right"].n == 400


def test_many_films_of_few_patients_are_worth_less():
    """The interval is about twice as wide where every patient has four films that are alike."""
    right = np.arange(400) < 100
    statistic = {"right": share(right, np.ones(400, np.bool_), "at all")}
    single, _ = bootstrap([str(number) for number in range(400)]).estimate(statistic)
    alike, _ = bootstrap([str(number // 4) for number in range(400)]).estimate(statistic)
    wider = (alike["right"].high - alike["right"].low) / (single["right"].high - single["right"].low)
    assert 1.7 < wider < 2.3


def test_all_right_is_not_certain():
    """Where all 40 films of 20 patients are right, the interval is Wilson's over 20."""
    patients = [str(number // 2) for number in range(40)]
    everything = np.ones(40, np.bool_)
    found, _ = bootstrap(patients).estimate({"right": share(everything, everything, "at all")})
    assert (found["right"].value, found["right"].high) == (1, 1)
    assert found["right"].low == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)


def test_bounds_of_few_patients():
    """Bounds are those of the estimates; shares of few patients, too few for an estimate, have Wilson's over these."""
    number = np.arange(120)
    drawn = bootstrap([str(n) for n in number // 3])
    half, none, everything = number % 2 == 0, number < 0, number >= 0
    many, certain, few = (
        share(right, films, "at all") for right, films in ((half, everything), (none, everything), (half, number < 12))
    )
    found, missing = drawn.estimate({"many": many, "certain": certain, "few": few})
    bounds = drawn.bounds([many, certain, few])
    assert bounds[:2] == [(each.low, each.high) for each in found.values()]
    assert "few" in missing
    wilson = proportion(2, 4)
    assert bounds[2] == (wilson.low, wilson.high)


def predictive(called, positive, prevalence=0.2):
    """Measure PPV and NPV of films, each of a patient of its own, and what they are made of."""
    sensitivity = share(called, positive, "with pneumonia")
    specificity = share(~called, ~positive, "without pneumonia")
    ppv, npv = predictive_values(sensitivity, specificity, prevalence)
    statistics = {"sensitivity": sensitivity, "specificity": specificity, "PPV": ppv, "NPV": npv}
    return bootstrap([str(number) for number in range(len(positive))]).estimate(statistics)


def test_no_false_positive_is_not_certain():
    """Where no film is wrongly called, the lower bound of PPV is that of Wilson's specificity, by Bayes' theorem."""
    number = np.arange(100)
    found, missing = predictive((number < 30), (number < 50))
    assert missing == {}
    low, false = found["sensitivity"].low, 1 - found["specificity"].low
    assert false == pytest.approx(1.96**2 / (50 + 1.96**2), abs=1e-3)
    assert (found["PPV"].value, found["PPV"].high) == (1, 1)
    assert found["PPV"].low == pytest.approx(0.2 * low / (0.2 * low + 0.8 * false))
    assert found["NPV"].low < found["NPV"].value < found["NPV"].high


def test_no_false_negative_is_not_certain():
    """Where no film is missed, the lower bound of NPV is that of Wilson's sensitivity, by Bayes' theorem."""
    number = np.arange(100)
    found, _ = predictive((number < 70), (number < 50))
    low, missed = found["specificity"].low, 1 - found["sensitivity"].low
    assert (found["NPV"].value, found["NPV"].high) == (1, 1)
    assert found["NPV"].low == pytest.approx(0.8 * low / (0.8 * low + 0.2 * missed))


def test_few_true_positives_and_no_false_one():
    """A PPV that a tenth of the samples do not have is measured where sensitivity and specificity are."""
    number = np.arange(100)
    found, missing = predictive((number < 2), (number < 50))
    assert missing == {}
    assert (found["PPV"].value, found["PPV"].low) == (1, 0)


def test_no_answer_of_a_kind():
    """Where no film is called pneumonia there is no PPV, where every film is there is no NPV, and that is why."""
    nothing, everything = np.zeros(100, np.bool_), np.ones(100, np.bool_)
    positive = np.arange(100) < 50
    assert predictive(nothing, positive)[1] == {"PPV": "no film is called pneumonia"}
    assert predictive(everything, positive)[1] == {"NPV": "every film is called pneumonia"}


def test_samples_that_do_not_allow_it():
    """Where many samples have no number, their percentiles are no interval: the figure is missing, and says why."""
    positive = np.arange(40) >= 20
    probability = np.where(positive, 0.9, 0.1) + np.linspace(-0.05, 0.05, 40)
    probability[[19, 20]] = probability[[20, 19]]
    slope, _ = recalibration(positive, probability)
    found, missing = bootstrap([str(number) for number in range(40)]).estimate({"slope": slope})
    assert np.isfinite(slope.of(slope.unweighted))
    assert found == {}
    assert re.fullmatch(r"only \d+ of 400 samples of the patients allow it, too few for an interval", missing["slope"])


def test_reasons():
    """No films of a class, too few patients and classes wholly apart are told apart."""
    positive = np.arange(40) >= 20
    everything = np.ones(40, np.bool_)
    probability = np.where(positive, 0.9, 0.1) + np.linspace(-0.05, 0.05, 40)
    few = np.arange(40) < LEAST_PATIENTS - 1
    found, missing = bootstrap([str(number) for number in range(40)]).estimate(
        {
            "no such": share(positive, np.zeros(40, np.bool_), "with wings"),
            "too few": share(positive, few, "at all"),
            "few of one": area_under_roc(few, probability, everything),
            "one class": area_under_roc(np.zeros(40, np.bool_), probability, everything),
            "slope": recalibration(positive, probability)[0],
            "area": area_under_roc(positive, probability, everything),
        }
    )
    assert list(found) == ["area"]
    assert missing["no such"] == "there are no films with wings"
    assert missing["too few"] == "fewer than 10 patients have films at all"
    assert missing["few of one"] == "fewer than 10 patients have films with the finding"
    assert missing["one class"] == "there are no films with the finding"
    assert "wholly apart" in missing["slope"]
