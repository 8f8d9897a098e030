"""Files built to keep a reader busy: refused by what they ask for, before it is allocated or walked.

No time is measured here: that each ends at its bound is asserted by the refusal, or by what is not called.
"""

import io
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
from dicom_factory import JPEG_XL, RAMP, chest_dataset, compress, raw_element, set_transfer_syntax, write_dicom
from film_encodings import png_chunk
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from xray_batch.decode import decode_file, open_source
from xray_batch.decode.codestream import find_restarts
from xray_batch.errors import ReasonCode, RejectedInputError

ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
END_OF_SEQUENCE = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
UNDEFINED = 0xFFFFFFFF
MANY = 200_000


def refuse(path) -> RejectedInputError:
    """Return the refusal of a file."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    return caught.value


def long_head(group: int, number: int, vr: bytes, length: int) -> bytes:
    """Return the head of an element with a length of 32 bits."""
    return struct.pack("<HH2sHL", group, number, vr, 0, length)


@pytest.fixture
def insert(tmp_path):
    """Write an ordinary film with bytes put before one of its elements, by the element's tag."""

    def write(tag: bytes, data: bytes):
        path = write_dicom(tmp_path / "a.dcm")
        content = path.read_bytes()
        at = content.index(tag, 132)
        path.write_bytes(content[:at] + data + content[at:])
        return path

    return write


PATIENT_ID, PIXELS = b"\x10\x00\x20\x00LO", b"\xe0\x7f\x10\x00OW"


class TestDataSet:
    """Elements, items and values without end."""

    @pytest.mark.parametrize("tag", [(0x0009, 0x1001), (0x0010, 0x0020)], ids=["skipped", "read"])
    def test_elements(self, tag, insert):
        """More elements than any image has refuse the file."""
        error = refuse(insert(PATIENT_ID, raw_element(*tag, "LO", b"") * MANY))
        assert error.reason_code == ReasonCode.UNREADABLE_FILE
        assert "more elements" in str(error)

    def test_meta_elements(self, tmp_path):
        """So do those of File Meta Information."""
        path = write_dicom(tmp_path / "a.dcm")
        content = path.read_bytes()
        path.write_bytes(content[:132] + raw_element(2, 0x0102, "SH", b"") * MANY + content[132:])
        assert refuse(path).reason_code == ReasonCode.UNREADABLE_FILE

    @pytest.mark.parametrize(
        "head",
        [long_head(0x0009, 0x1002, b"SQ", UNDEFINED), long_head(0x0009, 0x1003, b"UN", UNDEFINED)],
        ids=["SQ", "UN"],
    )
    def test_items_that_nobody_reads(self, head, insert):
        """Items of a sequence that is not even wanted count too: they must be walked to find its end."""
        assert refuse(insert(PATIENT_ID, head + ITEM * MANY + END_OF_SEQUENCE)).reason_code == "unreadable_file"

    def test_only_the_first_item_is_parsed(self, insert):
        """Of a sequence of known length the first item is read, and no object is made of the others."""
        data = long_head(0x0028, 0x3010, b"SQ", 8 * MANY) + ITEM * MANY
        path = insert(PIXELS, data)
        tracemalloc.start()
        error = refuse(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "(0028,3002) LUT Descriptor is absent" in str(error)
        assert peak < 20_000_000  # 200,000 data sets take 130 MB

    def test_elements_of_an_item(self, insert):
        """An item with elements without end refuses the file."""
        elements = raw_element(0x0029, 0x1001, "LO", b"") * MANY
        head = long_head(0x0028, 0x3010, b"SQ", len(elements) + 8)
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(elements))
        assert "more elements" in str(refuse(insert(PIXELS, head + item + elements)))

    @pytest.mark.parametrize("depth", [1_000, 10_000, 50_000])
    @pytest.mark.parametrize("vr", [b"SQ", b"UN"])
    def test_nesting(self, depth, vr, insert):
        """Sequences nested beyond the interpreter's depth refuse the file, whatever their VR."""
        begin = long_head(0x0008, 0x1115, vr, UNDEFINED) + struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
        error = refuse(insert(b"\x08\x00\x60\x00CS", begin * depth))
        assert error.reason_code in (ReasonCode.UNREADABLE_FILE, ReasonCode.TRUNCATED)

    def test_character_set_of_many_values(self, insert):
        """Pydicom looks up every value of Specific Character Set, so a long one is not handed to it."""
        data = long_head(0x0008, 0x0005, b"UC", 2_000) + b"a\\" * 1_000
        assert refuse(insert(b"\x08\x00\x16\x00UI", data)).reason_code == ReasonCode.UNREADABLE_FILE

    def test_long_identifier(self, insert):
        """A patient's identifier of 20 MB is none."""
        path = insert(b"\x10\x00\x10\x10AS", long_head(0x0010, 0x0020, b"UT", 20_000_000) + b"x" * 20_000_000)
        assert open_source(path).header.patient_id is None

    def test_window_of_many_values(self, insert):
        """A window of a million values is not converted."""
        path = insert(PIXELS, long_head(0x0028, 0x1050, b"UC", 2_000_000) + b"1\\" * 1_000_000)
        assert "(0028,1050) Window Center is 'not readable'" in str(refuse(path))

    def test_data_set_of_one_long_value(self, insert):
        """More bytes than all attributes of an image take are not copied."""
        path = insert(PIXELS, long_head(0x0028, 0x3010, b"SQ", 40_000_000) + bytes(40_000_000))
        assert refuse(path).reason_code == ReasonCode.UNREADABLE_FILE

    @pytest.mark.parametrize("vr", [b"ZZ", b"\0\0", b"xx", b"OX", b"  "])
    def test_odd_vr(self, vr, insert):
        """A VR that does not exist harms nothing but its element."""
        data = struct.pack("<HH2sH", 0x0009, 0x1010, vr, 4) + b"abcd"
        try:
            RAMP.check(decode_file(insert(PATIENT_ID, data)).pixels)
        except RejectedInputError as error:
            assert error.reason_code in (ReasonCode.UNREADABLE_FILE, ReasonCode.TRUNCATED)

    @pytest.mark.parametrize("length", [5, 0xFFFE, 0x7FFFFFFF, 0xFFFFFFFE])
    def test_wrong_length(self, length, insert):
        """A length that leads into another element, or beyond the file, refuses the file."""
        error = refuse(insert(PATIENT_ID, long_head(0x0009, 0x1010, b"OB", length) + b"abcd"))
        assert error.reason_code in (ReasonCode.TRUNCATED, ReasonCode.UNREADABLE_FILE, ReasonCode.PIXEL_DATA)


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian, uid.JPEGLSLossless],
)
def test_wrong_transfer_syntax(syntax, tmp_path):
    """A data set in another encoding than its meta information says is refused, or read by its own."""
    path = write_dicom(tmp_path / "a.dcm")
    set_transfer_syntax(path, syntax)
    try:
        RAMP.check(decode_file(path).pixels)
    except RejectedInputError as error:
        assert error.reason_code in ReasonCode


