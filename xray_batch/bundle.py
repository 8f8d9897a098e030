"""A model bundle: a folder with a manifest and the weights it describes.

::

    manifest.json          every fact that inference needs, and where it comes from
    resnet34.safetensors   weights of one member, float16
    resnet50.safetensors
    gate.safetensors       the layer that tells films from other pictures
    training_images.safetensors   hashes of the training images, if they were kept
    MODEL_CARD.md          for people

A missing fact, an unknown fact or a changed byte is a :class:`BundleError`: nothing falls back to a
constant.  Weights are safetensors; no pickle is ever loaded.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from torch import nn
from torchvision.models import ResNet

from xray_batch.errors import BundleError
from xray_batch.gate import GateLimits, InputGate, PictureKind
from xray_batch.networks import ARCHITECTURES, build_network
from xray_batch.records import AgeRange, Finding, InputSpec, Scaling

MANIFEST_NAME: Final = "manifest.json"
GATE_NAME: Final = "gate.safetensors"
HASHES_NAME: Final = "training_images.safetensors"
MODEL_CARD_NAME: Final = "MODEL_CARD.md"

#: Bundles that the package carries; a folder each.
PACKAGED_BUNDLES: Final = Path(__file__).parent / "bundles"


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MemberFacts(_Facts):
    """One network of the ensemble."""

    architecture: str = Field(pattern="^(" + "|".join(ARCHITECTURES) + ")$")
    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class InputFacts(_Facts):
    """How an image becomes a model input; see :class:`xray_batch.records.InputSpec`."""

    channels: Literal[1]
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    mean: float = Field(gt=0, lt=1)
    std: float = Field(gt=0, lt=1)
    resize: str
    trim_borders: bool
    stretch: tuple[float, float] | None
    smooth: bool
    rendering_version: int

    @property
    def input_spec(self) -> InputSpec:
        """The same as the standardize stage needs it."""
        return InputSpec(**self.model_dump(exclude={"channels"}))

    @field_validator("stretch")
    @classmethod
    def _check_stretch(cls, stretch: tuple[float, float] | None) -> tuple[float, float] | None:
        if stretch is not None and not 0 <= stretch[0] < stretch[1] <= 100:
            message = f"stretch is {list(stretch)}, expected two growing percentiles"
            raise ValueError(message)
        return stretch


class Proportion(_Facts):
    """A share of `n` images, with its 95 % confidence interval (Wilson)."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(gt=0)


class OperatingPoint(_Facts):
    """A threshold on P(pneumonia) and what it achieved on held-out images."""

    threshold: float = Field(ge=0, le=1)
    sensitivity: Proportion
    specificity: Proportion


class OperatingPoints(_Facts):
    """The thresholds that a user can choose from."""

    balanced: OperatingPoint  #: largest sum of sensitivity and specificity
    high_sensitivity: OperatingPoint  #: highest threshold with a sensitivity of at least 0.98
    high_specificity: OperatingPoint  #: lowest threshold with a specificity of at least 0.98


class Metric(_Facts):
    """One measured figure and the data it was measured on."""

    name: str
    data: str
    value: float
    low: float  #: lower end of the 95 % confidence interval
    high: float  #: upper end
    n: int = Field(gt=0)


class AgeFacts(_Facts):
    """Ages of the patients that the bundle is meant for; see :class:`xray_batch.records.AgeRange`."""

    youngest: int = Field(ge=0)
    oldest: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.youngest > self.oldest:
            message = f"youngest {self.youngest} is above oldest {self.oldest}"
            raise ValueError(message)
        return self


class GateRate(_Facts):
    """How the gate treated `n` pictures of one kind that it was not fitted to."""

    name: str
    n: int = Field(gt=0)
    refused: int = Field(ge=0)
    flagged: int = Field(ge=0)  #: of the others, those with a warning about the picture


class GateFacts(_Facts):
    """The gate that looks at the picture; see :mod:`xray_batch.gate`."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    architecture: str  #: of the member whose stages give the features
    grid: int = Field(gt=0)  #: each stage's channels are averaged over so many parts a side
    kinds: tuple[PictureKind, ...]  #: in the order of the layer's outputs
    flag_above: float
    refuse_above: float
    sharpness_below: float
    films: tuple[GateRate, ...]  #: real films that it was not fitted to, by source
    failures: tuple[GateRate, ...]  #: pictures that are to be refused or flagged

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sorted(self.kinds) != sorted(PictureKind):
            message = f"kinds are {', '.join(self.kinds)}, expected {', '.join(PictureKind)} in any order"
            raise ValueError(message)
        return self


class HashFacts(_Facts):
    """The file that the training images are recognized by; see :func:`save_hashes`."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class TrainingFacts(_Facts):
    """What the members learned from."""

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    images: dict[str, int]  #: images that the members were trained on, per source and label
    held_out_images: dict[str, int]  #: likewise, those that it was calibrated and measured on
    held_out: str  #: how: `held out by patient`, or `2 of 5 folds by patient`, and then the members saw them at last
    hashes: HashFacts | None  #: by which a training image is recognized; null where they were not kept
    recipes: dict[str, dict[str, object]]  #: how each architecture was trained
    starting_weights: str  #: `random`, or where they come from
    reference: str  #: source of the held-out images that temperature, thresholds and limits were chosen on


