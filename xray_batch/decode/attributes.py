"""DICOM attributes of one data set, read so that no odd value can do more than refuse the file."""

import contextlib
import logging
import math
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_sequence_item

from xray_batch.decode.stream import BoundedStream
from xray_batch.errors import ReasonCode, RejectedInputError

#: The only attributes read from the top level of a data set; all others are skipped unread.
#: No name or comment of a patient is among them; the birth date gives the age and goes no further.
KEYWORDS_READ: Final = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "Modality",
    "PresentationIntentType",
    "StudyDescription",
    "SeriesDescription",
    "AnatomicRegionSequence",
    "PatientID",
    "PatientBirthDate",
    "PatientAge",
    "AnatomicalOrientationType",
    "BodyPartExamined",
    "ProtocolName",
    "ImagerPixelSpacing",
    "AcquisitionDeviceProcessingDescription",
    "NominalScannedPixelSpacing",
    "ViewPosition",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientOrientation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "BurnedInAnnotation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTFunction",
    "LossyImageCompression",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "ViewCodeSequence",
    "PresentationLUTShape",
)

#: Longest text kept: LO, SH and UI allow 64 characters at most (PS3.5 section 6.2).
MAX_TEXT: Final = 64

#: Longest value converted; no attribute that is read here, tables and sequences aside, comes near it.
_LONGEST_VALUE: Final = 4096

#: What pydicom raises for damaged values; RuntimeError includes RecursionError and NotImplementedError.
PYDICOM_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log messages: they quote values, and values can name a patient."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def clean_text(value: object) -> str | None:
    """Return printable text of at most :data:`MAX_TEXT` characters, None where nothing is left.

    Control characters, NUL padding and lone surrogates are removed: databases and terminals choke on them.
    """
    if isinstance(value, bytes):
        value = value[:_LONGEST_VALUE].decode("latin-1")
    text = "".join(character for character in str(value)[:_LONGEST_VALUE] if character.isprintable())
    return text.strip()[:MAX_TEXT].strip() or None


def describe(keyword: str) -> str:
    """Return tag and name of an attribute as people look it up: ``(0028,0010) Rows``."""
    tag = tag_for_keyword(keyword) or 0
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary_description(tag)}"


def refusal(reason_code: ReasonCode, keyword: str, found: object, accepted: str) -> RejectedInputError:
    """Return the error that names an attribute, what was found and what is accepted."""
    shown = "absent" if found is None else repr(clean_text(found) or "")
    return RejectedInputError(reason_code, f"{describe(keyword)} is {shown}; accepted: {accepted}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawValue:
    """Bytes of a value as the file has them."""

    value: bytes
    vr: str | None  #: None with implicit VR
    is_little_endian: bool


class Attributes:
    """Read access to one data set or sequence item.

    The first of several values counts, unless a method says otherwise.

    Parameters
    ----------
    dataset
        Read by this stage; not changed.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def text(self, keyword: str) -> str | None:
        """Return the first value as clean text; None if absent, empty or unreadable."""
        try:
            value = self._first_value(keyword)
        except PYDICOM_ERRORS:
            return None
        return None if value is None else clean_text(value)

    def code(self, keyword: str) -> str | None:
        """Return a code string in upper case (PS3.5 section 6.2, CS); None if absent, empty or unreadable."""
        text = self.text(keyword)
        return text.upper() if text else None

    def integer(self, keyword: str) -> int | None:
        """Return the first value as an integer; None if absent or empty.

        Raises
        ------
        RejectedInputError
            PIXEL_DATA, if the value is no integer.
        """
        number = self.number(keyword)
        if number is None:
            return None
        if number != int(number):
            raise refusal(ReasonCode.PIXEL_DATA, keyword, number, "a whole number")
        return int(number)

    def number(self, keyword: str) -> float | None:
        """Return the first value as a finite number; None if absent or empty.

        Raises
        ------
        RejectedInputError
            PIXEL_DATA, if the value is no finite number.
        """
        try:
            value = self._first_value(keyword)
            number = None if value is None or not str(value).strip() else float(value)
        except PYDICOM_ERRORS as error:
            raise refusal(ReasonCode.PIXEL_DATA, keyword, "not readable", "a number") from error
        if number is not None and not math.isfinite(number):
            raise refusal(ReasonCode.PIXEL_DATA, keyword, number, "a finite number")
        return number

    def texts(self, keyword: str) -> list[str]:
        """Return all values as clean text; empty if absent or unreadable, "" for a value that is empty."""
        try:
            return [clean_text(value) or "" for value in self._values(keyword) if value is not None]
        except PYDICOM_ERRORS:
            return []

    def numbers(self, keyword: str) -> list[float]:
        """Return all values as finite numbers; empty if absent, or if one of them is no such number."""
        try:
            numbers = [float(value) for value in self._values(keyword)]
        except PYDICOM_ERRORS:
            return []
        return numbers if all(map(math.isfinite, numbers)) else []

    def first_item(self, keyword: str) -> "Attributes | None":
        """Return the first item of a sequence; None if absent or empty.

        Raises
        ------
        RejectedInputError
            UNREADABLE_FILE, if the sequence is damaged.
        """
        try:
            item = self._first_item(keyword)
        except PYDICOM_ERRORS as error:
            raise refusal(ReasonCode.UNREADABLE_FILE, keyword, "not readable", "a sequence") from error
        return Attributes(item) if item is not None else None

    def raw(self, keyword: str) -> RawValue | None:
        """Return the bytes of a value, for attributes whose VR is ambiguous; None if absent or empty.

        Raises
        ------
        RejectedInputError
            UNREADABLE_FILE, if there is a value and it is no byte string.
        """
        element: object = self._dataset.get_item(keyword, keep_deferred=True)
        if not isinstance(element, RawDataElement):
            if element is None:
                return None
            raise refusal(ReasonCode.UNREADABLE_FILE, keyword, "not readable", "a plain value")
        if not element.value:
            return None
        return RawValue(value=element.value, vr=element.VR, is_little_endian=element.is_little_endian)

    def _first_item(self, keyword: str) -> Dataset | None:
        """Return the first item of a sequence; the others of one not yet parsed are left so."""
        element: object = self._dataset.get_item(keyword)
        if isinstance(element, RawDataElement) and element.VR in (None, "SQ", "UN"):
            if not element.value:
                return None
            encoding = self._dataset.original_character_set
            stream = BoundedStream(element.value)
            return read_sequence_item(stream, element.is_implicit_VR, element.is_little_endian, encoding)
        value = self._first_value(keyword)
        return value if isinstance(value, Dataset) else None

    def _first_value(self, keyword: str) -> Any:  # noqa: ANN401 - whatever pydicom makes of the bytes
        """Return the first value as pydicom converts it, None if absent or empty."""
        return next(iter(self._values(keyword)), None)

    def _values(self, keyword: str) -> Iterable[Any]:
        """Return the values as pydicom converts them: many, one, or none."""
        element: object = self._dataset.get_item(keyword)
        if element is None:
            return ()
        if isinstance(element, RawDataElement) and len(element.value or b"") > _LONGEST_VALUE:
            message = f"{describe(keyword)} has {len(element.value or b''):,} bytes"
            raise ValueError(message)
        value = self._dataset[keyword].value
        if isinstance(value, str | bytes) or not hasattr(value, "__getitem__") or isinstance(value, Dataset):
            return (value,)
        values: Iterable[Any] = value
        return values