class TestPixelCounts:
    """Small files that announce many pixels."""

    @pytest.mark.parametrize("size", [(65535, 65535), (16385, 64), (64, 16385), (16384, 16384)])
    @pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000])
    def test_announced_by_rows_and_columns(self, size, syntax, tmp_path):
        """65535 x 65535 pixels in a small file allocate nothing."""
        rows, columns = size
        path = write_dicom(
            tmp_path / "a.dcm", np.zeros((64, 64), np.uint16), transfer_syntax=syntax, Rows=rows, Columns=columns
        )
        tracemalloc.start()
        error = refuse(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert error.reason_code == ReasonCode.TOO_LARGE
        assert peak < 2_000_000

    def test_announced_by_a_jpeg(self, tmp_path):
        """A JPEG of 65535 x 65535 pixels is refused by its header."""
        buffer = io.BytesIO()
        Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).save(buffer, format="JPEG")
        content = bytearray(buffer.getvalue())
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = b"\xff\xff\xff\xff"
        path = tmp_path / "a.jpg"
        path.write_bytes(content)
        with pytest.raises(RejectedInputError) as caught:
            open_source(path)
        assert caught.value.reason_code == ReasonCode.TOO_LARGE

    def test_announced_by_tiles(self, tmp_path):
        """A JPEG 2000 stream of one tile out of 62,500 is refused; OpenJPEG would fill 10,000 x 10,000 with black."""
        stream = bytearray(compress(RAMP.stored, uid.JPEG2000Lossless, chest_dataset()))
        at = stream.index(b"\xff\x51")
        struct.pack_into(">LL", stream, at + 6, 10_000, 10_000)
        struct.pack_into(">LL", stream, at + 22, 40, 40)
        options = {"transfer_syntax": uid.JPEG2000, "stream": bytes(stream), "Rows": 10_000, "Columns": 10_000}
        error = refuse(write_dicom(tmp_path / "a.dcm", **options))
        assert error.reason_code == ReasonCode.TRUNCATED


