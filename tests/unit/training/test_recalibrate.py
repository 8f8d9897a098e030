"""A bundle calibrated anew on a site's own films: what changes, what must not, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_factory import copy_bundle, know_images, read_facts, write_facts
from dicom_factory import write_dicom
from PIL import Image

from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.drift import take_bins
from xray_batch.errors import BundleError, ConfigurationError, TrainingDataError
from xray_batch.settings import Settings
from xray_batch.standardize import prepare
from xray_batch.training import bootstrap
from xray_batch.training.dataset import LabelledImage, fingerprint, read_labels
from xray_batch.training.duplicates import ImageHashes
from xray_batch.training.evaluation.predictions import FilmPrediction
from xray_batch.training.local_sample import SetAside, refuse_aside, without_copies
from xray_batch.training.recalibrate import CalibrationOrder, next_version, recalibrate

CPU = torch.device("cpu")

#: 52 normal films of 52 patients, 60 with pneumonia of 30, of a cause that is known or not.
ROWS = [
    *((f"n{number}.png", "normal", f"N{number}", "ward") for number in range(52)),
    *((f"p{number}.png", "pneumonia", f"P{number // 2}", "ward") for number in range(40)),
    *((f"b{number}.png", "bacterial_pneumonia", f"B{number // 2}", "ward") for number in range(20)),
]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Bootstrap with fewer resamples, to be quick."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)


def run(bundle_folder: Path, data: Path, out: Path, *, version: str | None = None, **settings):
    """Calibrate a bundle on the CPU with one decode worker."""
    order = CalibrationOrder(labels=data, out=out, version=version)
    return recalibrate(
        Bundle(bundle_folder),
        order,
        Settings(home=out.parent, device="cpu", decode_workers=1, **settings),
        task=lambda description, total: lambda images: None,
    )


@pytest.fixture(scope="module")
def films(make_lasting_data):
    """Make the films of the ward."""
    return make_lasting_data(ROWS)


@pytest.fixture(scope="module")
def calibrated(bundle_folder, films, tmp_path_factory):
    """Calibrate the small bundle on the films of the ward, once for the tests that look at the outcome."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", 20)
        return run(bundle_folder, films, tmp_path_factory.mktemp("calibrated") / "new")


def test_weights_and_gate_are_copied_byte_for_byte(calibrated, bundle_folder):
    """The files of the members and of the gate have the same bytes and the same hashes as before."""
    old, new = Bundle(bundle_folder), calibrated.bundle
    assert (new.manifest.members, new.manifest.gate) == (old.manifest.members, old.manifest.gate)
    for name in old.hashed_files:
        assert (new.folder / name).read_bytes() == (old.folder / name).read_bytes()


def test_only_the_calibration_changes(calibrated, bundle_folder):
    """Version, temperature, thresholds, limit, figures, reference and the record are new; all other facts stay."""
    old, new = (bundle.manifest.model_dump() for bundle in (Bundle(bundle_folder), calibrated.bundle))
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {
        *("version", "temperature", "log_odds_shift", "threshold_low", "threshold_high", "disagreement_limit"),
        *("operating_points", "calibration", "drift_reference", "metrics"),
    }
    assert new["version"] == "1.3.0"
    before = calibrated.before
    assert (before.scaling, before.threshold_low) == (Bundle(bundle_folder).manifest.scaling, old["threshold_low"])


def test_the_manifest_records_the_calibration(calibrated, bundle_folder, films):
    """It says what it is derived from, and which films, labels and patients it was fitted to."""
    old, facts = Bundle(bundle_folder), calibrated.bundle.manifest.calibration
    assert (facts.derived_from, facts.derived_from_sha256) == ("test-cxr-1.2.3", old.sha256)
    assert (facts.name, facts.sha256) == ("data", fingerprint(read_labels(films)))
    assert facts.images == {"ward: bacterial_pneumonia": 20, "ward: normal": 52, "ward: pneumonia": 40}
    assert (facts.patients, facts.left_out) == (52 + 20 + 10, {})


