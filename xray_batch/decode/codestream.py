"""What a compressed picture says about itself, read from its markers before any decoder sees it.

The decoders allocate what these markers ask for and fill in what a truncated stream lacks;
so the size is checked here first, and the end of the stream is looked for here.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xray_batch.errors import ReasonCode, RejectedInputError

#: JPEG markers without a length (ITU-T T.81 table B.1): TEM, RSTn, SOI.
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})

_START_OF_FRAME_LS: Final = 0xF7  #: SOF55 of JPEG-LS (T.87 C.1.1)

#: Start Of Frame: SOF0..SOF15 without DHT, JPG and DAC (T.81 table B.1), and that of JPEG-LS.
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), _START_OF_FRAME_LS} - {0xC4, 0xC8, 0xCC})

#: Those of progressive pictures, Huffman and arithmetic coding (T.81 table B.1).
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})

#: Those with arithmetic coding, sequential, progressive and lossless (T.81 table B.1).
_ARITHMETIC: Final = frozenset({0xC9, 0xCA, 0xCB})

_START_OF_SCAN: Final = 0xDA
_DEFINE_RESTART_INTERVAL: Final = 0xDD
_END_OF_IMAGE: Final = b"\xff\xd9"

#: What ends the compressed data of a scan: no stuffed byte, no fill byte, no RSTn (T.81 B.1.1.2, B.1.1.5).
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

#: RSTn (T.81 B.2.1).
_RESTART: Final = re.compile(rb"\xff([\xd0-\xd7])")

#: Restart markers of one picture.  Encoders set one for each row of blocks, a few hundred in a scan.
_MOST_RESTARTS: Final = 1 << 20

_COEFFICIENTS: Final = 64  #: of a block

#: Markers and fill bytes before the first scan; an ICC profile may take 255 of them.
_MOST_SEGMENTS: Final = 4096

#: Scans of one picture; each costs a decoder a walk over all of it.  Progressive files have about ten.
_MOST_SCANS: Final = 100

_SOC_SIZ: Final = b"\xff\x4f\xff\x51"  #: Start Of Codestream and image size, T.800 A.4.1, A.5.1
_SOT: Final = b"\xff\x90"  #: Start Of Tile-part, T.800 A.4.2
_EOC: Final = b"\xff\xd9"  #: End Of Codestream, T.800 A.4.4

#: Tile-parts of one picture; 10,000 x 10,000 pixels in tiles of 64 x 64 are 24,649.
_MOST_TILE_PARTS: Final = 1 << 16

_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "  #: T.800 I.5.1; DICOM wants the bare codestream


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSize:
    """Size and sample layout of one compressed picture."""

    rows: int
    columns: int
    samples_per_pixel: int
    precision: int  #: bits of one sample
    is_signed: bool = False  #: only JPEG 2000 can be


def read_jpeg_size(stream: bytes) -> StreamSize:
    """Read the frame header of a JPEG or JPEG-LS stream (T.81 B.2.2, T.87 C.2.2).

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if there is no frame header.
    """
    for marker, offset in _jpeg_segments(stream):
        if marker in _START_OF_FRAME and offset + 8 <= len(stream):
            precision, rows, columns, samples = struct.unpack_from(">BHHB", stream, offset + 2)
            return StreamSize(rows=rows, columns=columns, samples_per_pixel=samples, precision=precision)
    raise RejectedInputError(ReasonCode.PIXEL_DATA, "The JPEG stream has no frame header.")


def find_uncommon_kind(stream: bytes) -> str | None:
    """Return what a stream that begins as JPEG does is beyond the JPEG of 8 bits, for people; None for that."""
    for marker, offset in _jpeg_segments(stream):
        if marker == _START_OF_FRAME_LS:
            return "is JPEG-LS"
        if marker in _START_OF_FRAME and stream[offset + 2 : offset + 3] != b"\x08":
            return f"has {int.from_bytes(stream[offset + 2 : offset + 3], 'big')} bits"
    return None


def check_jpeg_ends(stream: bytes) -> None:
    """Refuse a JPEG or JPEG-LS stream without End Of Image, and one of scans without end.

    The marker cannot occur inside compressed data (T.81 B.1.1.5), so it is looked for after the first
    scan header: a complete thumbnail in the metadata does not count, and bytes after the picture do no harm.

    Raises
    ------
    RejectedInputError
        TRUNCATED, if there is none; PIXEL_DATA, if there are scans without end.
    """
    for marker, offset in _jpeg_segments(stream):
        end = stream.find(_END_OF_IMAGE, offset) if marker == _START_OF_SCAN else -1
        if end >= 0 and stream.count(b"\xff\xda", offset, end) > _MOST_SCANS:
            raise RejectedInputError(
                ReasonCode.PIXEL_DATA,
                f"The JPEG stream has more than {_MOST_SCANS} scans; a radiograph has one to ten.",
            )
        if end >= 0:
            return
    raise RejectedInputError(
        ReasonCode.TRUNCATED,
        "The JPEG stream ends before its End Of Image marker; a complete one is accepted.",
    )


def find_restarts(stream: bytes) -> list[int]:
    """Return the offsets of the restart markers of a JPEG stream whose header announces such.

    They number the parts of each scan from 0 to 7, again and again (T.81 E.1.4).  A decoder that meets another number
    than the next one goes on with what it has, and shows other pixels than there were.

    Raises
    ------
    RejectedInputError
        TRUNCATED, if a number is missing; PIXEL_DATA, if there are markers without end.
    """
    if all(marker != _DEFINE_RESTART_INTERVAL for marker, _ in _jpeg_segments(stream)):
        return []
    offsets: list[int] = []
    for offset in _jpeg_scan_headers(stream):
        start, end = _scan_data(stream, offset)
        for number, found in enumerate(_RESTART.finditer(stream, start, end)):
            if found[1][0] & 0x7 != number % 8:
                raise RejectedInputError(
                    ReasonCode.TRUNCATED,
                    "The JPEG stream lacks a part between its restart markers; a complete one is accepted.",
                )
            offsets.append(found.start())
            if len(offsets) > _MOST_RESTARTS:
                raise RejectedInputError(
                    ReasonCode.PIXEL_DATA, f"The JPEG stream has more than {_MOST_RESTARTS:,} restart markers."
                )
    return offsets


def find_scan_ends(stream: bytes) -> list[int]:
    """Return where the compressed data of each scan of a JPEG stream end."""
    return [_scan_data(stream, offset)[1] for offset in _jpeg_scan_headers(stream)]


def is_progressive(stream: bytes) -> bool:
    """Return whether a JPEG stream gives its picture in scans of growing detail (T.81 annex G)."""
    return any(marker in _PROGRESSIVE for marker, _ in _jpeg_segments(stream))


def is_arithmetic(stream: bytes) -> bool:
    """Return whether a JPEG stream is coded arithmetically (T.81 annex D), not by Huffman codes."""
    return any(marker in _ARITHMETIC for marker, _ in _jpeg_segments(stream))


def check_all_scans(stream: bytes) -> None:
    """Refuse a progressive JPEG stream that ends before its picture has all of its detail.

    The scans of each component shall have brought every coefficient down to its last bit; encoders send no less.

    Raises
    ------
    RejectedInputError
        TRUNCATED.
    """
    missing: dict[int, set[int]] = {}
    for components, coefficients, lowest_bit in _jpeg_scans(stream):
        for component in components:
            left = missing.setdefault(component, set(range(_COEFFICIENTS)))
            if lowest_bit == 0:
                left.difference_update(coefficients)
    if len(missing) < read_jpeg_size(stream).samples_per_pixel or any(missing.values()):
        raise RejectedInputError(
            ReasonCode.TRUNCATED, "The progressive JPEG stream ends before its last scan; a complete one is accepted."
        )


def _jpeg_scans(stream: bytes) -> Iterator[tuple[bytes, range, int]]:
    """Yield the components of each scan, and which of their coefficients it brings down to which bit (T.81 B.2.3)."""
    for offset in _jpeg_scan_headers(stream):
        count = stream[offset + 2]
        parameters = stream[offset + 3 : offset + 6 + 2 * count]
        if len(parameters) == 3 + 2 * count:
            first, last, bits = parameters[-3:]
            yield parameters[: 2 * count : 2], range(first, last + 1), bits & 0xF


def _jpeg_scan_headers(stream: bytes) -> Iterator[int]:
    """Yield the offset of the length field of each scan header (T.81 B.2.3)."""
    for marker, offset in _jpeg_segments(stream):
        while marker == _START_OF_SCAN and offset + 3 <= len(stream):
            yield offset
            marker, offset = _next_scan(stream, offset)


def _next_scan(stream: bytes, offset: int) -> tuple[int, int]:
    """Return the marker of the next scan or of the end, and what follows it; `offset` is of a length field."""
    marker = 0
    while marker != _START_OF_SCAN:
        _, end = _scan_data(stream, offset)
        if stream[end : end + 2] in (b"", _END_OF_IMAGE):
            return _END_OF_IMAGE[1], len(stream)
        marker, offset = stream[end + 1], end + 2
    return marker, offset


def _scan_data(stream: bytes, offset: int) -> tuple[int, int]:
    """Return from where to where compressed data follow the segment whose length field is at `offset`."""
    start = offset + int.from_bytes(stream[offset : offset + 2], "big")
    found = _AFTER_SCAN.search(stream, start)
    return start, found.start() if found else len(stream)


def _jpeg_segments(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers up to the first scan, each with the offset of its length field.

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if they do not come to an end.
    """
    offset = 0
    for _ in range(_MOST_SEGMENTS):
        if offset + 4 > len(stream) or stream[offset] != 0xFF:
            return
        marker = stream[offset + 1]
        if marker == 0xFF:  # a fill byte (T.81 B.1.1.2)
            offset += 1
            continue
        offset += 2
        if marker in _STANDALONE:
            continue
        yield marker, offset
        if marker == _START_OF_SCAN:
            return
        offset += int.from_bytes(stream[offset : offset + 2], "big")
    raise RejectedInputError(
        ReasonCode.PIXEL_DATA, f"The JPEG stream has more than {_MOST_SEGMENTS:,} segments before its picture."
    )


