"""One picture, many encodings, the same pixels: the metamorphic list of PS3.4 N.2."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dicom_factory import EXACT, RAMP, WHITE, lut_sequence, write_dicom
from grayscale_encodings import IDENTITY, grayscale_encodings, to_signed
from pydicom import uid

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

STORED = RAMP.stored
SIGNED = to_signed(STORED)
ENCODINGS = grayscale_encodings(STORED)

TOLERANCE = {"voi_lut_after_float_rescale": 1 / WHITE}  #: the rescaled value is rounded to a table entry


@pytest.mark.parametrize("name", ENCODINGS)
def test_same_pixels(name, tmp_path):
    """Every encoding of the picture renders to the same pixels, by the stated rendering."""
    cells, attributes, rendering = ENCODINGS[name]
    image = decode_file(write_dicom(tmp_path / "a.dcm", cells, **attributes))
    RAMP.check(image.pixels, TOLERANCE.get(name, EXACT))
    assert image.rendering == rendering
    assert (ImageWarning.NO_WINDOW in image.warnings) == (rendering == "identity")


@pytest.mark.parametrize("name", ["plain", "voi_lut", "modality_lut_12_bits", "signed_alone", "voi_lut_as_us"])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_same_pixels_in_other_byte_layouts(name, syntax, tmp_path):
    """Tables and signs survive implicit VR and big endian."""
    cells, attributes, rendering = ENCODINGS[name]
    if name == "voi_lut" and syntax == uid.ExplicitVRBigEndian:
        attributes = {"VOILUTSequence": lut_sequence(IDENTITY.astype(">u2"), count=4096)}
    if name == "modality_lut_12_bits" and syntax == uid.ExplicitVRBigEndian:
        attributes = {"ModalityLUTSequence": lut_sequence(IDENTITY.astype(">u2"), count=4096)}
    image = decode_file(write_dicom(tmp_path / "a.dcm", cells, transfer_syntax=syntax, **attributes))
    RAMP.check(image.pixels)
    assert image.rendering == rendering


def test_voi_lut_outside_its_inputs(tmp_path):
    """Values before and after a table take its first and last entry (PS3.3 C.11.2.1.1)."""
    table = lut_sequence(np.array([1000, 2000, 4095], "<u2"), count=3, first_mapped=2048)
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", VOILUTSequence=table)).pixels
    assert pixels[0, 0] == np.float32(1000 / 4095)
    assert pixels[0, 89] == np.float32(1000 / 4095)
    assert pixels[71, 89] == 1.0


def test_damaged_voi_lut_leaves_the_window(tmp_path):
    """A VOI LUT that cannot be read leaves the window beside it, with a warning; alone it refuses the file."""
    table = {"VOILUTSequence": lut_sequence(b"\0" * 10, count=4096)}
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    image = decode_file(write_dicom(tmp_path / "a.dcm", **table, **window))
    RAMP.check(image.pixels)
    assert image.rendering == "window:LINEAR"
    assert ImageWarning.VOI_LUT_DAMAGED in image.warnings
    assert "for a VOI LUT that cannot be read" in " ".join(image.steps)
    with pytest.raises(RejectedInputError, match="LUT Data") as caught:
        decode_file(write_dicom(tmp_path / "b.dcm", **table))
    assert caught.value.reason_code == ReasonCode.PIXEL_DATA


def test_hardly_anything_but_padding(tmp_path):
    """What is left of a padded frame must be as large as any other image."""
    small = np.pad(STORED[:40, :50] + np.uint16(1), 60)
    with pytest.raises(RejectedInputError, match="40 rows and 50 columns") as caught:
        decode_file(write_dicom(tmp_path / "a.dcm", small, PixelPaddingValue=0))
    assert caught.value.reason_code == ReasonCode.TOO_SMALL


def test_sigmoid(tmp_path):
    """A SIGMOID window follows the formula of PS3.3 C.11.2.1.3.1."""
    window = {"WindowCenter": "2048", "WindowWidth": "1000", "VOILUTFunction": "SIGMOID"}
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", **window)).pixels
    expected = 1 / (1 + np.exp(-4 * (STORED.astype(float) - 2048) / 1000))
    assert np.abs(pixels - expected).max() <= EXACT
    assert pixels[0, 89] == 0.5


def test_narrow_window(tmp_path):
    """A LINEAR window is black below, white above, and has its known values between (PS3.3 C.11.2.1.2.1)."""
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", WindowCenter="2048", WindowWidth="101")).pixels
    assert pixels[0, 0] == 0.0
    assert pixels[71, 89] == 1.0
    assert pixels[0, 89] == pytest.approx((2048 - 2047.5) / 100 + 0.5)


def test_window_of_width_1(tmp_path):
    """A LINEAR window of width 1 is a threshold; what lies on it is black (PS3.3 C.11.2.1.2.1)."""
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", WindowCenter="2048.5", WindowWidth="1")).pixels
    assert pixels[0, 89] == 0.0  # stored 2048
    assert np.array_equal(pixels, (STORED > 2048).astype(np.float32))


def test_contrast_does_not_depend_on_content(tmp_path):
    """Without a window the stored range becomes [0, 1], not the image's own minimum and maximum."""
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", STORED // 4 + 1000)).pixels
    assert pixels.min() == np.float32(1000 / 4095)
    assert pixels.max() == np.float32((1000 + 1023) / 4095)


