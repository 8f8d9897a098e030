"""What is measured: functions of how often each film is in a sample.

Sorting is done once, when a statistic is made; a sample then takes a pass over the films.  Films of no weight
are not in the sample, so with weights of 1 a statistic is that of the films as they are.  NaN says that a sample
does not have what it takes: both classes, for instance.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Films: TypeAlias = npt.NDArray[np.bool_]
Values: TypeAlias = npt.NDArray[np.float64]
Function: TypeAlias = Callable[[Values], float]

#: Bins of the calibration error, equally filled.
CALIBRATION_BINS: Final = 15

#: Probabilities are kept so far from 0 and 1 in logarithms: a certain and wrong film must not outweigh all others.
LEAST_PROBABILITY: Final = 1e-6

_NEWTON_STEPS: Final = 25
_BOUNDED_STEPS: Final = 100
_LARGEST_SHIFT: Final = 50.0
_STEEPEST: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One figure about some films."""

    of: Function  #: of weights, shape (N,); NaN where they do not allow it
    films: Films  #: shape (N,): which films it is about
    needs: Mapping[str, Films] = field(default_factory=dict)  #: kinds of films that it takes, by name; none: any
    is_share: bool = False  #: whether it is a share of films
    undefined: str = "these films do not allow it"  #: why the films that it takes do not give a number
    shares: "tuple[Statistic, ...]" = ()  #: those that it is made of
    combine: Callable[..., float] | None = None  #: makes it of them, and rises with each

    @property
    def unweighted(self) -> Values:
        """Weights of the films as they are: 1 each."""
        return np.ones(len(self.films))


def share(right: Films, films: Films, what: str) -> Statistic:
    """Return the share of `films` that are `right`; `what` names them: `with pneumonia`."""
    return Statistic(of=_mean(right.astype(np.float64), films), films=films, needs={what: films}, is_share=True)


def mean(values: Values, films: Films) -> Statistic:
    """Return the mean of a value over films."""
    return Statistic(of=_mean(values, films), films=films)


def _mean(values: Values, films: Films) -> Function:
    members = films.astype(np.float64)
    total = np.where(films, values, 0.0)
    return lambda weights: _ratio(float(weights @ total), float(weights @ members))


def two_classes(function: Function, positive: Films, films: Films) -> Statistic:
    """Make a statistic that needs films of both classes."""
    needs = {"with the finding": films & positive, "without the finding": films & ~positive}
    return Statistic(of=function, films=films, needs=needs)


def area_under_roc(positive: Films, probability: Values, films: Films) -> Statistic:
    """Return the share of pairs of a positive and a negative film that are in order; ties count half."""
    counts = _SortedCounts(positive, probability, films)

    def function(weights: Values) -> float:
        positives, negatives = counts.of(weights)
        below = negatives.cumsum() - negatives
        return _ratio(float(positives @ (below + negatives / 2)), float(positives.sum() * negatives.sum()))

    return two_classes(function, positive, films)


def average_precision(positive: Films, probability: Values, films: Films) -> Statistic:
    """Return the mean precision over the positive films, each at its own probability as threshold."""
    counts = _SortedCounts(positive, probability, films)

    def function(weights: Values) -> float:
        positives, negatives = (part[::-1] for part in counts.of(weights))
        found = positives.cumsum()
        called = found + negatives.cumsum()
        return _ratio(float(positives @ (found / np.maximum(called, 1e-300))), float(positives.sum()))

    return two_classes(function, positive, films)


class _SortedCounts:
    """Positive and negative films at each distinct probability, in rising order."""

    def __init__(self, positive: Films, probability: Values, films: Films) -> None:
        chosen = np.flatnonzero(films)
        self._order = chosen[np.argsort(probability[chosen], kind="stable")]
        ordered = probability[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))[: len(ordered)]
        self._positive = positive[self._order]

    def of(self, weights: Values) -> tuple[Values, Values]:
        ordered = weights[self._order]
        return (
            np.add.reduceat(np.where(self._positive, ordered, 0.0), self._starts),
            np.add.reduceat(np.where(self._positive, 0.0, ordered), self._starts),
        )


def calibration_error(positive: Films, probability: Values, bins: int = CALIBRATION_BINS) -> Statistic:
    """Return the mean distance between probability and frequency over the bins of :func:`bin_starts`.

    Nixon et al., "Measuring Calibration in Deep Learning", 2019, arXiv 1904.01685.
    """
    distinct, place = np.unique(probability, return_inverse=True)

    def function(weights: Values) -> float:
        films = np.bincount(place, weights, len(distinct))
        gaps = np.bincount(place, weights * positive, len(distinct)) - films * distinct
        if not films.any():
            return math.nan
        return float(np.abs(np.add.reduceat(gaps, bin_starts(films, bins))).sum() / films.sum())

    return Statistic(of=function, films=np.ones(len(positive), np.bool_))


def bin_starts(films: npt.NDArray[np.intp] | Values, bins: int = CALIBRATION_BINS) -> npt.NDArray[np.intp]:
    """Tell with which of the probabilities each bin begins.

    The bins are equally filled, but for films of one probability, which stay together: else it would depend on their
    order in the list which of them are in which bin, and so how well they seem calibrated.

    Parameters
    ----------
    films
        How many there are of each probability, in rising order; whole numbers, not all 0.
    """
    total = int(films.sum())
    number = np.arange(min(bins, total))
    size, larger = divmod(total, len(number))
    firsts = number * size + np.minimum(number, larger)  # films before each bin, as if all had their own probability
    return np.unique(np.searchsorted(films.cumsum(), firsts, side="right"))


