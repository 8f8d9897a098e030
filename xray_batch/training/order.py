"""What to train: the options of a training, and the order they make."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xray_batch.architectures import ARCHITECTURES
from xray_batch.decode import RENDERING_VERSION
from xray_batch.errors import ConfigurationError
from xray_batch.records import AgeRange, InputSpec
from xray_batch.standardize import SQUASH_BILINEAR_ANTIALIAS
from xray_batch.training.augment import Augmentation
from xray_batch.training.backbone import BackboneSource, FileBackbone, TorchvisionBackbone
from xray_batch.training.optimize import Recipe, Stage
from xray_batch.training.pixels import Decoding

#: The deepest feature maps have a thirty-second of the side: with less, nothing would be left of them.
_SMALLEST_SIDE: Final = 32

_STAGE: Final = re.compile(r"^(?P<side>[1-9]\d*)x(?P<epochs>[1-9]\d*)@(?P<rate>0?\.\d+)$")

#: About an hour and a half for both members and 6,000 images on two quiet cores; a GPU affords more, at larger sides.
_STAGES: Final = "64x10@0.05,96x4@0.02"


class Progress(Protocol):
    """What a training tells whoever watches it."""

    def task(self, description: str, total: int) -> Callable[[int], None]:
        """Announce a piece of work of `total` images; returns a function to advance it."""

    def report(self, line: str) -> None:
        """Pass on one line of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrder:
    """What to train, from what, and where to."""

    data: Path  #: folder with `labels.csv` or a folder per label, or a CSV file
    out: Path  #: becomes the bundle; checkpoints and logs go to `out`/training
    options: "TrainingOptions"
    decoding: Decoding
    backbone: BackboneSource | None  #: starting weights; None: random

    @property
    def starting_weights(self) -> str:
        """What the manifest says of them."""
        return "random" if self.backbone is None else self.backbone.description


