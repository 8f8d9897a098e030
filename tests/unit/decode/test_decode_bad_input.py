"""Files that cannot be read: each a RejectedInputError with its reason code, never anything else."""

import os
import random
import struct
import zlib

import numpy as np
import pytest
from dicom_factory import RAMP, chest_dataset, compress, raw_element, save, write_dicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from xray_batch.decode import decode_file, limits, open_source, part10, source
from xray_batch.errors import ReasonCode, RejectedInputError, TransientError
from xray_batch.records import GrayscaleImage, SourceFormat


def refuse(path) -> RejectedInputError:
    """Return the refusal of a file."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    return caught.value


class TestFormatByContent:
    """The suffix of a file says nothing."""

    @pytest.mark.parametrize("name", ["a.png", "a.txt", "a", "a.dcm.jpg"])
    def test_dicom(self, name, tmp_path):
        """A DICOM file is one under any name."""
        RAMP.check(decode_file(write_dicom(tmp_path / name)).pixels)

    def test_jpeg_named_png(self, tmp_path):
        """A JPEG named .png is read as JPEG."""
        path = tmp_path / "a.png"
        Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).save(path, format="JPEG")
        assert decode_file(path).header.source_format is SourceFormat.JPEG

    def test_preamble_of_another_format(self, tmp_path):
        """A DICOM file whose preamble holds another format's signature is DICOM (PS3.10 section 7.1)."""
        path = write_dicom(tmp_path / "a")
        path.write_bytes(b"\xff\xd8\xff\xe0" + path.read_bytes()[4:])
        RAMP.check(decode_file(path).pixels)

    @pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
    def test_without_preamble(self, syntax, tmp_path):
        """A plain data set, as old archives write it, is read where its encoding is beyond doubt."""
        path = write_dicom(tmp_path / "a", transfer_syntax=syntax)
        content = path.read_bytes()
        start = content.index(struct.pack("<HH", 8, 0x16), 132)
        path.write_bytes(content[start:])
        image = decode_file(path)
        RAMP.check(image.pixels)
        assert image.header.transfer_syntax_uid == syntax

    def test_meta_without_preamble(self, tmp_path):
        """File Meta Information counts also where the preamble is missing."""
        path = write_dicom(tmp_path / "a", transfer_syntax=uid.JPEG2000Lossless)
        path.write_bytes(path.read_bytes()[132:])
        RAMP.check(decode_file(path).pixels)

    def test_big_endian_without_meta(self, tmp_path):
        """A data set without meta information whose encoding is not little endian is refused, not guessed."""
        path = write_dicom(tmp_path / "a", transfer_syntax=uid.ExplicitVRBigEndian)
        content = path.read_bytes()
        path.write_bytes(content[content.index(struct.pack(">HH", 8, 0x16), 132) :])
        assert refuse(path).reason_code == ReasonCode.UNREADABLE_FILE

    def test_missing_transfer_syntax(self, tmp_path):
        """Without Transfer Syntax UID, compressed pixels are refused."""
        path = write_dicom(tmp_path / "a", transfer_syntax=uid.JPEG2000Lossless)
        element = raw_element(2, 0x10, "UI", uid.JPEG2000Lossless.encode())
        content = path.read_bytes()
        assert element in content
        path.write_bytes(content.replace(element, b""))
        assert refuse(path).reason_code == ReasonCode.PIXEL_DATA


@pytest.mark.parametrize(
    ("content", "reason_code"),
    [
        (b"", "empty_file"),
        (b"\0", "unreadable_file"),
        (b"This is a text file named .dcm\n" * 100, "unreadable_file"),
        (b"\x08\x00\x05\x00 text after two plausible bytes" * 20, "unreadable_file"),
        (b"PK\x03\x04" + bytes(500), "zip_archive"),
        (b"PK\x05\x06" + bytes(18), "zip_archive"),
        (b"%PDF-1.7\n" + bytes(500), "unreadable_file"),
        (bytes(1000), "unreadable_file"),
        (bytes(128) + b"DICM", "truncated"),
        (bytes(128) + b"DICM" + b"\xff" * 200, "unreadable_file"),
        (bytes(128) + b"DICM" + b"text, text, text " * 20, "unreadable_file"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "truncated"),
        (b"GIF89a" + bytes(100), "unreadable_file"),
    ],
)
def test_not_an_image(content, reason_code, tmp_path):
    """What is no DICOM, PNG or JPEG file is refused for what it is."""
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    assert refuse(path).reason_code == reason_code


