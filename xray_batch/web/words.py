"""Codes and figures in words, for people."""

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Final

from jinja2 import pass_context
from jinja2.runtime import Context

from xray_batch.errors import ReasonCode
from xray_batch.pipeline.pictures import Absence
from xray_batch.records import ImageWarning, Outcome, ResultRecord
from xray_batch.visible import visible

OUTCOMES: Final[Mapping[str, str]] = {
    Outcome.PNEUMONIA: "Pneumonia",
    Outcome.INDETERMINATE: "Indeterminate",
    Outcome.NORMAL: "Normal",
    Outcome.NOT_ANALYSED: "Not analysed",
}

#: Defined terms of (0008,0060) Modality that a PACS sends (PS3.3 C.7.3.1.1.1).
_MODALITIES: Final = (
    *("AR", "BMD", "CR", "CT", "DG", "DX", "ECG", "ES", "GM", "IO", "IVUS", "KO", "MG", "MR", "NM", "OCT", "OP", "OT"),
    *("PR", "PT", "PX", "REG", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SEG", "SM", "SR", "US", "XA"),
    "XC",
)

_VIEWS: Final = ("AP", "PA", "FRONTAL", "LATERAL", "LL", "RL", "LLD", "RLD", "LLO", "RLO")

#: What a header may say and name nobody.  Of another modality or view its own words are stored, which may be a name.
TERMS: Final[Mapping[str, frozenset[str]]] = {
    "modality": frozenset(_MODALITIES),
    "view_position": frozenset(_VIEWS),
}

#: Why a file was not analysed: "... because".  The README has the same words.
REASONS: Final[Mapping[str, str]] = {
    ReasonCode.EMPTY_FILE: "it has no bytes",
    ReasonCode.UNREADABLE_FILE: "it is no DICOM, PNG or JPEG that is read, or damaged beyond reading",
    ReasonCode.ZIP_ARCHIVE: "it is a zip archive: refused, or unpacked so that its members have rows of their own",
    ReasonCode.TRUNCATED: "it ends before its content does, or has too few data for its picture",
    ReasonCode.TOO_LARGE: (
        "it has more than 500 MB, 16,384 rows or columns, or 100 million pixels, or needs too much memory"
    ),
    ReasonCode.PIXEL_DATA: "Pixel Data is missing, corrupt or contradicts its attributes",
    ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX: "no decoder here reads this DICOM encoding",
    ReasonCode.UNSUPPORTED_SOP_CLASS: "it is a DICOM object other than a projection radiograph",
    ReasonCode.UNSUPPORTED_MODALITY: "Modality is not CR, DX or RG",
    ReasonCode.FOR_PROCESSING: "it is raw detector data, not meant for presentation",
    ReasonCode.NOT_A_CHEST: (
        "Body Part Examined, Anatomic Region or a description names another part of the body, or more than "
        "the chest; or the patient is an animal"
    ),
    ReasonCode.LATERAL_VIEW: "the stated view is not PA or AP: lateral, oblique, lordotic, decubitus",
    ReasonCode.AGE_OUT_OF_RANGE: (
        'the patient is not of the ages that the bundle is meant for; only with `age_policy = "refuse"`'
    ),
    ReasonCode.MULTI_FRAME: "it has more than one frame",
    ReasonCode.COLOR_IMAGE: "it has colours",
    ReasonCode.BLANK_IMAGE: "nearly all pixels show the same gray, or all are padding",
    ReasonCode.TOO_SMALL: "it has fewer than 64 rows or columns",
    ReasonCode.OUT_OF_DISTRIBUTION: "the picture looks inverted, turned, or like no chest film at all",
    ReasonCode.ATTEMPTS_EXHAUSTED: (
        "every attempt ended abnormally (`max_attempts`), for instance in a crashed decoder"
    ),
}

#: What a reader should know of a film that was analysed all the same.  The README has the same words.
WARNINGS: Final[Mapping[str, str]] = {
    ImageWarning.SECONDARY_CAPTURE: "the SOP Class says a copy, not an original",
    ImageWarning.BURNED_IN_ANNOTATION: "(0028,0301) is YES: there is text in the pixels",
    ImageWarning.MODALITY_ABSENT: "(0008,0060) is empty; accepted for its SOP Class",
    ImageWarning.BODY_PART_ABSENT: "nothing in the header says chest",
    ImageWarning.VIEW_ABSENT: "the header states no view",
    ImageWarning.NO_WINDOW: "no VOI LUT and no window: the whole stored range was shown",
    ImageWarning.POLARITY_CONFLICT: "Presentation LUT Shape contradicts Photometric Interpretation",
    ImageWarning.LOSSY_COMPRESSION: "(0028,2110) is 01, or the transfer syntax is lossy",
    ImageWarning.GRAY_AS_COLOR: "three equal colour channels were read as one",
    ImageWarning.ALPHA_IGNORED: "an alpha channel was dropped",
    ImageWarning.ICC_IGNORED: "an embedded ICC profile was not applied: pixel values are taken as they are",
    ImageWarning.SOP_CLASS_ABSENT: "(0008,0016) is absent; accepted for its Modality (radiographs from before DICOM)",
    ImageWarning.AGE_ABSENT: "neither Patient's Age nor a birth date says how old the patient was",
    ImageWarning.AGE_OUT_OF_RANGE: "the patient is not of the ages that the bundle is meant for",
    ImageWarning.CODESTREAM_CONFLICT: (
        "the compressed stream contradicts Bits Stored or Pixel Representation, and was believed"
    ),
    ImageWarning.VOI_LUT_DAMAGED: "the VOI LUT cannot be read; the window that stands beside it was applied",
    ImageWarning.BITS_UNUSED: (
        "no window, and two or more leading bits that no pixel uses: the range of the used bits was shown"
    ),
    ImageWarning.ORIENTATION_CORRECTED: "mirrored or turned because Patient Orientation asks for it",
    ImageWarning.NOT_SQUARE: "the pixels were not square and were resampled",
    ImageWarning.PADDING_TRIMMED: "rows or columns of nothing but Pixel Padding Value were cut off",
    ImageWarning.REDUCED_RESOLUTION: "it was decoded at half or a quarter of its resolution, approximately",
    ImageWarning.BORDER_TRIMMED: "a border of one gray, more than an eighth of the height or width, was cut off",
    ImageWarning.UID_CONFLICT: (
        "other bytes with the same (0008,0018) SOP Instance UID came first; both are kept and answered, this "
        "one is flagged"
    ),
    ImageWarning.SUSPECT_POLARITY: "the picture looks as if black and white were exchanged",
    ImageWarning.SUSPECT_ORIENTATION: "it looks turned by 90 or 180 degrees",
    ImageWarning.SUSPECT_FRAMING: "it looks as if half of the chest were missing, or has wide borders",
    ImageWarning.SUSPECT_SHARPNESS: "it is blurred",
    ImageWarning.ATYPICAL_IMAGE: "it is unlike the films that the model was trained on",
}

#: What has happened to a content, by the kinds of events; a kind of a newer version stands for itself.
EVENTS: Final[Mapping[str, str]] = {
    "arrived": "a file with these bytes arrived",
    "changed": "the file had other bytes by now",
    "leased": "taken to be answered",
    "released": "given back untried",
    "retried": "to be tried again later",
    "withdrawn": "kept its answer: the original was gone",
    "finished": "answered",
    "uid_conflict": "other bytes with the same SOP Instance UID came first",
    "filed": "the original was filed away",
    "requeued": "queued to be answered once more",
    "requested": "this was asked for by",
    "pruned": "the original was removed",
    "viewed": "the film was shown to",
}

#: Codes beside events that are no words for people; the others are.
DETAILS: Final[Mapping[str, str]] = {"work": "to be answered"}

#: Why a film cannot be shown.
ABSENCES: Final[Mapping[Absence, str]] = {
    Absence.GONE: (
        "The original is not where it was filed or classified: it was moved or removed, or lies on another machine."
    ),
    Absence.DENIED: "The original is there, but this page may not read it.",
    Absence.CHANGED: "The file in the original's place has other bytes now than those that were answered.",
    Absence.REFUSED: "The file cannot be shown as a picture.",
    Absence.DIED: "Decoding the original ended abnormally or took too long.",
    Absence.BUSY: "Other films are being decoded. Try again in a moment.",
}
PRUNED: Final = "The original was removed by `prune`; its answer stays."

#: Names of the encodings that are read here (PS3.6 Annex A).
TRANSFER_SYNTAXES: Final[Mapping[str, str]] = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.98": "Encapsulated Uncompressed Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.53": "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
    "1.2.840.10008.1.2.4.55": "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.70": (
        "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])"
    ),
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless Image Compression",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless) Image Compression",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def explain_outcome(record: ResultRecord, limit: float | None) -> str:
    """Say in a sentence what an outcome rests on.

    Parameters
    ----------
    limit
        Of the disagreement between networks; None where it is not known.
    """
    probability, low, high = record.p_pneumonia, record.threshold_low, record.threshold_high
    if probability is None or low is None or high is None:
        return f"Not analysed because {_reason(record.reason_code or '')}."
    is_divided = limit is not None and record.disagreement is not None and record.disagreement > limit
    if record.outcome is Outcome.INDETERMINATE and is_divided:
        return (
            f"Indeterminate: the networks differ by {record.disagreement:.3f}, more than the {limit:.3f} up to which "
            "an answer is given, whatever their mean."
        )
    where = {
        Outcome.PNEUMONIA: f"at or above the high threshold, {high:.3f}",
        Outcome.NORMAL: f"below the low threshold, {low:.3f}",
    }.get(record.outcome, f"between the thresholds, {low:.3f} and {high:.3f}")
    return f"{OUTCOMES[record.outcome]}: P(pneumonia) {_precise(probability)} is {where}."


def _outcome(code: str) -> str:
    return OUTCOMES[code]


def _reason(code: str) -> str:
    """Say why; a code of a newer version stands for itself."""
    return REASONS.get(code, spell(code))


def _warning(code: str) -> str:
    return WARNINGS.get(code, spell(code))


def spell(code: str) -> str:
    """Write a code for people: `not_a_chest` is "not a chest"."""
    return code.replace("_", " ")


def _event(kind: str) -> str:
    return EVENTS.get(kind, spell(kind))


def _detail(code: str) -> str:
    return DETAILS.get(code, spell(code))


def known_term(name: str, value: object) -> object:
    """Return what a header says for one of :data:`TERMS` if it is a term, None where it is any other text."""
    return value if value in TERMS[name] else None


@pass_context
def _term(context: Context, value: object, name: str) -> object:
    """Return what a header says for one of :data:`TERMS`, to whoever is shown no identifiers as :func:`known_term`."""
    return known_term(name, value) if context["deidentified"] else value


def _transfer_syntax(uid: str) -> str:
    """Name an encoding; one that is not read here stands for itself."""
    return TRANSFER_SYNTAXES.get(uid, uid)


def _codes(text: str) -> list[str]:
    """Split codes that are separated by commas; an empty text has none."""
    return [code for code in text.split(",") if code]


def _moment(value: dt.datetime) -> str:
    """Write an aware time to the minute, in UTC; the browser puts its own time zone in its place."""
    return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _count(value: int) -> str:
    return f"{value:,}"


def _probability(value: float | None) -> str:
    """Write a probability to two digits; never 0 or 1, which nobody knows."""
    if value is None:
        return ""
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


def _precise(value: float) -> str:
    """Write a probability to three digits, to be read beside thresholds; never 0 or 1, which nobody knows."""
    return "< 0.001" if value < 0.001 else "> 0.999" if value > 0.999 else f"{value:.3f}"


def _duration(seconds: float) -> str:
    """Write a time as people do: to two or three digits, in the unit that suits it."""
    if 0 < seconds < 0.001:
        return "< 1\N{NO-BREAK SPACE}ms"
    for unit, length, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            value = seconds / length
            digits = 0 if not value else 3 if value < 0.1 else 2 if value < 1 else 1 if value < 10 else 0
            return f"{value:.{digits}f}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds / 86400:.0f}\N{NO-BREAK SPACE}days"


def _size(size: float) -> str:
    """Write a number of bytes in GB or MB, 10**9 or 10**6."""
    return f"{size / 1e9:,.1f}\N{NO-BREAK SPACE}GB" if size >= 1e9 else f"{size / 1e6:,.0f}\N{NO-BREAK SPACE}MB"


def _figure(value: float, name: str) -> str:
    """Write the value of a metric in the unit that the end of its name tells."""
    if math.isnan(value):
        return "not known"
    if name.endswith("_seconds"):
        return _duration(value)
    return _size(value) if name.endswith("_bytes") else f"{value:,.10g}"


#: By their names in templates.
FILTERS: Final[Mapping[str, Callable[..., object]]] = {
    "outcome": _outcome,
    "reason": _reason,
    "warning": _warning,
    "spell": spell,
    "visible": visible,
    "codes": _codes,
    "moment": _moment,
    "event": _event,
    "detail": _detail,
    "term": _term,
    "transfer_syntax": _transfer_syntax,
    "count_of": _count,
    "probability": _probability,
    "precise": _precise,
    "duration": _duration,
    "size": _size,
    "figure": _figure,
}
