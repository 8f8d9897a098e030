"""Films in groups by what their list and header say."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_predictions import make_predictions

from xray_batch.records import SourceFormat
from xray_batch.training.bootstrap import PatientBootstrap
from xray_batch.training.evaluation.predictions import FilmFacts
from xray_batch.training.evaluation.subgroups import measure_subgroups


def films_with(facts):
    """Return films, half of them with pneumonia, with these facts in turn."""
    count = 120
    films = make_predictions(["normal", "viral_pneumonia"] * (count // 2), [0.1] * count).films
    return [replace(film, facts=facts[number // 2 % len(facts)]) for number, film in enumerate(films)]


def measure(films):
    """Measure films of which those with pneumonia are called so."""
    positive = np.array([film.image.label != "normal" for film in films])
    bootstrap = PatientBootstrap([film.image.patient_id for film in films], resamples=50, seed=0)
    groups, unknown = measure_subgroups(films, positive, positive, bootstrap)
    return {(group.attribute, group.group): group for group in groups}, unknown


@pytest.mark.parametrize(
    ("age", "group"),
    [
        (0.9, "under 1 year"),
        (1.0, "1 to 5 years"),
        (5.99, "1 to 5 years"),
        (6.0, "6 to 17 years"),
        (18.0, "18 to 64 years"),
        (65.0, "65 years and older"),
        (None, "not stated"),
    ],
)
def test_age_groups(age, group):
    """Ages are in completed years; a film that does not state it is in a group of its own."""
    groups, _ = measure(films_with([FilmFacts(patient_age=age), FilmFacts(patient_age=30.0)]))
    expected = 120 if group == "18 to 64 years" else 60
    assert groups["age", group].films == expected


def test_small_groups_have_no_figures():
    """Under 30 films of a class a group has its counts and no figure."""
    groups, _ = measure(films_with([FilmFacts(view_position="PA")] * 3 + [FilmFacts(view_position="AP")]))
    large, small = groups["view position", "PA"], groups["view position", "AP"]
    assert (large.films, large.with_pneumonia, large.without_pneumonia) == (90, 45, 45)
    assert (large.sensitivity.value, large.sensitivity.n, large.specificity.n) == (1, 45, 45)
    assert (small.films, small.with_pneumonia) == (30, 15)
    assert small.sensitivity is None
    assert small.specificity is None


def test_many_films_of_few_patients_have_no_figures():
    """Sixty films with pneumonia of nine patients say nothing about others."""
    films = films_with([FilmFacts()])
    films = [replace(film, image=replace(film.image, patient_id=str(number % 18))) for number, film in enumerate(films)]
    groups, _ = measure(films)
    assert groups["label", "viral pneumonia"].with_pneumonia == 60
    assert groups["label", "viral pneumonia"].sensitivity is None


def test_nothing_is_invented():
    """An attribute that no film states forms no group, and is named."""
    groups, unknown = measure(films_with([FilmFacts(source_format=SourceFormat.PNG)]))
    assert {attribute for attribute, _ in groups} == {"source", "label", "file format"}
    assert unknown == ("age", "view position", "modality", "bits stored")


def test_labels_have_one_figure_each():
    """Films of one label are all with pneumonia, or all without."""
    groups, _ = measure(films_with([FilmFacts()]))
    assert groups["label", "normal"].sensitivity is None
    assert groups["label", "normal"].specificity.n == 60
    assert groups["label", "viral pneumonia"].sensitivity.n == 60


def test_resolution_tertiles():
    """Films fall in three parts by their pixels; those of one size are in one part."""
    facts = [FilmFacts(rows=side, columns=1000) for side in (500, 1000, 2000)]
    groups, _ = measure(films_with(facts))
    assert {name: group.films for (attribute, name), group in groups.items() if attribute == "resolution"} == {
        "up to 0.50 megapixels": 40,
        "up to 1.00 megapixels": 40,
        "up to 2.00 megapixels": 40,
    }
    alike, _ = measure(films_with(facts[:1]))
    assert [group.films for (attribute, _), group in alike.items() if attribute == "resolution"] == [120]


def test_resolutions_of_small_films():
    """Films of a few thousand pixels fall in groups with names of their own."""
    facts = [FilmFacts(rows=side, columns=64) for side in (64, 65, 66)]
    groups, _ = measure(films_with(facts))
    assert {name: group.films for (attribute, name), group in groups.items() if attribute == "resolution"} == {
        "up to 0.00410 megapixels": 40,
        "up to 0.00416 megapixels": 40,
        "up to 0.00422 megapixels": 40,
    }
