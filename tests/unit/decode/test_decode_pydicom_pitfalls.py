"""What pydicom 3.0 and NumPy 2 get wrong or refuse, each with the pixel values that are right.

The numbers P1 to P14 are those of the project's list of such cases.
"""

import imagecodecs
import numpy as np
import pytest
from dicom_factory import EXACT, RAMP, WHITE, chest_dataset, compress, lut_sequence, write_dicom
from grayscale_encodings import IDENTITY, UNSIGN, bits_12, to_signed
from pydicom import uid

from xray_batch.decode import decode_file
from xray_batch.records import ImageWarning

STORED = RAMP.stored
SIGNED = to_signed(STORED)


@pytest.fixture
def render(tmp_path):
    """Write a file and return its image."""

    def write_and_decode(cells=STORED, **attributes):
        return decode_file(write_dicom(tmp_path / "a.dcm", cells, **attributes))

    return write_and_decode


@pytest.mark.parametrize("packing", ["byte_per_entry", "word_per_entry", "odd_count"])
def test_p1_table_of_8_bit_entries(packing, render):
    """P1: pydicom reads 8-bit entries of a table of more than 256 wrongly, without a word (256 becomes 0)."""
    entries = (np.arange(4096) * 255 // 4095).astype(np.uint8)
    count = 4096
    if packing == "odd_count":
        entries, count = np.append(entries, np.uint8(255)), 4097
    data = entries.astype("<u2").tobytes() if packing == "word_per_entry" else entries.tobytes()
    pixels = render(VOILUTSequence=lut_sequence(data + b"\0" * (len(data) % 2), count=count, bits=8)).pixels
    assert pixels[0, 89] == np.float32(127 / 255)  # stored 2048
    assert pixels[10, 20] == np.float32(36 / 255)  # stored 590
    assert pixels[71, 89] == 1.0


@pytest.mark.parametrize(("cells", "sign"), [(STORED << 4, {}), (SIGNED << 4, UNSIGN)], ids=["unsigned", "signed"])
def test_p2_left_justified(cells, sign, render):
    """P2: pydicom ignores High Bit 15 of 12 stored bits and gives values 16 times too large."""
    RAMP.check(render(cells, HighBit=15, **sign).pixels)


def test_p3_inverse_by_range_not_by_content(render):
    """P3: pydicom inverts by the largest pixel of the picture, so that a dark film turns bright."""
    options = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    pixels = render(STORED // 2, **options).pixels
    assert pixels[0, 0] == 1.0
    assert pixels[71, 89] == np.float32(1 - 2047 / 4095)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_p4_modality_table_of_odd_depth(bits, render):
    """P4: pydicom raises TypeError ("uint12") for a Modality LUT of 10 to 15 bits (#2317)."""
    white = (1 << bits) - 1
    entries = (np.arange(4096) * white // WHITE).astype("<u2")
    pixels = render(ModalityLUTSequence=lut_sequence(entries, count=4096, bits=bits)).pixels
    assert pixels[0, 89] == np.float32((2048 * white // WHITE) / white)
    assert pixels[71, 89] == 1.0


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_p5_negative_first_input_of_unsigned_pixels(keyword, render):
    """P5: pydicom raises OverflowError for a first mapped value below 0 on unsigned pixels."""
    entries = np.concatenate([np.zeros(50, "<u2"), IDENTITY])
    table = lut_sequence(entries, count=4146, first_mapped=-50, descriptor_vr="SS")
    RAMP.check(render(**{keyword: table}).pixels)


def test_p6_one_byte_per_entry_in_words(render):
    """P6: pydicom raises struct.error for 256 8-bit entries in 256 bytes of OW."""
    entries = np.arange(256, dtype=np.uint8)
    gray = (STORED >> 4).astype(np.uint8)
    pixels = render(gray, VOILUTSequence=lut_sequence(entries.tobytes(), count=256, bits=8)).pixels
    assert pixels[0, 89] == np.float32(128 / 255)
    assert pixels[10, 20] == np.float32(36 / 255)


@pytest.mark.parametrize(
    ("attributes", "rendering"),
    [
        ({"RescaleSlope": "", "RescaleIntercept": ""}, "identity"),
        ({"WindowCenter": "2048", "WindowWidth": "4096", "VOILUTFunction": ""}, "window:LINEAR"),
        ({"WindowCenter": "0", "WindowWidth": "0"}, "identity"),
        ({"WindowCenter": "10", "WindowWidth": "-5"}, "identity"),
        ({"PresentationLUTShape": ""}, "identity"),
    ],
    ids=["rescale", "function", "width_zero", "width_negative", "shape"],
)
def test_p7_empty_or_impossible_values(attributes, rendering, render):
    """P7: pydicom raises TypeError, ValueError or NotImplementedError for values that say nothing (#1073)."""
    image = render(**attributes)
    RAMP.check(image.pixels)
    assert image.rendering == rendering


@pytest.mark.parametrize(
    ("attributes", "rendering"),
    [
        ({"RescaleSlope": "3", "WindowCenter": "6143", "WindowWidth": "12286"}, "window:LINEAR"),
        ({"WindowCenter": "10"}, "identity"),
        ({"WindowWidth": "10"}, "identity"),
    ],
    ids=["slope", "center", "width"],
)
def test_p8_half_of_a_pair(attributes, rendering, render):
    """P8: pydicom ignores a Rescale Slope without intercept; a window of one value is no window."""
    image = render(**attributes)
    RAMP.check(image.pixels, 2 * EXACT)
    assert image.rendering == rendering


def test_p9_signed_descriptor_of_many_entries(tmp_path):
    """P9: a LUT Descriptor as SS makes 40,000 entries negative; the count is unsigned all the same (#942)."""
    table = lut_sequence(np.arange(40_000, dtype="<u2") + np.uint16(1000), count=40_000, bits=16)
    path = write_dicom(tmp_path / "a.dcm", STORED * np.uint16(8), BitsStored=16, HighBit=15, VOILUTSequence=table)
    content = path.read_bytes()
    assert content.count(b"\x28\x00\x02\x30US") == 1
    path.write_bytes(content.replace(b"\x28\x00\x02\x30US", b"\x28\x00\x02\x30SS"))
    pixels = decode_file(path).pixels
    assert pixels[0, 0] == np.float32(1000 / 65535)
    assert pixels[10, 20] == np.float32((590 * 8 + 1000) / 65535)


def test_p10_table_after_fractions(render):
    """P10: pydicom only warns of a VOI LUT whose inputs are fractions; the nearest entry counts."""
    table = lut_sequence(IDENTITY, count=4096)
    pixels = render(RescaleSlope="0.5", RescaleIntercept="0.1", VOILUTSequence=table).pixels
    assert pixels[10, 20] == np.float32(295 / 4095)  # 590 / 2 + 0.1
    assert pixels[71, 89] == np.float32(2048 / 4095)  # 4095 / 2 + 0.1


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.RLELossless])
def test_p11_unused_bits_hold_an_overlay(syntax, render):
    """P11: pydicom has let bits above High Bit through from JPEG-LS and JPEG 2000 streams (#2260)."""
    cells = STORED | np.uint16(0x8000)
    stream = bytes(imagecodecs.jpegls_encode(cells)) if syntax == uid.JPEGLSLossless else None
    RAMP.check(render(cells, transfer_syntax=syntax, stream=stream).pixels)


class TestP12:
    """P12: a codestream may contradict its attributes, and pydicom has believed either (#1149, #2012)."""

    def test_sign_lost_by_the_stream(self, render):
        """A JPEG 2000 stream of unsigned two's complement is signed where Pixel Representation says so."""
        stream = compress(bits_12(SIGNED), uid.JPEG2000Lossless, chest_dataset())
        image = render(SIGNED, transfer_syntax=uid.JPEG2000Lossless, stream=stream)
        RAMP.check(image.pixels)
        assert ImageWarning.CODESTREAM_CONFLICT not in image.warnings

    def test_sign_lost_by_the_attributes(self, render):
        """Negative samples of a signed stream are negative, whatever Pixel Representation says, with a warning."""
        dataset = chest_dataset(PixelRepresentation=1)
        stream = compress(SIGNED, uid.JPEG2000Lossless, dataset)
        image = render(STORED, transfer_syntax=uid.JPEG2000Lossless, stream=stream)
        RAMP.check(image.pixels)
        assert ImageWarning.CODESTREAM_CONFLICT in image.warnings

    def test_fewer_bits_than_stored(self, render):
        """A stream of 12 bits under Bits Stored 16 is shown by its 12, with a warning."""
        stream = compress(STORED, uid.JPEG2000Lossless, chest_dataset())
        options = {"BitsStored": 16, "HighBit": 15, "transfer_syntax": uid.JPEG2000Lossless, "stream": stream}
        image = render(STORED, **options)
        RAMP.check(image.pixels)
        assert image.bits == 12
        assert ImageWarning.CODESTREAM_CONFLICT in image.warnings


@pytest.mark.parametrize("bits", [6, 7, 12])
@pytest.mark.parametrize("is_signed", [False, True])
def test_p13_jpeg_ls_of_few_bits(bits, is_signed, render):
    """P13: GDCM shifts JPEG-LS of 6 and 7 bits, pydicom has lost the sign of bits below those allocated (#2009)."""
    cells = (STORED >> (12 - bits)).astype(np.uint8 if bits < 8 else np.uint16)
    half = 1 << (bits - 1)
    stream = imagecodecs.jpegls_encode(cells ^ cells.dtype.type(half) if is_signed else cells)
    options = {"transfer_syntax": uid.JPEGLSLossless, "stream": bytes(stream), "PixelRepresentation": int(is_signed)}
    pixels = render(cells, BitsStored=bits, HighBit=bits - 1, **options).pixels
    white = 2**bits - 1
    assert np.abs(pixels - cells / white).max() <= EXACT
    assert pixels[0, 89] == np.float32(half / white)


def test_p14_table_declared_deeper_than_it_is(render):
    """P14: entries of 12 bits declared as 16, as some CR systems write them, are too dark if divided by 65535."""
    RAMP.check(render(VOILUTSequence=lut_sequence(IDENTITY, count=4096, bits=16)).pixels)
