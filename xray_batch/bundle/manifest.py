"""The facts of a bundle, as pydantic checks them: none may be missing but one that is younger, none unknown."""

from typing import Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from xray_batch.architectures import ARCHITECTURES
from xray_batch.drift import BINS
from xray_batch.gate import PictureKind
from xray_batch.records import (
    DRIFT_COLUMNS,
    AgeRange,
    DriftReference,
    Finding,
    InputSpec,
    ReferenceBins,
    Scaling,
)

#: Largest distance from 1 of shares that ought to sum to it.
_SHARES_TOLERANCE: Final = 1e-6


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
    """A share of `n` images, with its 95 % confidence interval.

    It is from samples of the patients, or Wilson's over the patients where all images are alike or the patients are
    few; in bundles of earlier versions, the packaged one among them, Wilson's over the images.
    """

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

    balanced: OperatingPoint  #: largest sum of sensitivity and specificity; see `TrainingFacts.balanced_under`
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
    balanced_under: tuple[str, ...] = ()
    """Changes of these images; the balanced threshold has the largest sum where it is least.

    Over the images as they are and changed in each way.  Absent in bundles of before it was so: as they are alone.
    A :class:`CalibrationFacts` says that the threshold was chosen anew, on images as they are.
    """


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


class BinFacts(_Facts):
    """How one number is spread over the reference films; see :class:`xray_batch.records.ReferenceBins`."""

    edges: tuple[float, ...] = Field(min_length=BINS - 1, max_length=BINS - 1)
    shares: tuple[float, ...] = Field(min_length=BINS, max_length=BINS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.edges) != sorted(self.edges):
            message = f"edges are {list(self.edges)}, expected them in order"
            raise ValueError(message)
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > _SHARES_TOLERANCE:
            message = f"shares are {list(self.shares)}, expected numbers from 0 that sum to 1"
            raise ValueError(message)
        return self


class DriftFacts(_Facts):
    """What the reference films were like, and what the bundle says about them without having been trained on them."""

    data: str  #: which films: how they were held out and their source, or the name of a site's list
    n: int = Field(gt=0)
    p_pneumonia: BinFacts  #: calibrated as in service
    input_mean: BinFacts
    input_std: BinFacts

    @classmethod
    def of(cls, data: str, reference: DriftReference) -> Self:
        """Return what the manifest holds of a reference."""
        bins = {name: getattr(reference, name) for name in DRIFT_COLUMNS}
        return cls(
            data=data,
            n=reference.p_pneumonia.n,
            **{name: BinFacts(edges=each.edges, shares=each.shares) for name, each in bins.items()},
        )

    @property
    def reference(self) -> DriftReference:
        """The same as the store and :mod:`xray_batch.drift` need it."""
        facts = {name: getattr(self, name) for name in DRIFT_COLUMNS}
        return DriftReference(
            **{name: ReferenceBins(edges=each.edges, shares=each.shares, n=self.n) for name, each in facts.items()}
        )


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
    drift_reference: DriftFacts | None = None  #: null, or absent, in bundles of before it was kept: no drift is told
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
        architectures = [member.architecture for member in self.members]
        if len(set(architectures)) < len(architectures):
            message = f"members are {', '.join(architectures)}, expected each architecture once: results name it"
            raise ValueError(message)
        if self.gate.architecture not in architectures:
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
