"""Every figure of a report but the stress set, from predictions and the facts of a bundle.

Thresholds, temperature and limits are the bundle's.  Nothing is fitted to the films that are measured.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Manifest
from xray_batch.classify import pool
from xray_batch.errors import TrainingDataError
from xray_batch.records import Finding, Outcome
from xray_batch.training.bootstrap import RESAMPLES, Estimate, PatientBootstrap
from xray_batch.training.evaluation.curves import measure_curves
from xray_batch.training.evaluation.facts import (
    BandFacts,
    Covid19Facts,
    Curves,
    FindingFacts,
    NotMeasured,
    OperatingPointFacts,
    PneumoniaFacts,
    PredictiveValues,
    Subgroup,
    Tally,
)
from xray_batch.training.evaluation.predictions import Analysed, Predictions, verdict
from xray_batch.training.evaluation.subgroups import measure_subgroups
from xray_batch.training.statistics import (
    Statistic,
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

#: Shares of patients with pneumonia that predictive values are given for.
PREVALENCES: Final = (0.05, 0.20, 0.60)

#: Findings that are told apart; COVID-19 is not among them.
TOLD_APART: Final = (Finding.NORMAL, Finding.BACTERIAL_PNEUMONIA, Finding.VIRAL_PNEUMONIA)

#: The bundle's operating points, and their names for people.
OPERATING_POINTS: Final = {
    "balanced": "balanced",
    "high_sensitivity": "high sensitivity",
    "high_specificity": "high specificity",
}

WITH: Final = "with pneumonia"
WITHOUT: Final = "without pneumonia"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Figures of a report; fields as those of :class:`xray_batch.training.evaluation.facts.Report`."""

    tallies: tuple[Tally, ...]
    pneumonia: PneumoniaFacts
    findings: FindingFacts | None
    covid19: Covid19Facts | None
    subgroups: tuple[Subgroup, ...]
    attributes_unknown: tuple[str, ...]
    curves: Curves
    not_measured: tuple[NotMeasured, ...]


