"""Every transfer syntax that is read, and what an encoder may do with signs, depths and colours."""

import io
import zlib

import imagecodecs
import numpy as np
import pytest
from dicom_factory import (
    DEFLATED_IMAGE_FRAME,
    ENCAPSULATED_UNCOMPRESSED,
    EXACT,
    JPEG_XL,
    JPEG_XL_RECOMPRESSION,
    LOSSLESS_SYNTAXES,
    RAMP,
    chest_dataset,
    compress,
    set_transfer_syntax,
    write_dicom,
)
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

STORED = RAMP.stored
SIGNED = (STORED.astype(np.int32) - 2048).astype(np.int16)

LOSSY = {
    uid.JPEGExtended12Bit: 0.002,
    uid.JPEGLSNearLossless: 0.002,
}  #: and the largest error at this setting

IDS = {"ids": lambda syntax: syntax.keyword if isinstance(syntax, uid.UID) else None}


@pytest.mark.parametrize("syntax", LOSSLESS_SYNTAXES, **IDS)
def test_unsigned(syntax, tmp_path):
    """A lossless transfer syntax gives the picture bit for bit, and the header names it."""
    image = decode_file(write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax))
    RAMP.check(image.pixels)
    assert image.header.transfer_syntax_uid == syntax
    assert ImageWarning.LOSSY_COMPRESSION not in image.warnings


@pytest.mark.parametrize("syntax", LOSSLESS_SYNTAXES, **IDS)
def test_signed(syntax, tmp_path):
    """Signed stored values survive every lossless transfer syntax."""
    RAMP.check(decode_file(write_dicom(tmp_path / "a.dcm", SIGNED, transfer_syntax=syntax)).pixels)


@pytest.mark.parametrize("syntax", LOSSLESS_SYNTAXES, **IDS)
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_depths(syntax, bits, tmp_path):
    """8, 10 and 16 bits stored keep their values in every lossless transfer syntax."""
    cells = (STORED * 16 >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    path = write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=syntax, BitsStored=bits, HighBit=bits - 1)
    pixels = decode_file(path).pixels
    assert np.abs(pixels - cells / (2**bits - 1)).max() <= EXACT


@pytest.mark.parametrize("syntax", LOSSY, **IDS)
def test_lossy(syntax, tmp_path):
    """A lossy transfer syntax gives the picture within its error, with a warning."""
    image = decode_file(write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax))
    RAMP.check(image.pixels, LOSSY[syntax])
    assert ImageWarning.LOSSY_COMPRESSION in image.warnings


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, JPEG_XL_RECOMPRESSION])
def test_jpeg_baseline(syntax, tmp_path):
    """JPEG baseline of 8 bits, also repacked as JPEG XL, gives the picture within 0.025, with a warning."""
    cells = (STORED >> 4).astype(np.uint8)
    image = decode_file(write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=syntax))
    assert np.abs(image.pixels - cells / 255).max() <= 0.025
    assert ImageWarning.LOSSY_COMPRESSION in image.warnings


def test_lossy_jpegxl(tmp_path):
    """JPEG XL may be either; a lossy one gives the picture within its error, and says so in its attribute."""
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=JPEG_XL, LossyImageCompression="01")
    image = decode_file(path)
    RAMP.check(image.pixels, 0.03)
    assert ImageWarning.LOSSY_COMPRESSION in image.warnings


def test_progressive_jpeg(tmp_path):
    """A progressive JPEG in its retired transfer syntax, as DCMTK writes it, is read, with a warning."""
    buffer = io.BytesIO()
    cells = (STORED >> 4).astype(np.uint8)
    Image.fromarray(cells).save(buffer, format="JPEG", quality=95, progressive=True)
    stream = buffer.getvalue()
    assert b"\xff\xc2" in stream
    options = {"transfer_syntax": "1.2.840.10008.1.2.4.55", "stream": stream}
    image = decode_file(write_dicom(tmp_path / "a.dcm", cells, **options))
    assert np.abs(image.pixels - cells / 255).max() <= 0.025
    assert ImageWarning.LOSSY_COMPRESSION in image.warnings


def test_lossy_compression_attribute(tmp_path):
    """(0028,2110) Lossy Image Compression 01 is a warning in any transfer syntax."""
    image = decode_file(write_dicom(tmp_path / "a.dcm", LossyImageCompression="01"))
    assert ImageWarning.LOSSY_COMPRESSION in image.warnings


