"""From labelled files to what the members say, by the service's own steps."""

import numpy as np
import pytest
import torch
from bundle_factory import copy_bundle, know_images, read_facts, write_facts
from dicom_factory import write_dicom
from installed_command import make_bad_files, make_films
from PIL import Image

from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.errors import BundleError
from xray_batch.records import Finding, Outcome
from xray_batch.settings import Settings
from xray_batch.standardize import prepare
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.evaluation.predictions import predict, verdict


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    """Open the small bundle."""
    return Bundle(bundle_folder)


@pytest.fixture(scope="module")
def ensemble(bundle):
    """Load it on the CPU."""
    return Ensemble(bundle, device=torch.device("cpu"), dtype=torch.float32, batch_size=4)


def settings(tmp_path, **others):
    """Return settings for two decode workers and small batches."""
    return Settings(home=tmp_path, decode_workers=2, batch_size=4, **others)


def labelled(paths):
    """Return images in the order of the files, each of a patient of its own."""
    return [
        LabelledImage(path=path, label="normal", patient_id=str(number), source="ward")
        for number, path in enumerate(paths)
    ]


class Counter:
    """Counts the films that were announced and done."""

    def __init__(self):
        self.announced = 0
        self.done = 0

    def task(self, description, total):
        """Announce films."""
        self.announced += total
        return self.advance

    def advance(self, films):
        """Count films that are done."""
        self.done += films


def test_every_file_has_an_answer_in_its_place(bundle, ensemble, tmp_path):
    """Films have their members' probabilities, bad files their reasons, in the order of the list."""
    films, bad, counter = make_films(tmp_path / "films", 6), make_bad_files(tmp_path / "bad"), Counter()
    paths = [*films[:3], *bad, *films[3:]]
    found = predict(labelled(paths), bundle, ensemble, settings(tmp_path), task=counter.task)
    assert [film.image.path for film in found.films] == paths
    reasons = {film.image.path: film.rejection.reason_code for film in found.films if film.rejection}
    assert reasons == bad
    assert (counter.announced, counter.done) == (len(paths), len(paths))
    inputs = [prepare(decode_file(path), bundle.manifest.input_spec) for path in films]
    expected, _ = ensemble.examine_members(inputs)
    assert np.abs(found.analysed.members - expected).max() < 1e-6
    assert found.model_sha256 == bundle.sha256


def test_batches_are_filled_in_the_order_of_the_list(bundle, ensemble, tmp_path, monkeypatch):
    """However long each film takes to decode, the same list makes the same batches, and so the same bits."""
    films = make_films(tmp_path / "films", 7)
    Image.open(films[0]).resize((4000, 4000)).save(films[0])  # the others are decoded long before it
    seen = []

    def examine(inputs):
        seen.extend(inputs)
        return Ensemble.examine_members(ensemble, inputs)

    monkeypatch.setattr(ensemble, "examine_members", examine)
    predict(labelled(films), bundle, ensemble, settings(tmp_path), task=Counter().task)
    expected = [prepare(decode_file(path), bundle.manifest.input_spec).pixels for path in films]
    assert all(np.array_equal(found.pixels, wanted) for found, wanted in zip(seen, expected, strict=True))


def test_the_verdict_is_that_of_the_service(bundle, ensemble, tmp_path):
    """Outcome, probabilities and disagreement are those that the ensemble gives the service."""
    films = make_films(tmp_path / "films", 4)
    found = predict(labelled(films), bundle, ensemble, settings(tmp_path), task=Counter().task)
    served = ensemble.examine([prepare(decode_file(path), bundle.manifest.input_spec) for path in films])
    for film, (prediction, _) in zip(found.films, served, strict=True):
        said = verdict(film, found.classes, bundle.manifest)
        assert said.outcome == prediction.outcome
        assert said.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
        assert said.disagreement == pytest.approx(prediction.disagreement, abs=1e-6)
        assert said.p_pneumonia == pytest.approx(1 - prediction.probabilities[Finding.NORMAL], abs=1e-6)