def test_drift_is_measured_against_the_site(calibrated, films):
    """The reference is the site's own films, as the new bundle answers them in service."""
    facts = calibrated.bundle.manifest.drift_reference
    assert (facts.data, facts.n) == ("data", 112)
    ensemble = Ensemble(calibrated.bundle, device=CPU, dtype=torch.float32, batch_size=8)
    spec = calibrated.bundle.manifest.input_spec
    answers = ensemble.examine([prepare(decode_file(image.path), spec) for image in read_labels(films)])
    for name, precision in (("p_pneumonia", 1e-3), ("input_mean", 1e-9), ("input_std", 1e-9)):
        found = take_bins(np.array([getattr(prediction, name) for prediction, _ in answers]))
        assert getattr(facts, name).edges == pytest.approx(found.edges, abs=precision)


def test_figures_say_how_they_were_measured(calibrated, bundle_folder, films):
    """New figures are cross-fitted; those of the old bundle name it, also after a second calibration."""
    metrics = calibrated.bundle.manifest.metrics
    old = Bundle(bundle_folder).manifest
    inherited = [metric for metric in metrics if metric.data.endswith(", as test-cxr-1.2.3")]
    assert [metric.name for metric in inherited] == [metric.name for metric in old.metrics]
    own = [metric for metric in metrics if metric not in inherited]
    assert {metric.data for metric in own} == {"data, each fifth of the patients calibrated on the others"}
    names = {metric.name: metric for metric in own}
    assert names["sensitivity, balanced threshold"].value == calibrated.crossed.sensitivity["balanced"].value
    assert names["specificity, balanced threshold"].n == 52
    assert names["expected calibration error"] == calibrated.errors["cross_fitted"]
    ill, well = (rates["balanced"].value for rates in (calibrated.crossed.sensitivity, calibrated.crossed.specificity))
    assert names["accuracy pneumonia"].value == pytest.approx((60 * ill + 52 * well) / 112)
    positive = np.array([image.label != "normal" for image in read_labels(films)])
    higher = np.subtract.outer(*(calibrated.crossed.p_pneumonia[which] for which in (positive, ~positive)))
    assert names["AUROC pneumonia"].value == pytest.approx(((higher > 0) + (higher == 0) / 2).mean())


def test_a_calibrated_bundle_is_calibrated_again(calibrated, films, tmp_path):
    """The second calibration names the first, and figures keep the bundle that they were measured with."""
    again = run(calibrated.bundle.folder, films, tmp_path / "again").bundle.manifest
    assert (again.version, again.calibration.derived_from) == ("1.4.0", "test-cxr-1.3.0")
    endings = {metric.data.partition(", as ")[2] for metric in again.metrics}
    assert endings == {"", "test-cxr-1.3.0", "test-cxr-1.2.3"}


def test_the_new_bundle_answers_with_the_new_thresholds(calibrated, bundle_folder, films):
    """The ensemble of the new bundle has the new temperature and thresholds, and so other outcomes."""
    path = films / "n0.png"
    answers = []
    for folder in (bundle_folder, calibrated.bundle.folder):
        bundle = Bundle(folder)
        ensemble = Ensemble(bundle, device=CPU, dtype=torch.float32, batch_size=8)
        ((prediction, _),) = ensemble.examine([prepare(decode_file(path), bundle.manifest.input_spec)])
        answers.append(prediction)
        assert prediction.threshold_low == bundle.manifest.threshold_low
        assert prediction.threshold_high == bundle.manifest.threshold_high
    old, new = answers
    assert new.threshold_low == calibrated.after.threshold_low != old.threshold_low
    assert new.p_pneumonia != old.p_pneumonia
    assert new.disagreement == old.disagreement