def test_a_zip_archive_is_refused_unread(tmp_path):
    """An archive above the limit for files is refused as an archive: only its first bytes are read."""
    path = tmp_path / "study.zip"
    path.write_bytes(b"PK\x03\x04")
    os.truncate(path, limits.MAX_FILE_BYTES + 1)
    refusal = refuse(path)
    assert refusal.reason_code == "zip_archive"
    assert "unpack_zip" in str(refusal)


def test_preamble_of_a_zip_archive(tmp_path):
    """A DICOM file whose preamble begins like an archive is DICOM (PS3.10 section 7.1)."""
    path = write_dicom(tmp_path / "a")
    path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:])
    RAMP.check(decode_file(path).pixels)


def test_folder(tmp_path):
    """A folder is refused."""
    assert refuse(tmp_path).reason_code == ReasonCode.UNREADABLE_FILE


@pytest.mark.timeout(10)
def test_named_pipe(tmp_path):
    """A named pipe is refused; waiting for its writer would hang a worker."""
    os.mkfifo(tmp_path / "pipe")
    assert refuse(tmp_path / "pipe").reason_code == ReasonCode.UNREADABLE_FILE


def test_vanished_file(tmp_path):
    """A file that cannot be opened is no fault of its content: try again."""
    with pytest.raises(TransientError):
        open_source(tmp_path / "gone.dcm")


def test_too_many_bytes(tmp_path):
    """A file above the limit is refused by its size alone."""
    path = tmp_path / "a.dcm"
    with path.open("wb") as file:
        file.truncate(limits.MAX_FILE_BYTES + 1)
    assert refuse(path).reason_code == ReasonCode.TOO_LARGE
    assert source.MAX_FILE_BYTES == limits.MAX_FILE_BYTES


