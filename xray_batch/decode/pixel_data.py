"""Pixel Data to stored values: native or encapsulated, of exactly the size that its attributes say.

Nothing is guessed here: pixel data that is shorter than Rows x Columns is refused, not filled with zeros.
"""

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import uid

from xray_batch.decode.attributes import Attributes, refusal
from xray_batch.decode.codecs import (
    CODEC_ERRORS,
    CODECS,
    DEFLATED_IMAGE_FRAME,
    ENCAPSULATED_UNCOMPRESSED,
    MAY_BE_LOSSY,
    NATIVE_TRANSFER_SYNTAXES,
    check_transfer_syntax,
    decode_stream,
)
from xray_batch.decode.codestream import StreamSize
from xray_batch.decode.limits import check_not_too_large
from xray_batch.decode.part10 import PIXEL_DATA, DicomFile, PixelElement
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

_ITEM: Final = 0xFFFEE000  #: PS3.5 section 7.5
_SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD

#: Fragments of the one frame; those of 1 kB would make 64 MB.
_MOST_FRAGMENTS: Final = 1 << 16

_INTERPRETATIONS: Final = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}  #: and YBR_...: 3


#: Samples as the file holds them, uint8 or uint16; what is in unused bits has not been looked at.
Cells: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLayout:
    """Image Pixel module (PS3.3 C.7.6.3), checked: one frame of 8- or 16-bit cells."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_planar: bool  #: colour by plane, (0028,0006) Planar Configuration 1

    @property
    def cell_bytes(self) -> int:
        """Bytes of one sample."""
        return self.bits_allocated // 8

    @property
    def frame_bytes(self) -> int:
        """Bytes of the uncompressed frame."""
        return self.rows * self.columns * self.samples_per_pixel * self.cell_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValues:
    """One decoded frame as codes: the stored bits alone, right-justified, not yet signed."""

    codes: Cells
    """Shape (rows, columns), or (rows, columns, 3); each below 2 ** bits."""
    bits: int
    is_signed: bool  #: codes are two's complement of `bits` bits
    warnings: tuple[ImageWarning, ...] = ()


def read_layout(attributes: Attributes) -> PixelLayout:
    """Read and check the attributes that say how pixels are stored.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA or TOO_LARGE, naming the first attribute that contradicts the others.
    """
    rows = _require(attributes, "Rows", range(1, 65536))
    columns = _require(attributes, "Columns", range(1, 65536))
    check_not_too_large(rows, columns)
    interpretation = attributes.code("PhotometricInterpretation") or ""
    samples = 3 if interpretation.startswith("YBR_") else _INTERPRETATIONS.get(interpretation)
    if samples is None:
        raise refusal(
            ReasonCode.PIXEL_DATA,
            "PhotometricInterpretation",
            interpretation or None,
            "MONOCHROME1, MONOCHROME2 or RGB",
        )
    if (attributes.integer("SamplesPerPixel") or samples) != samples:
        raise refusal(
            ReasonCode.PIXEL_DATA,
            "SamplesPerPixel",
            attributes.integer("SamplesPerPixel"),
            f"{samples} with {interpretation}",
        )
    bits_allocated = _require(attributes, "BitsAllocated", (8, 16))
    bits_stored = _require(attributes, "BitsStored", range(1, bits_allocated + 1))
    high_bits = range(bits_stored - 1, bits_allocated)
    has_high_bit = attributes.integer("HighBit") is not None
    return PixelLayout(
        rows=rows,
        columns=columns,
        samples_per_pixel=samples,
        photometric_interpretation=interpretation,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=_require(attributes, "HighBit", high_bits) if has_high_bit else bits_stored - 1,
        is_signed=_require(attributes, "PixelRepresentation", (0, 1)) == 1,
        is_planar=attributes.integer("PlanarConfiguration") == 1,
    )


def require_pixels(file: DicomFile) -> PixelElement:
    """Return where the integer pixels are.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA or UNSUPPORTED_TRANSFER_SYNTAX.
    """
    element = file.pixel_element
    if element is None:
        raise refusal(ReasonCode.PIXEL_DATA, "PixelData", None, "one frame of pixels")
    if element.tag != PIXEL_DATA:
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA, "The image has floating point pixels; accepted: (7FE0,0010) Pixel Data."
        )
    check_transfer_syntax(file.transfer_syntax_uid)
    return element


def check_pixel_length(file: DicomFile, layout: PixelLayout) -> None:
    """Refuse pixels whose end is missing, without decoding them.

    Raises
    ------
    RejectedInputError
        TRUNCATED or PIXEL_DATA.
    """
    element = require_pixels(file)
    if file.transfer_syntax_uid in NATIVE_TRANSFER_SYNTAXES:
        _native_value(element, layout)
    else:
        _fragments(element)


def read_stored_values(file: DicomFile, layout: PixelLayout) -> StoredValues:
    """Decode the frame and keep its stored bits.

    Raises
    ------
    RejectedInputError
        TRUNCATED, PIXEL_DATA or UNSUPPORTED_TRANSFER_SYNTAX.
    """
    element = require_pixels(file)
    transfer_syntax = file.transfer_syntax_uid
    if transfer_syntax in NATIVE_TRANSFER_SYNTAXES:
        return _extract(_decode_native(element, layout), layout, layout.bits_allocated)
    own = {
        uid.RLELossless: _decode_rle,
        ENCAPSULATED_UNCOMPRESSED: _decode_uncompressed,
        DEFLATED_IMAGE_FRAME: _decode_deflated,
    }
    if transfer_syntax in own:
        return _extract(own[transfer_syntax](_fragments(element), layout), layout, layout.bits_allocated)
    stream, size = read_codestream(file, layout)
    return keep_stored_bits(decode_stream(CODECS[transfer_syntax], stream, size), layout, size, transfer_syntax)


def read_codestream(file: DicomFile, layout: PixelLayout) -> tuple[bytes, StreamSize]:
    """Return the compressed frame of a transfer syntax with a codestream, measured and looked at for its end.

    Raises
    ------
    RejectedInputError
        TRUNCATED, PIXEL_DATA or UNSUPPORTED_TRANSFER_SYNTAX.
    """
    fragments = _fragments(require_pixels(file))
    codec = CODECS[file.transfer_syntax_uid]
    # Padding to even length may be in the stream's own bytes only after its end marker.
    stream = b"".join(fragments)
    if sum(fragment[:4] == stream[:4] for fragment in fragments) > 1:
        # The decoder would show the first of them in silence.
        raise refusal(
            ReasonCode.PIXEL_DATA, "PixelData", f"more than one {codec.name} stream", "one, for the one frame"
        )
    size = codec.read_size(stream)
    _check_size(size, layout, codec.name)
    if codec.check_ends:
        codec.check_ends(stream)
    return stream, size


def keep_stored_bits(cells: Cells, layout: PixelLayout, size: StreamSize, transfer_syntax: str) -> StoredValues:
    """Keep the stored bits of a decoded codestream; where it contradicts the attributes, it is believed.

    Pixel Representation decides about the sign of a stream that lost it: encoders have written the two's
    complement of signed values as unsigned (pydicom #1149).  Negative samples in a signed stream are
    negative, whatever the attributes say.
    """
    has_negative = size.is_signed and bool((cells.view(np.dtype(f"i{cells.dtype.itemsize}")) < 0).any())
    is_conflict = size.precision < layout.bits_stored or (has_negative and not layout.is_signed)
    layout = replace(layout, is_signed=layout.is_signed or has_negative)
    if transfer_syntax in MAY_BE_LOSSY and size.is_signed == layout.is_signed:
        cells = _clip_noise(cells, layout)
    stored = _extract(cells, layout, size.precision)
    return replace(stored, warnings=(ImageWarning.CODESTREAM_CONFLICT,)) if is_conflict else stored


def _require(attributes: Attributes, keyword: str, accepted: range | tuple[int, ...]) -> int:
    """Return an integer that must be there and in `accepted`."""
    value = attributes.integer(keyword)
    if value is None or value not in accepted:
        words = f"{accepted[0]} to {accepted[-1]}" if isinstance(accepted, range) else " or ".join(map(str, accepted))
        raise refusal(ReasonCode.PIXEL_DATA, keyword, value, words)
    return value


def _native_value(element: PixelElement, layout: PixelLayout) -> memoryview:
    """Return the bytes of one native frame, and that which makes them even (PS3.5 section 8.1, A.1 to A.3).

    Bytes after the frame are padding as long as they do not make another frame.
    """
    if element.length is None:
        raise refusal(ReasonCode.PIXEL_DATA, "PixelData", "encapsulated", "native pixels in this transfer syntax")
    value = memoryview(element.content)[element.offset : element.offset + element.length]
    if len(value) < min(element.length, layout.frame_bytes) or element.length < layout.frame_bytes:
        raise RejectedInputError(
            ReasonCode.TRUNCATED,
            f"(7FE0,0010) Pixel Data has {len(value):,} bytes; {layout.rows} rows and "
            f"{layout.columns} columns of {layout.bits_allocated} bits need {layout.frame_bytes:,}.",
        )
    if element.length >= 2 * layout.frame_bytes:
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA,
            f"(7FE0,0010) Pixel Data has {element.length:,} bytes, room for more than the one frame of "
            f"{layout.frame_bytes:,} bytes that its attributes describe.",
        )
    return value[: layout.frame_bytes + layout.frame_bytes % 2]


def _decode_native(element: PixelElement, layout: PixelLayout) -> Cells:
    """Return the cells of a native frame, shape (rows, columns) or (rows, columns, 3)."""
    value = _native_value(element, layout)
    order = "<" if element.is_little_endian else ">"
    count = layout.frame_bytes // layout.cell_bytes
    if layout.cell_bytes == 1 and order == ">" and element.vr == "OW":
        # 8-bit cells in big endian 16-bit words: each pair is swapped, the last with its padding (PS3.5 section 8.1.2).
        even = bytes(value) + b"\0" * (len(value) % 2)
        flat = np.frombuffer(even, "<u2").byteswap().view(np.uint8)[:count]
    else:
        flat = np.frombuffer(value, np.dtype(f"{order}u{layout.cell_bytes}"), count)
    return _shape_cells(flat.astype(f"u{layout.cell_bytes}", copy=False), layout, is_planar=layout.is_planar)


def _decode_uncompressed(fragments: list[memoryview], layout: PixelLayout) -> Cells:
    """Return the cells of an encapsulated uncompressed frame (PS3.5 A.4.11), shaped as those of a native one."""
    value = b"".join(fragments)
    if not layout.frame_bytes <= len(value) <= layout.frame_bytes + 1:
        raise RejectedInputError(
            ReasonCode.TRUNCATED if len(value) < layout.frame_bytes else ReasonCode.PIXEL_DATA,
            f"(7FE0,0010) Pixel Data has {len(value):,} bytes; the frame needs {layout.frame_bytes:,}.",
        )
    flat = np.frombuffer(value, np.dtype(f"<u{layout.cell_bytes}"), layout.frame_bytes // layout.cell_bytes)
    return _shape_cells(flat, layout, is_planar=layout.is_planar)


def _decode_deflated(fragments: list[memoryview], layout: PixelLayout) -> Cells:
    """Return the cells of a deflated frame (PS3.5 A.4.12, RFC 1951), shaped as those of a native one."""
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        value = inflater.decompress(b"".join(fragments), layout.frame_bytes + 2)
    except zlib.error as error:
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA, "(7FE0,0010) Pixel Data holds a corrupt deflated stream."
        ) from error
    return _decode_uncompressed([memoryview(value)], layout)


def _decode_rle(fragments: list[memoryview], layout: PixelLayout) -> Cells:
    """Return the cells of an RLE frame (PS3.5 Annex G), shape (rows, columns) or (rows, columns, 3)."""
    if len(fragments) != 1:
        raise refusal(ReasonCode.PIXEL_DATA, "PixelData", f"{len(fragments)} RLE fragments", "one, for the one frame")
    stream = bytes(fragments[0])
    segments = struct.unpack_from("<L", stream)[0] if len(stream) >= 64 else 0
    if segments != layout.samples_per_pixel * layout.cell_bytes:
        raise refusal(
            ReasonCode.PIXEL_DATA,
            "PixelData",
            f"{segments} RLE segments",
            f"{layout.samples_per_pixel * layout.cell_bytes} for {layout.bits_allocated} bits",
        )
    try:
        # `out` is a limit: without it a stream may expand to 64 times its length.
        flat = imagecodecs.dicomrle_decode(stream, f"<u{layout.cell_bytes}", out=layout.frame_bytes)
    except CODEC_ERRORS as error:
        raise RejectedInputError(ReasonCode.PIXEL_DATA, "(7FE0,0010) Pixel Data holds a corrupt RLE stream.") from error
    if len(flat) != layout.frame_bytes:
        raise RejectedInputError(
            ReasonCode.TRUNCATED,
            f"(7FE0,0010) Pixel Data decodes to {len(flat):,} bytes; the frame needs {layout.frame_bytes:,}.",
        )
    return _shape_cells(np.frombuffer(flat, np.dtype(f"<u{layout.cell_bytes}")), layout, is_planar=True)


def _shape_cells(flat: Cells, layout: PixelLayout, *, is_planar: bool) -> Cells:
    """Give cells their rows and columns; colour planes become the last axis."""
    if layout.samples_per_pixel == 1:
        return flat.reshape(layout.rows, layout.columns)
    if is_planar:
        return np.moveaxis(flat.reshape(layout.samples_per_pixel, layout.rows, layout.columns), 0, -1)
    return flat.reshape(layout.rows, layout.columns, layout.samples_per_pixel)


def _fragments(element: PixelElement) -> list[memoryview]:
    """Return the fragments of encapsulated Pixel Data, without its offset table (PS3.5 A.4).

    Raises
    ------
    RejectedInputError
        TRUNCATED, if the file ends before the sequence does; PIXEL_DATA.
    """
    if element.length is not None:
        raise refusal(ReasonCode.PIXEL_DATA, "PixelData", "not encapsulated", "fragments in this transfer syntax")
    content, offset = memoryview(element.content), element.offset
    items: list[memoryview] = []
    while offset + 8 <= len(content) and len(items) <= _MOST_FRAGMENTS:
        group, number, length = struct.unpack_from("<HHL", content, offset)
        tag = group << 16 | number
        if tag == _SEQUENCE_DELIMITATION:
            if len(items) < 2 or len(items[0]) > 4:
                raise refusal(ReasonCode.PIXEL_DATA, "PixelData", f"{max(len(items) - 1, 0)} fragments", "one frame")
            return items[1:]
        if tag != _ITEM:
            raise refusal(ReasonCode.PIXEL_DATA, "PixelData", f"tag {tag:08X} among items", "items only")
        offset += 8 + length
        items.append(content[offset - length : offset])
    if len(items) > _MOST_FRAGMENTS:
        raise refusal(ReasonCode.PIXEL_DATA, "PixelData", "more fragments", f"at most {_MOST_FRAGMENTS:,}")
    raise RejectedInputError(
        ReasonCode.TRUNCATED,
        "(7FE0,0010) Pixel Data ends before its Sequence Delimitation Item; complete pixels are accepted.",
    )


def _check_size(size: StreamSize, layout: PixelLayout, name: str) -> None:
    """Refuse a stream that holds another picture than the attributes say."""
    found = (size.rows, size.columns, size.samples_per_pixel)
    expected = (layout.rows, layout.columns, layout.samples_per_pixel)
    if found != expected or not 2 <= size.precision <= layout.bits_allocated:
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA,
            f"(7FE0,0010) Pixel Data holds a {name} stream of {found[0]} rows, {found[1]} columns, "
            f"{found[2]} samples and {size.precision} bits; its attributes say "
            f"{expected[0]}, {expected[1]}, {expected[2]} and {layout.bits_allocated}.",
        )


def _clip_noise(cells: Cells, layout: PixelLayout) -> Cells:
    """Clip to the range of Bits Stored: noise above white must not wrap round to black."""
    if not layout.is_signed:
        return np.asarray(np.minimum(cells, (1 << layout.bits_stored) - 1))
    half = 1 << (layout.bits_stored - 1)
    signed = cells.view(np.dtype(f"i{cells.dtype.itemsize}"))
    return np.asarray(np.clip(signed, -half, half - 1)).view(cells.dtype)


def _extract(cells: Cells, layout: PixelLayout, precision: int) -> StoredValues:
    """Keep Bits Stored bits at High Bit; what else is in a cell may be anything (PS3.5 section 8.1.1).

    A codestream of fewer bits than High Bit asks for holds the stored bits alone, and its precision says
    where the sign is.
    """
    if precision <= layout.high_bit:
        bits, shift = min(layout.bits_stored, precision), 0
    else:
        bits, shift = layout.bits_stored, layout.high_bit + 1 - layout.bits_stored
    if bits < 8 * cells.dtype.itemsize:
        cells = (cells >> shift) & cells.dtype.type((1 << bits) - 1)
    return StoredValues(codes=cells, bits=bits, is_signed=layout.is_signed)
