"""Train both members on a labelled data set, calibrate them together, write a bundle."""

import csv
import datetime as dt
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from xray_batch.bundle import (
    GATE_NAME,
    AgeFacts,
    GateFacts,
    InputFacts,
    Manifest,
    MemberFacts,
    Metric,
    TrainingFacts,
    member_files,
    save_weights,
    write_manifest,
)
from xray_batch.classify import place, pool, predict_logits, softmax
from xray_batch.decode import RENDERING_VERSION
from xray_batch.errors import TrainingDataError
from xray_batch.networks import ARCHITECTURES, build_network, load_backbone
from xray_batch.records import AgeRange, Finding
from xray_batch.standardize import SQUASH_BILINEAR_ANTIALIAS, standardize
from xray_batch.training.backbone import BackboneSource
from xray_batch.training.calibration import Sample, fit_calibration
from xray_batch.training.dataset import (
    CLASSES,
    LabelledImage,
    Split,
    fingerprint,
    load_pixels,
    read_labels,
    split_by_patient,
    write_split,
)
from xray_batch.training.gate import GATE_ARCHITECTURE, fit_gate
from xray_batch.training.metrics import (
    auroc,
    calibration_error,
    share,
)
from xray_batch.training.model_card import model_card
from xray_batch.training.optimize import EpochReport, Recipe, TrainingData, at_side, train_member

#: Share of the images held out, as one of so many equal parts.
VALIDATION_FOLDS: Final = 10

INTENDED_USE: Final = (
    "Research on frontal chest radiographs like those of the training data. "
    "Not a medical device; not for diagnosis, triage or rule-out."
)
_LIBRARIES: Final = ("torch", "torchvision", "numpy", "pillow", "pydicom", "imagecodecs")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrder:
    """What to train, from what, and where to."""

    data: Path  #: folder with `labels.csv`, or a CSV file
    out: Path  #: becomes the bundle; checkpoints and logs go to `out`/training
    bundle_id: str
    version: str
    licence: str
    ages: AgeRange | None  #: of the patients that the bundle is meant for; None: not known
    recipes: Mapping[str, Recipe]  #: one per architecture
    seed: int  #: of the split
    side: int  #: rows and columns of the model input
    reference_source: str | None  #: thresholds and metrics use validation images of this source; None: all
    backbone: BackboneSource | None  #: starting weights; None: random


class Progress(Protocol):
    """What a training tells whoever watches it."""

    def task(self, description: str, total: int) -> Callable[[int], None]:
        """Announce a piece of work of `total` images; returns a function to advance it."""

    def report(self, line: str) -> None:
        """Pass on one line of text."""


def train_bundle(order: TrainingOrder, *, device: torch.device, dtype: torch.dtype, progress: Progress) -> Path:
    """Carry out `order` and return the folder of the new bundle.

    Raises
    ------
    TrainingDataError
        If the data cannot be used; the message names the file or label.
    """
    images, split, data, held_out = _prepare(order, progress)
    networks = [
        _train_one(architecture, order, data, held_out, device=device, dtype=dtype, progress=progress)
        for architecture in ARCHITECTURES
    ]
    members = np.stack(
        [
            softmax(held_out.logits(_as_stored(network), side=order.side, device=device, dtype=dtype))
            for network in networks
        ]
    )
    hashes = [
        save_weights(network, order.out / file)
        for network, file in zip(networks, member_files(ARCHITECTURES), strict=True)
    ]
    gate = fit_gate(
        networks[ARCHITECTURES.index(GATE_ARCHITECTURE)],
        _input_facts(order, data).input_spec,
        [images[index] for index in split.training],
        held_out.images,
        path=order.out / GATE_NAME,
        device=device,
        dtype=dtype,
        seed=order.seed,
        task=progress.task,
    )
    manifest = _manifest(order, images, split, data, held_out, members, hashes, gate)
    write_manifest(order.out, manifest, model_card(manifest))
    return order.out


