"""DICOM file to data set: preamble, File Meta Information, transfer syntax, top-level attributes (PS3.10).

The data set is read up to Pixel Data, whose position is noted: its bytes are not copied, and what they
must be is known before they are touched.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from xray_batch.decode.attributes import KEYWORDS_READ, PYDICOM_ERRORS, Attributes
from xray_batch.decode.identify import (
    DICOM_META_OFFSET,
    LONG_VALUE_REPRESENTATIONS,
    guess_implicit_vr,
    has_dicom_prefix,
)
from xray_batch.decode.limits import MAX_INFLATED_BYTES
from xray_batch.decode.stream import BoundedStream
from xray_batch.errors import ReasonCode, RejectedInputError

#: Pixel Data, Float Pixel Data, Double Float Pixel Data (PS3.3 C.7.6.24, C.7.6.25).
PIXEL_DATA: Final = 0x7FE00010
PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})

#: Deflated data sets that point elsewhere for their pixels: refused before anything is inflated.
REFUSED_DEFLATED: Final = frozenset({"1.2.840.10008.1.2.4.95", uid.JPIPHTJ2KReferencedDeflate})

UNDEFINED_LENGTH: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelElement:
    """Where the pixels of a data set are; nothing of them has been read."""

    tag: int
    vr: str | None  #: None with implicit VR
    offset: int  #: of the value, in `content`
    length: int | None  #: None: undefined, the value is encapsulated (PS3.5 A.4)
    is_little_endian: bool
    content: bytes  #: of the file, or what a deflated one inflates to


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """A DICOM file up to its pixels."""

    attributes: Attributes
    transfer_syntax_uid: str  #: (0002,0010), or the encoding found where that is absent
    sop_class_uid: str | None  #: (0008,0016), or (0002,0002) where that is absent
    sop_instance_uid: str | None  #: (0008,0018), or (0002,0003) where that is absent
    pixel_element: PixelElement | None  #: None where the data set has no pixels
    is_complete: bool  #: False where the file ends inside an element before the pixels


def read_dicom_file(content: bytes) -> DicomFile:
    """Read a DICOM file up to its pixels.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE, TRUNCATED, TOO_LARGE or UNSUPPORTED_TRANSFER_SYNTAX.
    """
    meta, start = _read_file_meta(content, DICOM_META_OFFSET if has_dicom_prefix(content) else 0)
    transfer_syntax = _find_transfer_syntax(meta, content, start)
    if transfer_syntax in REFUSED_DEFLATED:
        raise RejectedInputError(
            ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX,
            f"(0002,0010) Transfer Syntax UID is {transfer_syntax.name}; "
            "accepted: encodings that hold their own pixels.",
        )
    if transfer_syntax == uid.DeflatedExplicitVRLittleEndian:
        content, start = _inflate(memoryview(content)[start:]), 0
    stream = BoundedStream(content)
    stream.seek(start)
    dataset = _read(
        stream,
        is_implicit_vr=transfer_syntax == uid.ImplicitVRLittleEndian,
        is_little_endian=transfer_syntax != uid.ExplicitVRBigEndian,
        stop_when=lambda tag, _vr, _length: tag in PIXEL_TAGS,
        specific_tags=[BaseTag(tag_for_keyword(keyword) or 0) for keyword in KEYWORDS_READ],
    )
    pixel_element = _find_pixel_element(dataset, content, stream.tell())
    attributes = Attributes(dataset)
    return DicomFile(
        attributes=attributes,
        transfer_syntax_uid=str(transfer_syntax),
        sop_class_uid=attributes.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID"),
        sop_instance_uid=attributes.text("SOPInstanceUID") or meta.text("MediaStorageSOPInstanceUID"),
        pixel_element=pixel_element,
        is_complete=pixel_element is not None or stream.is_complete,
    )


def _read_file_meta(content: bytes, offset: int) -> tuple[Attributes, int]:
    """Read the elements of group 0002 (PS3.10 section 7.1); return them and the offset after them."""
    stream = BoundedStream(content)
    stream.seek(offset)
    dataset = _read(
        stream,
        is_implicit_vr=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
        specific_tags=None,
    )
    if stream.short_reads:
        raise RejectedInputError(
            ReasonCode.TRUNCATED,
            "The DICOM file ends with its File Meta Information; a data set must follow.",
        )
    return Attributes(dataset), stream.tell()


def _read(
    stream: BoundedStream,
    *,
    is_implicit_vr: bool,
    is_little_endian: bool,
    stop_when: Callable[[BaseTag, str | None, int], bool],
    specific_tags: list[BaseTag | int] | None,
) -> Dataset:
    """Let pydicom read elements until `stop_when` or the end.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE.
    """
    try:
        return read_dataset(stream, is_implicit_vr, is_little_endian, stop_when=stop_when, specific_tags=specific_tags)
    except PYDICOM_ERRORS as error:
        why = "nests sequences too deeply" if isinstance(error, RecursionError) else "is damaged"
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE, f"The DICOM data set {why}; nothing can be read from it."
        ) from error


def _find_transfer_syntax(meta: Attributes, content: bytes, start: int) -> uid.UID:
    """Return (0002,0010), or the encoding of the data set where that is absent.

    Only little endian encodings are recognised without it, and only where their first elements leave no
    doubt: they are the two that archives have written without File Meta Information.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE.
    """
    text = meta.text("TransferSyntaxUID")
    if text:
        return uid.UID(text)
    is_implicit_vr = guess_implicit_vr(content, start)
    if is_implicit_vr is None:
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE,
            "(0002,0010) Transfer Syntax UID is absent, and the data set is not plainly little endian.",
        )
    return uid.ImplicitVRLittleEndian if is_implicit_vr else uid.ExplicitVRLittleEndian


def _inflate(deflated: memoryview) -> bytes:
    """Inflate a deflated data set (PS3.5 A.5, RFC 1951) up to a limit.

    Raises
    ------
    RejectedInputError
        TOO_LARGE, TRUNCATED or UNREADABLE_FILE.
    """
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(deflated, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE, "The deflated DICOM data set is damaged; it cannot be inflated."
        ) from error
    if not inflater.eof:
        if len(content) >= MAX_INFLATED_BYTES:
            raise RejectedInputError(
                ReasonCode.TOO_LARGE,
                f"The deflated DICOM data set holds more than {MAX_INFLATED_BYTES:,} bytes, the most that is accepted.",
            )
        raise RejectedInputError(ReasonCode.TRUNCATED, "The deflated DICOM data set ends too early.")
    return content


def _find_pixel_element(dataset: Dataset, content: bytes, offset: int) -> PixelElement | None:
    """Read tag, VR and length of the element at which reading stopped (PS3.5 section 7.1)."""
    is_implicit_vr, is_little_endian = dataset.original_encoding
    order = "<" if is_little_endian else ">"
    if offset + 8 > len(content):
        return None
    group, number = struct.unpack_from(f"{order}HH", content, offset)
    tag = group << 16 | number
    if tag not in PIXEL_TAGS:
        return None
    vr = None if is_implicit_vr else content[offset + 4 : offset + 6]
    if vr in LONG_VALUE_REPRESENTATIONS:
        offset += 4
    if offset + 8 > len(content):
        return None
    (length,) = struct.unpack_from(f"{order}L", content, offset + 4)
    return PixelElement(
        tag=tag,
        vr=vr.decode("latin-1") if vr else None,
        offset=offset + 8,
        length=None if length == UNDEFINED_LENGTH else length,
        is_little_endian=bool(is_little_endian),
        content=content,
    )