@pytest.mark.parametrize(("interpretation", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
def test_polarity_conflict(interpretation, shape, tmp_path):
    """Photometric Interpretation wins over a Presentation LUT Shape that contradicts it, with a warning."""
    cells = WHITE - STORED if interpretation == "MONOCHROME1" else STORED
    path = write_dicom(tmp_path / "a.dcm", cells, PhotometricInterpretation=interpretation, PresentationLUTShape=shape)
    image = decode_file(path)
    RAMP.check(image.pixels)
    assert ImageWarning.POLARITY_CONFLICT in image.warnings


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("is_signed", [False, True])
class TestPadding:
    """Pixel Padding Value, in either polarity and sign (PS3.3 C.7.5.1.1.2)."""

    @staticmethod
    def picture(is_signed: bool) -> tuple[npt.NDArray[Any], int]:
        """Return a picture that does not hold the padding value, and that value."""
        inner = SIGNED if is_signed else STORED
        return np.where(inner == inner.max(), inner.max() - 1, inner).astype(inner.dtype), int(inner.max())

    def test_frame_is_trimmed(self, interpretation, is_signed, tmp_path):
        """A padded frame is cut off: what is left is the picture without padding, pixel for pixel."""
        inner, padding = self.picture(is_signed)
        framed = np.pad(inner, ((8, 3), (0, 11)), constant_values=padding)
        options = {"PhotometricInterpretation": interpretation}
        padded = decode_file(write_dicom(tmp_path / "p.dcm", framed, PixelPaddingValue=padding, **options))
        plain = decode_file(write_dicom(tmp_path / "i.dcm", inner, **options))
        assert np.array_equal(padded.pixels, plain.pixels)
        assert ImageWarning.PADDING_TRIMMED in padded.warnings
        assert "shown black" not in " ".join(padded.steps)
        assert ImageWarning.PADDING_TRIMMED not in plain.warnings

    def test_inside_is_black(self, interpretation, is_signed, tmp_path):
        """Padding that is no whole row or column stays, and is black."""
        inner, padding = self.picture(is_signed)
        holed = inner.copy()
        holed[:20, :30] = padding
        options = {"PhotometricInterpretation": interpretation}
        padded = decode_file(write_dicom(tmp_path / "p.dcm", holed, PixelPaddingValue=padding, **options)).pixels
        plain = decode_file(write_dicom(tmp_path / "i.dcm", inner, **options)).pixels
        assert padded[:20, :30].max() == 0.0
        assert np.array_equal(padded[20:], plain[20:])


@pytest.mark.parametrize(
    ("ends", "syntax"), [((0, 44), uid.ExplicitVRLittleEndian), ((44, 0), uid.ExplicitVRBigEndian)]
)
def test_padding_range(ends, syntax, tmp_path):
    """A padding range includes both ends, in either order (PS3.3 C.7.5.1.1.2)."""
    path = write_dicom(
        tmp_path / "a.dcm",
        transfer_syntax=syntax,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=ends[0],
        PixelPaddingRangeLimit=ends[1],
    )
    pixels = decode_file(path).pixels
    is_padding = STORED <= 44
    assert is_padding.any()
    assert pixels[is_padding].max() == 0.0
    assert pixels[1, 0] == np.float32(1 - 45 / 4095)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_8_bits(interpretation, tmp_path):
    """An 8-bit image keeps its values exactly, in either polarity."""
    gray = (STORED >> 4).astype(np.uint8)
    cells = 255 - gray if interpretation == "MONOCHROME1" else gray
    pixels = decode_file(write_dicom(tmp_path / "a.dcm", cells, PhotometricInterpretation=interpretation)).pixels
    assert np.abs(pixels - gray / 255).max() <= EXACT


def test_input_is_not_changed(tmp_path):
    """Rendering the same source twice gives the same pixels."""
    source = open_source(write_dicom(tmp_path / "a.dcm", VOILUTSequence=lut_sequence(IDENTITY, count=4096)))
    assert np.array_equal(source.render().pixels, source.render().pixels)