class TrainingOptions(BaseModel):
    """Every option of a training; the table `[train]` of a configuration file has these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str = Field("local-cxr", pattern="^[a-z0-9][a-z0-9-]*$", description="Name of the bundle")
    version: str = Field("1.0.0", pattern=r"^\d+\.\d+\.\d+$", description="Version of the bundle")
    licence: str = Field("not stated", description="Licence of the weights")
    ages: str | None = Field(
        None, description="Completed years of the patients it is meant for, such as `1-5`; others are flagged"
    )
    notes: Path | None = Field(None, description="Markdown that the model card takes over: what no program can know")
    stages: str | dict[str, str] = Field(
        _STAGES,
        description="SIDExEPOCHS@LEARNING_RATE,... with growing sides, the last that of the model's input; "
        "or one such text for each member",
    )
    batch_size: int = Field(64, ge=2, description="Images in one step")
    augmentation: Augmentation = Field("full", description="`full`, or `pose` alone")
    mixup: float = Field(0.0, ge=0, le=1, description="Share of the batches that are mixed")
    weight_decay: float = Field(5e-4, ge=0, description="Of stochastic gradient descent")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="Share of the target given to all classes")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="Of the running average of the weights, per step")
    trim_borders: bool = Field(True, description="Whether one-gray borders are cut off")
    stretch: tuple[float, float] | Literal[False] = Field(
        (0.5, 99.5), description="Percentiles of the picture that become black and white; `false`: gray levels stay"
    )
    smooth: bool = Field(True, description="Whether the finest detail is averaged out")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the split, the order and the augmentation")
    folds: int | None = Field(
        None, ge=2, description="Cross-validate in so many parts, then train on all; without it a tenth is held out"
    )
    run_folds: int | None = Field(None, ge=1, description="Train only so many of the folds, to save time")
    only_cross_validate: bool = Field(False, description="Stop after the folds: figures, but no bundle")
    split_by: Literal["patient", "image"] = Field(
        "patient", description="`image` leaks, and is only for comparison with work that did so"
    )
    reference_source: str | None = Field(
        None,
        description="Choose temperature, shift, thresholds and the reference for drift on held-out images of this "
        "source only; all if not given",
    )
    pretrained: bool = Field(False, description="Start from torchvision's ImageNet weights (cached, or downloaded)")
    backbone_weights: tuple[Path, ...] = Field(
        (), description="Start from these files, named resnet34* and resnet50*: safetensors, or torchvision's .pth"
    )
    compile: bool = Field(False, description="Compile the networks: faster after a minute or two; needs a C compiler")

    @field_validator("ages")
    @classmethod
    def _check_ages(cls, ages: str | None) -> str | None:
        if ages is not None:
            _parse_ages(ages)
        return ages

    @field_validator("stretch")
    @classmethod
    def _check_stretch(cls, stretch: tuple[float, float] | Literal[False]) -> tuple[float, float] | Literal[False]:
        if stretch and not 0 <= stretch[0] < stretch[1] <= 100:
            raise ValueError(f"{list(stretch)} is not two growing percentiles from 0 to 100, such as [0.5, 99.5]")
        return stretch

    @model_validator(mode="after")
    def _check(self) -> Self:
        sides = {recipe.stages[-1].side for recipe in self.recipes.values()}
        if len(sides) != 1:
            raise ValueError(f"the stages end at {sorted(sides)} pixels: all members see the same input")
        if self.folds is None and (self.run_folds or self.only_cross_validate):
            raise ValueError("run_folds and only_cross_validate need folds")
        if self.folds is not None and self.run_folds is not None and self.run_folds > self.folds:
            raise ValueError(f"run_folds is {self.run_folds}, but there are {self.folds} folds")
        if self.split_by == "image" and not self.only_cross_validate:
            raise ValueError("a split by image leaks: it measures (only_cross_validate), and makes no bundle")
        if self.pretrained and self.backbone_weights:
            raise ValueError("pretrained and backbone_weights are two kinds of starting weights; leave one of them out")
        return self

    @property
    def recipes(self) -> dict[str, Recipe]:
        """How each architecture is trained."""
        texts = {architecture: _STAGES for architecture in ARCHITECTURES}
        if isinstance(self.stages, str):
            texts = dict.fromkeys(ARCHITECTURES, self.stages)
        elif self.stages.keys() - texts:
            unknown = sorted(self.stages.keys() - texts)[0]
            raise ValueError(f"stages names {unknown!r}, expected {' or '.join(ARCHITECTURES)}")
        else:
            texts |= self.stages
        return {
            architecture: Recipe(
                stages=_parse_stages(text),
                batch_size=self.batch_size,
                augmentation=self.augmentation,
                mixup=self.mixup,
                weight_decay=self.weight_decay,
                label_smoothing=self.label_smoothing,
                ema_decay=self.ema_decay,
                seed=self.seed,
            )
            for architecture, text in texts.items()
        }

    @property
    def intended_ages(self) -> AgeRange | None:
        """The ages that the bundle is meant for, None where none are named."""
        return _parse_ages(self.ages) if self.ages else None

    @property
    def backbone(self) -> BackboneSource | None:
        """Where starting weights come from; None: random."""
        if self.backbone_weights:
            return FileBackbone(self.backbone_weights)
        return TorchvisionBackbone() if self.pretrained else None

    def input_spec(self, mean: float, std: float) -> InputSpec:
        """Return how images become model inputs, with the statistics of a training split."""
        side = next(iter(self.recipes.values())).stages[-1].side
        return InputSpec(
            rows=side,
            columns=side,
            mean=mean,
            std=std,
            resize=SQUASH_BILINEAR_ANTIALIAS,
            trim_borders=self.trim_borders,
            stretch=self.stretch or None,
            smooth=self.smooth,
            rendering_version=RENDERING_VERSION,
        )


def make_options(table: Mapping[str, object], command_line: Mapping[str, object]) -> TrainingOptions:
    """Merge the table `[train]` of a configuration file with options of the command line, which win.

    Raises
    ------
    ConfigurationError
        Naming the first option that is unknown or wrong, and what is accepted.
    """
    given = {name: value for name, value in command_line.items() if value is not None}
    if "stages" in given:
        given["stages"] = _merge_stages(table.get("stages"), given["stages"])
    try:
        return TrainingOptions.model_validate({**table, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = f"wrong training option{f' {name!r}' if name else ''}: {first['msg'].removeprefix('Value error, ')}"
        raise ConfigurationError(message) from error


def _merge_stages(of_table: object, given: object) -> object:
    """Let stages of one member replace those of the table for that member alone."""
    if not isinstance(given, Mapping):
        return given
    if isinstance(of_table, str):
        of_table = dict.fromkeys(ARCHITECTURES, of_table)
    return {**of_table, **given} if isinstance(of_table, Mapping) else given


def _parse_ages(text: str) -> AgeRange:
    youngest, _, oldest = text.partition("-")
    if not (youngest.isdecimal() and oldest.isdecimal() and int(youngest) <= int(oldest)):
        raise ValueError(f"{text!r} is not two numbers of years such as 1-5")
    return AgeRange(youngest=int(youngest), oldest=int(oldest))


def _parse_stages(text: str) -> tuple[Stage, ...]:
    stages = []
    for part in text.split(","):
        match = _STAGE.match(part.strip())
        rate = float(match["rate"]) if match else 0.0
        if match is None or not rate:
            message = (
                f"stages has {part!r}, expected SIDExEPOCHS@LEARNING_RATE such as 224x10@0.01, "
                "the rate a decimal fraction between 0 and 1"
            )
            raise ValueError(message)
        stages.append(Stage(side=int(match["side"]), epochs=int(match["epochs"]), learning_rate=rate))
    sides = [stage.side for stage in stages]
    if min(sides) < _SMALLEST_SIDE or sides != sorted(sides):
        raise ValueError(f"the sides of the stages are {sides}, expected {_SMALLEST_SIDE} or more, never shrinking")
    return tuple(stages)
