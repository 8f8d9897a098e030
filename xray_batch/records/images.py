"""What a file shows, and what it says about itself."""

import datetime as dt
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `--help` should not wait for it
    import numpy as np
    import numpy.typing as npt


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
    REDUCED_RESOLUTION = "reduced_resolution"  #: A small copy inside the file was decoded: `decode` is `fast`.
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
    bits_stored: int | None = None  #: (0028,0101)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrayscaleImage:
    """One decoded image and the header it came with."""

    header: ImageHeader
    pixels: "npt.NDArray[np.float32]"
    """Shape (rows, columns), values in [0, 1], larger is brighter.

    MONOCHROME2 polarity: bone is bright, air is dark.  Not yet standardized.
    """
    rendering: str
    """How stored values became gray: `voi_lut`, `window:LINEAR`, `identity; decoded at 1/4`, ..."""
    bits: int | None = None  #: of one decoded value before rendering; None where the image comes from no file
    steps: tuple[str, ...] = ()
    """What was done in turn and why, one clause each, for people; no patient attribute."""
    warnings: tuple[ImageWarning, ...] = ()


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
class ModelInput:
    """One standardized image, ready for the networks."""

    header: ImageHeader
    pixels: "npt.NDArray[np.float32]"  #: shape (rows, columns), zero mean and unit SD over the training split
    sharpness: float  #: of the picture before the resize; see :func:`xray_batch.standardize.measure_sharpness`
    input_mean: float  #: of this film's pixels in [0, 1], before they were standardized
    input_std: float  #: likewise
    rendering: str
    warnings: tuple[ImageWarning, ...] = ()