@pytest.mark.parametrize("columns", [90, 89])
def test_big_endian_8_bit_words(columns, tmp_path):
    """8-bit pixels in big endian words are unswapped, the last beside its padding too (PS3.5 section 8.1.2)."""
    cells = (STORED >> 4).astype(np.uint8)[:71, :columns]
    path = write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=uid.ExplicitVRBigEndian)
    content = path.read_bytes()
    length = cells.size + cells.size % 2
    header = content[: -length - 12] + content[-length - 12 : -length].replace(b"OB", b"OW")
    path.write_bytes(header + np.frombuffer(content[-length:], "<u2").byteswap().tobytes())
    assert np.abs(decode_file(path).pixels - cells / 255).max() <= EXACT


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, ENCAPSULATED_UNCOMPRESSED])
def test_odd_number_of_pixels(syntax, tmp_path):
    """The byte that makes a value of 8-bit pixels even is none of them (PS3.5 section 8.1.1 and A.4)."""
    cells = (STORED >> 4).astype(np.uint8)[:71, :89]
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=syntax)).pixels
    assert np.abs(pixels - cells / 255).max() <= EXACT


def test_codestream_of_fewer_bits_than_high_bit(tmp_path):
    """A stream of 12 bits is right-justified, whatever High Bit says of the uncompressed cell."""
    stream = compress(STORED, uid.JPEG2000Lossless, chest_dataset())
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEG2000Lossless, stream=stream, HighBit=15)
    RAMP.check(decode_file(path).pixels)


def test_compression_noise_above_white(tmp_path):
    """A lossy stream that overshoots Bits Stored is white there, not black."""
    noisy = STORED + np.uint16(3)
    stream = imagecodecs.jpeg2k_encode(noisy, level=0, reversible=True, codecformat="j2k", bitspersample=16)
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEG2000, stream=bytes(stream))
    assert decode_file(path).pixels[71, 89] == 1.0


def test_jp2_file_as_stream(tmp_path):
    """A JPEG 2000 picture in its JP2 file format is read like the bare codestream."""
    stream = imagecodecs.jpeg2k_encode(STORED, level=0, reversible=True, codecformat="jp2", bitspersample=12)
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEG2000Lossless, stream=bytes(stream))
    RAMP.check(decode_file(path).pixels)


def test_several_fragments(tmp_path):
    """One frame may be cut into fragments (PS3.5 A.4)."""
    stream = compress(STORED, uid.JPEGLSLossless, chest_dataset())
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEGLSLossless, stream=stream)
    content = path.read_bytes()
    whole, parts = encapsulate([stream]), encapsulate([stream], fragments_per_frame=3)
    assert whole in content
    path.write_bytes(content.replace(whole, parts))
    RAMP.check(decode_file(path).pixels)


@pytest.mark.parametrize(
    ("syntax", "shown"),
    [
        ("1.2.840.10008.1.2.4.100", "'MPEG2 Main Profile / Main Level' (1.2.840.10008.1.2.4.100)"),
        ("1.2.840.10008.1.2.4.92", "(1.2.840.10008.1.2.4.92)"),
        ("1.2.840.10008.1.2.4.94", "'JPIP Referenced' (1.2.840.10008.1.2.4.94)"),
        ("1.2.3.4", "'1.2.3.4'"),
    ],
)
def test_unsupported(syntax, shown, tmp_path):
    """An encoding without decoder is refused unread, with its header, by name, UID and what would help."""
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEG2000)
    set_transfer_syntax(path, syntax)
    source = open_source(path)
    assert source.header.patient_id == "PAT1"
    with pytest.raises(RejectedInputError, match="Transfer Syntax UID") as caught:
        source.check_intended_use()
    assert caught.value.reason_code == ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX
    assert shown in str(caught.value)
    assert "convert it to Explicit VR Little Endian" in str(caught.value)


def test_decoder_missing_from_the_build(tmp_path, monkeypatch):
    """Where imagecodecs lacks a codec, the refusal says so, and which one."""
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=uid.JPEGLSLossless)
    monkeypatch.setattr(imagecodecs, "JPEGLS", type("Absent", (), {"available": False}))
    with pytest.raises(RejectedInputError, match=r"built without jpegls") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX


FRAME = STORED.tobytes()


@pytest.mark.parametrize(
    ("frame", "reason_code"),
    [(FRAME[:-2], "truncated"), (FRAME + b"\0\0", "pixel_data"), (FRAME * 2, "pixel_data"), (b"\0\0", "truncated")],
    ids=["short", "long", "two_frames", "two_bytes"],
)
@pytest.mark.parametrize("syntax", [ENCAPSULATED_UNCOMPRESSED, DEFLATED_IMAGE_FRAME])
def test_frame_of_another_length(syntax, frame, reason_code, tmp_path):
    """An uncompressed or deflated frame has the length of Rows and Columns, or is refused."""
    is_deflated = syntax == DEFLATED_IMAGE_FRAME
    stream = zlib.compress(frame, wbits=-zlib.MAX_WBITS) if is_deflated else frame
    with pytest.raises(RejectedInputError) as caught:
        decode_file(write_dicom(tmp_path / "a.dcm", transfer_syntax=syntax, stream=stream))
    assert caught.value.reason_code == reason_code