class TestTruncation:
    """A DICOM file that ends too early is refused; nothing is filled with zeros."""

    @pytest.mark.parametrize(
        "syntax",
        [
            uid.ExplicitVRLittleEndian,
            uid.ImplicitVRLittleEndian,
            uid.DeflatedExplicitVRLittleEndian,
            uid.RLELossless,
            uid.JPEGLosslessSV1,
            uid.JPEGLSLossless,
            uid.JPEG2000Lossless,
            uid.HTJ2KLossless,
        ],
        ids=lambda syntax: syntax.keyword,
    )
    @pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.999])
    def test_in_pixels(self, syntax, part, tmp_path):
        """A file cut anywhere in its pixels is refused as truncated before decoding."""
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax)
        content = path.read_bytes()
        start = content.rfind(b"\xe0\x7f\x10\x00") if syntax != uid.DeflatedExplicitVRLittleEndian else 400
        path.write_bytes(content[: start + 12 + int((len(content) - start - 12) * part)])
        with pytest.raises(RejectedInputError) as caught:
            open_source(path).check_intended_use()
        assert caught.value.reason_code == ReasonCode.TRUNCATED

    def test_in_header(self, tmp_path):
        """A file cut at any byte before its pixels is refused, and as truncated unless between elements."""
        content = write_dicom(tmp_path / "a.dcm").read_bytes()
        end = content.rfind(b"\xe0\x7f\x10\x00")
        path = tmp_path / "b.dcm"
        counts = dict.fromkeys((ReasonCode.TRUNCATED, ReasonCode.UNREADABLE_FILE, "other"), 0)
        for length in range(132, end + 8):
            path.write_bytes(content[:length])
            code = refuse(path).reason_code
            counts[code if code in counts else "other"] += 1
        assert counts[ReasonCode.TRUNCATED] > 0.9 * sum(counts.values())
        assert counts[ReasonCode.UNREADABLE_FILE] == 0

    def test_header_survives(self, tmp_path):
        """A truncated file still gives its identifiers."""
        path = write_dicom(tmp_path / "a.dcm")
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"\x28\x00\x10\x00US") + 9])
        opened = open_source(path)
        assert opened.header.patient_id == "PAT1"
        with pytest.raises(RejectedInputError) as caught:
            opened.check_intended_use()
        assert caught.value.reason_code == ReasonCode.TRUNCATED

    @pytest.mark.parametrize(
        "syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless]
    )
    def test_short_stream_in_complete_file(self, syntax, tmp_path):
        """A stream without its end marker is refused although the file around it is complete."""
        stream = compress(RAMP.stored, syntax, chest_dataset())
        for cut in (stream[: len(stream) * 2 // 3], stream[: len(stream) // 2] + b"\xff\xd9"):
            path = write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax, stream=cut)
            if syntax == uid.JPEGLosslessSV1 and cut.endswith(b"\xff\xd9"):
                continue  # entropy-coded data does not say how long it is
            assert refuse(path).reason_code in (ReasonCode.TRUNCATED, ReasonCode.PIXEL_DATA)


class TestBombs:
    """Small files that ask for much."""

    def test_deflate(self, tmp_path, monkeypatch):
        """A deflated data set stops inflating at the limit."""
        monkeypatch.setattr(part10, "MAX_INFLATED_BYTES", 1_000_000)
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.DeflatedExplicitVRLittleEndian)
        content = path.read_bytes()
        last_of_meta = b"1.2.826.0.1.3680043.8.498.9\0"
        meta_end = content.index(last_of_meta) + len(last_of_meta)
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        bomb = deflater.compress(raw_element(8, 0x16, "UI", b"1.2") + bytes(5_000_000)) + deflater.flush()
        path.write_bytes(content[:meta_end] + bomb)
        assert refuse(path).reason_code == ReasonCode.TOO_LARGE

    @pytest.mark.parametrize(
        "syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless]
    )
    def test_stream_of_another_size(self, syntax, tmp_path):
        """A stream larger than Rows and Columns is refused before it is decoded."""
        stream = compress(np.tile(RAMP.stored, (2, 2)), syntax, chest_dataset())
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax, stream=stream)
        error = refuse(path)
        assert error.reason_code == ReasonCode.PIXEL_DATA
        assert "144 rows" in str(error)

    def test_rle(self, tmp_path):
        """An RLE stream stops expanding at the size of its frame."""
        runs = bytes([129, 7]) * 100_000
        stream = struct.pack("<16L", 2, 64, 64 + len(runs), *[0] * 13) + runs + runs
        path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.RLELossless, stream=stream)
        assert refuse(path).reason_code == ReasonCode.PIXEL_DATA

    @pytest.mark.parametrize("depth", [50, 5000])
    def test_nested_sequences(self, depth, tmp_path):
        """Sequences nested beyond the interpreter's depth refuse the file."""
        path = write_dicom(tmp_path / "a.dcm")
        content = path.read_bytes()
        begin = struct.pack("<HH2sHL", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
            "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
        )
        end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        at = content.index(b"\x10\x00\x10\x00PN")
        path.write_bytes(content[:at] + begin * depth + end * depth + content[at:])
        if depth < 100:
            RAMP.check(decode_file(path).pixels)
        else:
            assert refuse(path).reason_code == ReasonCode.UNREADABLE_FILE

    def test_many_elements(self, tmp_path):
        """A flood of private elements is skipped."""
        path = write_dicom(tmp_path / "a.dcm")
        content = path.read_bytes()
        at = content.index(b"\x28\x00\x02\x00US")
        flood = b"".join(raw_element(0x19, number, "LO", b"x") for number in range(0x1000, 0xF000))
        path.write_bytes(content[:at] + flood + content[at:])
        RAMP.check(decode_file(path).pixels)


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2K]
)
def test_stream_of_another_codec(syntax, tmp_path):
    """A stream that is not what the transfer syntax says is refused."""
    other = uid.JPEG2000Lossless if "JPEG 2000" not in syntax.name else uid.JPEGLSLossless
    other = uid.JPEGLSLossless if syntax == uid.HTJ2K else other
    stream = compress(RAMP.stored, other, chest_dataset())
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax, stream=stream)
    assert refuse(path).reason_code in (ReasonCode.PIXEL_DATA, ReasonCode.TRUNCATED)


