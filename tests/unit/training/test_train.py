"""From labelled images to a bundle, both members and all facts, on sixty tiny images."""

import csv
import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from bundle_factory import make_manifest as manifest

from xray_batch.architectures import ARCHITECTURES
from xray_batch.bundle import Bundle, write_manifest
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.drift import take_bins
from xray_batch.errors import ConfigurationError, TrainingDataError
from xray_batch.records import Finding
from xray_batch.resnet import ResNet
from xray_batch.settings import Settings
from xray_batch.standardize import prepare, resize
from xray_batch.training import bootstrap, pixels
from xray_batch.training import manifest as facts_of_training
from xray_batch.training.backbone import FileBackbone
from xray_batch.training.calibration import fit_calibration
from xray_batch.training.dataset import fingerprint, read_labels
from xray_batch.training.duplicates import ImageHashes, find_copies, hash_images
from xray_batch.training.evaluation.predictions_file import read_predictions
from xray_batch.training.order import TrainingOrder, make_options
from xray_batch.training.pixels import Decoding, load_pixels
from xray_batch.training.stress import STRESS_SIDE, STRESSES
from xray_batch.training.train import train_bundle

CPU = torch.device("cpu")

DECODING = Decoding.from_settings(Settings(decode_workers=2))

PNEUMONIA = ("bacterial_pneumonia", "viral_pneumonia")

ROWS = [
    *((f"kids/{n}.png", "normal", f"P{n}", "kids") for n in range(20)),
    *((f"kids/b{n}.png", PNEUMONIA[n % 2], f"B{n}", "kids") for n in range(20)),
    *((f"adults/{n}.png", "normal", f"P{n // 2}", "adults") for n in range(10)),
    *((f"adults/p{n}.png", "pneumonia", f"Q{n}", "adults") for n in range(10)),
]


class Told:
    """What a training tells whoever watches it."""

    def __init__(self):
        self.lines = []
        self.images = Counter()
        self.totals = {}

    def task(self, description, total):
        """Note a piece of work, and count its images."""
        self.totals[description] = total
        return lambda images: self.images.update({description: images})

    def report(self, line):
        """Note a line."""
        self.lines.append(line)


def train(order):
    """Carry out an order on the CPU and return what was told."""
    told = Told()
    folder = train_bundle(order, device=CPU, dtype=torch.float32, progress=told)
    assert folder == (None if order.options.only_cross_validate else order.out)
    return told


@pytest.fixture
def order(make_data, tmp_path):
    """Ask for one epoch at 32 x 32 pixels."""
    return TrainingOrder(
        data=make_data(ROWS), out=tmp_path / "out", options=options(), decoding=DECODING, backbone=None
    )


def options(**changes):
    """Return the options of a training of one epoch at 32 x 32 pixels; `changes` replace some."""
    given = {
        "id": "tiny-cxr",
        "version": "0.1.0",
        "licence": "CC0",
        "ages": "0-17",
        "stages": {"resnet34": "32x1@0.01", "resnet50": "32x1@0.02"},
        "batch_size": 16,
        "reference_source": "kids",
    }
    return make_options({}, given | changes)


