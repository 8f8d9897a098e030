"""Small real bundles: random weights, made-up facts, everything else as in a trained one."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xray_batch.architectures import ARCHITECTURES
from xray_batch.bundle import (
    GATE_NAME,
    HASHES_NAME,
    MANIFEST_NAME,
    BinFacts,
    Bundle,
    DriftFacts,
    GateFacts,
    GateRate,
    InputFacts,
    Manifest,
    MemberFacts,
    Metric,
    OperatingPoint,
    OperatingPoints,
    Proportion,
    TrainingFacts,
    member_files,
    save_gate,
    save_hashes,
    save_weights,
    write_manifest,
)
from xray_batch.decode import RENDERING_VERSION
from xray_batch.gate import PictureKind
from xray_batch.records import Finding
from xray_batch.resnet import ResNet
from xray_batch.settings import Settings
from xray_batch.standardize import SQUASH_BILINEAR_ANTIALIAS
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.duplicates import hash_images
from xray_batch.training.pixels import Decoding, load_pixels

MODEL_CARD = "# A model card\n"

#: Channels of the stages of ResNet-34 together, averaged over the whole picture.
GATE_FEATURES = 64 + 128 + 256 + 512

_BINS = BinFacts(edges=tuple(tenth / 10 for tenth in range(1, 10)), shares=(0.1,) * 10)

#: Films whose numbers are evenly spread from 0 to 1.
DRIFT_REFERENCE = DriftFacts(data="made-up, kermany", n=1000, p_pneumonia=_BINS, input_mean=_BINS, input_std=_BINS)

#: Of files that no test reads.
NO_SHA256 = "0" * 64


def make_manifest(side: int = 32, hashes: Sequence[str] = (NO_SHA256, NO_SHA256), **facts: Any) -> Manifest:
    """Return a complete manifest of both architectures; `facts` replace some of it."""
    point = OperatingPoint(
        threshold=0.5,
        sensitivity=Proportion(value=0.9, low=0.8, high=0.95, n=50),
        specificity=Proportion(value=0.8, low=0.7, high=0.875, n=60),
    )
    complete: dict[str, Any] = {
        "id": "test-cxr",
        "version": "1.2.3",
        "created_at": dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
        "architecture": " + ".join(ARCHITECTURES),
        "classes": tuple(Finding),
        "input": InputFacts(
            channels=1,
            rows=side,
            columns=side,
            mean=0.5,
            std=0.25,
            resize=SQUASH_BILINEAR_ANTIALIAS,
            trim_borders=False,
            stretch=None,
            smooth=False,
            rendering_version=RENDERING_VERSION,
        ),
        "members": tuple(
            MemberFacts(architecture=architecture, file=file, sha256=sha256)
            for architecture, file, sha256 in zip(ARCHITECTURES, member_files(ARCHITECTURES), hashes, strict=True)
        ),
        "temperature": 1.25,
        "log_odds_shift": 0.0,
        "threshold_low": 0.25,
        "threshold_high": 0.75,
        "disagreement_limit": 0.5,
        "gate": GateFacts(
            file=GATE_NAME,
            sha256=NO_SHA256,
            architecture="resnet34",
            grid=1,
            kinds=tuple(PictureKind),
            # Nothing is flagged or refused: the bundle's networks are random.
            flag_above=1e6,
            refuse_above=1e6,
            sharpness_below=-1e6,
            films=(GateRate(name="made-up", n=50, refused=1, flagged=2),),
            failures=(GateRate(name="inverted", n=40, refused=30, flagged=8),),
        ),
        "operating_points": OperatingPoints(balanced=point, high_sensitivity=point, high_specificity=point),
        "training": TrainingFacts(
            name="made-up",
            sha256=NO_SHA256,
            images={"made-up: normal": 30, "made-up: viral_pneumonia": 20},
            held_out_images={"made-up: normal": 3},
            held_out="held out by patient",
            hashes=None,
            recipes={architecture: {"batch_size": 32} for architecture in ARCHITECTURES},
            starting_weights="random",
            reference="kermany",
        ),
        "calibration": None,
        "drift_reference": DRIFT_REFERENCE,
        "metrics": (
            Metric(name="AUROC pneumonia", data="made-up, validation", value=0.9375, low=0.8125, high=0.96875, n=110),
            Metric(name="accuracy finding", data="made-up, other", value=0.5625, low=0.4375, high=0.6875, n=48),
        ),
        "licence": "CC BY 4.0",
        "notes": "",
        "intended_use": "Tests of this package.",
        "intended_ages": {"youngest": 1, "oldest": 5},
        "libraries": {"torch": "2.11.0"},
    }
    return Manifest(**(complete | facts))


def make_bundle(folder: Path, *, seed: int = 0, side: int = 32, **facts: Any) -> Path:
    """Write a bundle with random weights of both architectures (90 MB) and return its folder.

    A fresh residual network has blocks that do nothing; here each does something, so that every weight
    has a part in the answer.
    """
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    hashes = []
    for architecture, file in zip(ARCHITECTURES, member_files(ARCHITECTURES), strict=True):
        network = ResNet(architecture, len(Finding))
        for name, tensor in network.state_dict().items():
            if name.endswith("weight") and tensor.ndim > 1:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.empty(tensor.shape).normal_(std=fan_in**-0.5, generator=generator))
            elif name.endswith("weight"):
                tensor.fill_(1.0)
        hashes.append(save_weights(network, tuple(Finding), folder / file))
    layer = np.random.default_rng(seed).normal(size=(GATE_FEATURES + 1, len(PictureKind))).astype(np.float32)
    sha256 = save_gate(layer[:-1], layer[-1], folder / GATE_NAME)
    gate = make_manifest().gate.model_copy(update={"sha256": sha256})
    write_manifest(folder, make_manifest(side, hashes, **({"gate": gate} | facts)), MODEL_CARD)
    return folder


def copy_bundle(source: Path, folder: Path) -> Path:
    """Make a bundle that shares the weight files of `source` and has its own manifest and model card."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).hardlink_to(path)
        else:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle as JSON gives it."""
    facts: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    return facts


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a bundle, whatever it says."""
    (folder / MANIFEST_NAME).write_text(json.dumps(facts), encoding="utf-8")


def know_images(folder: Path, images: Sequence[LabelledImage]) -> Path:
    """Have a bundle know that it was trained on some images, and return its folder."""
    pixels = load_pixels(
        images,
        Bundle(folder).manifest.input_spec,
        decoding=Decoding.from_settings(Settings(decode_workers=1)),
        progress=lambda images: None,
    )
    hashes = hash_images([image.path for image in images], pixels)
    facts = read_facts(folder)
    sha256 = save_hashes(hashes.content, hashes.picture, folder / HASHES_NAME)
    facts["training"]["hashes"] = {"file": HASHES_NAME, "sha256": sha256}
    write_facts(folder, facts)
    return folder