def _prepare(
    order: TrainingOrder, progress: Progress
) -> tuple[list[LabelledImage], Split, TrainingData, "_Validation"]:
    """Read, split, decode and measure the images; also refuse what cannot be trained on."""
    work = order.out / "training"
    work.mkdir(parents=True, exist_ok=True)
    images = read_labels(order.data)
    split = split_by_patient(images, folds=VALIDATION_FOLDS, seed=order.seed)
    write_split(work / "split.csv", images, split)
    advance = progress.task("decode", len(images))
    pixels = load_pixels(images, order.side, order.side, progress=advance)
    targets = np.stack([image.target for image in images])
    mean = float(pixels[split.training].mean(dtype=np.float64))
    std = float(pixels[split.training].std(dtype=np.float64))
    progress.report(f"training split: {len(split.training)} images, mean {mean:.4f}, SD {std:.4f}")
    data = TrainingData(
        pixels=pixels[split.training],
        targets=targets[split.training],
        mean=mean,
        std=std,
        sha256=fingerprint(images),
    )
    held_out = _Validation(
        images=[images[index] for index in split.validation],
        inputs=standardize(pixels[split.validation], mean, std),
        targets=targets[split.validation],
        reference_source=order.reference_source,
    )
    held_out.check_reference()
    return images, split, data, held_out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Validation:
    """The validation split, standardized as the service does it."""

    images: Sequence[LabelledImage]
    inputs: npt.NDArray[np.float32]
    targets: npt.NDArray[np.bool_]
    reference_source: str | None

    @property
    def reference(self) -> npt.NDArray[np.bool_]:
        """Which images thresholds and metrics are measured on."""
        return np.array([self.reference_source in (None, image.source) for image in self.images])

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """Which images have a pneumonia of any cause."""
        normal: npt.NDArray[np.bool_] = self.targets[:, CLASSES.index(Finding.NORMAL)]
        return ~normal

    def check_reference(self) -> None:
        """Refuse, before hours of training, what no threshold can be chosen on afterwards.

        Raises
        ------
        TrainingDataError
            If the reference lacks images with or without pneumonia.
        """
        positive = self.positive[self.reference]
        if positive.all() or not positive.any():
            sources = ", ".join(sorted({image.source for image in self.images}))
            message = (
                "thresholds need images with and without pneumonia in the validation split of the reference source; "
                f"it is {self.reference_source or 'not given'}, there are: {sources}"
            )
            raise TrainingDataError(message)

    def logits(
        self, network: nn.Module, *, side: int, device: torch.device, dtype: torch.dtype
    ) -> npt.NDArray[np.float64]:
        """Logits of shape (N, classes), for images of `side` x `side` pixels."""
        inputs = at_side(self.inputs, side, device)[:, 0].cpu().numpy()
        return predict_logits(network.eval(), inputs, device=device, dtype=dtype, batch_size=32)

    def accuracy(self, probabilities: npt.NDArray[np.float64]) -> tuple[float, float]:
        """Share of images whose pneumonia, and whose finding, is the likeliest; coarse labels count once."""
        normal = CLASSES.index(Finding.NORMAL)
        chosen = probabilities.argmax(axis=1)
        right = self.targets[np.arange(len(chosen)), chosen]
        p_pneumonia = 1 - probabilities[:, normal]
        binary = (p_pneumonia >= 0.5) == self.positive
        return float(binary[self.reference].mean()), float(right[self.reference].mean())