def test_what_a_file_says_of_itself(bundle, ensemble, tmp_path):
    """View, age, modality, bits and size come from the header and the picture; a PNG says nothing but its size."""
    dicom = write_dicom(tmp_path / "film.dcm", ViewPosition="AP", PatientAge="018M", Modality="DX")
    (png,) = make_films(tmp_path / "films", 1)
    told, silent = predict(labelled([dicom, png]), bundle, ensemble, settings(tmp_path), task=Counter().task).films
    assert (told.facts.source_format, told.facts.modality, told.facts.view_position) == ("dicom", "DX", "AP")
    assert told.facts.patient_age == 1.5
    assert told.facts.bits_stored is not None
    assert (told.facts.rows, told.facts.columns) == decode_file(dicom).pixels.shape
    assert (silent.facts.source_format, silent.facts.modality, silent.facts.patient_age) == ("png", None, None)
    assert (silent.facts.rows, silent.facts.columns) == (128, 128)


def test_age_policy_is_that_of_the_settings(bundle, ensemble, tmp_path):
    """A patient of other ages than the bundle's is refused where the service would refuse."""
    film = labelled([write_dicom(tmp_path / "film.dcm", PatientAge="040Y")])
    (flagged,) = predict(film, bundle, ensemble, settings(tmp_path), task=Counter().task).films
    strict = settings(tmp_path, age_policy="refuse")
    (refused,) = predict(film, bundle, ensemble, strict, task=Counter().task).films
    assert flagged.members is not None
    assert refused.rejection.reason_code == "age_out_of_range"
    assert verdict(refused, bundle.manifest.classes, bundle.manifest) is None
    assert verdict(flagged, bundle.manifest.classes, bundle.manifest).outcome in Outcome


def test_a_picture_that_the_gate_refuses(bundle_folder, tmp_path):
    """What the gate would refuse in service is not analysed here, either."""
    facts = read_facts(folder := copy_bundle(bundle_folder, tmp_path / "strict"))
    facts["gate"]["refuse_above"] = -1e6
    write_facts(folder, facts)
    bundle = Bundle(folder)
    ensemble = Ensemble(bundle, device=torch.device("cpu"), dtype=torch.float32, batch_size=4)
    films = labelled(make_films(tmp_path / "films", 2))
    found = predict(films, bundle, ensemble, settings(tmp_path), task=Counter().task)
    assert [film.rejection.reason_code for film in found.films] == ["out_of_distribution"] * 2


def test_a_bundle_for_other_pixels_is_refused(bundle_folder, tmp_path):
    """A bundle that was trained on another rendering cannot be measured with this version's."""
    facts = read_facts(folder := copy_bundle(bundle_folder, tmp_path / "old"))
    facts["input"]["rendering_version"] -= 1
    write_facts(folder, facts)
    bundle = Bundle(folder)
    ensemble = Ensemble(bundle, device=torch.device("cpu"), dtype=torch.float32, batch_size=4)
    with pytest.raises(BundleError, match="rendering version"):
        predict(labelled(make_films(tmp_path / "films", 1)), bundle, ensemble, settings(tmp_path), task=Counter().task)


def test_numbers_that_are_not_finite(bundle, ensemble, tmp_path, monkeypatch):
    """A film for which the networks give no finite numbers is not analysed; the others of its batch are."""
    films = make_films(tmp_path / "films", 4)
    spoilt = prepare(decode_file(films[2]), bundle.manifest.input_spec).pixels
    examine = ensemble.examine_members

    def fail_for_one(inputs):
        if any(np.array_equal(model_input.pixels, spoilt) for model_input in inputs):
            raise FloatingPointError
        return examine(inputs)

    monkeypatch.setattr(ensemble, "examine_members", fail_for_one)
    found = predict(labelled(films), bundle, ensemble, settings(tmp_path), task=Counter().task)
    assert [film.members is None for film in found.films] == [False, False, True, False]
    assert found.films[2].rejection.reason_code == "attempts_exhausted"


def test_films_of_the_training_are_told(bundle_folder, ensemble, tmp_path):
    """A film that the bundle was trained on is told from others; a bundle that does not know says nothing."""
    paths = [sample_files() / name for name in ("01-dx-12-bit.dcm", "07-photo.jpeg")]
    paths += [next(path for path in sorted(sample_files().iterdir()) if path.name.startswith("03"))]
    knowing = know_images(copy_bundle(bundle_folder, tmp_path / "knowing"), labelled(paths[1:2]))
    for folder, seen in ((knowing, [False, True, False]), (bundle_folder, [None, None, None])):
        predictions = predict(labelled(paths), Bundle(folder), ensemble, settings(tmp_path), task=Counter().task)
        assert [film.seen for film in predictions.films] == seen
