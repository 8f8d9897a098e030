"""The range that is shown of a picture without a window."""

import numpy as np
import pytest
from dicom_factory import RAMP, WHITE, lut_sequence, write_dicom
from grayscale_encodings import to_signed

from xray_batch.decode import decode_file
from xray_batch.decode.depth import find_used_range
from xray_batch.records import ImageWarning

SIXTEEN = {"BitsStored": 16, "HighBit": 15}


@pytest.mark.parametrize(
    ("low", "high", "bits", "expected"),
    [
        (0, 4095, 16, (0, 4095)),
        (0, 4096, 16, (0, 8191)),
        (700, 3000, 16, (0, 4095)),
        (0, 16383, 16, (0, 16383)),
        (0, 16384, 16, None),
        (0, 65535, 16, None),
        (0, 4095, 12, None),
        (0, 1023, 12, (0, 1023)),
        (0, 1024, 12, None),
        (0, 200, 16, (0, 255)),
        (0, 3, 16, (0, 255)),
        (0, 3, 8, None),
        (0, 0, 16, (0, 255)),
        (-2048, 2047, 16, (-2048, 2047)),
        (-2049, 2047, 16, (-4096, 4095)),
        (-1, 4095, 16, (-4096, 4095)),
        (-32768, 0, 16, None),
        (-5, -1, 16, (-128, 127)),
    ],
)
def test_used_range(low, high, bits, expected):
    """Two or more leading bits without use narrow the range to a whole number of bits, of 8 at least."""
    assert find_used_range(low, high, bits) == expected


@pytest.mark.parametrize("is_signed", [False, True])
def test_12_bits_declared_as_16(is_signed, tmp_path):
    """A film of 12 bits declared as 16 without a window is shown as one of 12, with a warning."""
    cells = to_signed(RAMP.stored) if is_signed else RAMP.stored
    image = decode_file(write_dicom(tmp_path / "a.dcm", cells, **SIXTEEN))
    RAMP.check(image.pixels)
    assert ImageWarning.BITS_UNUSED in image.warnings


def test_a_window_says_the_range(tmp_path):
    """A window is taken at its word, however dark the picture then is."""
    image = decode_file(write_dicom(tmp_path / "a.dcm", **SIXTEEN, WindowCenter="32768", WindowWidth="65536"))
    assert image.pixels.max() == np.float32(WHITE / 65535)
    assert ImageWarning.BITS_UNUSED not in image.warnings


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_table_says_the_range(keyword, tmp_path):
    """So is a table."""
    table = lut_sequence(np.arange(65536, dtype="<u2"), count=65536, bits=16)
    image = decode_file(write_dicom(tmp_path / "a.dcm", **SIXTEEN, **{keyword: table}))
    assert image.pixels.max() == np.float32(WHITE / 65535)
    assert ImageWarning.BITS_UNUSED not in image.warnings


def test_padding_does_not_count(tmp_path):
    """A padding value of 65535 uses no bits of the picture, be it around it or in it."""
    holed = RAMP.stored.copy()
    holed[:20, :30] = 65535
    framed = np.pad(holed, 9, constant_values=65535)
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", framed, **SIXTEEN, PixelPaddingValue=65535)).pixels
    assert np.array_equal(pixels[20:], (RAMP.stored / WHITE).astype(np.float32)[20:])
