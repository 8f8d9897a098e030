"""Which DICOM objects are single-frame chest radiographs, by their header.

A value that says otherwise refuses the file.  A value that is absent does not: many real radiographs lack
Body Part Examined or View Position.  What is missing becomes a warning, and the pixels decide later.
"""

import re
from typing import Final

from pydicom import uid

from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.codecs import LOSSY_TRANSFER_SYNTAXES, UNDOES_COLOR_TRANSFORM
from xray_batch.decode.part10 import DicomFile
from xray_batch.errors import ReasonCode
from xray_batch.records import ImageWarning

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

#: Words for the chest, among them those of other languages seen in Body Part Examined (a defined term is
#: CHEST, PS3.16 Annex L; THORAX is widespread).
_CHEST_WORDS: Final = frozenset(
    {"CHEST", "CHESTPA", "CHESTAP", "CXR", "THORAX", "TORAX", "TORACE", "THORACIC", "LUNG", "LUNGS", "PULMON"}
)

#: With one of these, a chest word names another projection: bone technique, or a field beyond the lungs.
_OTHER_WORDS: Final = frozenset(
    {"SPINE", "RIB", "RIBS", "STERNUM", "CLAVICLE", "SHOULDER", "ABDOMEN", "ABD", "PELVIS", "NECK", "WALL"}
)

#: Values that mean nothing was said.
_NOT_SAID: Final = frozenset({"", "UNKNOWN", "UNK", "NONE", "NA", "N A", "UNSPECIFIED", "OTHER"})

#: Thorax, thoracic cavity, lung in Anatomic Region Sequence: SNOMED CT and its retired SRT codes.
_CHEST_CODES: Final = frozenset({"816094009", "51185008", "43799004", "39607008", "T-D3000", "T-D3300", "T-28000"})

#: View Code Sequence values of PS3.16 CID 4010, SNOMED CT and the retired SRT codes.
_VIEW_OF_CODE: Final = {
    "272479007": "PA",
    "R-10214": "PA",
    "R-40888": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399033003": "FRONTAL",
    "R-10202": "FRONTAL",
}

#: How the words of a frontal view are written.
_PA: Final = re.compile(r"\b(PA|P A|POSTERO ?ANTERIOR|POSTERIOR ANTERIOR)\b")
_AP: Final = re.compile(r"\b(AP|A P|ANTERO ?POSTERIOR|ANTERIOR POSTERIOR)\b")
_FRONTAL: Final = re.compile(r"\bFRONTAL\b")
_NOT_FRONTAL: Final = re.compile(
    r"\b(LL|RL|LLD|RLD|LAT|LATERAL|[LR]LAT|[LR][AP]O|[LR]LO|OBLIQUE|OBL|LORDOTIC|DECUB\w*)\b"
)


def check_intended_use(file: DicomFile) -> None:
    """Refuse what is no single-frame chest radiograph by its header.

    Checked in order: Modality, SOP Class, Presentation Intent Type, Number of Frames, Photometric
    Interpretation, body part, view.  Modality comes first because it says best what a CT or a report is.

    Raises
    ------
    RejectedInputError
        Naming the first attribute that fails, its value and what is accepted.
    """
    _check_modality(file)
    _check_sop_class(file)
    _check_presentation_intent(file.attributes)
    _check_single_frame(file.attributes)
    _check_grayscale(file)
    _check_chest(file.attributes)
    _check_frontal(file.attributes)


def find_warnings(file: DicomFile) -> tuple[ImageWarning, ...]:
    """Return what a reader of the result should know about an accepted file, by its header."""
    attributes = file.attributes
    facts = {
        ImageWarning.SECONDARY_CAPTURE: file.sop_class_uid in _SECONDARY_CAPTURE_SOP_CLASSES,
        ImageWarning.BURNED_IN_ANNOTATION: attributes.code("BurnedInAnnotation") == "YES",
        ImageWarning.MODALITY_ABSENT: attributes.code("Modality") is None,
        ImageWarning.BODY_PART_ABSENT: not _is_said(attributes.text("BodyPartExamined"))
        and not _has_chest_region(attributes),
        ImageWarning.VIEW_ABSENT: find_view(attributes) is None,
        ImageWarning.LOSSY_COMPRESSION: attributes.text("LossyImageCompression") == "01"
        or file.transfer_syntax_uid in LOSSY_TRANSFER_SYNTAXES,
    }
    return tuple(warning for warning, is_so in facts.items() if is_so)


def find_view(attributes: Attributes) -> str | None:
    """Return PA or AP, another view in the file's own words, or None where none is stated.

    View Position counts before View Code Sequence, unless only the latter says that the view is not frontal.
    """
    views = [view for view in (_view_by_position(attributes), _view_by_code(attributes)) if view]
    others = [view for view in views if view not in ("PA", "AP", "FRONTAL")]
    return next(iter(others or views), None)