def log_loss(positive: Films, probability: Values) -> Values:
    """Return -log of the probability that each film was given for what it is, natural logarithm, shape (N,)."""
    given = np.where(positive, probability, 1 - probability)
    return -np.log(np.maximum(given, LEAST_PROBABILITY))


def recalibration(positive: Films, probability: Values) -> tuple[Statistic, Statistic]:
    """Return the calibration slope and the calibration in the large, both of the log odds that were predicted.

    The slope is that of a logistic regression of the truth on the log odds: 1 is perfect, below 1 the probabilities
    are too extreme (Cox, "Two Further Applications of a Model for Binary Regression", 1958).  Calibration in the
    large is the intercept of such a regression with the slope held at 1: 0 is perfect, above 0 the probabilities
    are too low (Steyerberg, "Clinical Prediction Models", 2009).
    """
    clipped = np.clip(probability, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    log_odds = np.log(clipped / (1 - clipped))
    fit = _LogisticFit(positive, log_odds)
    everything = np.ones(len(positive), np.bool_)
    no_slope = "the probabilities do not allow it: classes wholly apart, or all films alike"
    slope = replace(two_classes(fit.slope, positive, everything), undefined=no_slope)
    return slope, two_classes(fit.shift, positive, everything)


class _LogisticFit:
    """Logistic regression of the truth on log odds, by Newton's method; NaN where there is no finite best one."""

    def __init__(self, positive: Films, log_odds: Values) -> None:
        self._positive = positive.astype(np.float64)
        self._log_odds = log_odds

    def slope(self, weights: Values) -> float:
        """Return the slope that is best together with its intercept.

        Newton's method begins at 0: from there the curvature is largest, and no step goes too far.
        """
        intercept, slope = 0.0, 0.0
        for _ in range(_NEWTON_STEPS):
            residual, curvature = self._derivatives(weights, intercept + slope * self._log_odds)
            a, b, c = (float((curvature * self._log_odds**power).sum()) for power in range(3))
            determinant = a * c - b * b
            if determinant <= 1e-9 * a * c or abs(slope) > _STEEPEST:
                return math.nan
            g0, g1 = float(residual.sum()), float(residual @ self._log_odds)
            step0, step1 = (c * g0 - b * g1) / determinant, (a * g1 - b * g0) / determinant
            intercept, slope = intercept + step0, slope + step1
            if abs(step0) + abs(step1) < 1e-8:
                return slope
        return math.nan

    def shift(self, weights: Values) -> float:
        """Return the best intercept where the slope is 1; a step beyond the known bounds halves them instead."""
        shift, low, high = 0.0, -_LARGEST_SHIFT, _LARGEST_SHIFT
        for _ in range(_BOUNDED_STEPS):
            residual, curvature = self._derivatives(weights, shift + self._log_odds)
            slope, distance = float(curvature.sum()), float(residual.sum())
            low, high = (shift, high) if distance > 0 else (low, shift)
            step = distance / slope if slope > 0 else math.inf
            if abs(step) < 1e-10:
                return shift + step
            shift = shift + step if low < shift + step < high else (low + high) / 2
        return math.nan

    def _derivatives(self, weights: Values, log_odds: Values) -> tuple[Values, Values]:
        """Return the first and the negative second derivative of the log likelihood by each film's log odds."""
        p = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
        return weights * (self._positive - p), weights * p * (1 - p)


def macro_f1(target: npt.NDArray[np.intp], chosen: npt.NDArray[np.intp], classes: int, films: Films) -> Statistic:
    """Return the mean over the classes of the harmonic mean of precision and sensitivity.

    Classes that occur neither among the labels nor among the answers are left out.

    Parameters
    ----------
    target, chosen
        Shape (N,): indices of the classes, for the `films`.
    """

    def function(weights: Values) -> float:
        cells = np.bincount(target[films] * classes + chosen[films], weights[films], minlength=classes * classes)
        matrix = cells.reshape(classes, classes)
        either = matrix.sum(axis=0) + matrix.sum(axis=1)
        occurring = either > 0
        f1 = 2 * matrix.diagonal() / np.maximum(either, 1e-300)
        return float(f1[occurring].mean()) if occurring.any() else math.nan

    return Statistic(of=function, films=films)


def predictive_values(sensitivity: Statistic, specificity: Statistic, prevalence: float) -> tuple[Statistic, Statistic]:
    """Return PPV and NPV at a prevalence, by Bayes' theorem from sensitivity and specificity, which are shares."""

    def ppv(sensitivity: float, specificity: float) -> float:
        true, false = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
        return _ratio(true, true + false)

    def npv(sensitivity: float, specificity: float) -> float:
        true, false = (1 - prevalence) * specificity, prevalence * (1 - sensitivity)
        return _ratio(true, true + false)

    shares = sensitivity, specificity
    return (
        _of_shares(ppv, shares, "no film is called pneumonia"),
        _of_shares(npv, shares, "every film is called pneumonia"),
    )


def _of_shares(combine: Callable[..., float], shares: tuple[Statistic, ...], undefined: str) -> Statistic:
    return Statistic(
        of=lambda weights: combine(*(share.of(weights) for share in shares)),
        films=np.logical_or.reduce([share.films for share in shares]),
        needs={what: films for share in shares for what, films in share.needs.items()},
        undefined=undefined,
        shares=shares,
        combine=combine,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
