"""Figures that say how good the probabilities are, each with a 95 % confidence interval."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from xray_batch.bundle import Metric, OperatingPoint, OperatingPoints, Proportion
from xray_batch.classify import pool
from xray_batch.errors import TrainingDataError
from xray_batch.records import Finding, Scaling
from xray_batch.training import bootstrap, statistics

#: Sensitivity and specificity that the outer operating points are chosen for.
OUTER_TARGET: Final = 0.98

#: Least and largest temperature that is tried.
TEMPERATURES: Final = (0.2, 5.0)

#: Largest shift of the log odds of pneumonia, to either side: nobody's films are as different as that.
LARGEST_SHIFT: Final = 5.0

#: So close to a bound a fit has ended at it: the logarithms of temperatures are what is bounded.
_AT_BOUND: Final = 1e-6


def auroc(
    name: str,
    data: str,
    positive: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    patients: Sequence[str],
) -> Metric:
    """Measure the area under the ROC curve; the interval comes from a bootstrap over patients.

    Parameters
    ----------
    positive, probability
        Shape (N,); both classes occur.
    patients
        Length N; images of one patient are drawn together.
    """
    everything = np.ones(len(positive), np.bool_)
    return _bootstrapped(name, data, statistics.area_under_roc(positive, probability, everything), patients)


def calibration_error(
    name: str,
    data: str,
    positive: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    patients: Sequence[str],
) -> Metric:
    """Measure :func:`xray_batch.training.statistics.calibration_error`; the interval is as that of :func:`auroc`."""
    return _bootstrapped(name, data, statistics.calibration_error(positive, probability), patients)


def share(
    name: str,
    data: str,
    right: npt.NDArray[np.bool_],
    films: npt.NDArray[np.bool_],
    patients: Sequence[str],
) -> Metric:
    """Measure how many of `films` are `right`, both of shape (N,); the interval is as that of :func:`auroc`."""
    return _bootstrapped(name, data, statistics.share(right, films, name), patients)


def rates(
    called: Mapping[str, npt.NDArray[np.bool_]],
    positive: npt.NDArray[np.bool_],
    patients: Sequence[str],
) -> tuple[dict[str, Proportion], dict[str, Proportion]]:
    """Measure sensitivity and specificity of each way to call images, all on the same samples of the patients.

    Parameters
    ----------
    called
        Shape (N,) each: which images are called pneumonia, by the name of the way.
    positive
        Shape (N,); both classes occur.
    patients
        As of :func:`auroc`.
    """
    measured = {
        (kind, name): statistics.share(right, films, kind)
        for name, each in called.items()
        for kind, right, films in (("with pneumonia", each, positive), ("without pneumonia", ~each, ~positive))
    }
    bounds = sample_patients(patients).bounds(list(measured.values()))
    found: dict[str, dict[str, Proportion]] = {"with pneumonia": {}, "without pneumonia": {}}
    for ((kind, name), statistic), (low, high) in zip(measured.items(), bounds, strict=True):
        value, n = statistic.of(statistic.unweighted), int(statistic.films.sum())
        found[kind][name] = Proportion(value=value, low=low, high=high, n=n)
    return found["with pneumonia"], found["without pneumonia"]


def _bootstrapped(name: str, data: str, statistic: statistics.Statistic, patients: Sequence[str]) -> Metric:
    """Measure a statistic, and its spread over samples of the patients drawn with replacement."""
    ((low, high),) = sample_patients(patients).bounds([statistic])
    value = statistic.of(statistic.unweighted)
    return Metric(name=name, data=data, value=value, low=low, high=high, n=int(statistic.films.sum()))


def sample_patients(patients: Sequence[str]) -> bootstrap.PatientBootstrap:
    """Return the samples of the patients that the figures of a bundle have their intervals from."""
    return bootstrap.PatientBootstrap(patients, resamples=bootstrap.RESAMPLES, seed=0)


def fit_scaling(
    members: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], classes: Sequence[Finding]
) -> Scaling:
    """Find the temperature and the shift of the pooled probabilities that make the labels likeliest.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599.  Only P(pneumonia) counts: the
    outcome is decided by it, and not every label says of which kind a pneumonia is.

    Parameters
    ----------
    members
        Shape (members, N, classes), each row summing to 1.
    positive
        Shape (N,): which images have a pneumonia of any cause.
    classes
        In the order of the last axis of `members`.
    """

    def scaling(parameters: npt.NDArray[np.float64]) -> Scaling:
        return Scaling(temperature=float(np.exp(parameters[0])), shift=float(parameters[1]))

    def negative_log_likelihood(parameters: npt.NDArray[np.float64]) -> float:
        normal = pool(members, scaling(parameters), classes)[:, classes.index(Finding.NORMAL)]
        return float(-np.log(np.maximum(np.where(positive, 1 - normal, normal), 1e-12)).mean())

    bounds = [(np.log(TEMPERATURES[0]), np.log(TEMPERATURES[1])), (-LARGEST_SHIFT, LARGEST_SHIFT)]
    return scaling(minimize(negative_log_likelihood, np.zeros(2), method="L-BFGS-B", bounds=bounds, tol=1e-12).x)


def is_at_bound(scaling: Scaling) -> bool:
    """Tell whether the likeliest temperature or shift may lie beyond what :func:`fit_scaling` tries."""
    ends = [scaling.temperature / TEMPERATURES[0], TEMPERATURES[1] / scaling.temperature]
    return min(ends) < 1 + _AT_BOUND or abs(scaling.shift) > LARGEST_SHIFT - _AT_BOUND


def choose_thresholds(
    positive: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    changed: Sequence[npt.NDArray[np.float64]] = (),
) -> dict[str, float]:
    """Choose the three thresholds on P(pneumonia), by the names of the operating points.

    The balanced one has the largest sum of sensitivity and specificity, the least over the films as they are and
    changed; the outer ones are for the films as they are.

    Parameters
    ----------
    positive, probability
        As of :func:`auroc`.
    changed
        Shape (N,) each: probabilities of the same films, all changed in one way.

    Raises
    ------
    TrainingDataError
        If one of the two classes is missing, or too many images without pneumonia are certain to have it.
    """
    if positive.all() or not positive.any():
        message = "thresholds need images with and without pneumonia"
        raise TrainingDataError(message)
    ordered = np.unique(probability)
    # Half-way between neighbours: no threshold lies exactly on an image.
    candidates = np.concatenate([[0.0], (ordered[1:] + ordered[:-1]) / 2, [1.0]])
    rates_of_all = [_rates_at(candidates, positive, each) for each in (probability, *changed)]
    sensitivity, specificity = rates_of_all[0]
    if specificity.max() < OUTER_TARGET:
        message = (
            f"no threshold reaches a specificity of {OUTER_TARGET}: "
            f"{1 - specificity.max():.1%} of the images without pneumonia are certain to have it"
        )
        raise TrainingDataError(message)
    worst = np.min([found.sum(axis=0) for found in rates_of_all], axis=0)
    return {
        "balanced": float(candidates[np.argmax(worst)]),
        "high_sensitivity": float(candidates[sensitivity >= OUTER_TARGET].max()),
        "high_specificity": float(candidates[specificity >= OUTER_TARGET].min()),
    }


def _rates_at(
    thresholds: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return sensitivity and specificity at each threshold, shape (2, thresholds)."""
    missed, spared = (np.searchsorted(np.sort(probability[films]), thresholds) for films in (positive, ~positive))
    return np.stack([(positive.sum() - missed) / positive.sum(), spared / (~positive).sum()])


def indeterminate_band(points: OperatingPoints) -> tuple[float, float]:
    """Return the low and high threshold: between the outer points the answer is `indeterminate`.

    Where the classes are so well apart that one threshold meets both targets, there is no band and both
    are the balanced threshold.
    """
    low, high = points.high_sensitivity.threshold, points.high_specificity.threshold
    if low >= high:
        return points.balanced.threshold, points.balanced.threshold
    return low, high


def measure(
    thresholds: Mapping[str, float],
    positive: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    patients: Sequence[str],
) -> OperatingPoints:
    """Measure what thresholds on P(pneumonia), by the names of the points, achieve; both classes occur.

    The other parameters, and the intervals, are those of :func:`auroc`.
    """
    called = {name: probability >= threshold for name, threshold in thresholds.items()}
    sensitivity, specificity = rates(called, positive, patients)
    return OperatingPoints(
        **{
            name: OperatingPoint(threshold=threshold, sensitivity=sensitivity[name], specificity=specificity[name])
            for name, threshold in thresholds.items()
        }
    )
