"""The stress set through a real ensemble."""

import numpy as np
import pytest
import torch
from bundle_factory import copy_bundle, read_facts, write_facts
from installed_command import make_films
from made_up_predictions import CLASSES, members_of, predictions_of

from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble, pool
from xray_batch.decode import decode_file
from xray_batch.records import Finding, GrayscaleImage, ImageHeader, SourceFormat
from xray_batch.standardize import prepare, resize
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.evaluation.predictions import Analysed
from xray_batch.training.evaluation.stress_set import measure_stress
from xray_batch.training.stress import CONTROLS, STRESS_SIDE, STRESSES

COUNT = 20


def ensemble_of(folder):
    """Load a bundle on the CPU."""
    return Ensemble(Bundle(folder), device=torch.device("cpu"), dtype=torch.float32, batch_size=16)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Make films on disk, every other one with pneumonia; their members say what the stress set does not look at."""
    paths = make_films(tmp_path_factory.mktemp("films"), COUNT)
    images = [
        LabelledImage(path=path, label=("normal", "pneumonia")[number % 2], patient_id=str(number), source="ward")
        for number, path in enumerate(paths)
    ]
    return predictions_of(images, members_of([0.5] * COUNT)).analysed


@pytest.fixture(scope="module")
def ensemble(bundle_folder):
    """Load the small bundle, whose gate refuses nothing."""
    return ensemble_of(bundle_folder)


def stress(films, ensemble, per_class=COUNT, seed=0):
    """Measure the stress set without showing progress."""
    return measure_stress(
        films,
        ensemble,
        None,
        per_class=per_class,
        resamples=20,
        seed=seed,
        address_space=2 << 30,
        task=lambda name, total: lambda count: None,
    )


def test_every_change_is_measured(films, ensemble):
    """Each stress and each control has a row; films as they are do not change, films changed do."""
    facts = stress(films, ensemble).facts
    assert [row.name for row in facts.rows] == [*STRESSES, *CONTROLS]
    assert [row.name for row in facts.rows if row.is_control] == list(CONTROLS)
    assert (facts.films, facts.with_pneumonia, facts.without_pneumonia, facts.side) == (20, 10, 10, STRESS_SIDE)
    assert (facts.rows[0].mean_change, facts.rows[0].largest_change) == (0, 0)
    assert all(0 < row.mean_change <= row.largest_change for row in facts.rows[1:])
    assert all(row.auroc.n == 20 for row in facts.rows)


def test_changes_go_through_the_preprocessing_of_the_bundle(films, ensemble):
    """A row's change of P(pneumonia) is that of the changed film, prepared and classified as in service."""

    def p_pneumonia(change):
        pictures = [change(resize(decode_file(film.image.path).pixels, 224, 224)) for film in films.films]
        header = ImageHeader(source_format=SourceFormat.PNG)
        images = [GrayscaleImage(header=header, pixels=picture, rendering="identity") for picture in pictures]
        members, _ = ensemble.examine_members([prepare(image, ensemble.manifest.input_spec) for image in images])
        return 1 - pool(members, ensemble.manifest.scaling, ensemble.manifest.classes)[:, CLASSES.index(Finding.NORMAL)]

    change = np.abs(p_pneumonia(STRESSES["gamma 1.4"]) - p_pneumonia(STRESSES["as they are"]))
    row = next(row for row in stress(films, ensemble).facts.rows if row.name == "gamma 1.4")
    assert row.mean_change == pytest.approx(change.mean(), rel=1e-4)
    assert row.largest_change == pytest.approx(change.max(), rel=1e-4)


def test_a_sample_of_each_class(films, ensemble):
    """At most so many of each class are drawn, the same ones each time for one seed."""
    facts = stress(films, ensemble, per_class=2).facts
    assert (facts.with_pneumonia, facts.without_pneumonia) == (2, 2)
    assert stress(films, ensemble, per_class=2).facts == facts
    assert stress(films, ensemble, per_class=2, seed=1).facts != facts


def test_refusals_are_counted(films, ensemble, bundle_folder, tmp_path):
    """A gate that refuses all refuses all, and the other figures are measured all the same."""
    facts = read_facts(folder := copy_bundle(bundle_folder, tmp_path / "strict"))
    facts["gate"]["refuse_above"] = -1e6
    write_facts(folder, facts)
    rows = stress(films, ensemble_of(folder)).facts.rows
    assert all(row.refused.value == 1 for row in rows)
    assert all(row.auroc for row in rows)
    assert all(row.refused.value == 0 for row in stress(films, ensemble).facts.rows)


def test_files_that_are_gone(films, ensemble, tmp_path):
    """Films that cannot be read any more are left out; without any there is no stress set."""
    lost = LabelledImage(path=tmp_path / "lost.png", label="normal", patient_id="lost", source="ward")
    made = predictions_of([lost], members_of([0.5])).analysed
    assert stress(made, ensemble) is None
    both = Analysed(films=(*films.films[:3], *made.films), classes=films.classes)
    assert stress(both, ensemble).facts.films == 3