def _check_modality(file: DicomFile) -> None:
    """Refuse another Modality; an absent one is left to the SOP Class."""
    modality = file.attributes.code("Modality")
    if modality is None or modality in ACCEPTED_MODALITIES:
        return
    is_capture = file.sop_class_uid in _SECONDARY_CAPTURE_SOP_CLASSES
    if modality == _OTHER_MODALITY and is_capture and _is_chest(file.attributes.text("BodyPartExamined")):
        return
    raise refusal(
        ReasonCode.UNSUPPORTED_MODALITY,
        "Modality",
        modality,
        "CR, DX or RG, or OT in a Secondary Capture whose Body Part Examined is CHEST",
    )


def _check_sop_class(file: DicomFile) -> None:
    """Refuse objects other than CR, DX For Presentation and single Secondary Captures."""
    found = file.sop_class_uid
    if found == uid.DigitalXRayImageStorageForProcessing:
        raise refusal(ReasonCode.FOR_PROCESSING, "SOPClassUID", uid.UID(found).name, "images For Presentation")
    if found not in _ORIGINAL_SOP_CLASSES | _SECONDARY_CAPTURE_SOP_CLASSES:
        raise refusal(
            ReasonCode.UNSUPPORTED_SOP_CLASS,
            "SOPClassUID",
            uid.UID(found).name if found else None,
            "Computed Radiography, Digital X-Ray For Presentation, Secondary Capture",
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
            "MONOCHROME1, MONOCHROME2, or RGB with equal channels in a Secondary Capture",
        )


def _check_chest(attributes: Attributes) -> None:
    """Refuse another body part, by Body Part Examined or, where that is silent, Anatomic Region Sequence."""
    part = attributes.text("BodyPartExamined")
    if _is_said(part):
        if not _is_chest(part):
            raise refusal(ReasonCode.NOT_A_CHEST, "BodyPartExamined", part, "CHEST, THORAX or LUNG, alone")
        return
    region = attributes.first_item("AnatomicRegionSequence")
    if region is not None and _is_said(region.text("CodeMeaning")) and not _has_chest_region(attributes):
        raise refusal(ReasonCode.NOT_A_CHEST, "AnatomicRegionSequence", region.text("CodeMeaning"), "thorax or lung")


def _check_frontal(attributes: Attributes) -> None:
    """Refuse a view that is stated and not frontal."""
    view = find_view(attributes)
    if view not in (None, "PA", "AP", "FRONTAL"):
        keyword = "ViewPosition" if _view_by_position(attributes) == view else "ViewCodeSequence"
        raise refusal(ReasonCode.LATERAL_VIEW, keyword, view, "PA or AP")


def _words(text: str | None) -> str:
    """Return upper-case words separated by single blanks: ``Chest, PA`` gives ``CHEST PA``."""
    return re.sub(r"[^A-Z0-9]+", " ", (text or "").upper()).strip()


def _is_said(text: str | None) -> bool:
    """Return whether a text says anything at all."""
    return _words(text) not in _NOT_SAID


def _is_chest(text: str | None) -> bool:
    """Return whether a body part is the chest and nothing beside it."""
    words = set(_words(text).split())
    return bool(words & _CHEST_WORDS) and not words & _OTHER_WORDS


def _has_chest_region(attributes: Attributes) -> bool:
    """Return whether Anatomic Region Sequence says chest, by code or by meaning (PS3.3 10.5)."""
    region = attributes.first_item("AnatomicRegionSequence")
    if region is None:
        return False
    return region.text("CodeValue") in _CHEST_CODES or _is_chest(region.text("CodeMeaning"))


def _view_by_position(attributes: Attributes) -> str | None:
    """Return the view of (0018,5101) View Position, or of words for it in Body Part Examined."""
    stated = _name_view(attributes.text("ViewPosition"))
    part = _words(attributes.text("BodyPartExamined"))
    return stated or ("LATERAL" if _NOT_FRONTAL.search(part) else None)


def _view_by_code(attributes: Attributes) -> str | None:
    """Return the view of (0054,0220) View Code Sequence, by code or by meaning (PS3.16 CID 4010)."""
    item = attributes.first_item("ViewCodeSequence")
    if item is None:
        return None
    code, meaning = item.text("CodeValue"), item.text("CodeMeaning")
    return _VIEW_OF_CODE.get(code or "") or _name_view(meaning) or code


def _name_view(text: str | None) -> str | None:
    """Return PA, AP, FRONTAL, the file's own words for another view, or None where nothing is said."""
    words = _words(text)
    if words in _NOT_SAID:
        return None
    if not _NOT_FRONTAL.search(words):
        for pattern, name in ((_PA, "PA"), (_AP, "AP"), (_FRONTAL, "FRONTAL")):
            if pattern.search(words):
                return name
    return text