class CalibrationFacts(_Facts):
    """The labelled sample of a site that temperature, thresholds and limit of disagreement were fitted to anew."""

    derived_from: str  #: `model_id` of the bundle whose weights and gate these are
    derived_from_sha256: str = Field(pattern="^[0-9a-f]{64}$")  #: of that bundle's manifest
    calibrated_at: AwareDatetime
    name: str  #: of the list of labels
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  #: of the images and labels
    images: dict[str, int]  #: images per source and label
    patients: int = Field(gt=0)
    left_out: dict[str, int]  #: listed files that got no answer and so are not among the images, per reason


class Manifest(_Facts):
    """The facts of a bundle; the file is this object as JSON."""

    id: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    created_at: AwareDatetime
    architecture: str
    classes: tuple[Finding, ...]
    input: InputFacts
    members: tuple[MemberFacts, ...] = Field(min_length=1)
    temperature: float = Field(gt=0)
    log_odds_shift: float
    threshold_low: float = Field(ge=0, le=1)
    threshold_high: float = Field(ge=0, le=1)
    disagreement_limit: float = Field(ge=0, le=1)
    gate: GateFacts
    operating_points: OperatingPoints
    training: TrainingFacts
    calibration: CalibrationFacts | None  #: null where everything was fitted in the training
    metrics: tuple[Metric, ...]
    licence: str
    notes: str  #: Markdown for the model card: what no program can know, such as the reference standard
    intended_use: str
    intended_ages: AgeFacts | None  #: null where the ages of the training patients are not known
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sorted(self.classes) != sorted(Finding):
            message = f"classes are {', '.join(self.classes)}, expected {', '.join(Finding)} in any order"
            raise ValueError(message)
        if self.gate.architecture not in {member.architecture for member in self.members}:
            message = f"gate.architecture is {self.gate.architecture}, which is not among the members"
            raise ValueError(message)
        if self.threshold_low > self.threshold_high:
            message = f"threshold_low {self.threshold_low} is above threshold_high {self.threshold_high}"
            raise ValueError(message)
        return self

    @property
    def model_id(self) -> str:
        """Name of this bundle in the database: id and version."""
        return f"{self.id}-{self.version}"

    @property
    def ages(self) -> AgeRange | None:
        """The ages that the bundle is meant for, None where it names none."""
        return AgeRange(**self.intended_ages.model_dump()) if self.intended_ages else None

    @property
    def scaling(self) -> Scaling:
        """What calibrates the members' average."""
        return Scaling(temperature=self.temperature, shift=self.log_odds_shift)

    @property
    def input_spec(self) -> InputSpec:
        """The facts that the standardize stage needs."""
        return self.input.input_spec


