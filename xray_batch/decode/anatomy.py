"""Which part of the body a film shows, and in which view, as far as its header says.

Coded attributes count first, then free text; vendors and sites write both in their own words.
"""

import re
import unicodedata
from typing import Final

from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.geometry import read_orientation
from xray_batch.errors import ReasonCode

ACCEPTED_PARTS: Final = "CHEST, THORAX or LUNG, alone"

#: Words for the chest, among them those of other languages seen in Body Part Examined (a defined term is
#: CHEST, PS3.16 Annex L; THORAX is widespread).
_CHEST_WORDS: Final = frozenset(
    {
        *("CHEST", "CHESTPA", "CHESTAP", "CXR", "THORAX", "TORAX", "TORACE", "THORACIC", "LUNG", "LUNGS"),
        *("PULMON", "PULMONES", "POUMON", "POUMONS", "POITRINE", "LUNGE", "BRUSTKORB", "LONGEN"),
    }
)

#: With one of these, a chest word names another projection: bone technique, or a field beyond the lungs.
_OTHER_WORDS: Final = frozenset(
    {
        *("SPINE", "VERTEBRA", "VERTEBRAE", "RIB", "RIBS", "STERNUM", "CLAVICLE", "SHOULDER", "ABDOMEN", "ABD"),
        *("PELVIS", "NECK", "WALL"),
    }
)

#: Words of free text that name another part of the body, where no chest word stands beside them.
_DESCRIBED_PARTS: Final = frozenset(
    {
        *("HAND", "HANDS", "WRIST", "FINGER", "THUMB", "FOREARM", "ELBOW", "HUMERUS", "SHOULDER", "CLAVICLE"),
        *("FOOT", "FEET", "ANKLE", "TOE", "TOES", "CALCANEUS", "TIBIA", "FIBULA", "KNEE", "KNEES", "PATELLA"),
        *("FEMUR", "HIP", "HIPS", "PELVIS", "SACRUM", "COCCYX", "SKULL", "SINUS", "SINUSES", "MANDIBLE", "TEETH"),
        *("SPINE", "CSPINE", "TSPINE", "LSPINE", "CERVICAL", "LUMBAR", "ABDOMEN", "KUB", "BREAST", "MAMMOGRAPHY"),
    }
)

#: Free text about the series or its acquisition; about the study.
_SERIES_TEXTS: Final = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
_TEXTS: Final = (*_SERIES_TEXTS, "StudyDescription")

#: Values that mean nothing was said.
_NOT_SAID: Final = frozenset({"", "UNKNOWN", "UNK", "NONE", "NA", "N A", "UNSPECIFIED", "OTHER"})

#: Thorax, thoracic cavity, lung in Anatomic Region Sequence: SNOMED CT and its retired SRT codes.
_CHEST_CODES: Final = frozenset({"816094009", "51185008", "43799004", "39607008", "T-D3000", "T-D3200", "T-28000"})

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

#: How the words of a view are written, in English and, without accents, in French, German, Italian, Spanish and others.
_PA: Final = re.compile(r"\b(PA|P A|POSTERO ?ANTERIOR|POSTERIOR ANTERIOR)\b")
_AP: Final = re.compile(r"\b(AP|A P|ANTERO ?POSTERIOR|ANTERIOR POSTERIOR)\b")
_FRONTAL: Final = re.compile(r"\b(FRONTALE?|FACE|FRENTE)\b")
_NOT_FRONTAL: Final = re.compile(
    r"\b(LL|RL|LLD|RLD|LAT|LATERALE?S?|[LR]LAT|[LR][AP]O|[LR]LO|OBLIQUE|OBL|LORDOTIC|DECUB\w*"
    r"|PROFIL|PERFIL|SEITLICH\w*|LATEROLATERALE?|OBLICUA|OBLIQUA|SCHRAG\w*)\b"
)


