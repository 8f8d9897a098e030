"""Confidence intervals by a bootstrap over patients.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentile interval); whole
patients are drawn, since films of one patient resemble each other (Davison and Hinkley, "Bootstrap Methods and
their Application", 1997, section 3.8).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.training.evaluation.facts import Estimate
from xray_batch.training.evaluation.statistics import Statistic
from xray_batch.training.metrics import proportion

#: Fewer patients than this say too little for an interval.
LEAST_PATIENTS: Final = 10

_INTERVAL: Final = (2.5, 97.5)


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
            name: "the probabilities do not allow it: classes wholly apart, or all films alike"
            for name, value in values.items()
            if name not in missing and not np.isfinite(value)
        }
        measured = {name: statistic for name, statistic in statistics.items() if name not in missing}
        spread = np.array([[statistic.of(weights) for statistic in measured.values()] for weights in self.weights()])
        estimates = {
            name: self._estimate(statistic, values[name], spread[:, index])
            for index, (name, statistic) in enumerate(measured.items())
        }
        return estimates, missing

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

    def _estimate(self, statistic: Statistic, value: float, spread: npt.NDArray[np.float64]) -> Estimate:
        finite = spread[np.isfinite(spread)]
        low, high = np.percentile(finite, _INTERVAL) if len(finite) else (value, value)
        if statistic.is_share and value in (0.0, 1.0):
            # All films are alike, so all samples are: Wilson's interval over the patients says what that is worth.
            patients = self._patients(statistic.films)
            wilson = proportion(round(value * patients), patients)
            low, high = wilson.low, wilson.high
        return Estimate(value=value, low=float(low), high=float(high), n=int(statistic.films.sum()))
