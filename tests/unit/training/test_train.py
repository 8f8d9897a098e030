"""From labelled images to a bundle, both members and all facts, on sixty tiny images."""

import csv
import hashlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.errors import TrainingDataError
from xray_batch.records import AgeRange, Finding
from xray_batch.standardize import prepare
from xray_batch.training import metrics
from xray_batch.training.dataset import fingerprint, load_pixels, read_labels
from xray_batch.training.optimize import Recipe, Stage
from xray_batch.training.train import TrainingOrder, train_bundle

CPU = torch.device("cpu")

ROWS = [
    *((f"kids/{n}.png", "normal", f"P{n}", "kids") for n in range(20)),
    *((f"kids/b{n}.png", "bacterial_pneumonia", f"B{n}", "kids") for n in range(20)),
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
    assert train_bundle(order, device=CPU, dtype=torch.float32, progress=told) == order.out
    return told


@pytest.fixture
def order(make_data, tmp_path):
    """Ask for one epoch at 32 x 32 pixels."""
    recipe = Recipe(stages=(Stage(side=32, epochs=1, learning_rate=0.01),), batch_size=16)
    return TrainingOrder(
        data=make_data(ROWS),
        out=tmp_path / "out",
        bundle_id="tiny-cxr",
        version="0.1.0",
        licence="CC0",
        ages=AgeRange(youngest=0, oldest=17),
        recipes={"resnet34": recipe, "resnet50": replace(recipe, batch_size=24)},
        seed=0,
        side=32,
        reference_source="kids",
        backbone=None,
    )


def test_train_bundle(order, monkeypatch):
    """Training gives a bundle that loads and classifies; a second call finds it done and gives the same."""
    monkeypatch.setattr(metrics, "_RESAMPLES", 20)
    told = train(order)
    bundle = Bundle(order.out)
    check_facts(bundle, order)
    check_split(order)
    check_progress(told)
    ensemble = Ensemble(bundle, device=CPU, dtype=torch.float32, batch_size=8)
    inputs = [prepare(decode_file(order.data / file), bundle.manifest.input_spec) for file, *_ in ROWS[::20]]
    predictions = [prediction for prediction, _ in ensemble.examine(inputs)]
    assert all(sum(prediction.probabilities.values()) == pytest.approx(1.0) for prediction in predictions)
    again = train(order)
    assert not [line for line in again.lines if "epoch" in line]
    assert again.images["decode"] == len(ROWS)
    facts = {"created_at"}
    assert Bundle(order.out).manifest.model_dump(exclude=facts) == bundle.manifest.model_dump(exclude=facts)


def check_facts(bundle, order):
    """Check that the manifest's facts are those of the order, the data and the training split."""
    manifest, images = bundle.manifest, read_labels(order.data)
    assert (manifest.model_id, manifest.licence, manifest.classes) == ("tiny-cxr-0.1.0", "CC0", tuple(Finding))
    assert [member.architecture for member in manifest.members] == ["resnet34", "resnet50"]
    for member in manifest.members:
        assert hashlib.sha256((order.out / member.file).read_bytes()).hexdigest() == member.sha256
    assert manifest.training.sha256 == fingerprint(images)
    assert manifest.training.recipes["resnet50"]["batch_size"] == 24
    assert manifest.training.starting_weights == "random"
    with (order.out / "training" / "split.csv").open(encoding="utf-8") as lines:
        training = {row["file"] for row in csv.DictReader(lines) if row["split"] == "training"}
    assert sum(manifest.training.images.values()) == len(training)
    assert sum(manifest.training.validation_images.values()) == len(ROWS) - len(training)
    pixels = load_pixels(
        [image for image in images if str(image.path) in training], 32, 32, progress=lambda images: None
    )
    assert manifest.input.mean == pytest.approx(pixels.mean(dtype=np.float64))
    assert manifest.input.std == pytest.approx(pixels.std(dtype=np.float64))
    names = {metric.name for metric in manifest.metrics}
    assert {"AUROC pneumonia", "accuracy pneumonia", "accuracy finding", "expected calibration error"} < names
    assert "AUROC pneumonia, resnet50 alone" in names
    kids = sum(count for name, count in manifest.training.validation_images.items() if name.startswith("kids: "))
    point = manifest.operating_points.balanced
    assert point.sensitivity.n + point.specificity.n == kids
    gate = manifest.gate
    assert hashlib.sha256((order.out / gate.file).read_bytes()).hexdigest() == gate.sha256
    assert {rate.name for rate in gate.films} == {"kids", "adults", "all, varied"}
    assert {"inverted", "cut", "drawing: hand"} < {rate.name for rate in gate.failures}
    assert (manifest.intended_ages.youngest, manifest.intended_ages.oldest) == (0, 17)
    assert "tiny-cxr-0.1.0" in (order.out / "MODEL_CARD.md").read_text(encoding="utf-8")


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
    assert told.images == {"decode": 60, "resnet34": 48, "resnet50": 48, "gate": 60}
    assert told.totals == told.images
    assert told.lines[0].startswith("training split: 53 images, mean ")
    assert [line.split(":")[0] for line in told.lines[1:]] == [
        "resnet34 epoch 1/1 at 32 px",
        "resnet50 epoch 1/1 at 32 px",
    ]


@pytest.mark.parametrize("source", ["kid", "adults"])
def test_reference_without_both_classes(source, order, make_data):
    """A reference without both classes, a misspelt one too, is refused before the training, not after it."""
    rows = [row for row in ROWS if row[3] == "kids"]
    rows += [(file, "normal", patient_id, group) for file, _, patient_id, group in ROWS if group == "adults"]
    order = replace(order, data=make_data(rows, "other"), reference_source=source)
    with pytest.raises(TrainingDataError, match=rf"of the reference source; it is {source}, there are: adults, kids$"):
        train(order)
    assert [path.name for path in (order.out / "training").iterdir()] == ["split.csv"]


def test_wrong_starting_weights(order):
    """Starting weights that do not fit the architecture are refused by its name."""
    backbone = SimpleNamespace(weights=lambda architecture: {})
    with pytest.raises(TrainingDataError, match=r"^the starting weights are not those of a resnet34: "):
        train(replace(order, backbone=backbone))
