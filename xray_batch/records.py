"""Immutable records handed from one stage to the next.

Arrays inside records are read-only by convention: the stage that receives one does not change it.
"""

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.errors import ReasonCode


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


class SourceFormat(enum.StrEnum):
    """Encoding of a received file, decided by content, never by suffix."""

    DICOM = "dicom"  #: DICOM Part 10 file (PS3.10)
    PNG = "png"
    JPEG = "jpeg"


class ImageWarning(enum.StrEnum):
    """Something a reader of the result should know; the image was analysed all the same."""

    SECONDARY_CAPTURE = "secondary_capture"  #: The SOP Class says a copy, not an original.
    BURNED_IN_ANNOTATION = "burned_in_annotation"  #: (0028,0301) is YES: text in the pixels.
    MODALITY_ABSENT = "modality_absent"  #: (0008,0060) is empty; accepted for its SOP Class.
    BODY_PART_ABSENT = "body_part_absent"  #: (0018,0015) is empty: nothing in the header says chest.
    VIEW_ABSENT = "view_absent"  #: Neither View Position nor View Code Sequence.
    NO_WINDOW = "no_window"  #: No VOI LUT and no window: the whole stored range was shown.
    POLARITY_CONFLICT = "polarity_conflict"  #: Presentation LUT Shape contradicts the photometric interpretation.
    LOSSY_COMPRESSION = "lossy_compression"  #: (0028,2110) is 01, or the transfer syntax is lossy.
    GRAY_AS_COLOR = "gray_as_color"  #: Three equal colour channels, read as one.
    ALPHA_IGNORED = "alpha_ignored"  #: An alpha channel was dropped.
    ICC_IGNORED = "icc_ignored"  #: An embedded ICC profile was not applied.
    SOP_CLASS_ABSENT = "sop_class_absent"  #: (0008,0016) is absent; accepted for its Modality.
    AGE_ABSENT = "age_absent"  #: No (0010,1010) Patient's Age, and no birth date to know it from.
    AGE_OUT_OF_RANGE = "age_out_of_range"  #: The patient is younger or older than those the model is meant for.
    CODESTREAM_CONFLICT = "codestream_conflict"  #: The compressed stream contradicts its attributes, and was believed.
    VOI_LUT_DAMAGED = "voi_lut_damaged"  #: (0028,3010) cannot be read, and the window beside it was applied.
    BITS_UNUSED = "bits_unused"  #: No window, and leading bits without use: the range of the used ones was shown.
    ORIENTATION_CORRECTED = "orientation_corrected"  #: Mirrored or turned as (0020,0020) Patient Orientation asks.
    NOT_SQUARE = "not_square"  #: The pixels were not square and were resampled.
    PADDING_TRIMMED = "padding_trimmed"  #: Rows or columns of nothing but (0028,0120) padding were cut off.
    BORDER_TRIMMED = "border_trimmed"  #: A wide border of one gray was cut off.
    UID_CONFLICT = "uid_conflict"  #: Other bytes with this (0008,0018) SOP Instance UID came first.
    SUSPECT_POLARITY = "suspect_polarity"  #: The picture looks as if black and white were exchanged.
    SUSPECT_ORIENTATION = "suspect_orientation"  #: It looks turned by 90 or 180 degrees.
    SUSPECT_FRAMING = "suspect_framing"  #: It looks as if half of the chest were missing, or has wide borders.
    SUSPECT_SHARPNESS = "suspect_sharpness"  #: It is blurred.
    ATYPICAL_IMAGE = "atypical_image"  #: It is unlike the films that the model was trained on.


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What a file says about itself, as far as later stages need it.

    Field names are the DICOM keywords in snake case (PS3.6).
    For PNG and JPEG all DICOM fields are None.
    """

    source_format: SourceFormat
    transfer_syntax_uid: str | None = None  #: (0002,0010)
    sop_class_uid: str | None = None  #: (0008,0016)
    sop_instance_uid: str | None = None  #: (0008,0018)
    study_instance_uid: str | None = None  #: (0020,000D)
    series_instance_uid: str | None = None  #: (0020,000E)
    patient_id: str | None = None  #: (0010,0020)
    accession_number: str | None = None  #: (0008,0050)
    study_date: dt.date | None = None  #: (0008,0020)
    modality: str | None = None  #: (0008,0060)
    view_position: str | None = None  #: (0018,5101), or from View Code Sequence: PA, AP
    patient_age: float | None = None  #: years, from (0010,1010) or the dates of birth and study
    photometric_interpretation: str | None = None  #: (0028,0004)
    bits_stored: int | None = None  #: (0028,0101)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrayscaleImage:
    """One decoded image and the header it came with."""

    header: ImageHeader
    pixels: npt.NDArray[np.float32]
    """Shape (rows, columns), values in [0, 1], larger is brighter.

    MONOCHROME2 polarity: bone is bright, air is dark.  Not yet standardized.
    """
    rendering: str
    """How stored values became gray: `voi_lut`, `window:LINEAR`, `identity`, ..."""
    bits: int | None = None  #: of one decoded value before rendering; None where the image comes from no file
    steps: tuple[str, ...] = ()
    """What was done in turn and why, one clause each, for people; no patient attribute."""
    warnings: tuple[ImageWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """One question that the input gate asks of a file, and the answer it got."""

    name: str  #: `modality`, `view`, `patient_age`, ...
    found: str  #: what the file says; may quote it, so never logged
    accepted: str  #: what is accepted
    rejection: "Rejection | None" = None  #: set where the answer refuses the file


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
class InputSpec:
    """How a grayscale image becomes a model input; part of a bundle's manifest."""

    rows: int
    columns: int
    mean: float  #: of the training split's pixels in [0, 1], after the resize
    std: float  #: likewise
    resize: str  #: name of the rule: `squash-bilinear-antialias`
    trim_borders: bool  #: whether one-gray borders are cut off
    stretch: tuple[float, float] | None  #: percentiles of the picture that become 0 and 1; None: gray levels stay
    smooth: bool  #: whether the finest detail is averaged out
    rendering_version: int  #: version of the decode stage's rendering that the model was trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How the average of the members' probabilities becomes a calibrated one."""

    temperature: float  #: above 0; above 1 makes every answer less sure
    shift: float  #: added to the log odds of pneumonia; above 0 makes all answers lean towards it


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """One standardized image, ready for the networks."""

    header: ImageHeader
    pixels: npt.NDArray[np.float32]  #: shape (rows, columns), zero mean and unit SD over the training split
    sharpness: float  #: of the picture before the resize; see :func:`xray_batch.standardize.measure_sharpness`
    rendering: str
    warnings: tuple[ImageWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the ensemble says about one model input."""

    outcome: Outcome  #: never NOT_ANALYSED
    probabilities: dict[Finding, float]  #: calibrated, summing to 1
    disagreement: float  #: largest minus smallest P(pneumonia) among the members, 0 to 1
    threshold_low: float  #: P(pneumonia) below this is `normal`
    threshold_high: float  #: P(pneumonia) at or above this is `pneumonia`
    heat_in_thorax: float | None  #: 0 to 1, see :attr:`HeatMap.thorax_share`
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

    average: npt.NDArray[np.float32]  #: of the members, each with the same say
    members: tuple[npt.NDArray[np.float32], ...]  #: in the bundle's order
    thorax_share: float | None
    """Share of the average heat that lies in the middle of the film, where lungs and heart are; None without heat.

    A low one says that the answer hangs on something else: a marker, a border, an arm.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why one file was not analysed."""

    reason_code: ReasonCode
    reason: str  #: one sentence for people; may quote the file, so never logged


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One file seen, whether or not its bytes were seen before."""

    arrival_id: uuid.UUID  #: fixed when the file is claimed; names its spool folder
    source_name: str  #: path as the sender gave it, relative to the inbox or as on the command line
    content_sha256: str  #: 64 lower-case hex digits
    size: int  #: bytes
    received_at: dt.datetime  #: aware, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model and which preprocessing made a result."""

    model_id: str  #: `id` and `version` of the bundle: `paediatric-cxr-1.0.0`
    model_sha256: str  #: of the manifest, which holds the hashes of the weights
    preprocess_sha256: str  #: of the InputSpec
    manifest: str  #: the manifest's JSON text, kept with the results


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """Where and with what an answer was computed: all that decides its last bits beside file and model."""

    device: str  #: `cpu AVX2, 2 threads` or `cuda NVIDIA H100 80GB HBM3`
    precision: str  #: of the convolutions: `float32` or `bfloat16`
    libraries: str  #: this package and those that decode and compute: `imagecodecs 2026.3.6, numpy 2.4.6, ...`
    batch_images: int  #: images that were classified together with it, itself included; 0 where no network saw it


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


class Disposition(enum.StrEnum):
    """What happens with one arrival; decided once, when it is recorded."""

    WORK = "work"  #: Its content is to be classified, or was.
    DUPLICATE = "duplicate"  #: Its content is answered already, or another arrival holds it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The file of one arrival from the inbox, in the spool or filed away."""

    arrival_id: uuid.UUID
    source_name: str  #: escaped
    content_sha256: str
    received_at: dt.datetime  #: aware, UTC
    filed_path: str | None = None
    """Where it was filed, relative to the home folder, escaped; None while that is not recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to answer one content for a while."""

    content_sha256: str
    held_by: uuid.UUID  #: arrival whose original holds the bytes
    source_name: str  #: of that arrival, escaped
    received_at: dt.datetime  #: of that arrival; aware, UTC
    filed_path: str | None  #: of that arrival's original; see :attr:`Original.filed_path`
    size: int  #: bytes
    attempts: int  #: tries so far, this one included
    token: uuid.UUID  #: proves the lease; stale once somebody else took the content
    expired: bool = False  #: taken over: whoever had it before did not end it in time


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfiled(Original):
    """An original that can be filed away, or once more after another answer."""

    disposition: Disposition
    outcome: Outcome | None  #: of the content's latest result; None for a duplicate
    reason_code: str | None  #: set where `outcome` is NOT_ANALYSED
    reason: str | None  #: likewise; may quote the file, so never logged


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """Where every arrival is; the view `accounting`."""

    arrivals: int  #: files seen
    results: int  #: of them, analysed
    rejected: int  #: of them, not analysed
    duplicates: int
    pending: int  #: queued or being worked on
    lost: int  #: in none of these states; always 0

    @property
    def balances(self) -> bool:
        """Whether every arrival is in exactly one state."""
        accounted = self.results + self.rejected + self.duplicates + self.pending
        return self.lost == 0 and self.arrivals == accounted


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """How much work waits."""

    queued: int  #: contents waiting, also for a later try
    leased: int  #: contents being worked on
    oldest_received_at: dt.datetime | None  #: of those that `requeue` did not queue; aware, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentResults:
    """What was answered of late."""

    last_at: dt.datetime | None  #: `classified_at` of the newest result of all; aware, UTC
    outcomes: dict[Outcome, int]  #: how many results of the time asked for, for each outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What keeps the tables."""

    name: str  #: `SQLite` or `PostgreSQL`
    version: str
    journal_mode: str | None  #: of SQLite: `wal` or `delete`


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultQuery:
    """Which results to read; None does not restrict."""

    outcome: Outcome | None = None
    since: dt.datetime | None = None  #: `classified_at` at or after this aware time
    until: dt.datetime | None = None  #: `classified_at` before this aware time
    patient_id: str | None = None
    study_instance_uid: str | None = None
    min_probability: float | None = None  #: `p_pneumonia` at or above this; drops `not_analysed`
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """One row of the view `results`; fields are its columns in its order."""

    result_id: int
    outcome: Outcome
    reason_code: str | None
    reason: str | None
    p_pneumonia: float | None
    p_normal: float | None
    p_bacterial: float | None
    p_viral: float | None
    p_covid19: float | None
    threshold_low: float | None
    threshold_high: float | None
    disagreement: float | None
    warnings: str  #: `ImageWarning` codes separated by commas; empty when there are none
    model_id: str
    model_sha256: str
    preprocess_sha256: str
    source_name: str  #: of the arrival that was worked
    content_sha256: str
    format: str | None  #: `dicom`, `png` or `jpeg`; None where the file could not be read that far
    transfer_syntax_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    patient_id: str | None
    accession_number: str | None
    study_date: dt.date | None
    modality: str | None
    view_position: str | None
    received_at: dt.datetime  #: of the arrival that was worked; aware, UTC
    classified_at: dt.datetime  #: aware, UTC
    processing_seconds: float
    heat_in_thorax: float | None  #: share of the heat in the middle of the film; None where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """One result with what is needed to recompute it."""

    record: ResultRecord
    computation: Computation | None  #: None where that is not recorded
    filed_paths: tuple[str, ...]  #: where its content was filed, relative to the home folder, newest first
    in_place_names: tuple[str, ...]  #: names under which its content was classified in place, newest first


#: Columns of the probabilities that are stored, and what each is of.
PROBABILITY_COLUMNS: Final = {
    "p_normal": Finding.NORMAL,
    "p_bacterial": Finding.BACTERIAL_PNEUMONIA,
    "p_viral": Finding.VIRAL_PNEUMONIA,
    "p_covid19": Finding.COVID19_PNEUMONIA,
}

RESULT_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(ResultRecord))
"""Column names of the view `results`, in its order."""
