"""Whether a file reaches the end of its format, told by its skeleton: nothing is decoded or inflated.

Intake asks, so that a sender who pauses with half a file is waited for, and one who renamed a whole file is not.
A file of no known format, a damaged one, and one too long to be looked through is neither certain to be only a
beginning nor certain to be whole: decode then says what it is.
"""

import enum
import os
import struct
from typing import Final

from pydicom import uid

from xray_batch.decode.archive import ZIP_SIGNATURES
from xray_batch.decode.identify import (
    DICOM_META_OFFSET,
    JPEG_SIGNATURE,
    LONG_VALUE_REPRESENTATIONS,
    PNG_SIGNATURE,
    VALUE_REPRESENTATIONS,
    has_dicom_prefix,
)
from xray_batch.decode.part10 import PIXEL_DATA, PIXEL_TAGS, REFUSED_DEFLATED, UNDEFINED_LENGTH

#: Elements, fragments or chunks looked at; a film has hundreds.
_MOST_PARTS: Final = 20_000

#: EOI may be followed by what cameras and archives append; a zip archive's end by a comment of up to 65,535 bytes.
_TAIL_BYTES: Final = 65_535 + 22

_EOI: Final = b"\xff\xd9"  #: ITU-T T.81 B.1.1.3; inside a scan every 0xFF is followed by 0x00 or a restart marker
_ZIP_END: Final = b"PK\x05\x06"  #: APPNOTE.TXT 4.3.16

#: What senders that fill blocks or write text append to a JPEG.
_PADDING: Final = b"\0\r\n"

_META_GROUP: Final = b"\x02\x00"
_TRANSFER_SYNTAX: Final = 0x00020010
_ROWS: Final = 0x00280010

#: Item, Item Delimitation Item, Sequence Delimitation Item (PS3.5 section 7.5): a tag and a length in every encoding.
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD


class _End(enum.Enum):
    """What is known of the end of a file's format."""

    MISSING = enum.auto()  #: The file is certain to be only a beginning.
    REACHED = enum.auto()  #: The file is certain to be whole.
    UNKNOWN = enum.auto()  #: Neither.


def ends_early(descriptor: int) -> bool:
    """Tell whether a DICOM, PNG, JPEG or zip file is certain to be only the beginning of one.

    Parameters
    ----------
    descriptor
        Of a regular file, open for reading; its position is neither used nor changed.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    return _look_for_end(descriptor) is _End.MISSING


def has_ended(descriptor: int) -> bool:
    """Tell whether a DICOM image, PNG or JPEG file is certain to be whole.

    A DICOM file without Pixel Data may always be followed by more elements, and an archive by a larger directory.

    Parameters
    ----------
    descriptor
        Of a regular file, open for reading; its position is neither used nor changed.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    return _look_for_end(descriptor) is _End.REACHED


def _look_for_end(descriptor: int) -> _End:
    start = os.pread(descriptor, DICOM_META_OFFSET, 0)
    size = os.fstat(descriptor).st_size
    if has_dicom_prefix(start):
        return _Elements(descriptor, size).end()
    if start.startswith(PNG_SIGNATURE):
        return _end_of_png(descriptor, size)
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    if start.startswith(JPEG_SIGNATURE):
        # EOI earlier in the tail may be that of a preview in the header.
        return _End.REACHED if tail.rstrip(_PADDING).endswith(_EOI) else _missing_if(_EOI not in tail)
    if start.startswith(ZIP_SIGNATURES):
        return _missing_if(_ZIP_END not in tail)
    return _End.UNKNOWN


def _missing_if(missing: bool) -> _End:
    return _End.MISSING if missing else _End.UNKNOWN


def _end_of_png(descriptor: int, size: int) -> _End:
    """Walk the chunks to IEND (PNG specification, 5.3)."""
    offset = len(PNG_SIGNATURE)
    for _ in range(_MOST_PARTS):
        head = os.pread(descriptor, 8, offset)
        if len(head) < 8:
            return _End.MISSING
        length, kind = struct.unpack(">L4s", head)
        if not kind.isalpha():  # no chunk
            return _End.UNKNOWN
        offset += 12 + length  # length, type and CRC
        if offset > size:
            return _End.MISSING
        if kind == b"IEND":
            return _End.REACHED
    return _End.UNKNOWN


class _FileEndsError(Exception):
    """The file ends inside an element."""


