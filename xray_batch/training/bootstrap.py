"""Confidence intervals: Wilson's of a share, and of everything by a bootstrap over patients.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentile interval); whole
patients are drawn, since films of one patient resemble each other (Davison and Hinkley, "Bootstrap Methods and
their Application", 1997, section 3.8).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest

from xray_batch.bundle import Proportion
from xray_batch.training.statistics import Statistic, Values

#: Samples of the bootstrap.
RESAMPLES: Final = 2000

#: Fewer patients than this say too little for an interval.
LEAST_PATIENTS: Final = 10

#: Where fewer of the samples than this give a number, those that do are no sample of what could have been.
_LEAST_MEASURED: Final = 0.95

_INTERVAL: Final = (2.5, 97.5)


class Estimate(BaseModel):
    """One figure with its 95 % confidence interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    n: int  #: films that it was measured on


def proportion(successes: int, n: int) -> Proportion:
    """Give a share with its Wilson interval.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Proportion(value=successes / n, low=interval.low, high=interval.high, n=n)


class PatientBootstrap:
    """Samples of the patients, drawn with replacement; the same ones every time.

    Parameters
    ----------
    patients
        Of each film, length N.
    resamples
        How many samples.
    """

    def __init__(self, patients: Sequence[str], *, resamples: int, seed: int) -> None:
        self.resamples = resamples
        self._seed = seed
        _, self._patient = np.unique(np.asarray(patients), return_inverse=True)
        self._count = int(self._patient.max()) + 1

    @property
    def unweighted(self) -> Values:
        """Weights of the films as they are: 1 each."""
        return np.ones(len(self._patient))

    def weights(self) -> Iterator[npt.NDArray[np.float64]]:
        """Yield, for each sample, how often each film is in it: shape (N,)."""
        random = np.random.default_rng(self._seed)
        for _ in range(self.resamples):
            drawn = np.bincount(random.integers(0, self._count, self._count), minlength=self._count)
            yield drawn[self._patient].astype(np.float64)

    def estimate(self, statistics: Mapping[str, Statistic]) -> tuple[dict[str, Estimate], dict[str, str]]:
        """Measure statistics, all of them on the same samples.

        Returns
        -------
        tuple
            Estimates by name, and by name why the others cannot be measured.
        """
        missing = {name: why for name, statistic in statistics.items() if (why := self._obstacle(statistic))}
        values = {name: statistic.of(statistic.unweighted) for name, statistic in statistics.items()}
        missing |= {
            name: statistics[name].undefined
            for name, value in values.items()
            if name not in missing and not np.isfinite(value)
        }
        measured = {name: statistic for name, statistic in statistics.items() if name not in missing}
        spread = self._spread(measured.values())
        estimates = {}
        for name, statistic in measured.items():
            interval = self._interval(statistic, spread)
            if isinstance(interval, str):
                missing[name] = interval
            else:
                low, high = interval
                estimates[name] = Estimate(value=values[name], low=low, high=high, n=int(statistic.films.sum()))
        return estimates, missing

    def bounds(self, statistics: Sequence[Statistic]) -> list[tuple[float, float]]:
        """Return the interval of each, from the samples that allow it, however few patients there are.

        A share of the films of few patients, and a share of 0 or 1, has Wilson's interval over the patients.
        """
        spread = self._spread(statistics)
        return [
            self._wilson(statistic)
            if statistic.is_share and (_is_certain(statistic) or not self.has_enough(statistic.films))
            else _percentiles(spread[id(statistic)], statistic)
            for statistic in statistics
        ]

    def _spread(self, statistics: Iterable[Statistic]) -> dict[int, Values]:
        """Return, by the id of each statistic and of the shares that it is made of, its value in every sample."""
        all_of_them = {id(part): part for statistic in statistics for part in (statistic, *statistic.shares)}
        samples = [[part.of(weights) for part in all_of_them.values()] for weights in self.weights()]
        return dict(zip(all_of_them, np.array(samples).T, strict=True))

    def _obstacle(self, statistic: Statistic) -> str | None:
        for what, films in (statistic.needs or {"at all": statistic.films}).items():
            if not films.any():
                return f"there are no films {what}"
            if not self.has_enough(films):
                return f"fewer than {LEAST_PATIENTS} patients have films {what}"
        return None

    def has_enough(self, films: npt.NDArray[np.bool_]) -> bool:
        """Whether films, shape (N,), show enough patients for an interval."""
        return self._patients(films) >= LEAST_PATIENTS

    def _patients(self, films: npt.NDArray[np.bool_]) -> int:
        return len(np.unique(self._patient[films]))

    def _interval(self, statistic: Statistic, spread: Mapping[int, Values]) -> tuple[float, float] | str:
        """Return the bounds, or why there are none."""
        if statistic.combine and any(_is_certain(share) for share in statistic.shares):
            bounds = [self._interval(share, spread) for share in statistic.shares]
            known = [each for each in bounds if not isinstance(each, str)]
            if len(known) < len(bounds):
                return next(each for each in bounds if isinstance(each, str))
            low, high = (statistic.combine(*(each[side] for each in known)) for side in (0, 1))
            return low, high
        if statistic.is_share and _is_certain(statistic):
            return self._wilson(statistic)
        values = spread[id(statistic)]
        finite = int(np.isfinite(values).sum())
        if finite < _LEAST_MEASURED * self.resamples:
            return f"only {finite} of {self.resamples} samples of the patients allow it, too few for an interval"
        return _percentiles(values, statistic)

    def _wilson(self, share: Statistic) -> tuple[float, float]:
        """Return Wilson's interval over the patients: where all films are alike all samples are, and tell nothing."""
        patients = self._patients(share.films)
        wilson = proportion(round(share.of(share.unweighted) * patients), patients)
        return wilson.low, wilson.high


def _is_certain(share: Statistic) -> bool:
    return share.of(share.unweighted) in (0.0, 1.0)


def _percentiles(values: Values, statistic: Statistic) -> tuple[float, float]:
    """Return the percentiles, widened to hold the value: all samples of a calibration error near 0 are above it."""
    low, high = np.percentile(values[np.isfinite(values)], _INTERVAL).tolist()
    value = statistic.of(statistic.unweighted)
    return min(low, value), max(high, value)