def check_chest(attributes: Attributes) -> None:
    """Refuse another body part, by the first of these that says one.

    Body Part Examined, Anatomic Region Sequence, and the words of the descriptions.

    Raises
    ------
    RejectedInputError
        NOT_A_CHEST.
    """
    animal = attributes.code("AnatomicalOrientationType")
    if animal == "QUADRUPED":  # PS3.3 C.7.6.1.1.1
        raise refusal(ReasonCode.NOT_A_CHEST, "AnatomicalOrientationType", animal, "BIPED")
    part = attributes.text("BodyPartExamined")
    if is_said(part):
        if not is_chest(part):
            raise refusal(ReasonCode.NOT_A_CHEST, "BodyPartExamined", part, ACCEPTED_PARTS)
        return
    region = attributes.first_item("AnatomicRegionSequence")
    if region is not None and is_said(region.text("CodeMeaning")):
        if not has_chest_region(attributes):
            raise refusal(
                ReasonCode.NOT_A_CHEST, "AnatomicRegionSequence", region.text("CodeMeaning"), "thorax or lung"
            )
        return
    words = {keyword: set(_words(attributes.text(keyword)).split()) for keyword in _TEXTS}
    if any(found & _CHEST_WORDS for found in words.values()):
        return
    for keyword, found in words.items():
        if found & _DESCRIBED_PARTS:
            raise refusal(ReasonCode.NOT_A_CHEST, keyword, attributes.text(keyword), "a chest")


def check_frontal(attributes: Attributes) -> None:
    """Refuse a view that is stated and not frontal.

    Raises
    ------
    RejectedInputError
        LATERAL_VIEW.
    """
    view = find_view(attributes)
    if view not in (None, "PA", "AP", "FRONTAL"):
        raise refusal(ReasonCode.LATERAL_VIEW, _view_keyword(attributes, view), view, "PA or AP")


def find_part(attributes: Attributes) -> str | None:
    """Return the body part in the file's own words, None where it names none."""
    part = attributes.text("BodyPartExamined")
    region = None if part else attributes.first_item("AnatomicRegionSequence")
    return part if region is None else region.text("CodeMeaning")


def find_view(attributes: Attributes) -> str | None:
    """Return PA or AP, another view in the file's own words, or None where none is stated.

    View Position counts before View Code Sequence, unless only the latter says that the view is not frontal.
    Where both are silent, Patient Orientation and the description of the series may tell a lateral view.
    """
    views = [view for view in (_view_by_position(attributes), _view_by_code(attributes)) if view]
    if not views:
        views = [view for view in (_view_by_orientation(attributes), _view_by_description(attributes)) if view]
    others = [view for view in views if view not in ("PA", "AP", "FRONTAL")]
    return next(iter(others or views), None)


def _view_keyword(attributes: Attributes, view: str | None) -> str:
    """Name the attribute that states the view."""
    sources = {
        "ViewPosition": _view_by_position,
        "ViewCodeSequence": _view_by_code,
        "PatientOrientation": _view_by_orientation,
    }
    return next((keyword for keyword, find in sources.items() if find(attributes) == view), "SeriesDescription")


def _words(text: str | None) -> str:
    """Return upper-case words without accents, separated by single blanks: ``Tórax, PA`` gives ``TORAX PA``."""
    letters = unicodedata.normalize("NFKD", text or "")
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[^A-Z0-9]+", " ", plain.upper()).strip()


def is_said(text: str | None) -> bool:
    """Return whether a text says anything at all."""
    return _words(text) not in _NOT_SAID


def is_chest(text: str | None) -> bool:
    """Return whether a body part is the chest and nothing beside it."""
    words = set(_words(text).split())
    return bool(words & _CHEST_WORDS) and not words & _OTHER_WORDS


def has_chest_region(attributes: Attributes) -> bool:
    """Return whether Anatomic Region Sequence says chest, by code or by meaning (PS3.3 10.5)."""
    region = attributes.first_item("AnatomicRegionSequence")
    if region is None:
        return False
    return region.text("CodeValue") in _CHEST_CODES or is_chest(region.text("CodeMeaning"))


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


def _view_by_orientation(attributes: Attributes) -> str | None:
    """Return LATERAL where rows or columns run from front to back (PS3.3 C.7.6.1.1.1)."""
    return "LATERAL" if set("AP") & set(read_orientation(attributes) or ()) else None


def _view_by_description(attributes: Attributes) -> str | None:
    """Return LATERAL where the series is described so, and not as frontal as well."""
    words = " ".join(_words(attributes.text(keyword)) for keyword in _SERIES_TEXTS)
    is_frontal = any(pattern.search(words) for pattern in (_PA, _AP, _FRONTAL))
    return "LATERAL" if _NOT_FRONTAL.search(words) and not is_frontal else None


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
