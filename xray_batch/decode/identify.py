"""Which format a file has, decided by its content and never by its name."""

import struct
from typing import Final

from pydicom.valuerep import VR

from xray_batch.records import SourceFormat

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"  #: PNG specification, 5.2
JPEG_SIGNATURE: Final = b"\xff\xd8\xff"  #: SOI and the first byte of the next marker, ITU-T T.81 B.1.1.3
_DICOM_PREFIX: Final = b"DICM"  #: PS3.10 section 7.1
_DICOM_PREFIX_OFFSET: Final = 128  #: length of the preamble, which may hold anything
DICOM_META_OFFSET: Final = _DICOM_PREFIX_OFFSET + len(_DICOM_PREFIX)  #: of the File Meta Information, behind the two

#: Groups that a data set can begin with: File Meta Information, or (0008,xxxx) where there is none.
_FIRST_GROUPS: Final = frozenset({0x0002, 0x0008})

#: Longest plausible first element of a data set without preamble: group length, character set or a UID.
_MAX_FIRST_LENGTH: Final = 1024

VALUE_REPRESENTATIONS: Final = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)

#: VRs whose length field has 32 bits after two reserved bytes (PS3.5 section 7.1.2).
LONG_VALUE_REPRESENTATIONS: Final = frozenset(
    vr.encode() for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)


def has_dicom_prefix(content: bytes) -> bool:
    """Tell whether content begins with a preamble and the prefix of DICOM files (PS3.10 section 7.1)."""
    return content.startswith(_DICOM_PREFIX, _DICOM_PREFIX_OFFSET)


def identify_format(content: bytes) -> SourceFormat | None:
    """Return the format that the leading bytes show, None where they show none.

    DICOM is asked first: its preamble may hold the signature of another format (PS3.10 section 7.1).
    A DICOM data set without preamble is recognised where its first two elements are plausible.
    """
    if has_dicom_prefix(content):
        return SourceFormat.DICOM
    if content.startswith(PNG_SIGNATURE):
        return SourceFormat.PNG
    if content.startswith(JPEG_SIGNATURE):
        return SourceFormat.JPEG
    if guess_implicit_vr(content, 0) is not None:
        return SourceFormat.DICOM
    return None


def guess_implicit_vr(content: bytes, offset: int) -> bool | None:
    """Return whether a little endian data set begins at `offset` with implicit VR, None where none begins.

    The first two elements must both make sense in one encoding: a group that a data set can begin with,
    a length inside the file and, after it, a larger tag or the end of the file.
    """
    readings = [implicit for implicit in (False, True) if _is_data_set(content, offset, is_implicit_vr=implicit)]
    return readings[0] if len(readings) == 1 else None


def _is_data_set(content: bytes, offset: int, *, is_implicit_vr: bool) -> bool:
    """Return whether the first element, and the tag that follows it, are plausible."""
    first = _read_element(content, offset, is_implicit_vr=is_implicit_vr)
    if first is None or first[0] >> 16 not in _FIRST_GROUPS:
        return False
    tag, end = first
    if end == len(content):
        return True
    second = _read_element(content, end, is_implicit_vr=is_implicit_vr, max_length=len(content))
    return second is not None and second[0] > tag


def _read_element(
    content: bytes, offset: int, *, is_implicit_vr: bool, max_length: int = _MAX_FIRST_LENGTH
) -> tuple[int, int] | None:
    """Return tag and end of the element at `offset` (PS3.5 section 7.1), None where it is implausible."""
    if len(content) < offset + 8:
        return None
    group, number = struct.unpack_from("<HH", content, offset)
    if is_implicit_vr:
        (length,) = struct.unpack_from("<L", content, offset + 4)
        end = offset + 8 + length
    else:
        vr = content[offset + 4 : offset + 6]
        if vr not in VALUE_REPRESENTATIONS:
            return None
        if vr in LONG_VALUE_REPRESENTATIONS:
            if len(content) < offset + 12:
                return None
            (length,) = struct.unpack_from("<L", content, offset + 8)
            end = offset + 12 + length
        else:
            (length,) = struct.unpack_from("<H", content, offset + 6)
            end = offset + 8 + length
    if length > max_length or end > len(content):
        return None
    return group << 16 | number, end
