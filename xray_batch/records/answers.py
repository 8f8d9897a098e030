"""What is said about one image, and by which model."""

import datetime as dt
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records.images import ImageHeader, ImageWarning

if TYPE_CHECKING:  # `--help` should not wait for it
    import numpy as np
    import numpy.typing as npt


class Outcome(enum.StrEnum):
    """What the product says about one image."""

    PNEUMONIA = "pneumonia"  #: P(pneumonia) is at or above the high threshold.
    NORMAL = "normal"  #: P(pneumonia) is below the low threshold.
    INDETERMINATE = "indeterminate"  #: Between the thresholds, or the members disagree.
    NOT_ANALYSED = "not_analysed"  #: No model saw the image; the reason code says why.


class Finding(enum.StrEnum):
    """The classes of the model; a bundle's manifest holds their order."""

    NORMAL = "normal"
    BACTERIAL_PNEUMONIA = "bacterial_pneumonia"
    VIRAL_PNEUMONIA = "viral_pneumonia"
    COVID19_PNEUMONIA = "covid19_pneumonia"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeRange:
    """Ages in completed years, both included."""

    youngest: int
    oldest: int

    def includes(self, age: float) -> bool:
        """Whether a patient of `age` years is among them."""
        return self.youngest <= age < self.oldest + 1

    def __str__(self) -> str:
        return f"{self.youngest} to {self.oldest} years old"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How the average of the members' probabilities becomes a calibrated one."""

    temperature: float  #: above 0; above 1 makes every answer less sure
    shift: float  #: added to the log odds of pneumonia; above 0 makes all answers lean towards it


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the ensemble says about one model input."""

    outcome: Outcome  #: never NOT_ANALYSED
    probabilities: dict[Finding, float]  #: calibrated, summing to 1
    disagreement: float  #: largest minus smallest P(pneumonia) among the members, 0 to 1
    threshold_low: float  #: P(pneumonia) below this is `normal`
    threshold_high: float  #: P(pneumonia) at or above this is `pneumonia`
    heat_in_thorax: float | None  #: 0 to 1, see :attr:`HeatMap.thorax_share`
    member_probabilities: dict[str, float]
    """P(pneumonia) of each member before calibration, by architecture, in the bundle's order.

    The ensemble averages them, and `disagreement` is the distance between the largest and the smallest.
    """
    input_mean: float  #: see :attr:`ModelInput.input_mean`
    input_std: float  #: see :attr:`ModelInput.input_std`
    warnings: tuple[ImageWarning, ...] = ()  #: what the gate found in the picture

    @property
    def p_pneumonia(self) -> float:
        """Calibrated probability of any pneumonia: 1 - P(normal)."""
        return 1.0 - self.probabilities[Finding.NORMAL]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Where in one picture the networks find what raises P(pneumonia); see :mod:`xray_batch.heat_map`.

    Maps have the shape (rows, columns) of the model input, values in [0, 1], 1 at their own hottest point.  They
    are all zero where no part of the picture raises it.
    """

    average: "npt.NDArray[np.float32]"  #: of the members, each with the same say
    members: "tuple[npt.NDArray[np.float32], ...]"  #: in the bundle's order
    thorax_share: float | None
    """Share of the average heat that lies in the middle of the film, where lungs and heart are; None without heat.

    A low one says that the answer hangs on something else: a marker, a border, an arm.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why one file was not analysed."""

    reason_code: ReasonCode
    reason: str  #: one sentence for people; may quote the file, so never logged

    @classmethod
    def of(cls, error: RejectedInputError) -> Self:
        """Return what an error says of its file."""
        return cls(reason_code=error.reason_code, reason=str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """One question that the input gate asks of a file, and the answer it got."""

    name: str  #: `modality`, `view`, `patient_age`, ...
    found: str  #: what the file says; may quote it, so never logged
    accepted: str  #: what is accepted
    rejection: "Rejection | None" = None  #: set where the answer refuses the file


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model and which preprocessing made a result."""

    model_id: str  #: `id` and `version` of the bundle: `paediatric-cxr-1.0.0`
    model_sha256: str  #: of the manifest, which holds the hashes of the weights
    preprocess_sha256: str  #: of the InputSpec, and of the approximation in decoding if there is one
    manifest: str  #: the manifest's JSON text, kept with the results


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """Where and with what an answer was computed: all that decides its last bits beside file and model."""

    device: str  #: `cpu AVX2, 2 threads` or `cuda NVIDIA H100 80GB HBM3`
    precision: str  #: of the convolutions: `float32` or `bfloat16`
    libraries: str  #: this package and those that decode and compute: `imagecodecs 2026.3.6, numpy 2.4.6, ...`
    batch_images: int  #: images in its forward pass, on a GPU those that fill it up too; 0 where no network saw it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer for one content: a prediction or a rejection, never both, and its circumstances."""

    answer: Prediction | Rejection
    header: ImageHeader | None  #: None where the file could not be read that far
    rendering: str | None
    warnings: tuple[ImageWarning, ...]
    classified_at: dt.datetime  #: aware, UTC
    processing_seconds: float  #: decode, standardize and its share of the forward pass
    computation: Computation | None = None  #: None where the file did not come as far as a decoder, or was given up

    @property
    def outcome(self) -> Outcome:
        """Outcome of the answer."""
        return self.answer.outcome if isinstance(self.answer, Prediction) else Outcome.NOT_ANALYSED

    @property
    def reason_code(self) -> ReasonCode | None:
        """Why the file was not analysed; None if it was."""
        return self.answer.reason_code if isinstance(self.answer, Rejection) else None


#: Columns of the probabilities that are stored, and what each is of.
PROBABILITY_COLUMNS: Final = {
    "p_normal": Finding.NORMAL,
    "p_bacterial": Finding.BACTERIAL_PNEUMONIA,
    "p_viral": Finding.VIRAL_PNEUMONIA,
    "p_covid19": Finding.COVID19_PNEUMONIA,
}
