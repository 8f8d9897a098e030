"""Figures of a report: what they are about, and whose thresholds they are at."""

from dataclasses import replace

import numpy as np
import pytest
from bundle_factory import make_manifest
from made_up_predictions import make_predictions

from xray_batch.errors import ReasonCode, TrainingDataError
from xray_batch.records import Outcome, Rejection
from xray_batch.training.evaluation.measurement import measure
from xray_batch.training.evaluation.predictions import FilmPrediction, Predictions

FEW = {"resamples": 100}


def refuse(predictions, indices):
    """Return the same predictions, with some films refused."""
    rejection = Rejection(reason_code=ReasonCode.OUT_OF_DISTRIBUTION, reason="No chest.")
    films = tuple(
        FilmPrediction(image=film.image, members=None, rejection=rejection) if index in indices else film
        for index, film in enumerate(predictions.films)
    )
    return Predictions(
        films=films,
        architectures=predictions.architectures,
        classes=predictions.classes,
        model_sha256=predictions.model_sha256,
    )


def test_every_film_is_counted(manifest):
    """Each film is in one tally under one outcome; refused ones have their reason."""
    labels = ["normal", "normal", "normal", "viral_pneumonia", "viral_pneumonia", "pneumonia"]
    predictions = refuse(make_predictions(labels, [0.1, 0.5, 0.9, 0.9, 0.29, 0.7]), {4})
    tallies = {tally.label: tally for tally in measure(predictions, manifest, **FEW).tallies}
    assert sum(tally.films for tally in tallies.values()) == 6
    assert tallies["normal"].outcomes == {
        Outcome.PNEUMONIA: 1,
        Outcome.NORMAL: 1,
        Outcome.INDETERMINATE: 1,
        Outcome.NOT_ANALYSED: 0,
    }
    assert tallies["viral_pneumonia"].outcomes[Outcome.NOT_ANALYSED] == 1
    assert tallies["viral_pneumonia"].not_analysed == {"out_of_distribution": 1}
    assert tallies["pneumonia"].outcomes[Outcome.PNEUMONIA] == 1


def test_thresholds_are_those_of_the_bundle(manifest):
    """Each operating point's counts are at its locked threshold, though another would be better on these films."""
    labels = ["normal"] * 20 + ["viral_pneumonia"] * 20
    p = [0.35] * 10 + [0.65] * 10 + [0.66] * 10 + [0.8] * 10
    points = measure(make_predictions(labels, p), manifest, **FEW).pneumonia.operating_points
    assert [(point.name, point.threshold) for point in points] == [
        ("balanced", 0.4),
        ("high sensitivity", 0.3),
        ("high specificity", 0.7),
    ]
    assert [(point.true_positives, point.false_positives) for point in points] == [(20, 10), (20, 20), (10, 0)]
    assert [(point.sensitivity.value, point.specificity.value) for point in points] == [(1, 0.5), (1, 0), (0.5, 1)]
    assert points[0].accuracy.value == 0.75
    assert points[0].predictive_values[1].ppv.value == pytest.approx(0.2 / (0.2 + 0.8 * 0.5))


def test_temperature_is_that_of_the_bundle(manifest):
    """Probabilities are calibrated with the bundle's temperature before anything is measured."""
    predictions = make_predictions(["normal", "viral_pneumonia"] * 10, [0.2, 0.9] * 10)
    plain = measure(predictions, manifest, **FEW).pneumonia.brier_score
    warm = measure(predictions, manifest.model_copy(update={"temperature": 3.0}), **FEW).pneumonia.brier_score
    shifted = measure(predictions, manifest.model_copy(update={"log_odds_shift": -2.0}), **FEW).pneumonia.brier_score
    assert shifted.value > plain.value
    assert warm.value > plain.value == pytest.approx((0.2**2 + 0.1**2) / 2)


def test_the_band_sets_the_uncertain_aside(manifest):
    """Coverage is the share outside the band, accuracy that of the answers there."""
    labels = ["normal"] * 20 + ["viral_pneumonia"] * 20
    p = [0.1] * 15 + [0.5] * 5 + [0.9] * 15 + [0.1] * 5
    band = measure(make_predictions(labels, p), manifest, **FEW).pneumonia.band
    assert band.coverage.value == 35 / 40
    assert (band.accuracy.value, band.accuracy.n) == (30 / 35, 35)
    assert (band.sensitivity.value, band.specificity.value) == (15 / 20, 1)


def test_disagreement_is_outside_the_coverage(manifest):
    """A film on which the members differ by more than the limit has no answer, however sure their mean."""
    predictions = make_predictions(["normal", "viral_pneumonia"] * 10, [0.1, 0.9] * 10)
    strict = manifest.model_copy(update={"disagreement_limit": -1.0})
    band = measure(predictions, strict, **FEW).pneumonia.band
    assert band.coverage.value == 0
    assert band.accuracy is None


def test_covid19_is_in_no_headline(manifest):
    """Films with this label are tallied, measured on request alone, and change no other figure."""
    labels = ["normal", "viral_pneumonia", "normal", "bacterial_pneumonia"] * 10
    p = [0.2, 0.9, 0.6, 0.5, 0.1, 0.8, 0.3, 0.7] * 5
    without = measure(make_predictions(labels, p), manifest, **FEW)
    predictions = make_predictions(labels + ["covid19_pneumonia"] * 12, p + [0.01] * 12)
    with_covid = measure(predictions, manifest, **FEW)
    on_request = measure(predictions, manifest, covid19=True, **FEW)
    assert with_covid.pneumonia == without.pneumonia
    assert with_covid.findings == without.findings
    assert with_covid.subgroups == without.subgroups
    assert {tally.label: tally.films for tally in with_covid.tallies}["covid19_pneumonia"] == 12
    assert with_covid.covid19 is None
    assert on_request.covid19.films == 12
    assert on_request.covid19.called_pneumonia.value == 0
    assert on_request.covid19.auroc.n == 52