def _train_one(
    architecture: str,
    order: TrainingOrder,
    data: TrainingData,
    held_out: _Validation,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> nn.Module:
    recipe = order.recipes[architecture]
    torch.manual_seed(recipe.seed)
    network = build_network(architecture, len(CLASSES))
    if order.backbone is not None:
        try:
            load_backbone(network, order.backbone.weights(architecture))
        except RuntimeError as error:
            message = f"the starting weights are not those of a {architecture}: {error}"
            raise TrainingDataError(message) from error
    work = order.out / "training"

    def on_epoch(report: EpochReport, average: nn.Module) -> None:
        probabilities = softmax(held_out.logits(average, side=report.side, device=device, dtype=dtype))
        binary, finding = held_out.accuracy(probabilities)
        _log_epoch(work / f"{architecture}.csv", report, binary, finding)
        progress.report(
            f"{architecture} epoch {report.epoch + 1}/{recipe.epochs} at {report.side} px: "
            f"loss {report.loss:.4f}, validation accuracy {binary:.4f} (pneumonia), {finding:.4f} (finding)"
        )

    return train_member(
        network,
        data,
        recipe,
        device=device,
        dtype=dtype,
        checkpoint=work / f"{architecture}.checkpoint.safetensors",
        on_step=progress.task(architecture, recipe.epochs * recipe.images_per_epoch(len(data.pixels))),
        on_epoch=on_epoch,
    )


def _log_epoch(path: Path, report: EpochReport, binary: float, finding: float) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        if new:
            writer.writerow(["epoch", "side", "loss", "accuracy_pneumonia", "accuracy_finding"])
        writer.writerow([report.epoch, report.side, f"{report.loss:.5f}", f"{binary:.4f}", f"{finding:.4f}"])


def _as_stored(network: nn.Module) -> nn.Module:
    """Round the weights as the bundle stores them, so that calibration sees what the service will use."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return place(network, next(network.parameters()).device)


def _manifest(
    order: TrainingOrder,
    images: Sequence[LabelledImage],
    split: Split,
    data: TrainingData,
    held_out: _Validation,
    members: npt.NDArray[np.float64],
    hashes: Sequence[str],
    gate: GateFacts,
) -> Manifest:
    reference = held_out.reference
    calibration = fit_calibration(
        Sample(members=members[:, reference], targets=held_out.targets[reference], classes=CLASSES)
    )
    return Manifest(
        id=order.bundle_id,
        version=order.version,
        created_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
        architecture=" + ".join(ARCHITECTURES),
        classes=CLASSES,
        input=_input_facts(order, data),
        members=tuple(
            MemberFacts(architecture=architecture, file=file, sha256=sha256)
            for architecture, file, sha256 in zip(ARCHITECTURES, member_files(ARCHITECTURES), hashes, strict=True)
        ),
        temperature=calibration.temperature,
        threshold_low=calibration.threshold_low,
        threshold_high=calibration.threshold_high,
        disagreement_limit=calibration.disagreement_limit,
        gate=gate,
        operating_points=calibration.operating_points,
        training=TrainingFacts(
            name=order.data.name,
            sha256=data.sha256,
            images=_counts(images, split.training),
            validation_images=_counts(images, split.validation),
            recipes={architecture: asdict(recipe) for architecture, recipe in order.recipes.items()},
            starting_weights="random" if order.backbone is None else order.backbone.description,
            reference=order.reference_source or "all sources",
        ),
        calibration=None,
        metrics=tuple(
            _metrics(held_out, members, calibration.temperature, calibration.operating_points.balanced.threshold)
        ),
        licence=order.licence,
        intended_use=INTENDED_USE,
        intended_ages=AgeFacts(**asdict(order.ages)) if order.ages else None,
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
    )


def _input_facts(order: TrainingOrder, data: TrainingData) -> InputFacts:
    return InputFacts(
        channels=1,
        rows=order.side,
        columns=order.side,
        mean=data.mean,
        std=data.std,
        resize=SQUASH_BILINEAR_ANTIALIAS,
        rendering_version=RENDERING_VERSION,
    )


def _counts(images: Sequence[LabelledImage], indices: npt.NDArray[np.intp]) -> dict[str, int]:
    chosen = [images[index] for index in indices]
    return dict(sorted(Counter(f"{image.source}: {image.label}" for image in chosen).items()))


def _metrics(
    held_out: _Validation, members: npt.NDArray[np.float64], temperature: float, threshold: float
) -> list[Metric]:
    """Measure the ensemble on each source of the validation split, and each member on the reference."""
    normal = CLASSES.index(Finding.NORMAL)
    pooled = pool(members, temperature)
    p_pneumonia = 1 - pooled[:, normal]
    positive = held_out.positive
    metrics = []
    for source in sorted({image.source for image in held_out.images}):
        chosen = np.array([image.source == source for image in held_out.images])
        if positive[chosen].all() or not positive[chosen].any():
            continue
        data = f"validation split by patient, {source}"
        patients = [image.patient_id for image in held_out.images if image.source == source]
        metrics.append(auroc("AUROC pneumonia", data, positive[chosen], p_pneumonia[chosen], patients))
        called = p_pneumonia[chosen] >= threshold
        metrics.append(share("accuracy pneumonia", data, called == positive[chosen]))
        fine = chosen & (held_out.targets.sum(axis=1) == 1)
        right = held_out.targets[fine, pooled[fine].argmax(axis=1)]
        metrics.append(share("accuracy finding", data, right))
        metrics.append(
            calibration_error("expected calibration error", data, positive[chosen], p_pneumonia[chosen], patients)
        )
        for architecture, member in zip(ARCHITECTURES, members, strict=True):
            name = f"AUROC pneumonia, {architecture} alone"
            metrics.append(auroc(name, data, positive[chosen], 1 - member[chosen, normal], patients))
    return metrics
