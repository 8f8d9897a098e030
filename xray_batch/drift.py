"""How far the films of a site have moved from those that a bundle was measured on: the population stability index.

May import: numpy, and ``records`` and ``errors`` of this package.

The index is that of credit scoring: over the bins of a reference, with the shares `e` of the reference and `a` of what
is looked at, ``PSI = sum((a - e) * ln(a / e))``.  It knows no labels: a shift says that the films, the patients or the
devices are others than those the bundle was measured on, not that the answers are wrong; and answers can be wrong
without one.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.records import DriftReference, ReferenceBins

#: Bins of a reference, with a tenth of its films in each.
BINS: Final = 10

#: Below it a shift is called insignificant, from the next on major: rules of thumb (E. M. Lewis, "An Introduction to
#: Credit Scoring", 1992; N. Siddiqi, "Credit Risk Scorecards", 2006).
MODERATE_FROM: Final = 0.1
LARGE_FROM: Final = 0.25

#: Films that an empty bin counts as, where its logarithm would be infinite.
_EMPTY: Final = 0.5

#: Of chi-squared with BINS - 1 degrees of freedom: its mean, and what 95 % of it lie below.
_CHI_SQUARED_MEAN: Final = BINS - 1
_CHI_SQUARED_95: Final = 16.919


class Band(enum.StrEnum):
    """What the usual rules of thumb call an index."""

    STABLE = "stable"
    MODERATE = "moderate"
    LARGE = "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far one number has moved."""

    results: int  #: counted
    index: float | None  #: the population stability index, 0 or more; None below `least_results`
    expected: float | None  #: the index that so many results have on average without any drift; None without results
    least_results: int | None  #: see :func:`least_results`

    @property
    def band(self) -> Band | None:
        """What the index is called; None where there is none."""
        if self.index is None:
            return None
        if self.index < MODERATE_FROM:
            return Band.STABLE
        return Band.MODERATE if self.index < LARGE_FROM else Band.LARGE


def take_bins(values: npt.NDArray[np.float64]) -> ReferenceBins:
    """Make a reference of films: their deciles, and the share of them in each bin.

    Parameters
    ----------
    values
        Shape (N,), finite; one number for each film.
    """
    edges = np.quantile(values, np.arange(1, BINS) / BINS)
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=BINS)
    return ReferenceBins(edges=tuple(edges.tolist()), shares=tuple((counts / len(values)).tolist()), n=len(values))


def take_reference(p_pneumonia: npt.NDArray[np.float64], inputs: npt.NDArray[np.float64]) -> DriftReference:
    """Make a reference of films.

    Parameters
    ----------
    p_pneumonia
        Shape (N,), calibrated as in service, of films that the members were not trained on.
    inputs
        Shape (N, 2): mean and SD of each model input, before it was standardized.
    """
    return DriftReference(
        p_pneumonia=take_bins(p_pneumonia), input_mean=take_bins(inputs[:, 0]), input_std=take_bins(inputs[:, 1])
    )


def least_results(n: int) -> int | None:
    """Return how many results an index takes against `n` reference films; None where no number is enough.

    So many that in 19 of 20 cases chance alone stays below :data:`MODERATE_FROM`: without drift the index of `results`
    is distributed as ``(1 / results + 1 / n)`` times chi-squared with 9 degrees of freedom (B. Yurdakul, "Statistical
    Properties of Population Stability Index", 2018).  523 films take 251 results, 1,000 take 204, and fewer than 170
    films are no reference for any number of results.
    """
    left = MODERATE_FROM / _CHI_SQUARED_95 - 1 / n
    return math.ceil(1 / left) if left > 0 else None


def measure_drift(counts: Sequence[int], bins: ReferenceBins) -> Drift:
    """Compare results with the reference films.

    Parameters
    ----------
    counts
        Results in each bin, such as the sums over several of :attr:`xray_batch.records.Trend.counts`.
    """
    results, least = sum(counts), least_results(bins.n)
    return Drift(
        results=results,
        index=_stability_index(counts, bins) if least is not None and results >= least else None,
        expected=_CHI_SQUARED_MEAN * (1 / results + 1 / bins.n) if results else None,
        least_results=least,
    )


def _stability_index(counts: Sequence[int], bins: ReferenceBins) -> float:
    found, results = np.asarray(counts, np.float64), sum(counts)
    actual = np.maximum(found, _EMPTY) / results
    expected = np.maximum(np.asarray(bins.shares), _EMPTY / bins.n)
    return float(np.sum((actual - expected) * np.log(actual / expected)))