def test_the_model_card_tells_of_it(calibrated):
    """People read in the card what was fitted to what, and which figures flatter."""
    card = (calibrated.bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    facts = calibrated.bundle.manifest.calibration
    section = card.partition("## Calibration\n")[2].partition("\n## ")[0]
    for text in (facts.sha256, facts.derived_from_sha256, "112 local images of 82 patients", "which flatters"):
        assert text in section
    assert "| ward: normal | 52 |" in section
    assert "Chosen on the local images of data." in card


def test_the_same_list_gives_the_same_bundle(calibrated, bundle_folder, films, tmp_path):
    """A second calibration on the same films gives the same facts, but for the time."""
    again = run(bundle_folder, films, tmp_path / "again").bundle.manifest.model_dump()
    first = calibrated.bundle.manifest.model_dump()
    del again["calibration"]["calibrated_at"], first["calibration"]["calibrated_at"]
    assert again == first


def test_refused_files_are_left_out_and_counted(bundle_folder, make_data, tmp_path):
    """What the service would not answer has no part in the calibration; the facts say how many, and why."""
    bad = [(f"bad{number}.png", "normal", f"X{number}", "ward") for number in range(5)]
    data = make_data([*ROWS, *bad])
    (data / "bad0.png").write_bytes((data / "bad0.png").read_bytes()[:-500])
    (data / "bad1.png").write_text("no image")
    write_dicom(data / "bad2.png", ViewPosition="LL")
    write_dicom(data / "bad3.png", PatientAge="090Y")
    (data / "bad4.png").unlink()
    (data / "bad4.png").symlink_to("/proc/self/mem")  # a regular file whose reading fails, for root too
    done = run(bundle_folder, data, tmp_path / "new", age_policy="refuse")
    facts = done.bundle.manifest.calibration
    reasons = {"age_out_of_range", "attempts_exhausted", "lateral_view", "truncated", "unreadable_file"}
    assert facts.left_out == dict.fromkeys(reasons, 1)
    assert sum(facts.images.values()) == len(ROWS)
    assert "1 lateral_view" in (done.bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def set_aside(data, names):
    """Put images of a list on the side `test`."""
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    marked = [f"{line},{'test' if line.split(',')[0] in names else ''}" for line in lines[1:]]
    (data / "labels.csv").write_text("\n".join([f"{lines[0]},split", *marked]), encoding="utf-8")


def test_images_of_the_test_side_are_left_out(bundle_folder, make_data, tmp_path):
    """Nothing is fitted to what the list sets aside for a last measurement; it is counted."""
    aside = [(f"aside{number}.png", "normal", f"A{number}", "ward") for number in range(3)]
    data = make_data([*ROWS, *aside])
    set_aside(data, {file for file, *_ in aside})
    done = run(bundle_folder, data, tmp_path / "new")
    assert (done.set_aside, done.copies) == (3, 0)
    facts = done.bundle.manifest.calibration
    assert sum(facts.images.values()) == len(ROWS)
    assert facts.sha256 == fingerprint(read_labels(data)[: len(ROWS)])


def encode_anew(source, target):
    """Write a picture in another encoding: other bytes, nearly the same pixels."""
    Image.open(source).save(target, format="JPEG", quality=90)


@pytest.mark.parametrize(
    ("row", "copy", "why"),
    [
        (("aside.png", "normal", "N7", "ward"), None, r"n7\.png show one patient"),
        (("aside.png", "normal", "A1", "ward"), shutil.copy, r"n3\.png are copies of one film"),
        (("aside.png", "normal", "A1", "ward"), encode_anew, r"n3\.png are copies of one film"),
    ],
    ids=["patient", "bytes", "picture"],
)
def test_a_test_side_that_is_not_independent(row, copy, why, bundle_folder, make_data, tmp_path):
    """A patient or a film on the side `test` and on another is refused: figures of that side would flatter."""
    data = make_data([*ROWS, row])
    if copy:
        copy(data / "n3.png", data / row[0])
    set_aside(data, {row[0]})
    with pytest.raises(TrainingDataError, match=rf"aside\.png \(test\) and .*{why}: what is set aside would not"):
        run(bundle_folder, data, tmp_path / "new")


def test_what_gets_no_answer_is_no_copy_of_the_test_side():
    """A blank picture is like every other blank one; it is left out, and refuses nothing."""
    hashes = ImageHashes(content=np.array([1], np.uint64), picture=np.zeros((1, 32), np.uint8))
    aside = SetAside(paths=[Path("aside.png")], hashes=hashes)
    image = LabelledImage(path=Path("blank.png"), label="normal", patient_id="A1", source="ward")
    refuse_aside(aside, FilmPrediction(image=image, members=None, hashes=hashes))
    with pytest.raises(TrainingDataError, match="are copies of one film"):
        refuse_aside(aside, FilmPrediction(image=image, members=np.full((2, 4), 0.25), hashes=hashes))


def test_too_few_images_beside_the_test_side(bundle_folder, make_data, tmp_path):
    """Where too few are left beside the side `test`, the message says how many are on it."""
    data = make_data(ROWS)
    set_aside(data, {f"n{number}.png" for number in range(10)})
    with pytest.raises(TrainingDataError, match=r"has 42 images of .*; 10 listed files were left out: 10 of the side"):
        run(bundle_folder, data, tmp_path / "new")


def test_copies_count_once(bundle_folder, make_data, tmp_path):
    """The same bytes listed again, with the same label and patient, are one film; an empty folder is used."""
    data = make_data([*ROWS, ("again.png", *ROWS[0][1:])])
    shutil.copy(data / "n0.png", data / "again.png")
    (tmp_path / "new").mkdir()
    done = run(bundle_folder, data, tmp_path / "new")
    assert done.copies == 1
    assert sum(done.bundle.manifest.calibration.images.values()) == len(ROWS)


def test_patients_with_copies_of_one_film_are_one(bundle_folder, make_data, tmp_path):
    """The same picture encoded anew, under another Patient ID, is in the same fifth: no film is fitted and measured."""
    data = make_data([*ROWS, ("again.png", "normal", "X1", "ward")])
    encode_anew(data / "n0.png", data / "again.png")
    facts = run(bundle_folder, data, tmp_path / "new").bundle.manifest.calibration
    assert sum(facts.images.values()) == len(ROWS) + 1
    assert facts.patients == 52 + 20 + 10


def test_too_few_patients_but_for_copies(bundle_folder, make_data, tmp_path):
    """Copies under other Patient IDs do not make a sample of too few patients large enough."""
    again = [(f"again{number}.png", "pneumonia", f"X{number}", "ward") for number in range(2)]
    data = make_data([*ROWS[:-2], *again])
    for number in range(2):
        encode_anew(data / f"p{number}.png", data / f"again{number}.png")
    with pytest.raises(TrainingDataError, match=r"60 images of pneumonia \(29 patients\); needed are 50"):
        run(bundle_folder, data, tmp_path / "new")


def test_the_change_of_the_log_loss(calibrated, bundle_folder, films):
    """It is that of each film from the old calibration to one fitted to other patients, with an interval."""
    old, images = Bundle(bundle_folder), read_labels(films)
    ensemble = Ensemble(old, device=CPU, dtype=torch.float32, batch_size=8)
    answers = ensemble.examine([prepare(decode_file(image.path), old.manifest.input_spec) for image in images])
    positive = np.array([image.label != "normal" for image in images])
    before, now = np.array([answer.p_pneumonia for answer, _ in answers]), calibrated.crossed.p_pneumonia
    losses = [-np.log(np.maximum(np.where(positive, p, 1 - p), 1e-6)) for p in (before, now)]
    change = calibrated.log_loss_change
    assert change.value == pytest.approx((losses[1] - losses[0]).mean(), abs=1e-3)
    assert change.low <= change.value <= change.high
    assert change.n == len(images)


def test_the_finer_label_of_a_copy_counts(make_data):
    """The same bytes as `pneumonia` and as a cause of it, of one patient, are one film of that cause."""
    data = make_data([("1.png", "pneumonia", "P1", "ward"), ("2.png", "viral_pneumonia", "P1", "ward")])
    shutil.copy(data / "1.png", data / "2.png")
    assert [image.path.name for image in without_copies(read_labels(data))] == ["2.png"]


@pytest.mark.parametrize(
    ("label", "patient_id", "what", "values"),
    [
        ("viral_pneumonia", "N0", "label", "normal and viral_pneumonia"),
        ("normal", "N7", "patient", "ward:N0 and ward:N7"),
    ],
)
def test_copies_that_contradict_each_other(label, patient_id, what, values, make_data):
    """The same bytes with two labels, or of two patients, are refused with both files named."""
    data = make_data([ROWS[0], ("again.png", label, patient_id, "ward")])
    shutil.copy(data / "n0.png", data / "again.png")
    message = rf"n0\.png and .*again\.png have the same bytes and not the same {what}: {values}; a film has one {what}$"
    with pytest.raises(TrainingDataError, match=message):
        without_copies(read_labels(data))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (ROWS[3:], r"49 images of normal \(49 patients\) and 60 images of pneumonia \(30 patients\)"),
        (ROWS[:-11], r"52 images of normal \(52 patients\) and 49 images of pneumonia \(25 patients\)"),
        (ROWS[:-2], r"52 images of normal \(52 patients\) and 58 images of pneumonia \(29 patients\)"),
    ],
    ids=["few normal", "few with pneumonia", "few patients"],
)
def test_a_sample_that_is_too_small(rows, found, bundle_folder, make_data, tmp_path):
    """Too few images or patients of a class are refused: found and needed are named, nothing is written."""
    message = f"^the sample has {found}; needed are 50 images of each, and 30 patients$"
    with pytest.raises(TrainingDataError, match=message):
        run(bundle_folder, make_data(rows), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_sample_that_is_too_small_after_the_gate(bundle_folder, films, tmp_path):
    """Films that the gate refuses do not count towards the minimum; the message says how many there were."""
    strict = copy_bundle(bundle_folder, tmp_path / "strict")
    facts = read_facts(strict)
    facts["gate"]["refuse_above"] = -1e6
    write_facts(strict, facts)
    message = r"^the sample has 0 images of normal .*; 112 listed files were left out: 112 out_of_distribution$"
    with pytest.raises(TrainingDataError, match=message):
        run(strict, films, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_output_folder_that_is_not_empty(bundle_folder, films, tmp_path):
    """A folder with anything in it, and a file, are refused and left as they are."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for name in ("full", "full/notes.txt"):
        with pytest.raises(ConfigurationError, match=rf"{name} exists already, expected a new or an empty folder$"):
            run(bundle_folder, films, tmp_path / name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("version", ["1.2.3", "1.2.2", "0.9.9"])
def test_a_version_that_is_not_above(version, bundle_folder, films, tmp_path):
    """The old version, and those below it, are refused with both named."""
    with pytest.raises(ConfigurationError, match=rf"^the version is {version}, expected one above 1\.2\.3, "):
        run(bundle_folder, films, tmp_path / "new", version=version)


@pytest.mark.parametrize(("asked", "version"), [(None, "1.10.0"), ("1.9.10", "1.9.10"), ("2.0.0", "2.0.0")])
def test_next_version(asked, version):
    """Versions are compared as numbers, and by default the minor part is raised."""
    assert next_version("1.9.3", asked) == version


def test_a_bundle_of_another_rendering(bundle_folder, films, tmp_path):
    """A bundle that the service would refuse is not calibrated either."""
    other = copy_bundle(bundle_folder, tmp_path / "other")
    facts = read_facts(other)
    facts["input"]["rendering_version"] = 1
    write_facts(other, facts)
    with pytest.raises(BundleError, match="was trained on rendering version 1"):
        run(other, films, tmp_path / "new")


def test_networks_without_finite_numbers(bundle_folder, films, tmp_path, monkeypatch):
    """Films that the networks give no finite numbers for are left out and named; no bundle is made of none."""

    def fail(*_):
        raise FloatingPointError("the networks gave no finite numbers")

    monkeypatch.setattr(Ensemble, "examine_members", fail)
    with pytest.raises(TrainingDataError, match=r"112 listed files were left out: 112 attempts_exhausted$"):
        run(bundle_folder, films, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_incomplete_copy_is_noticed(bundle_folder, films, tmp_path):
    """Weights that are not those of the manifest are refused, and no manifest vouches for them."""
    changed = copy_bundle(bundle_folder, tmp_path / "changed")
    weights = changed / "resnet50.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"resnet50\.safetensors has SHA-256"):
        run(changed, films, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_films_of_the_training_are_refused(bundle_folder, films, tmp_path):
    """A sample with a film that the bundle was trained on is refused by its name; nothing is written."""
    images = read_labels(films)[60:62]
    known = know_images(copy_bundle(bundle_folder, tmp_path / "known"), images)
    with pytest.raises(TrainingDataError) as refused:
        run(known, films, tmp_path / "new")
    assert str(refused.value) == (
        f"{images[0].path} is, or is a copy of, an image that test-cxr-1.2.3 was trained on; "
        "calibrate on films that it has not seen; `xray-batch evaluate` marks those that it has in the column "
        "`seen` of predictions.csv"
    )
    assert not (tmp_path / "new").exists()
