"""Train both members on labelled images, calibrate them together, write a bundle."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from xray_batch.architectures import ARCHITECTURES
from xray_batch.bundle import (
    GATE_NAME,
    HASHES_NAME,
    MANIFEST_NAME,
    Manifest,
    member_files,
    save_hashes,
    save_weights,
    write_manifest,
)
from xray_batch.classify import softmax
from xray_batch.errors import ConfigurationError, TrainingDataError
from xray_batch.networks import load_backbone
from xray_batch.records import InputSpec
from xray_batch.resnet import ResNet
from xray_batch.standardize import standardize
from xray_batch.training.dataset import CLASSES, LabelledImage, fingerprint, read_images
from xray_batch.training.duplicates import ImageHashes, group_images, hash_images, merge_copies
from xray_batch.training.examine import Examiner, Members
from xray_batch.training.gate import GATE_ARCHITECTURE, fit_gate, memory_needed
from xray_batch.training.held_out import HeldOut, check_reference, is_positive, join, p_pneumonia, write_held_out
from xray_batch.training.manifest import NO_TWO_OF_ONE_PATIENT, Evidence, calibrate_on, make_manifest, reference
from xray_batch.training.model_card import model_card
from xray_batch.training.optimize import EpochReport, TrainingData, at_side, train_member
from xray_batch.training.order import Progress, TrainingOptions, TrainingOrder
from xray_batch.training.pixels import check_memory, load_pixels
from xray_batch.training.split import (
    Split,
    check_images,
    check_splits,
    find_test_images,
    has_own_split,
    make_leaking_splits,
    make_splits,
    write_split,
)

#: Where nothing is cross-validated, one of so many equal parts is held out.
_HOLD_OUT_PARTS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """Every image, decoded, and how they are split."""

    images: Sequence[LabelledImage]
    pixels: npt.NDArray[np.float32]  #: shape (N, side, side), in [0, 1]
    hashes: ImageHashes
    groups: npt.NDArray[np.intp]  #: shape (N,): number of each image's patient, or of its copies
    splits: Sequence[Split]  #: those to be trained
    test: npt.NDArray[np.intp]  #: images that nothing is trained or calibrated on
    how_held_out: str  #: for people
    sha256: str  #: of the list


def train_bundle(order: TrainingOrder, *, device: torch.device, dtype: torch.dtype, progress: Progress) -> Path | None:
    """Carry out `order` and return the folder of the new bundle, None where only figures were asked for.

    Raises
    ------
    TrainingDataError
        If the data cannot be used; the message names the file or label.
    ConfigurationError
        If the folder holds a bundle that is not of this order.
    """
    return _Training(order, device=device, dtype=dtype, progress=progress).run()


class _Training:
    """One training: its order, and what it runs on."""

    def __init__(self, order: TrainingOrder, *, device: torch.device, dtype: torch.dtype, progress: Progress) -> None:
        self._order = order
        self._options = order.options
        self._device = device
        self._dtype = dtype
        self._progress = progress
        self._work = order.out / "training"
        self._notes = _read_notes(order.options.notes)
        self._examiner = Examiner(order, device=device, dtype=dtype, progress=progress)

    def run(self) -> Path | None:
        """Train, measure, and write."""
        material = self._prepare()
        options, first = self._options, material.splits[0]
        trained, parts = [], []
        for number, split in enumerate(material.splits, start=1):
            folder = f"fold-{number}" if options.folds else ""
            trained.append(self._train_members(material, split.training, split.validation, folder))
            parts.append(self._ask(trained[-1], material, split.validation, material.how_held_out, changed=True))
        held_out, members = join(parts), trained[0]
        write_held_out(self._work / "held_out.csv", held_out)
        if options.folds and not options.only_cross_validate:
            everything = np.sort(np.concatenate([first.training, first.validation]))
            members = self._train_members(material, everything, np.empty(0, dtype=np.intp), "")
        asked = "test side, members of fold 1" if options.only_cross_validate else "test side"
        tested = self._ask(members, material, material.test, asked, changed=False) if len(material.test) else None
        if options.only_cross_validate:
            self._write_figures(held_out, tested)
            return None
        return self._write_bundle(material, members, held_out, tested)

    def _prepare(self) -> _Material:
        """Read, decode, group and split the images; also refuse what cannot be trained on."""
        options = self._options
        images = read_images(self._order.data)
        parts = options.folds or _HOLD_OUT_PARTS
        check_images(images, parts)
        if options.folds and has_own_split(images):
            message = "the list has a split of its own; folds would be another one: leave one of them out"
            raise TrainingDataError(message)
        _check_out(self._order, images, self._notes)
        spec = options.input_spec(0.0, 1.0)
        check_memory(images, spec, afterwards=0 if options.only_cross_validate else memory_needed(len(images), spec))
        self._check_backbone()
        self._work.mkdir(parents=True, exist_ok=True)
        pixels = load_pixels(
            images,
            spec,
            decoding=self._order.decoding,
            progress=self._progress.task("decode", len(images)),
        )
        hashes = hash_images([image.path for image in images], pixels)
        copies = len(images) - len(merge_copies(images, hashes.content.tolist()))
        groups = group_images([image.patient for image in images], hashes)
        if options.split_by == "image":
            splits = make_leaking_splits(images, folds=parts, seed=options.seed)
        else:
            splits = make_splits(images, groups, folds=parts, seed=options.seed)
        splits = splits[: options.run_folds] if options.folds else splits[:1]
        write_split(self._work / "split.csv", images, groups, splits)
        check_splits(images, groups, splits)
        held_out = [images[index] for split in splits for index in split.validation]
        check_reference(held_out, options.reference_source)
        self._progress.report(
            f"{len(images)} images of {len(set(groups.tolist()))} groups (patients, and copies of images: "
            f"{copies} files are there twice)"
        )
        return _Material(
            images=images,
            pixels=pixels,
            hashes=hashes,
            groups=groups,
            splits=splits,
            test=find_test_images(images),
            how_held_out=how_held_out(options, images),
            sha256=fingerprint(images),
        )

    def _check_backbone(self) -> None:
        """Refuse starting weights that are missing or do not fit before hours of training, not after them."""
        if self._order.backbone is not None:
            for architecture in ARCHITECTURES:
                self._build(architecture)
            self._progress.report(f"starting weights: {self._order.backbone.description}")

    def _train_members(
        self, material: _Material, training: npt.NDArray[np.intp], validation: npt.NDArray[np.intp], folder: str
    ) -> Members:
        """Train both members on some images; what they make of `validation` is reported on the way."""
        pixels = material.pixels[training]
        targets = np.stack([material.images[index].target for index in training])
        mean, std = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))
        self._progress.report(f"{folder or 'training split'}: {len(training)} images, mean {mean:.4f}, SD {std:.4f}")
        data = TrainingData(pixels=pixels, targets=targets, mean=mean, std=std)
        inputs = standardize(material.pixels[validation], mean, std)
        watched = _Watched(inputs=inputs, images=[material.images[index] for index in validation])
        networks = [_as_stored(self._train_one(architecture, data, watched, folder)) for architecture in ARCHITECTURES]
        return Members(networks=networks, training=training, mean=mean, std=std)

    def _train_one(self, architecture: str, data: TrainingData, watched: "_Watched", folder: str) -> ResNet:
        recipe = self._options.recipes[architecture]
        work = self._work / folder
        work.mkdir(exist_ok=True)
        name = f"{folder} {architecture}".strip()

        def on_epoch(report: EpochReport, average: ResNet) -> None:
            line = f"{name} epoch {report.epoch + 1}/{recipe.epochs} at {report.side} px: loss {report.loss:.4f}"
            if watched.images:
                small = at_side(watched.inputs, report.side, self._device)[:, 0].cpu().numpy()
                binary, finding = watched.accuracy(softmax(self._examiner.logits(average, small)))
                line += f", held-out accuracy {binary:.4f} (pneumonia), {finding:.4f} (finding)"
            else:
                binary = finding = math.nan
            _log_epoch(work / f"{architecture}.csv", report, binary, finding)
            self._progress.report(line)

        torch.manual_seed(recipe.seed)
        return train_member(
            self._build(architecture),
            data,
            recipe,
            device=self._device,
            dtype=self._dtype,
            compiled=self._options.compile,
            checkpoint=work / f"{architecture}.checkpoint.safetensors",
            on_step=self._progress.task(name, recipe.epochs * recipe.images_per_epoch(len(data.pixels))),
            on_epoch=on_epoch,
        )

    def _build(self, architecture: str) -> ResNet:
        network = ResNet(architecture, len(CLASSES))
        if self._order.backbone is not None:
            try:
                load_backbone(network, self._order.backbone.weights(architecture))
            except RuntimeError as error:
                message = f"the starting weights are not those of a {architecture}: {error}"
                raise TrainingDataError(message) from error
        return network

    def _ask(
        self, members: Members, material: _Material, indices: npt.NDArray[np.intp], name: str, *, changed: bool
    ) -> HeldOut:
        images = [material.images[index] for index in indices]
        return self._examiner.ask(members, images, material.pixels[indices], name, changed=changed)

    def _write_bundle(self, material: _Material, members: Members, held_out: HeldOut, tested: HeldOut | None) -> Path:
        out, spec = self._order.out, self._options.input_spec(members.mean, members.std)
        hashes = [
            save_weights(network, CLASSES, out / file)
            for network, file in zip(members.networks, member_files(ARCHITECTURES), strict=True)
        ]
        gate = fit_gate(
            members.networks[ARCHITECTURES.index(GATE_ARCHITECTURE)],
            spec,
            [material.images[index] for index in material.splits[0].training],
            material.groups[material.splits[0].training],
            [material.images[index] for index in material.splits[0].validation],
            path=out / GATE_NAME,
            decoding=self._order.decoding,
            device=self._device,
            dtype=self._dtype,
            seed=self._options.seed,
            task=self._progress.task,
        )
        seen = material.hashes[members.training]
        evidence = Evidence(
            training=[material.images[index] for index in members.training],
            held_out=held_out,
            tested=tested,
            sha256=material.sha256,
            member_sha256=hashes,
            hashes_sha256=save_hashes(seen.content, seen.picture, out / HASHES_NAME),
            gate=gate,
            notes=self._notes,
        )
        manifest = make_manifest(self._order, spec, evidence)
        write_manifest(out, manifest, model_card(manifest))
        return out

    def _write_figures(self, held_out: HeldOut, tested: HeldOut | None) -> None:
        calibration = calibrate_on(held_out, self._options.reference_source)
        figures = [
            metric.model_dump(mode="json")
            for part in (held_out, tested)
            if part is not None
            for metric in part.metrics(calibration.scaling, calibration.operating_points.balanced.threshold)
        ]
        (self._work / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        for figure in figures:
            self._progress.report("{name}, {data}: {value:.4f} ({low:.4f} - {high:.4f}), n = {n}".format_map(figure))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """Held-out images that show how a training goes."""

    inputs: npt.NDArray[np.float32]  #: shape (N, side, side), standardized
    images: Sequence[LabelledImage]

    def accuracy(self, probabilities: npt.NDArray[np.float64]) -> tuple[float, float]:
        """Share of images whose pneumonia, and whose finding, is the likeliest; coarse labels count once."""
        targets = np.stack([image.target for image in self.images])
        right = targets[np.arange(len(targets)), probabilities.argmax(axis=1)]
        called = p_pneumonia(probabilities) >= 0.5
        return float((called == is_positive(targets)).mean()), float(right.mean())


def how_held_out(options: TrainingOptions, images: Sequence[LabelledImage]) -> str:
    """Say for people how images are held out of a training."""
    how = f"{options.folds} folds by {options.split_by}" if options.folds else "held out by patient"
    if options.run_folds:
        how = f"{options.run_folds} of {how}"
    return how if len({image.patient for image in images}) < len(images) else f"{how}, {NO_TWO_OF_ONE_PATIENT}"


def _check_out(order: TrainingOrder, images: Sequence[LabelledImage], notes: str) -> None:
    """Refuse to write over a bundle, unless it is the one that this order made."""
    path = order.out / MANIFEST_NAME
    if not path.exists():
        return
    if not (order.out / "training").is_dir():
        message = f"{order.out} holds a bundle that was not trained there; choose another folder with --out"
        raise ConfigurationError(message)
    try:
        found = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        message = f"{path} is no manifest that this version knows; choose another folder with --out"
        raise ConfigurationError(message) from error
    options, facts = order.options, found.training
    recipes = {architecture: asdict(recipe) for architecture, recipe in options.recipes.items()}
    for what, was, asked in (
        ("another id or version", found.model_id, f"{options.id}-{options.version}"),
        ("other recipes", facts.recipes, json.loads(json.dumps(recipes))),
        ("another picture rule", _picture_rule(found.input_spec), _picture_rule(options.input_spec(0.0, 1.0))),
        ("other images", facts.sha256, fingerprint(images)),
        ("another way to hold images out", facts.held_out, how_held_out(options, images)),
        ("other starting weights", facts.starting_weights, order.starting_weights),
        ("another reference source", facts.reference, reference(options)),
        ("other ages", found.ages, options.intended_ages),
        ("another licence", found.licence, options.licence),
        ("other notes", found.notes, notes),
    ):
        if was != asked:
            message = f"{order.out} holds a bundle with {what}; choose another folder with --out"
            raise ConfigurationError(message)


def _picture_rule(spec: InputSpec) -> tuple[object, ...]:
    return spec.trim_borders, spec.stretch, spec.smooth


def _read_notes(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        message = f"the notes for the model card cannot be read: {error}"
        raise TrainingDataError(message) from error


def _log_epoch(path: Path, report: EpochReport, binary: float, finding: float) -> None:
    header = "epoch,side,loss,accuracy_pneumonia,accuracy_finding"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else [header]
    lines = lines[: report.epoch + 1]  # an interrupted epoch may have come so far before
    lines.append(f"{report.epoch},{report.side},{report.loss:.5f},{binary:.4f},{finding:.4f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _as_stored(network: ResNet) -> ResNet:
    """Round the weights as the bundle stores them, so that calibration sees what the service will use."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return network