def test_deflated_frame_cut_off(tmp_path):
    """A deflated frame without its end is refused."""
    stream = zlib.compress(FRAME, wbits=-zlib.MAX_WBITS)
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=DEFLATED_IMAGE_FRAME, stream=stream[: len(stream) // 2])
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.TRUNCATED


def test_jpeg2000_without_a_tile(tmp_path):
    """A JPEG 2000 stream that lacks a tile is refused; OpenJPEG would show it black."""
    cells, buffer = (STORED >> 4).astype(np.uint8), io.BytesIO()
    Image.fromarray(cells).save(buffer, format="JPEG2000", no_jp2=True, tile_size=(48, 48))
    stream = buffer.getvalue()
    path = write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=uid.JPEG2000Lossless, stream=stream)
    assert np.array_equal(decode_file(path).pixels, cells / np.float32(255))
    last = stream.rindex(b"\xff\x90")
    assert stream[last + 2 : last + 6] == b"\x00\x0a\x00\x03"  # the fourth of four tiles
    cut = stream[:last] + b"\xff\xd9"
    path = write_dicom(tmp_path / "b.dcm", cells, transfer_syntax=uid.JPEG2000Lossless, stream=cut)
    with pytest.raises(RejectedInputError, match="lacks a tile") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.TRUNCATED


class TestColorThatIsGray:
    """Secondary Captures with three equal channels."""

    GRAY = (STORED >> 4).astype(np.uint8)
    RGB = np.stack([GRAY] * 3, axis=-1)

    @pytest.mark.parametrize(
        "syntax",
        [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless],
        **IDS,
    )
    def test_equal_channels(self, syntax, tmp_path):
        """RGB with equal channels is read as its one channel, with a warning."""
        image = decode_file(
            write_dicom(
                tmp_path / "a.dcm",
                self.RGB,
                transfer_syntax=syntax,
                SOPClassUID=uid.SecondaryCaptureImageStorage,
            )
        )
        assert np.array_equal(image.pixels, self.GRAY / np.float32(255))
        assert ImageWarning.GRAY_AS_COLOR in image.warnings
        assert ImageWarning.SECONDARY_CAPTURE in image.warnings

    def test_planes(self, tmp_path):
        """Planar Configuration 1 is read plane by plane."""
        path = write_dicom(tmp_path / "a.dcm", self.RGB, SOPClassUID=uid.SecondaryCaptureImageStorage)
        content = path.read_bytes()
        interleaved, planes = self.RGB.tobytes(), np.moveaxis(self.RGB, -1, 0).tobytes()
        planar = raw_planar(content).replace(interleaved, planes)
        path.write_bytes(planar)
        assert np.array_equal(decode_file(path).pixels, self.GRAY / np.float32(255))

    @pytest.mark.parametrize("transfer_syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
    def test_jpeg_with_chroma(self, transfer_syntax, tmp_path):
        """A color JPEG without colour, as most converters write it, is read by its luminance."""
        path = write_dicom(
            tmp_path / "a.dcm",
            self.RGB,
            transfer_syntax=transfer_syntax,
            SOPClassUID=uid.SecondaryCaptureImageStorage,
            PhotometricInterpretation="YBR_FULL_422",
        )
        assert np.abs(decode_file(path).pixels - self.GRAY / 255).max() <= 0.025

    @pytest.mark.parametrize("transfer_syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL])
    def test_reversible_color_transform(self, transfer_syntax, tmp_path):
        """So is JPEG 2000, whose decoder undoes its own transform."""
        path = write_dicom(
            tmp_path / "a.dcm",
            self.RGB,
            transfer_syntax=transfer_syntax,
            SOPClassUID=uid.SecondaryCaptureImageStorage,
            PhotometricInterpretation="YBR_RCT",
        )
        assert np.array_equal(decode_file(path).pixels, self.GRAY / np.float32(255))

    def test_real_color(self, tmp_path):
        """Channels that differ are refused when the pixels are seen."""
        tinted = self.RGB.copy()
        tinted[30, 40, 0] += 20
        path = write_dicom(tmp_path / "a.dcm", tinted, SOPClassUID=uid.SecondaryCaptureImageStorage)
        with pytest.raises(RejectedInputError, match="differ by up to 20") as caught:
            decode_file(path)
        assert caught.value.reason_code == ReasonCode.COLOR_IMAGE


def raw_planar(content: bytes) -> bytes:
    """Return a file's bytes with Planar Configuration 1 for 0."""
    element = b"\x28\x00\x06\x00US\x02\x00"
    assert content.count(element + b"\0\0") == 1
    return content.replace(element + b"\0\0", element + b"\1\0")
