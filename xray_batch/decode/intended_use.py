"""Which DICOM objects are single-frame chest radiographs, by their header.

A value that says otherwise refuses the file.  A value that is absent does not: many real radiographs lack
Body Part Examined or View Position.  What is missing becomes a warning, and the pixels decide later.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pydicom import uid

from xray_batch.decode.age import find_age
from xray_batch.decode.anatomy import (
    ACCEPTED_PARTS,
    check_chest,
    check_frontal,
    find_part,
    find_view,
    has_chest_region,
    is_chest,
    is_said,
)
from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.codecs import LOSSY_TRANSFER_SYNTAXES, UNDOES_COLOR_TRANSFORM
from xray_batch.decode.part10 import DicomFile
from xray_batch.decode.source import answer
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import GateCheck, ImageWarning

_ACCEPTED_MODALITIES: Final = "CR, DX or RG, or OT in a Secondary Capture whose Body Part Examined is CHEST"
_ACCEPTED_SOP_CLASSES: Final = "Computed Radiography, Digital X-Ray For Presentation, Secondary Capture"
_ACCEPTED_COLORS: Final = "MONOCHROME1, MONOCHROME2, or RGB with equal channels in a Secondary Capture"

#: Computed, digital and digitised-film radiography (PS3.3 C.7.3.1.1.1).
ACCEPTED_MODALITIES: Final = frozenset({"CR", "DX", "RG"})

#: "Other": what converters write into a Secondary Capture; it takes a body part to be believed.
_OTHER_MODALITY: Final = "OT"

_ORIGINAL_SOP_CLASSES: Final = frozenset(
    {uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation}
)
_SECONDARY_CAPTURE_SOP_CLASSES: Final = frozenset(
    {
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    }
)

GRAYSCALE_INTERPRETATIONS: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOR_INTERPRETATIONS: Final = re.compile(r"RGB|YBR_.*|PALETTE COLOR|HSV|ARGB|CMYK")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One question of the gate."""

    name: str
    accepted: str
    find: Callable[[DicomFile], object]  #: what the file says, None for nothing
    check: Callable[[DicomFile], None]  #: refuses what is not accepted


def check_intended_use(file: DicomFile) -> None:
    """Refuse what is no single-frame chest radiograph by its header.

    Checked in order: Modality, SOP Class, Presentation Intent Type, Number of Frames, Photometric
    Interpretation, body part, view.  Modality comes first because it says best what a CT or a report is.

    Raises
    ------
    RejectedInputError
        Naming the first attribute that fails, its value and what is accepted.
    """
    for question in _QUESTIONS:
        question.check(file)


def examine(file: DicomFile) -> list[GateCheck]:
    """Ask all questions of :func:`check_intended_use`, those after the first refusal too."""
    return [
        answer(question.name, question.accepted, partial(question.find, file), partial(question.check, file))
        for question in _QUESTIONS
    ]


def find_warnings(file: DicomFile) -> tuple[ImageWarning, ...]:
    """Return what a reader of the result should know about an accepted file, by its header."""
    attributes = file.attributes
    facts = {
        ImageWarning.SECONDARY_CAPTURE: file.sop_class_uid in _SECONDARY_CAPTURE_SOP_CLASSES,
        ImageWarning.BURNED_IN_ANNOTATION: attributes.code("BurnedInAnnotation") == "YES",
        ImageWarning.MODALITY_ABSENT: attributes.code("Modality") is None,
        ImageWarning.BODY_PART_ABSENT: not is_said(attributes.text("BodyPartExamined"))
        and not has_chest_region(attributes),
        ImageWarning.VIEW_ABSENT: find_view(attributes) is None,
        ImageWarning.SOP_CLASS_ABSENT: file.sop_class_uid is None,
        ImageWarning.AGE_ABSENT: find_age(attributes) is None,
        ImageWarning.LOSSY_COMPRESSION: attributes.text("LossyImageCompression") == "01"
        or file.transfer_syntax_uid in LOSSY_TRANSFER_SYNTAXES,
    }
    return tuple(warning for warning, is_so in facts.items() if is_so)


def _check_modality(file: DicomFile) -> None:
    """Refuse another Modality; an absent one is left to the SOP Class."""
    modality = file.attributes.code("Modality")
    if modality is None or modality in ACCEPTED_MODALITIES:
        return
    is_capture = file.sop_class_uid in _SECONDARY_CAPTURE_SOP_CLASSES
    if modality == _OTHER_MODALITY and is_capture and is_chest(file.attributes.text("BodyPartExamined")):
        return
    kind = f" The file is an object of {uid.UID(file.sop_class_uid).name}." if file.sop_class_uid else ""
    error = refusal(ReasonCode.UNSUPPORTED_MODALITY, "Modality", modality, _ACCEPTED_MODALITIES)
    raise RejectedInputError(error.reason_code, f"{error}{kind}")