def test_htj2k_error_that_the_decoder_swallows(tmp_path):
    """A corrupt HTJ2K stream is refused; imagecodecs alone returns its first rows, and zeros below."""
    stream = bytearray(compress(RAMP.stored, uid.HTJ2KLossless, chest_dataset()))
    start = stream.index(b"\xff\x93") + 99  # well inside the first tile-part's data
    stream[start : start + 64] = bytes(64)
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.HTJ2KLossless, stream=bytes(stream))
    error = refuse(path)
    assert error.reason_code == ReasonCode.PIXEL_DATA
    assert "corrupt HTJ2K" in str(error)


@pytest.mark.parametrize(
    "grid", [(90, 72, 0, 32), (90, 72, 1, 0), (0, 72, 0, 0)], ids=["begins below", "begins right", "without width"]
)
def test_tiles_beside_the_image(grid, tmp_path):
    """The first tile holds the first pixel (T.800 B.3); OpenJPH computes for ever on damage such as this."""
    stream = bytearray(compress(RAMP.stored, uid.HTJ2KLossless, chest_dataset()))
    struct.pack_into(">4L", stream, stream.index(b"\xff\x51") + 22, *grid)
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.HTJ2KLossless, stream=bytes(stream))
    error = refuse(path)
    assert error.reason_code == ReasonCode.PIXEL_DATA
    assert "first tile" in str(error)


JPEG_SYNTAXES = [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1]


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("syntax", JPEG_SYNTAXES)
def test_jpeg_with_too_little_before_its_end(syntax, part, tmp_path):
    """A JPEG stream that was cut and closed with an End Of Image is refused; libjpeg-turbo shows its rest as gray."""
    cells = (RAMP.stored >> 4).astype(np.uint8) if syntax == uid.JPEGBaseline8Bit else RAMP.stored
    stream = compress(cells, syntax, chest_dataset(BitsStored=8 if cells.dtype == np.uint8 else 12))
    start = stream.index(b"\xff\xda") + 10  # after the header of the scan
    stream = stream[: start + round(part * (len(stream) - start))].rstrip(b"\xff")
    for left_over in (b"", b"\xff"):
        path = write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=syntax, stream=stream + left_over + b"\xff\xd9")
        error = refuse(path)
        assert error.reason_code == ReasonCode.TRUNCATED
        assert "too few data for its picture" in str(error)


@pytest.mark.parametrize("syntax", JPEG_SYNTAXES)
def test_jpeg_that_ends_in_gray(syntax, tmp_path):
    """A complete JPEG whose last rows are the gray that a decoder fills in is accepted."""
    cells = (RAMP.stored >> 4).astype(np.uint8) if syntax == uid.JPEGBaseline8Bit else RAMP.stored.copy()
    cells[40:] = 128 if cells.dtype == np.uint8 else 2048
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=syntax)).pixels
    assert np.abs(pixels[-8:] - 0.5).max() < 0.003