class _NoDataSetError(Exception):
    """What is here is no data set that can be walked over."""


class _Elements:
    """A walk over the data elements of a DICOM file, from head to head (PS3.5 section 7.1, PS3.10 section 7.1)."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._offset = DICOM_META_OFFSET
        self._order = "<"
        self._is_implicit_vr = False
        self._owes_pixels = False  #: Rows were there, pixels not yet
        self._has_pixels = False
        self._open = 0  #: sequences and items of undefined length that have not ended

    def end(self) -> _End:
        """Walk until the file ends, or cannot be walked over."""
        try:
            self._enter(self._pass_meta())
            for _ in range(_MOST_PARTS):
                # Some senders append a few zeros to fill a block.
                if not os.pread(self._descriptor, 8, self._offset).strip(b"\0"):
                    if self._open > 0 or self._owes_pixels:
                        return _End.MISSING
                    return _End.REACHED if self._has_pixels else _End.UNKNOWN
                self._pass_value(*self._pass_head())
        except _FileEndsError:
            return _End.MISSING
        except _NoDataSetError:
            pass
        return _End.UNKNOWN

    def _pass_meta(self) -> str:
        """Pass the File Meta Information; return its transfer syntax."""
        syntax = ""
        for _ in range(_MOST_PARTS):
            if self._read(2) != _META_GROUP:
                return syntax
            tag, vr, length = self._pass_head()
            if tag == _TRANSFER_SYNTAX:
                syntax = self._read(min(length, 64)).rstrip(b"\0 ").decode("latin-1")
            self._pass_value(tag, vr, length)
        raise _NoDataSetError

    def _enter(self, syntax: str) -> None:
        """Choose the encoding of the data set: what is deflated, or unknown, is not looked into.

        Some writers say implicit and have written VRs all the same; decode reads them, too.
        """
        if not syntax or syntax in REFUSED_DEFLATED or syntax == uid.DeflatedExplicitVRLittleEndian:
            raise _NoDataSetError
        self._is_implicit_vr = syntax == uid.ImplicitVRLittleEndian and self._read(6)[4:] not in VALUE_REPRESENTATIONS
        self._order = ">" if syntax == uid.ExplicitVRBigEndian else "<"

    def _read(self, count: int) -> bytes:
        """Return the next bytes, without passing them."""
        found = os.pread(self._descriptor, count, self._offset)
        if len(found) < count:
            raise _FileEndsError
        return found

    def _pass_head(self) -> tuple[int, bytes, int]:
        """Pass the head of the next element; return its tag, VR (empty if there is none) and length."""
        head = self._read(8)
        group, number = struct.unpack_from(f"{self._order}HH", head)
        vr = b"" if self._is_implicit_vr or group == _ITEM >> 16 else head[4:6]
        if vr and vr not in VALUE_REPRESENTATIONS:
            raise _NoDataSetError
        self._offset += 8
        if not vr:
            (length,) = struct.unpack_from(f"{self._order}L", head, 4)
        elif vr in LONG_VALUE_REPRESENTATIONS:
            (length,) = struct.unpack(f"{self._order}L", self._read(4))
            self._offset += 4
        else:
            (length,) = struct.unpack_from(f"{self._order}H", head, 6)
        return group << 16 | number, vr, length

    def _pass_value(self, tag: int, vr: bytes, length: int) -> None:
        """Pass the value, or enter it where its length is undefined.

        What is inside a sequence looks like what is outside, so nothing but the number of open ones is kept.  An icon
        has Rows and Pixel Data of its own, which say nothing of the film's (PS3.3 C.7.6.1.1.6).
        """
        if (tag == _ROWS or tag in PIXEL_TAGS) and self._open == 0:
            self._owes_pixels = tag == _ROWS
            self._has_pixels = tag in PIXEL_TAGS
        if tag in (_ITEM_END, _SEQUENCE_END):
            self._open -= 1
        elif length != UNDEFINED_LENGTH:
            self._offset += length
        elif vr in (b"", b"SQ") or tag in (_ITEM, PIXEL_DATA):
            self._open += 1
        else:  # UN of undefined length holds implicit VR (PS3.5 section 6.2.2, note 4): not walked over
            raise _NoDataSetError
        if self._open < 0:
            raise _NoDataSetError
        if self._offset > self._size:
            raise _FileEndsError