def _check_sop_class(file: DicomFile) -> None:
    """Refuse objects other than CR, DX For Presentation and single Secondary Captures.

    Radiographs from before DICOM 3.0 (ACR-NEMA) have no SOP Class; their Modality must then say what they are.
    """
    found = file.sop_class_uid
    if found is None and file.attributes.code("Modality") in ACCEPTED_MODALITIES:
        return
    if found == uid.MediaStorageDirectoryStorage:
        raise RejectedInputError(
            ReasonCode.UNSUPPORTED_SOP_CLASS,
            "The file is a DICOMDIR, an index of other files; these are analysed on their own, without it.",
        )
    if found == uid.DigitalXRayImageStorageForProcessing:
        raise refusal(ReasonCode.FOR_PROCESSING, "SOPClassUID", uid.UID(found).name, "images For Presentation")
    if found not in _ORIGINAL_SOP_CLASSES | _SECONDARY_CAPTURE_SOP_CLASSES:
        raise refusal(
            ReasonCode.UNSUPPORTED_SOP_CLASS,
            "SOPClassUID",
            uid.UID(found).name if found else None,
            _ACCEPTED_SOP_CLASSES,
        )


def _check_presentation_intent(attributes: Attributes) -> None:
    """Refuse detector data that no viewer would show (PS3.3 C.8.11.1)."""
    intent = attributes.code("PresentationIntentType")
    if intent == "FOR PROCESSING":
        raise refusal(ReasonCode.FOR_PROCESSING, "PresentationIntentType", intent, "FOR PRESENTATION")


def _check_single_frame(attributes: Attributes) -> None:
    """Refuse more than one frame; writers that mean one have written 0 and nothing."""
    frames = attributes.integer("NumberOfFrames")
    if frames is not None and frames not in (0, 1):
        raise refusal(ReasonCode.MULTI_FRAME, "NumberOfFrames", frames, "1")


def _check_grayscale(file: DicomFile) -> None:
    """Refuse colour; a Secondary Capture whose three channels may prove equal is left to rendering."""
    interpretation = file.attributes.code("PhotometricInterpretation")
    if interpretation is None or not _COLOR_INTERPRETATIONS.fullmatch(interpretation):
        return
    is_rgb = interpretation == "RGB" or (
        interpretation.startswith("YBR_") and file.transfer_syntax_uid in UNDOES_COLOR_TRANSFORM
    )
    if file.sop_class_uid not in _SECONDARY_CAPTURE_SOP_CLASSES or not is_rgb:
        raise refusal(
            ReasonCode.COLOR_IMAGE,
            "PhotometricInterpretation",
            interpretation,
            _ACCEPTED_COLORS,
        )


_QUESTIONS: Final = (
    _Question(
        name="modality",
        accepted=_ACCEPTED_MODALITIES,
        find=lambda file: file.attributes.code("Modality"),
        check=_check_modality,
    ),
    _Question(
        name="sop_class",
        accepted=_ACCEPTED_SOP_CLASSES,
        find=lambda file: uid.UID(file.sop_class_uid).name if file.sop_class_uid else None,
        check=_check_sop_class,
    ),
    _Question(
        name="presentation_intent",
        accepted="FOR PRESENTATION, or absent",
        find=lambda file: file.attributes.code("PresentationIntentType"),
        check=lambda file: _check_presentation_intent(file.attributes),
    ),
    _Question(
        name="frames",
        accepted="1, or absent",
        find=lambda file: file.attributes.integer("NumberOfFrames"),
        check=lambda file: _check_single_frame(file.attributes),
    ),
    _Question(
        name="photometric_interpretation",
        accepted=_ACCEPTED_COLORS,
        find=lambda file: file.attributes.code("PhotometricInterpretation"),
        check=_check_grayscale,
    ),
    _Question(
        name="body_part",
        accepted=f"{ACCEPTED_PARTS}, or absent",
        find=lambda file: find_part(file.attributes),
        check=lambda file: check_chest(file.attributes),
    ),
    _Question(
        name="view",
        accepted="PA, AP, frontal, or absent",
        find=lambda file: find_view(file.attributes),
        check=lambda file: check_frontal(file.attributes),
    ),
)