def test_train_bundle(order, tmp_path, monkeypatch):
    """Training gives a bundle that loads and classifies; a second call finds it done and gives the same."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    notes = tmp_path / "notes.md"
    notes.write_text("## Reference standard\n\nTwo readers.\n", encoding="utf-8")
    order = replace(order, options=options(notes=notes))
    samples = []
    monkeypatch.setattr(
        facts_of_training, "fit_calibration", lambda sample: fit_calibration(samples.append(sample) or sample)
    )
    told = train(order)
    bundle = Bundle(order.out)
    check_facts(bundle, order)
    check_split(order)
    check_progress(told)
    ensemble = Ensemble(bundle, device=CPU, dtype=torch.float32, batch_size=8)
    inputs = [prepare(decode_file(order.data / file), bundle.manifest.input_spec) for file, *_ in ROWS[::20]]
    predictions = [prediction for prediction, _ in ensemble.examine(inputs)]
    check_drift_reference(order, ensemble)
    check_changed_films(order, ensemble, samples[0].changed)
    assert all(sum(prediction.probabilities.values()) == pytest.approx(1.0) for prediction in predictions)
    again = train(order)
    assert not [line for line in again.lines if "epoch" in line]
    assert again.images["decode"] == len(ROWS)
    facts = {"created_at"}
    assert Bundle(order.out).manifest.model_dump(exclude=facts) == bundle.manifest.model_dump(exclude=facts)


class TestFolderWithABundle:
    """A bundle is never written over, unless the same order made it."""

    @pytest.fixture
    def facts(self, order):
        """Return the manifest of a bundle that this order could have made."""
        recipes = {name: asdict(recipe) for name, recipe in order.options.recipes.items()}
        training = {"sha256": fingerprint(read_labels(order.data)), "recipes": recipes, "reference": "kids"}
        made = manifest(id="tiny-cxr", version="0.1.0", licence="CC0", intended_ages={"youngest": 0, "oldest": 17})
        rule = {"trim_borders": True, "stretch": (0.5, 99.5), "smooth": True}
        return made.model_copy(
            update={"training": made.training.model_copy(update=training), "input": made.input.model_copy(update=rule)}
        )

    @pytest.fixture
    def refused(self, order):
        """Put a manifest there and return the sentence with which the training is refused."""

        def put_and_train(facts, *, trained_there=True):
            (order.out / "training" if trained_there else order.out).mkdir(parents=True)
            write_manifest(order.out, facts, "")
            before = sorted(order.out.rglob("*")), (order.out / "manifest.json").read_bytes()
            with pytest.raises(ConfigurationError) as error:
                train(order)
            assert (sorted(order.out.rglob("*")), (order.out / "manifest.json").read_bytes()) == before
            return str(error.value)

        return put_and_train

    def test_a_bundle_that_was_not_trained_there(self, order, facts, refused):
        """A copy of a bundle, without the folder of its training, is left as it is."""
        assert refused(facts, trained_there=False) == (
            f"{order.out} holds a bundle that was not trained there; choose another folder with --out"
        )

    @pytest.mark.parametrize(
        ("what", "place", "change"),
        [
            ("another id or version", None, {"version": "0.2.0"}),
            ("other images", "training", {"sha256": "1" * 64}),
            ("other recipes", "training", {"recipes": {}}),
            ("another way to hold images out", "training", {"held_out": "5 folds by patient"}),
            ("another picture rule", "input", {"stretch": None}),
            ("other starting weights", "training", {"starting_weights": "ImageNet, by torchvision"}),
            ("another reference source", "training", {"reference": "all sources"}),
            ("other ages", None, {"intended_ages": None}),
            ("another licence", None, {"licence": "not stated"}),
            ("other notes", None, {"notes": "## Reference standard"}),
        ],
    )
    def test_a_bundle_of_another_order(self, what, place, change, order, facts, refused):
        """A bundle of other images, another recipe or anything else that this order would not make is left as it is."""
        changed = change if place is None else {place: getattr(facts, place).model_copy(update=change)}
        assert refused(facts.model_copy(update=changed)) == (
            f"{order.out} holds a bundle with {what}; choose another folder with --out"
        )

    def test_a_manifest_that_is_none(self, order):
        """A manifest that cannot be read is left as it is."""
        (order.out / "training").mkdir(parents=True)
        (order.out / "manifest.json").write_text("{}")
        with pytest.raises(ConfigurationError, match="is no manifest that this version knows; choose another folder"):
            train(order)


def check_facts(bundle, order):
    """Check that the manifest's facts are those of the order, the data and the training split."""
    manifest, images = bundle.manifest, read_labels(order.data)
    assert (manifest.model_id, manifest.licence, manifest.classes) == ("tiny-cxr-0.1.0", "CC0", tuple(Finding))
    assert [member.architecture for member in manifest.members] == ["resnet34", "resnet50"]
    for member in manifest.members:
        assert hashlib.sha256((order.out / member.file).read_bytes()).hexdigest() == member.sha256
    assert manifest.training.sha256 == fingerprint(images)
    assert manifest.training.recipes["resnet50"]["stages"] == [{"side": 32, "epochs": 1, "learning_rate": 0.02}]
    assert manifest.training.starting_weights == "random"
    with (order.out / "training" / "split.csv").open(encoding="utf-8") as lines:
        training = {row["file"] for row in csv.DictReader(lines) if row["split"] == "training"}
    assert sum(manifest.training.images.values()) == len(training)
    assert sum(manifest.training.held_out_images.values()) == len(ROWS) - len(training)
    assert manifest.training.held_out == "held out by patient"
    seen = [image for image in images if str(image.path) in training]
    pixels = load_pixels(seen, manifest.input_spec, decoding=DECODING, progress=lambda images: None)
    content, picture = bundle.load_hashes()
    copies = find_copies(
        hash_images([image.path for image in seen], pixels), ImageHashes(content=content, picture=picture)
    )
    assert copies.tolist() == [[number, number] for number in range(len(seen))]
    assert (manifest.input.trim_borders, manifest.input.stretch, manifest.input.smooth) == (True, (0.5, 99.5), True)
    assert manifest.input.mean == pytest.approx(pixels.mean(dtype=np.float64))
    assert manifest.input.std == pytest.approx(pixels.std(dtype=np.float64))
    names = {metric.name for metric in manifest.metrics}
    assert {"AUROC pneumonia", "accuracy pneumonia", "accuracy finding", "expected calibration error"} < names
    assert "AUROC pneumonia, resnet50 alone" in names
    kids = sum(count for name, count in manifest.training.held_out_images.items() if name.startswith("kids: "))
    point = manifest.operating_points.balanced
    assert point.sensitivity.n + point.specificity.n == kids
    gate = manifest.gate
    assert hashlib.sha256((order.out / gate.file).read_bytes()).hexdigest() == gate.sha256
    assert {rate.name for rate in gate.films} == {"kids", "adults", "all, varied"}
    assert {"inverted", "cut", "drawing: hand"} < {rate.name for rate in gate.failures}
    assert (manifest.intended_ages.youngest, manifest.intended_ages.oldest) == (0, 17)
    card = (order.out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "tiny-cxr-0.1.0" in card
    assert "## Reference standard\n\nTwo readers.\n\n## Licence" in card


def held_out_kids(order):
    """List the held-out images of the reference source."""
    with (order.out / "training" / "split.csv").open(encoding="utf-8") as lines:
        return [row["file"] for row in csv.DictReader(lines) if (row["split"], row["source"]) == ("validation", "kids")]


def check_changed_films(order, ensemble, changed):
    """Check that thresholds are chosen on what the members say of changed films, as `evaluate` asks them."""
    assert ensemble.manifest.training.balanced_under == tuple(name for name in STRESSES if name != "as they are")
    films = [decode_file(Path(file)) for file in held_out_kids(order)]
    for name, members in zip(ensemble.manifest.training.balanced_under, changed, strict=True):
        inputs = [
            prepare(
                replace(film, pixels=STRESSES[name](resize(film.pixels, STRESS_SIDE, STRESS_SIDE))),
                ensemble.manifest.input_spec,
            )
            for film in films
        ]
        assert members == pytest.approx(ensemble.examine_members(inputs)[0], abs=1e-3), name  # fp16 weights


def check_drift_reference(order, ensemble):
    """Check that drift is measured against the held-out images of the reference source, as the service answers them."""
    facts, held_out = ensemble.manifest.drift_reference, held_out_kids(order)
    assert (facts.data, facts.n) == ("held out by patient, kids", len(held_out))
    answers = ensemble.examine([prepare(decode_file(Path(file)), ensemble.manifest.input_spec) for file in held_out])
    for name in ("p_pneumonia", "input_mean", "input_std"):
        found = np.array([getattr(prediction, name) for prediction, _ in answers])
        assert getattr(facts, name).edges == pytest.approx(take_bins(found).edges, abs=1e-6)


def check_split(order):
    """Check that the file of the split has every image once, and no patient of a source on both sides."""
    with (order.out / "training" / "split.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert sorted(row["file"] for row in rows) == sorted(str(order.data / file) for file, *_ in ROWS)
    sides = [
        {(row["source"], row["patient_id"]) for row in rows if row["split"] == side}
        for side in ("training", "validation")
    ]
    assert not sides[0] & sides[1]


def check_progress(told):
    """Check that whoever watches is told of decoding and of each member's epochs."""
    assert told.images == {"decode": 60, "resnet34": 48, "resnet50": 48, "changed films": 7, "gate": 120}
    assert told.totals == told.images
    assert told.lines[0] == "60 images of 55 groups (patients, and copies of images: 0 files are there twice)"
    assert told.lines[1].startswith("training split: 53 images, mean ")
    assert [line.split(":")[0] for line in told.lines[2:]] == [
        "resnet34 epoch 1/1 at 32 px",
        "resnet50 epoch 1/1 at 32 px",
    ]


@pytest.mark.parametrize("source", ["kid", "adults"])
def test_reference_without_both_classes(source, order, make_data):
    """A reference without both classes, a misspelt one too, is refused before the training, not after it."""
    rows = [row for row in ROWS if row[3] == "kids"]
    rows += [(file, "normal", patient_id, group) for file, _, patient_id, group in ROWS if group == "adults"]
    order = replace(order, data=make_data(rows, "other"), options=options(reference_source=source))
    with pytest.raises(TrainingDataError, match=rf"of the reference source; it is {source}, there are: adults, kids$"):
        train(order)
    assert [path.name for path in (order.out / "training").iterdir()] == ["split.csv"]


def test_a_training_side_without_normal_images(order, make_data):
    """A fold that would train without any normal image is refused before the training."""
    rows = [(file, label, "P" if label == "normal" else patient, "kids") for file, label, patient, _ in ROWS]
    rows += [(f"more/{n}.png", "pneumonia", f"M{n}", "kids") for n in range(10)]
    order = replace(order, data=make_data(rows, "other"), options=options(folds=2))
    with pytest.raises(
        TrainingDataError, match=r"^the training side of fold \d has no image of normal: there are too few, 30 "
    ):
        train(order)
    assert [path.name for path in (order.out / "training").iterdir()] == ["split.csv"]


def test_one_film_with_two_labels(order):
    """A film that is listed as normal and as pneumonia is refused before the training."""
    copy = order.data / "kids" / "b0.png"
    copy.write_bytes((order.data / "kids" / "0.png").read_bytes())
    with pytest.raises(TrainingDataError, match=r"b0\.png have the same bytes and not the same label: normal and bact"):
        train(order)
    assert not list((order.out / "training").iterdir())


def test_more_images_than_the_memory_holds(order, monkeypatch):
    """Images that would not fit the memory are refused before anything is decoded."""
    monkeypatch.setattr(pixels, "available_memory", lambda: 1 << 10)
    with pytest.raises(TrainingDataError, match=r"^60 images of 32 x 32 pixels take 0\.0 GiB"):
        train(order)
    assert not order.out.exists()


def test_wrong_starting_weights(order):
    """Starting weights that do not fit the architecture are refused by its name."""
    backbone = SimpleNamespace(weights=lambda architecture: {})
    with pytest.raises(TrainingDataError, match=r"^the starting weights are not those of a resnet34: "):
        train(replace(order, backbone=backbone))


def test_missing_starting_weights(order, tmp_path):
    """Weights for one member alone, and a further file that does not exist, are refused before anything is decoded."""
    for architecture in ARCHITECTURES:
        network = ResNet(architecture, 1000)
        safetensors.torch.save_file(network.state_dict(), tmp_path / f"{architecture}.safetensors")
    first, second = (tmp_path / f"{architecture}.safetensors" for architecture in ARCHITECTURES)
    for files, sentence in (
        ([first], "no file among --backbone-weights is named resnet50"),
        ([first, second, tmp_path / "more.safetensors"], "cannot read the starting weights .*more"),
    ):
        with pytest.raises(TrainingDataError, match=sentence):
            train(replace(order, backbone=FileBackbone(files)))
        assert not order.out.exists()


class TestCrossValidation:
    """Folds: every image is judged by networks that did not see it."""

    def test_folds_and_then_all(self, order, monkeypatch):
        """Two folds are measured, and the members of the bundle are then trained on everything."""
        monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
        order = replace(order, options=options(folds=2))
        told = train(order)
        manifest = Bundle(order.out).manifest
        assert manifest.training.held_out == "2 folds by patient"
        assert sum(manifest.training.images.values()) == len(ROWS)
        assert sum(manifest.training.held_out_images.values()) == len(ROWS)
        with (order.out / "training" / "held_out.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert sorted(row["file"] for row in rows) == sorted(str(order.data / file) for file, *_ in ROWS)
        assert (order.out / "training" / "held_out.csv").stat().st_mode & 0o777 == 0o640
        read = read_predictions(order.out / "training" / "held_out.csv", manifest)
        assert [film.image.patient for film in read.films] == [f"{row['source']}:{row['patient_id']}" for row in rows]
        assert np.allclose(read.analysed.members.sum(axis=2), 1.0)
        names = {"fold-1 resnet34", "fold-2 resnet34", "resnet34", "fold-1 resnet50", "fold-2 resnet50", "resnet50"}
        assert names == told.images.keys() - {"decode", "changed films", "gate"}
        assert "trained on all images" in (order.out / "MODEL_CARD.md").read_text(encoding="utf-8")

    def test_only_figures(self, order, monkeypatch):
        """One of four folds is trained, and its figures are written; no bundle is."""
        monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
        order = replace(order, options=options(folds=4, run_folds=1, only_cross_validate=True))
        told = train(order)
        figures = json.loads((order.out / "training" / "metrics.json").read_text(encoding="utf-8"))
        assert {figure["data"] for figure in figures} == {
            "1 of 4 folds by patient, kids",
            "1 of 4 folds by patient, adults",
        }
        assert not (order.out / "manifest.json").exists()
        assert told.images.keys() == {"decode", "fold-1 resnet34", "fold-1 resnet50", "changed films"}
        assert any(line.startswith("AUROC pneumonia, 1 of 4 folds by patient, kids: ") for line in told.lines)

    @pytest.fixture
    def order_with_test_side(self, order, make_data, monkeypatch):
        """Ask for a training on a list that sets eight images aside."""
        monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
        aside = [(f"aside/{n}.png", "normal" if n % 2 else "viral_pneumonia", f"A{n}", "kids") for n in range(8)]
        data = make_data([*ROWS, *aside], "with-test")
        lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
        marked = [f"{line},{'test' if line.startswith('aside') else ''}" for line in lines[1:]]
        (data / "labels.csv").write_text("\n".join([f"{lines[0]},split", *marked]), encoding="utf-8")
        return replace(order, data=data)

    def test_a_test_side_is_measured(self, order_with_test_side, monkeypatch):
        """Images that the list sets aside are trained on nowhere, and measured apart.

        The data are named by their folder, also where it is given as `.`.
        """
        monkeypatch.chdir(order_with_test_side.data)
        order = replace(order_with_test_side, data=Path(), options=options(folds=2, run_folds=1))
        train(order)
        manifest = Bundle(order.out).manifest
        assert manifest.training.name == "with-test"
        assert sum(manifest.training.images.values()) == len(ROWS)
        (figure,) = [m for m in manifest.metrics if m.name == "AUROC pneumonia" and m.data == "test side, kids"]
        assert figure.n == 8

    def test_a_test_side_of_folds_alone(self, order_with_test_side):
        """Where no bundle is made, the figures of the side `test` say that they are those of one fold's members."""
        order = replace(order_with_test_side, options=options(folds=2, run_folds=1, only_cross_validate=True))
        told = train(order)
        figures = json.loads((order.out / "training" / "metrics.json").read_text(encoding="utf-8"))
        tested = {figure["data"] for figure in figures if figure["data"].startswith("test side")}
        assert tested == {"test side, members of fold 1, kids"}
        assert any(line.startswith("AUROC pneumonia, test side, members of fold 1, kids: ") for line in told.lines)

    @pytest.mark.parametrize("others", [{}, {"split_by": "image", "only_cross_validate": True}])
    def test_a_list_with_its_own_split_has_no_folds(self, others, order):
        """Folds, by patient or by image, and a split of the list are two answers to one question: refused."""
        path = order.data / "labels.csv"
        lines = path.read_text(encoding="utf-8").splitlines()
        marked = [f"{line},{'validation' if '/b1' in line or 'kids/1' in line else 'training'}" for line in lines[1:]]
        marked = [line for line in marked if "adults" not in line]
        path.write_text("\n".join([f"{lines[0]},split", *marked]), encoding="utf-8")
        with pytest.raises(TrainingDataError, match="the list has a split of its own"):
            train(replace(order, options=options(folds=2, **others)))
        assert not order.out.exists()

    def test_a_split_by_image_makes_no_bundle(self):
        """The leaking split of older work measures only."""
        with pytest.raises(ConfigurationError, match="a split by image leaks: it measures"):
            options(folds=5, split_by="image")


def test_notes_that_are_not_there(order, tmp_path):
    """Notes for the model card that cannot be read are refused before anything is decoded."""
    with pytest.raises(TrainingDataError, match="the notes for the model card cannot be read"):
        train(replace(order, options=options(notes=tmp_path / "notes.md")))
    assert not order.out.exists()