def test_native_pixels_in_compressed_syntax(tmp_path):
    """Pixels that are not encapsulated contradict a compressed transfer syntax."""
    dataset = chest_dataset(Rows=72, Columns=90)
    dataset.PixelData = RAMP.stored.tobytes()
    dataset["PixelData"].VR = "OW"
    path = save(tmp_path / "a.dcm", dataset)
    old, new = (raw_element(2, 0x10, "UI", text) for text in (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.90"))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    assert refuse(path).reason_code == ReasonCode.PIXEL_DATA


@pytest.mark.parametrize("has_offsets", [True, False])
def test_two_frames_in_one(has_offsets, tmp_path):
    """Two frames contradict a header of one, with an offset table of two and with an empty one."""
    stream = compress(RAMP.stored, uid.JPEGLSLossless, chest_dataset())
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEGLSLossless, stream=stream)
    path.write_bytes(
        path.read_bytes().replace(encapsulate([stream]), encapsulate([stream, stream], has_bot=has_offsets))
    )
    assert refuse(path).reason_code == ReasonCode.PIXEL_DATA


@pytest.mark.parametrize(
    ("descriptor", "data"),
    [([4096, 0, 12], b"\0" * 100), ([0, 0, 16], b"\0" * 8192), (None, b"\0" * 8192), ([4096, 0, 12], None)],
)
def test_damaged_table(descriptor, data, tmp_path):
    """A table whose data does not match its descriptor is refused by name."""
    item = Dataset()
    if descriptor:
        item.add_new("LUTDescriptor", "US", descriptor)
    if data:
        item.add_new("LUTData", "OW", data)
    error = refuse(write_dicom(tmp_path / "a.dcm", VOILUTSequence=[item]))
    assert error.reason_code == ReasonCode.PIXEL_DATA
    assert "(0028,300" in str(error)


def mutations(content: bytes, count: int, rng: random.Random) -> list[bytes]:
    """Return damaged copies: bits flipped, bytes cut off, bytes taken out, bytes put in."""
    damaged = []
    for _ in range(count):
        copy = bytearray(content)
        # Half of the damage goes to the first kilobyte: that is where the structure is.
        limit = len(copy) if rng.random() < 0.5 else min(1024, len(copy))
        match rng.randrange(4):
            case 0:
                for _ in range(rng.choice((1, 4, 32))):
                    copy[rng.randrange(limit)] ^= 1 << rng.randrange(8)
            case 1:
                del copy[rng.randrange(limit) :]
            case 2:
                start = rng.randrange(limit)
                del copy[start : start + rng.randrange(1, 64)]
            case 3:
                start = rng.randrange(limit)
                copy[start:start] = rng.randbytes(rng.randrange(1, 64))
        damaged.append(bytes(copy))
    return damaged


@pytest.mark.parametrize(
    "kind", ["explicit", "implicit", "deflated", "rle", "jpeg", "jpegls", "j2k", "htj2k", "png", "jpg"]
)
def test_mutations(kind, tmp_path):
    """Random damage gives an image or a refusal, never another exception; the seed is printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    syntaxes = {
        "explicit": uid.ExplicitVRLittleEndian,
        "implicit": uid.ImplicitVRLittleEndian,
        "deflated": uid.DeflatedExplicitVRLittleEndian,
        "rle": uid.RLELossless,
        "jpeg": uid.JPEGLosslessSV1,
        "jpegls": uid.JPEGLSLossless,
        "j2k": uid.JPEG2000Lossless,
        "htj2k": uid.HTJ2KLossless,
    }
    path = tmp_path / "a"
    if kind in syntaxes:
        write_dicom(path, transfer_syntax=syntaxes[kind], WindowCenter="2000", WindowWidth="4000")
    else:
        gray = Image.fromarray((RAMP.stored >> 4).astype(np.uint8))
        gray.save(path, format={"png": "PNG", "jpg": "JPEG"}[kind])
    for content in mutations(path.read_bytes(), 60, random.Random(seed)):
        path.write_bytes(content)
        try:
            image = decode_file(path)
        except RejectedInputError as error:
            assert error.reason_code in ReasonCode
            continue
        assert isinstance(image, GrayscaleImage)
        assert 0.0 <= float(image.pixels.min()) < float(image.pixels.max()) <= 1.0