def measure(
    predictions: Predictions, manifest: Manifest, *, covid19: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Measurement:
    """Measure a bundle on labelled films.

    Parameters
    ----------
    predictions
        Of that bundle, or of members that were trained in the same way (out of fold).
    covid19
        Whether the COVID-19 class is measured, too.

    Raises
    ------
    TrainingDataError
        If no film was analysed; the message says why the first was not.
    """
    _check_analysed(predictions)
    analysed = predictions.analysed
    headline = headline_films(analysed)
    if not headline.films:
        message = (
            "all films that could be analysed are labelled covid19_pneumonia, and there is nothing else to measure"
        )
        raise TrainingDataError(message)
    measured = _Measured(headline, manifest, PatientBootstrap(headline.patients, resamples=resamples, seed=seed))
    subgroups, unknown = measure_subgroups(headline.films, measured.positive, measured.called, measured.bootstrap)
    covid = _Covid19(analysed, manifest, PatientBootstrap(analysed.patients, resamples=resamples, seed=seed))
    pneumonia, findings = measured.pneumonia(), measured.findings()
    return Measurement(
        tallies=_tallies(predictions, manifest),
        pneumonia=pneumonia,
        findings=findings,
        covid19=covid.facts() if covid19 else None,
        subgroups=subgroups,
        attributes_unknown=unknown,
        curves=measure_curves(measured.positive, measured.probability, headline.labels, measured.bootstrap),
        not_measured=(*measured.not_measured, *covid.not_measured),
    )


def headline_films(analysed: Analysed) -> Analysed:
    """Leave out films labelled COVID-19: they come from other sources than the normal ones."""
    return analysed.take(analysed.labels != Finding.COVID19_PNEUMONIA)


def _check_analysed(predictions: Predictions) -> None:
    """Refuse predictions without a single film that was analysed.

    Raises
    ------
    TrainingDataError
        Naming the first film, and why it was not.
    """
    if any(film.members is not None for film in predictions.films):
        return
    first = predictions.films[0]
    why = f"{first.rejection.reason_code}: {first.rejection.reason}" if first.rejection else "no reason is known"
    message = f"none of the {len(predictions.films)} films could be analysed; the first is {first.image.path} ({why})"
    raise TrainingDataError(message)


def _tallies(predictions: Predictions, manifest: Manifest) -> tuple[Tally, ...]:
    """Count what became of the films, by source and label."""
    kinds = sorted({(film.image.source, film.image.label) for film in predictions.films})
    tallies = []
    for source, label in kinds:
        films = [film for film in predictions.films if (film.image.source, film.image.label) == (source, label)]
        verdicts = [verdict(film, predictions.classes, manifest) for film in films]
        outcomes = Counter(Outcome.NOT_ANALYSED if found is None else found.outcome for found in verdicts)
        reasons = Counter(str(film.rejection.reason_code) for film in films if film.rejection)
        tallies.append(
            Tally(
                source=source,
                label=label,
                films=len(films),
                patients=len({film.image.patient for film in films}),
                outcomes={outcome: outcomes[outcome] for outcome in Outcome},
                not_analysed=dict(sorted(reasons.items())),
            )
        )
    return tuple(tallies)


class _Measured:
    """Measures the headline figures, and keeps why some cannot be."""

    def __init__(self, films: Analysed, manifest: Manifest, bootstrap: PatientBootstrap) -> None:
        self.bootstrap = bootstrap
        self.not_measured: list[NotMeasured] = []
        self._films = films
        self._manifest = manifest
        self._normal = films.classes.index(Finding.NORMAL)
        self.positive = films.positive
        self._members = films.members
        self._pooled = pool(self._members, manifest.scaling, films.classes)
        self.probability: npt.NDArray[np.float64] = 1 - self._pooled[:, self._normal]
        self.called: npt.NDArray[np.bool_] = self.probability >= manifest.operating_points.balanced.threshold
        self._all = np.ones(len(self.positive), np.bool_)

    def pneumonia(self) -> PneumoniaFacts:
        """Measure pneumonia against normal."""
        positive, probability = self.positive, self.probability
        slope, in_the_large = recalibration(positive, probability)
        statistics = {
            "AUROC": area_under_roc(positive, probability, self._all),
            "average precision": average_precision(positive, probability, self._all),
            "Brier score": mean((probability - positive) ** 2, self._all),
            "log loss": mean(log_loss(positive, probability), self._all),
            "expected calibration error": calibration_error(positive, probability),
            "calibration slope": slope,
            "calibration in the large": in_the_large,
        }
        architectures = [member.architecture for member in self._manifest.members]
        members = {
            f"AUROC of {architecture} alone": area_under_roc(positive, 1 - member[:, self._normal], self._all)
            for architecture, member in zip(architectures, self._members, strict=True)
        }
        found = self._estimate(statistics | members)
        return PneumoniaFacts(
            films=len(positive),
            patients=len(set(self._films.patients)),
            with_pneumonia=int(positive.sum()),
            without_pneumonia=int((~positive).sum()),
            auroc=found.get("AUROC"),
            average_precision=found.get("average precision"),
            brier_score=found.get("Brier score"),
            log_loss=found.get("log loss"),
            calibration_error=found.get("expected calibration error"),
            calibration_slope=found.get("calibration slope"),
            calibration_in_the_large=found.get("calibration in the large"),
            member_auroc={name: found.get(f"AUROC of {name} alone") for name in architectures},
            operating_points=tuple(self._operating_point(key) for key in OPERATING_POINTS),
            band=self._band(),
        )

    def _operating_point(self, key: str) -> OperatingPointFacts:
        threshold = getattr(self._manifest.operating_points, key).threshold
        name, positive, called = OPERATING_POINTS[key], self.positive, self.probability >= threshold
        sensitivity = share(called, positive, WITH)
        specificity = share(~called, ~positive, WITHOUT)
        statistics = {
            f"{name}: accuracy": share(called == positive, self._all, "at all"),
            f"{name}: sensitivity": sensitivity,
            f"{name}: specificity": specificity,
        }
        for prevalence in PREVALENCES:
            ppv, npv = predictive_values(sensitivity, specificity, prevalence)
            statistics |= {f"{name}: PPV at {prevalence:.0%}": ppv, f"{name}: NPV at {prevalence:.0%}": npv}
        found = self._estimate(statistics)
        return OperatingPointFacts(
            name=name,
            threshold=threshold,
            accuracy=found.get(f"{name}: accuracy"),
            sensitivity=found.get(f"{name}: sensitivity"),
            specificity=found.get(f"{name}: specificity"),
            predictive_values=tuple(
                PredictiveValues(
                    prevalence=prevalence,
                    ppv=found.get(f"{name}: PPV at {prevalence:.0%}"),
                    npv=found.get(f"{name}: NPV at {prevalence:.0%}"),
                )
                for prevalence in PREVALENCES
            ),
            true_positives=int((called & positive).sum()),
            false_negatives=int((~called & positive).sum()),
            false_positives=int((called & ~positive).sum()),
            true_negatives=int((~called & ~positive).sum()),
        )

    def _band(self) -> BandFacts:
        manifest = self._manifest
        outcomes = np.array(
            [said.outcome for film in self._films.films if (said := verdict(film, self._films.classes, manifest))]
        )
        covered, called = outcomes != Outcome.INDETERMINATE, outcomes == Outcome.PNEUMONIA
        found = self._estimate(
            {
                "outside the band: coverage": share(covered, self._all, "at all"),
                "outside the band: accuracy": share(called == self.positive, covered, "with an answer"),
                "outside the band: sensitivity": share(called, covered & self.positive, f"with an answer {WITH}"),
                "outside the band: specificity": share(~called, covered & ~self.positive, f"with an answer {WITHOUT}"),
            }
        )
        return BandFacts(
            threshold_low=manifest.threshold_low,
            threshold_high=manifest.threshold_high,
            disagreement_limit=manifest.disagreement_limit,
            **{
                name: found.get(f"outside the band: {name}")
                for name in ("coverage", "accuracy", "sensitivity", "specificity")
            },
        )

    def findings(self) -> FindingFacts | None:
        """Measure how well findings are told apart; None where no source has kinds of pneumonia to tell apart."""
        labels, classes = self._films.labels, self._films.classes
        fine = _told_apart(self._films)
        target = np.array([TOLD_APART.index(label) if label in TOLD_APART else 0 for label in labels.tolist()])
        probabilities = self._pooled[:, [classes.index(finding) for finding in TOLD_APART]]
        chosen = probabilities.argmax(axis=1)
        if not fine.any():
            self._miss("findings told apart", "no source has films of bacterial and of viral pneumonia")
            return None
        bacterial, viral = probabilities[:, 1], probabilities[:, 2]
        of_known_cause = fine & (target > 0)
        is_bacterial = target == 1
        share_of_bacterial = bacterial / np.maximum(bacterial + viral, np.finfo(np.float64).tiny)
        found = self._estimate(
            {
                "findings: accuracy": share(target == chosen, fine, "whose label names a finding"),
                "findings: macro-F1": macro_f1(target, chosen, len(TOLD_APART), fine),
                "bacterial against viral: AUROC": area_under_roc(is_bacterial, share_of_bacterial, of_known_cause),
                "bacterial against viral: accuracy": share(
                    is_bacterial == (bacterial >= viral), of_known_cause, "with pneumonia of a known cause"
                ),
            }
        )
        confusion = np.bincount(target[fine] * len(TOLD_APART) + chosen[fine], minlength=len(TOLD_APART) ** 2)
        rows = confusion.reshape(len(TOLD_APART), len(TOLD_APART)).tolist()
        return FindingFacts(
            classes=TOLD_APART,
            films=int(fine.sum()),
            accuracy=found.get("findings: accuracy"),
            macro_f1=found.get("findings: macro-F1"),
            confusion=tuple(tuple(row) for row in rows),
            bacterial_against_viral_auroc=found.get("bacterial against viral: AUROC"),
            bacterial_against_viral_accuracy=found.get("bacterial against viral: accuracy"),
        )

    def _estimate(self, statistics: Mapping[str, Statistic]) -> dict[str, Estimate]:
        found, missing = self.bootstrap.estimate(statistics)
        for figure, why in missing.items():
            self._miss(figure, why)
        return found

    def _miss(self, figure: str, why: str) -> None:
        self.not_measured.append(NotMeasured(figure=figure, why=why))


def _told_apart(films: Analysed) -> npt.NDArray[np.bool_]:
    """Tell which films have a label that names a finding, and a source with bacterial and viral pneumonias; shape (N,).

    Of a source with coarse labels the normal films would count and the others not: the figure would be too good.
    """
    labels = films.labels
    sources = np.array([film.image.source for film in films.films])
    bacterial, viral = (
        set(sources[labels == kind].tolist()) for kind in (Finding.BACTERIAL_PNEUMONIA, Finding.VIRAL_PNEUMONIA)
    )
    chosen: npt.NDArray[np.bool_] = np.isin(labels, TOLD_APART) & np.isin(sources, list(bacterial & viral))
    return chosen


class _Covid19:
    """Measures the COVID-19 class on all films that were analysed."""

    def __init__(self, films: Analysed, manifest: Manifest, bootstrap: PatientBootstrap) -> None:
        self.not_measured: list[NotMeasured] = []
        self._films = films
        self._manifest = manifest
        self._bootstrap = bootstrap

    def facts(self) -> Covid19Facts:
        """Measure it, and keep why some figures cannot be."""
        pooled = pool(self._films.members, self._manifest.scaling, self._films.classes)
        is_covid = self._films.labels == Finding.COVID19_PNEUMONIA
        p_covid = pooled[:, self._films.classes.index(Finding.COVID19_PNEUMONIA)]
        p_pneumonia = 1 - pooled[:, self._films.classes.index(Finding.NORMAL)]
        called = p_pneumonia >= self._manifest.operating_points.balanced.threshold
        everything = np.ones(len(is_covid), np.bool_)
        found, missing = self._bootstrap.estimate(
            {
                "COVID-19: AUROC": area_under_roc(is_covid, p_covid, everything),
                "COVID-19: called pneumonia": share(called, is_covid, "labelled covid19_pneumonia"),
            }
        )
        self.not_measured += [NotMeasured(figure=figure, why=why) for figure, why in missing.items()]
        return Covid19Facts(
            films=int(is_covid.sum()),
            auroc=found.get("COVID-19: AUROC"),
            called_pneumonia=found.get("COVID-19: called pneumonia"),
        )
