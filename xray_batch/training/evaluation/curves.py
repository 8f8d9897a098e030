"""Curves with their bands, over fixed grids, so that samples can be compared point by point."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.records import Finding
from xray_batch.training.bootstrap import Estimate, PatientBootstrap, proportion
from xray_batch.training.evaluation.facts import CalibrationBin, Curve, Curves
from xray_batch.training.statistics import bin_starts

#: Labels in the order in which drawings show them.
LABEL_ORDER: Final = (Finding.NORMAL, Finding.BACTERIAL_PNEUMONIA, Finding.VIRAL_PNEUMONIA, "pneumonia")

_GRID: Final = np.linspace(0, 1, 201)
_THRESHOLDS: Final = np.linspace(0.01, 0.99, 99)
_HISTOGRAM_EDGES: Final = np.linspace(0, 1, 21)

Values = npt.NDArray[np.float64]
Films = npt.NDArray[np.bool_]


def measure_curves(
    positive: Films, probability: Values, labels: npt.NDArray[np.str_], bootstrap: PatientBootstrap
) -> Curves:
    """Measure what the drawings show.

    Parameters
    ----------
    positive, probability, labels
        Shape (N,): whether each film has pneumonia, its P(pneumonia), its label.
    """
    has_both = bootstrap.has_enough(positive) and bootstrap.has_enough(~positive)
    lines = _Lines(positive, probability)
    return Curves(
        roc=_curve(_GRID, lines.sensitivities, bootstrap) if has_both else None,
        precision_recall=_curve(_GRID[1:], lines.precisions, bootstrap) if has_both else None,
        calibration=_calibration(positive, probability),
        net_benefit=_curve(_THRESHOLDS, lines.net_benefits, bootstrap) if has_both else None,
        net_benefit_treat_all=_curve(_THRESHOLDS, lines.net_benefits_of_all, bootstrap) if has_both else None,
        histogram_edges=tuple(_HISTOGRAM_EDGES.tolist()),
        histogram={
            str(label): tuple(np.histogram(probability[labels == label], _HISTOGRAM_EDGES)[0].tolist())
            for label in LABEL_ORDER
            if (labels == label).any()
        },
    )


class _Lines:
    """Curves as functions of how often each film is in a sample; films from the most to the least probable."""

    def __init__(self, positive: Films, probability: Values) -> None:
        self._order = np.argsort(-probability, kind="stable")
        ordered = probability[self._order]
        self._ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
        self._positive = positive[self._order]
        self._called = np.searchsorted(-ordered, -_THRESHOLDS, side="right")  # films at or above each threshold

    def _counts(self, weights: Values) -> tuple[Values, Values]:
        """Return true and false positives of each distinct threshold."""
        ordered = weights[self._order]
        found = np.where(self._positive, ordered, 0.0).cumsum()
        return found[self._ends], (ordered.cumsum() - found)[self._ends]

    def sensitivities(self, weights: Values) -> Values:
        """Return the best sensitivity at each false positive rate of the grid."""
        found, false = (np.concatenate([[0.0], part]) for part in self._counts(weights))
        if not found[-1] or not false[-1]:
            return np.full(len(_GRID), np.nan)
        at = np.searchsorted(false / false[-1], _GRID + 1e-12, side="right") - 1
        sensitivities: Values = found[at] / found[-1]
        return sensitivities

    def precisions(self, weights: Values) -> Values:
        """Return the PPV at the highest threshold that reaches each sensitivity of the grid."""
        found, false = self._counts(weights)
        if not found[-1] or not false[-1]:
            return np.full(len(_GRID) - 1, np.nan)
        at = np.searchsorted(found / found[-1], _GRID[1:] - 1e-12)
        return found[at] / (found[at] + false[at])

    def net_benefits(self, weights: Values) -> Values:
        """Return the net benefit at each threshold.

        Vickers and Elkin, "Decision Curve Analysis: A Novel Method for Evaluating Prediction Models", 2006.
        """
        ordered = weights[self._order]
        found = np.concatenate([[0.0], np.where(self._positive, ordered, 0.0).cumsum()])[self._called]
        called = np.concatenate([[0.0], ordered.cumsum()])[self._called]
        return _net_benefit(found, called - found, float(ordered.sum()))

    def net_benefits_of_all(self, weights: Values) -> Values:
        """Return the net benefit of calling every film pneumonia."""
        ordered = weights[self._order]
        found = float(ordered[self._positive].sum())
        return _net_benefit(found, float(ordered.sum()) - found, float(ordered.sum()))


def _net_benefit(found: Values | float, false: Values | float, films: float) -> Values:
    benefit: Values = (found - false * _THRESHOLDS / (1 - _THRESHOLDS)) / films
    return benefit


def _curve(x: Values, line: Callable[[Values], Values], bootstrap: PatientBootstrap) -> Curve:
    samples = np.array([line(weights) for weights in bootstrap.weights()])
    usable = samples[np.isfinite(samples).all(axis=1)]
    y = line(bootstrap.unweighted)
    low, high = np.percentile(usable, [2.5, 97.5], axis=0) if len(usable) else (y, y)
    return Curve(x=tuple(x.tolist()), y=tuple(y.tolist()), low=tuple(low.tolist()), high=tuple(high.tolist()))


def _calibration(positive: Films, probability: Values) -> tuple[CalibrationBin, ...]:
    distinct, films = np.unique(probability, return_counts=True)
    edges = distinct[bin_starts(films)]
    place = np.searchsorted(edges, probability, side="right")
    parts = [place == number for number in range(1, len(edges) + 1)]
    return tuple(
        CalibrationBin(probability=float(probability[part].mean()), observed=_share(positive[part])) for part in parts
    )


def _share(chosen: Films) -> Estimate:
    return Estimate(**proportion(int(chosen.sum()), len(chosen)).model_dump())