class Bundle:
    """A bundle on disk whose manifest has been read and checked.

    Parameters
    ----------
    folder
        Holds `manifest.json` and the files it names.

    Raises
    ------
    BundleError
        If the manifest is missing or incomplete, or names a file that is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = (folder / MANIFEST_NAME).read_bytes()
        except OSError as error:
            message = f"{folder} is not a model bundle: {MANIFEST_NAME} cannot be read ({error.strerror})"
            raise BundleError(message) from error
        try:
            self.manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            fact = ".".join(str(part) for part in first["loc"]) or "the whole"
            message = f"{folder / MANIFEST_NAME}: {fact}: {first['msg']}"
            raise BundleError(message) from error
        self.manifest_text = content.decode()
        self.sha256 = hashlib.sha256(content).hexdigest()
        for name in [*self.hashed_files, MODEL_CARD_NAME]:
            if not (folder / name).is_file():
                message = f"{folder} is incomplete: {name} is missing"
                raise BundleError(message)

    @property
    def hashed_files(self) -> list[str]:
        """Names of the files whose SHA-256 is in the manifest: weights, gate, and hashes of the training images."""
        hashes = self.manifest.training.hashes
        return [
            *(member.file for member in self.manifest.members),
            self.manifest.gate.file,
            *([hashes.file] if hashes else []),
        ]

    def load_networks(self) -> list[ResNet]:
        """Build the members, in the manifest's order, float32 on the CPU, in evaluation mode.

        Raises
        ------
        BundleError
            If a file differs from its hash, or its tensors do not fit the architecture.
        """
        return [self._load_member(member) for member in self.manifest.members]

    def load_gate(self) -> InputGate:
        """Load the gate that looks at the picture.

        Raises
        ------
        BundleError
            If its file differs from its hash or holds something else.
        """
        facts = self.manifest.gate
        try:
            tensors = safetensors.numpy.load(self._read(facts.file, facts.sha256))
            weight, bias = tensors["weight"], tensors["bias"]
        except (SafetensorError, KeyError) as error:
            message = f"{self.folder / facts.file} does not hold the weights of a gate: {error}"
            raise BundleError(message) from error
        if weight.ndim != 2 or weight.shape[1] != len(facts.kinds) or bias.shape != (len(facts.kinds),):
            message = f"{self.folder / facts.file} has {weight.shape} weights for {len(facts.kinds)} kinds"
            raise BundleError(message)
        limits = GateLimits(
            flag_above=facts.flag_above, refuse_above=facts.refuse_above, sharpness_below=facts.sharpness_below
        )
        return InputGate(weight.astype(np.float32), bias.astype(np.float32), facts.kinds, limits)

    def load_hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]] | None:
        """Load the hashes of the training images' files (N,) and pictures (N, 32); None where they were not kept.

        Raises
        ------
        BundleError
            If the file differs from its hash or holds something else.
        """
        facts = self.manifest.training.hashes
        if facts is None:
            return None
        try:
            tensors = safetensors.numpy.load(self._read(facts.file, facts.sha256))
            return tensors["content"], tensors["picture"]
        except (SafetensorError, KeyError) as error:
            message = f"{self.folder / facts.file} does not hold the hashes of images: {error}"
            raise BundleError(message) from error

    def _read(self, file: str, sha256: str) -> bytes:
        path = self.folder / file
        try:
            content = path.read_bytes()
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}"
            raise BundleError(message) from error
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            message = f"{path} has SHA-256 {actual}, the manifest says {sha256}"
            raise BundleError(message)
        return content

    def _load_member(self, member: MemberFacts) -> ResNet:
        network = build_network(member.architecture, len(self.manifest.classes))
        try:
            network.load_state_dict(safetensors.torch.load(self._read(member.file, member.sha256)))
        except (SafetensorError, RuntimeError) as error:
            message = f"{self.folder / member.file} does not hold the weights of a {member.architecture}: {error}"
            raise BundleError(message) from error
        network.requires_grad_(requires_grad=False)
        network.eval()
        return network


def find_bundle(name: str, installed: Path) -> Bundle:
    """Open a bundle by path, by the name of its folder in `installed`, or among the packaged ones.

    Raises
    ------
    BundleError
        If there is none; the message lists those that there are.
    """
    if "/" in name:
        return Bundle(Path(name))
    for parent in (installed, PACKAGED_BUNDLES):
        if (parent / name).is_dir():
            return Bundle(parent / name)
    known = ", ".join(folder.name for folder in bundle_folders(installed))
    message = f"there is no model bundle {name!r}; there are: {known or 'none'}"
    raise BundleError(message)


def bundle_folders(installed: Path) -> list[Path]:
    """List the folders of the packaged bundles and of those in `installed`, by name."""
    parents = [parent for parent in (PACKAGED_BUNDLES, installed) if parent.is_dir()]
    return sorted(folder for parent in parents for folder in parent.iterdir() if folder.is_dir())


def save_weights(network: nn.Module, path: Path) -> str:
    """Write a member's weights as float16 safetensors and return the file's SHA-256.

    Integer entries (the batch counters of batch norm) are kept as they are.
    """
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    safetensors.torch.save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes 0600; weights are no secret, and the service may be another user
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_gate(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], path: Path) -> str:
    """Write a gate's layer as safetensors, the weights float16, and return the file's SHA-256."""
    safetensors.numpy.save_file({"weight": weight.astype(np.float16), "bias": bias.astype(np.float32)}, path)
    path.chmod(0o644)  # as above
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_hashes(content: npt.NDArray[np.uint64], picture: npt.NDArray[np.uint8], path: Path) -> str:
    """Write the hashes of training images (N,) and (N, 32), and return the file's SHA-256.

    They recognize an image, and tell nothing about it.
    """
    safetensors.numpy.save_file({"content": content, "picture": picture}, path)
    path.chmod(0o644)  # as above
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest, model_card: str) -> None:
    """Write the manifest and the model card beside the weights."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MODEL_CARD_NAME).write_text(model_card, encoding="utf-8")
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def member_files(architectures: Sequence[str]) -> list[str]:
    """Name the weight file of each member."""
    return [f"{architecture}.safetensors" for architecture in architectures]