def test_findings(manifest):
    """Three findings by the likeliest of them; bacterial against viral among films labelled so."""
    labels = ["normal"] * 12 + ["bacterial_pneumonia"] * 12 + ["viral_pneumonia"] * 12 + ["pneumonia"] * 12
    findings = measure(make_predictions(labels, [0.2] * 12 + [0.9] * 36), manifest, **FEW).findings
    assert findings.films == 36
    assert findings.confusion == ((12, 0, 0), (0, 12, 0), (0, 12, 0))
    assert findings.accuracy.value == pytest.approx(2 / 3)
    assert findings.bacterial_against_viral_accuracy.value == 0.5
    assert findings.bacterial_against_viral_auroc.value == 0.5
    assert findings.bacterial_against_viral_auroc.n == 24


@pytest.mark.parametrize(
    "labels", [["pneumonia"], ["normal", "pneumonia"], ["normal", "viral_pneumonia"], ["normal", "bacterial_pneumonia"]]
)
def test_without_kinds_of_pneumonia_there_are_no_findings(labels, manifest):
    """Where bacterial and viral do not both occur, nothing is told apart, and the report says so."""
    measured = measure(make_predictions(labels * 12, [0.1, 0.9][-len(labels) :] * 12), manifest, **FEW)
    why = {missing.figure: missing.why for missing in measured.not_measured}
    assert measured.findings is None
    assert why["findings told apart"] == "no source has films of bacterial and of viral pneumonia"


def test_findings_are_of_sources_with_both_pneumonias(manifest):
    """Normal films of a source with coarse labels, or with one kind alone, do not make the figures better."""
    labels = ["normal"] * 12 + ["bacterial_pneumonia"] * 12 + ["viral_pneumonia"] * 12
    ward = make_predictions(labels, [0.2] * 12 + [0.9] * 24)
    coarse = make_predictions(["normal", "pneumonia"] * 20, [0.1, 0.9] * 20, source="coarse")
    viral = make_predictions(["normal", "viral_pneumonia"] * 20, [0.1, 0.9] * 20, source="viral")
    mixed = replace(ward, films=(*ward.films, *coarse.films, *viral.films))
    found, alone = (measure(predictions, manifest, **FEW).findings for predictions in (mixed, ward))
    assert (found.films, found.confusion) == (alone.films, alone.confusion)
    assert (found.accuracy.value, found.accuracy.n) == (alone.accuracy.value, 36)


def test_normal_films_alone(manifest):
    """With one class, what needs both is missing with its reason; the rest is measured."""
    measured = measure(make_predictions(["normal"] * 12, np.linspace(0.05, 0.5, 12).tolist()), manifest, **FEW)
    why = {missing.figure: missing.why for missing in measured.not_measured}
    assert measured.pneumonia.auroc is None
    assert why["AUROC"] == "there are no films with the finding"
    assert why["balanced: sensitivity"] == "there are no films with pneumonia"
    assert measured.pneumonia.operating_points[0].specificity.n == 12
    assert measured.pneumonia.brier_score is not None
    assert measured.curves.roc is None


def test_too_few_films(manifest):
    """Of four films nothing is claimed, and for each figure the report says why."""
    measured = measure(make_predictions(["normal", "pneumonia"] * 2, [0.1, 0.9, 0.2, 0.8]), manifest, **FEW)
    why = {missing.figure: missing.why for missing in measured.not_measured}
    assert measured.pneumonia.auroc is None
    assert why["AUROC"] == "fewer than 10 patients have films with the finding"
    assert measured.pneumonia.operating_points[0].true_positives == 2


def test_no_film_at_all(manifest):
    """Where nothing was analysed there is no report; the error names the first film and its reason."""
    predictions = refuse(make_predictions(["normal"] * 3, [0.1] * 3), {0, 1, 2})
    with pytest.raises(TrainingDataError, match=r"none of the 3 films.*000\.png \(out_of_distribution: No chest"):
        measure(predictions, manifest, **FEW)


def test_nothing_but_covid19(manifest):
    """A list of this one label has no headline to measure."""
    with pytest.raises(TrainingDataError, match="labelled covid19_pneumonia"):
        measure(make_predictions(["covid19_pneumonia"] * 12, [0.5] * 12), manifest, **FEW)


def test_order_of_classes_does_not_matter(manifest):
    """A bundle may have its classes in any order."""
    labels = ["normal", "viral_pneumonia", "normal", "bacterial_pneumonia"]
    predictions = make_predictions(labels * 10, [0.2, 0.9] * 20)
    turned = Predictions(
        films=tuple(FilmPrediction(image=film.image, members=film.members[:, ::-1]) for film in predictions.films),
        architectures=predictions.architectures,
        classes=predictions.classes[::-1],
        model_sha256=None,
    )
    backwards = make_manifest(**(manifest.model_dump() | {"classes": predictions.classes[::-1]}))
    there, back = measure(predictions, manifest, **FEW), measure(turned, backwards, **FEW)
    assert back.pneumonia == there.pneumonia
    assert back.findings == there.findings is not None
