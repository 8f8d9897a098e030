"""Fit what turns the members' probabilities into a verdict: scaling, thresholds, limit of disagreement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from xray_batch.bundle import Manifest, OperatingPoints, Proportion
from xray_batch.classify import pool
from xray_batch.records import Finding, Scaling
from xray_batch.training.metrics import choose_thresholds, fit_scaling, indeterminate_band, measure, rates

#: Parts of the patients in cross-fitting: fitted on all but one, measured on that one.
FOLDS: Final = 5

#: Of the sample, so many hundredths disagree no more than the limit.
_AGREEING_PERCENT: Final = 99

#: Operating points by the names of their facts.
POINTS: Final = tuple(OperatingPoints.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the members say about labelled images."""

    members: npt.NDArray[np.float64]  #: shape (members, N, classes), each row summing to 1
    targets: npt.NDArray[np.bool_]  #: shape (N, classes): the findings that each label allows
    classes: Sequence[Finding]  #: in the order of both
    patients: Sequence[str]  #: length N: who each image shows
    changed: Sequence[npt.NDArray[np.float64]] = ()  #: likewise `members`, of the images changed in one way each

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """Which images have a pneumonia of any cause, shape (N,)."""
        normal: npt.NDArray[np.bool_] = self.targets[:, self.classes.index(Finding.NORMAL)]
        return ~normal

    @property
    def disagreement(self) -> npt.NDArray[np.float64]:
        """Largest minus smallest P(pneumonia) among the members, shape (N,), 0 to 1."""
        spread: npt.NDArray[np.float64] = np.ptp(self.members[:, :, self.classes.index(Finding.NORMAL)], axis=0)
        return spread

    def p_pneumonia(self, scaling: Scaling) -> npt.NDArray[np.float64]:
        """Calibrated probability of any pneumonia, shape (N,)."""
        return self._p_pneumonia(self.members, scaling)

    def changed_p_pneumonia(self, scaling: Scaling) -> list[npt.NDArray[np.float64]]:
        """Likewise of the images changed in each way."""
        return [self._p_pneumonia(members, scaling) for members in self.changed]

    def _p_pneumonia(self, members: npt.NDArray[np.float64], scaling: Scaling) -> npt.NDArray[np.float64]:
        pooled = pool(members, scaling, self.classes)
        p: npt.NDArray[np.float64] = 1 - pooled[:, self.classes.index(Finding.NORMAL)]
        return p

    def take(self, chosen: npt.NDArray[np.intp]) -> "Sample":
        """Return some of the images."""
        return Sample(
            members=self.members[:, chosen],
            targets=self.targets[chosen],
            classes=self.classes,
            patients=[self.patients[index] for index in chosen],
            changed=[members[:, chosen] for members in self.changed],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything that decides a verdict, beside the weights."""

    scaling: Scaling
    operating_points: OperatingPoints
    threshold_low: float
    threshold_high: float
    disagreement_limit: float


def fit_calibration(sample: Sample) -> Calibration:
    """Fit scaling, operating points, indeterminate band and limit of disagreement to one sample.

    Raises
    ------
    TrainingDataError
        If no thresholds can be chosen on it; see :func:`xray_batch.training.metrics.choose_thresholds`.
    """
    scaling, thresholds = _fit(sample)
    points = measure(thresholds, sample.positive, sample.p_pneumonia(scaling), sample.patients)
    low, high = indeterminate_band(points)
    return Calibration(
        scaling=scaling,
        operating_points=points,
        threshold_low=low,
        threshold_high=high,
        disagreement_limit=float(np.percentile(sample.disagreement, _AGREEING_PERCENT)),
    )


def _fit(sample: Sample) -> tuple[Scaling, dict[str, float]]:
    """Fit scaling and thresholds, by the names of the operating points, and measure nothing."""
    scaling = fit_scaling(sample.members, sample.positive, sample.classes)
    thresholds = choose_thresholds(sample.positive, sample.p_pneumonia(scaling), sample.changed_p_pneumonia(scaling))
    return scaling, thresholds


def measure_calibration(manifest: Manifest, sample: Sample) -> Calibration:
    """Return the calibration of a bundle, its operating points measured on another sample."""
    thresholds = {name: getattr(manifest.operating_points, name).threshold for name in POINTS}
    p_pneumonia = sample.p_pneumonia(manifest.scaling)
    return Calibration(
        scaling=manifest.scaling,
        operating_points=measure(thresholds, sample.positive, p_pneumonia, sample.patients),
        threshold_low=manifest.threshold_low,
        threshold_high=manifest.threshold_high,
        disagreement_limit=manifest.disagreement_limit,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFit:
    """What calibrations achieve on patients that they were not fitted to, all parts together."""

    p_pneumonia: npt.NDArray[np.float64]  #: calibrated probability of any pneumonia, shape (N,)
    called: dict[str, npt.NDArray[np.bool_]]  #: which images are at or above the threshold, per operating point
    sensitivity: dict[str, Proportion]  #: per operating point
    specificity: dict[str, Proportion]  #: likewise


def cross_fit(sample: Sample) -> CrossFit:
    """Fit to four fifths of the patients and measure on the other fifth, five times.

    Images of one patient are never both fitted to and measured on.

    Raises
    ------
    TrainingDataError
        As :func:`fit_calibration`, of a part.
    """
    positive = sample.positive
    p_pneumonia = np.zeros(len(positive))
    called = {name: np.zeros(len(positive), dtype=np.bool_) for name in POINTS}
    splitter = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    for fitted_to, measured in splitter.split(positive, positive, groups=np.asarray(sample.patients)):
        scaling, thresholds = _fit(sample.take(fitted_to))
        p_pneumonia[measured] = sample.take(measured).p_pneumonia(scaling)
        for name in POINTS:
            called[name][measured] = p_pneumonia[measured] >= thresholds[name]
    sensitivity, specificity = rates(called, positive, sample.patients)
    return CrossFit(p_pneumonia=p_pneumonia, called=called, sensitivity=sensitivity, specificity=specificity)