class TestStreams:
    """Compressed pictures whose markers, parts or pieces have no end."""

    @pytest.mark.parametrize(
        "head",
        [b"\xff" * MANY, b"\xff\xe1\0\2" * MANY, b"\xff\x01" * MANY],
        ids=["fill_bytes", "segments", "standalone_markers"],
    )
    @pytest.mark.parametrize("kind", ["JPEG file", "DICOM"])
    def test_jpeg_segments(self, kind, head, tmp_path):
        """A JPEG with more segments than any has before its picture is refused."""
        stream = b"\xff\xd8" + head + b"\xff\xda\0\2\0\xff\xd9"
        path = tmp_path / "a"
        if kind == "DICOM":
            write_dicom(path, transfer_syntax=uid.JPEGLosslessSV1, stream=stream)
        else:
            path.write_bytes(stream)
        error = refuse(path)
        assert error.reason_code == ReasonCode.PIXEL_DATA
        assert "4,096 segments" in str(error)

    def test_jpeg_scans(self, tmp_path):
        """A progressive JPEG of scans without end, each a walk over the picture, is refused."""
        buffer = io.BytesIO()
        Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).save(buffer, format="JPEG", progressive=True)
        content = buffer.getvalue()
        last = content.rindex(b"\xff\xda")
        path = tmp_path / "a.jpg"
        path.write_bytes(content[:-2] + content[last:-2] * 200 + b"\xff\xd9")
        assert "more than 100 scans" in str(refuse(path))

    def test_jpeg_restart_markers(self):
        """A JPEG of restart markers without end is refused, one of as many as blocks of a film is not."""
        head = b"\xff\xd8\xff\xdd\0\4\0\1\xff\xda\0\2"
        markers = b"".join(bytes((0xFF, 0xD0 + number)) for number in range(8)) * (MANY // 8)
        assert len(find_restarts(head + markers + b"\xff\xd9")) == MANY
        with pytest.raises(RejectedInputError, match="1,048,576 restart markers") as caught:
            find_restarts(head + markers * 6 + b"\xff\xd9")
        assert caught.value.reason_code == ReasonCode.PIXEL_DATA

    def test_jpeg2000_tile_parts(self, tmp_path):
        """Empty tile-parts without end are refused."""
        stream = compress(RAMP.stored, uid.JPEG2000Lossless, chest_dataset())
        part = b"\xff\x90\0\x0a\0\0" + struct.pack(">L", 14) + b"\0\0\xff\x93"
        cut = stream[: stream.index(b"\xff\x90")] + part * MANY + b"\xff\xd9"
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEG2000, stream=cut)
        assert refuse(path).reason_code == ReasonCode.TRUNCATED

    def test_jpegxl_boxes(self, tmp_path):
        """Empty boxes without end are refused."""
        stream = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a" + b"\0\0\0\x08free" * MANY
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=JPEG_XL, stream=stream)
        assert "no codestream" in str(refuse(path))

    def test_fragments(self, tmp_path):
        """Fragments without end are refused before any is joined."""
        stream = compress(RAMP.stored, uid.JPEGLSLossless, chest_dataset())
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEGLSLossless, stream=stream)
        content, whole = path.read_bytes(), encapsulate([stream])
        assert whole in content
        path.write_bytes(content.replace(whole, ITEM * MANY + END_OF_SEQUENCE))
        assert "at most 65,536" in str(refuse(path))

    def test_many_fragments_are_one_frame(self, tmp_path):
        """A frame in pieces of two bytes is still read."""
        stream = bytes(imagecodecs.jpegls_encode(RAMP.stored))
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEGLSLossless, stream=stream)
        content, whole = path.read_bytes(), encapsulate([stream])
        pieces = encapsulate([stream], fragments_per_frame=len(stream) // 2)
        path.write_bytes(content.replace(whole, pieces))
        RAMP.check(decode_file(path).pixels)

    @pytest.mark.parametrize("kind", [b"IDAT", b"tEXt"])
    def test_png_chunks(self, kind, tmp_path):
        """A PNG of chunks without end is refused."""
        header = png_chunk(b"IHDR", struct.pack(">LLBBBBB", 90, 72, 8, 0, 0, 0, 0))
        data = png_chunk(b"IDAT", zlib.compress(bytes(91 * 72)))
        filler = png_chunk(kind, b"a\0b" if kind == b"tEXt" else b"") * MANY
        path = tmp_path / "a.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + filler + data + png_chunk(b"IEND", b""))
        assert "65,536 chunks" in str(refuse(path))

    def test_deflated_frame_stops_at_its_size(self, tmp_path):
        """A deflated frame that would inflate to 100 MB is refused at the size of the frame."""
        bomb = zlib.compress(bytes(100_000_000), 9, wbits=-zlib.MAX_WBITS)
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax="1.2.840.10008.1.2.8.1", stream=bomb)
        tracemalloc.start()
        error = refuse(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert error.reason_code == ReasonCode.PIXEL_DATA
        assert peak < 2_000_000