def read_jpeg2000_size(stream: bytes) -> StreamSize:
    """Read the image and tile size of a JPEG 2000 or HTJ2K codestream, bare or in a JP2 file (T.800 A.5.1).

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if there is no codestream header, or no first tile where the image begins (T.800 B.3): OpenJPH may
        not return from such a stream.
    """
    start = _jpeg2000_start(stream)
    if start < 0 or len(stream) < start + 43:
        raise RejectedInputError(ReasonCode.PIXEL_DATA, "The JPEG 2000 stream has no image size header.")
    right, bottom, left, top, *tile = struct.unpack_from(">8L", stream, start + 8)
    width, height, tile_left, tile_top = tile
    if not (tile_left <= left < tile_left + width and tile_top <= top < tile_top + height):
        raise RejectedInputError(ReasonCode.PIXEL_DATA, "The first tile of the JPEG 2000 stream lies beside its image.")
    samples, depth = struct.unpack_from(">HB", stream, start + 40)
    return StreamSize(
        rows=bottom - top,
        columns=right - left,
        samples_per_pixel=samples,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
    )


def check_jpeg2000_ends(stream: bytes) -> None:
    """Refuse a JPEG 2000 or HTJ2K codestream whose tile-parts do not lead to End Of Codestream.

    Every tile must have a part: OpenJPEG shows one without as black.

    Raises
    ------
    RejectedInputError
        TRUNCATED.
    """
    start = max(_jpeg2000_start(stream), 0)
    offset, is_at_end = stream.find(_SOT, start), False
    tiles = set()
    for _ in range(_MOST_TILE_PARTS):
        if offset < 0 or stream[offset : offset + 2] != _SOT or len(stream) < offset + 12:
            is_at_end = offset >= 0 and stream[offset : offset + 2] == _EOC
            break
        tile, length = struct.unpack_from(">HL", stream, offset + 4)  # Isot and Psot, T.800 A.4.2
        tiles.add(tile)
        if length == 0:  # the last tile-part, reaching to EOC
            is_at_end = stream.rstrip(b"\0").endswith(_EOC)
            break
        offset += length if length >= 14 else len(stream)
    if is_at_end and len(tiles) == _count_tiles(stream, start):
        return
    raise RejectedInputError(
        ReasonCode.TRUNCATED,
        "The JPEG 2000 stream ends before its End Of Codestream marker, or lacks a tile; a complete one is accepted.",
    )


def _count_tiles(stream: bytes, start: int) -> int:
    """Return how many tiles the image is cut into (T.800 B.3)."""
    right, bottom, _, _, width, height, left, top = map(int, struct.unpack_from(">8L", stream, start + 8))
    return -(-(right - left) // width) * -(-(bottom - top) // height)


def _jpeg2000_start(stream: bytes) -> int:
    """Return the offset of the codestream, -1 where there is none."""
    if stream.startswith(_JP2_SIGNATURE):
        return stream.find(_SOC_SIZ)
    return 0 if stream.startswith(_SOC_SIZ) else -1
