"""Square pixels and an upright patient: which attributes count, which do not, and where pixels end up."""

import numpy as np
import pytest
from dicom_factory import RAMP, write_dicom

from xray_batch.decode import decode_file, limits, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

STORED = RAMP.stored


@pytest.fixture
def render(tmp_path):
    """Write a file and return its image."""

    def write_and_decode(cells=STORED, **attributes):
        return decode_file(write_dicom(tmp_path / "a.dcm", cells, **attributes))

    return write_and_decode


class TestSquarePixels:
    """Pixel Spacing and Pixel Aspect Ratio: vertical first (PS3.3 10.7.1.3, C.7.6.3.1.7)."""

    @pytest.mark.parametrize(
        ("attributes", "shape"),
        [
            ({"PixelAspectRatio": ["2", "1"]}, (144, 90)),
            ({"PixelAspectRatio": ["1", "2"]}, (72, 180)),
            ({"PixelSpacing": ["0.3", "0.2"]}, (108, 90)),
            ({"ImagerPixelSpacing": ["0.1", "0.2"]}, (72, 180)),
            ({"NominalScannedPixelSpacing": ["0.2", "0.1"]}, (144, 90)),
            ({"PixelAspectRatio": ["1", "4"]}, (72, 360)),
        ],
    )
    def test_longer_side_is_stretched(self, attributes, shape, render):
        """The picture grows along the axis on which its pixels are longer, with a warning."""
        image = render(**attributes)
        assert image.pixels.shape == shape
        assert ImageWarning.NOT_SQUARE in image.warnings

    def test_known_values(self, render):
        """Rows twice as high are interpolated: an edge between black and white becomes a quarter and three."""
        cells = np.zeros((72, 90), np.uint16)
        cells[36:] = 4095
        pixels = render(cells, PixelAspectRatio=["2", "1"]).pixels
        assert pixels[70:74, 0].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])
        assert pixels[0, 0] == 0.0
        assert pixels[143, 89] == 1.0

    @pytest.mark.parametrize(
        "attributes",
        [
            {"PixelSpacing": ["0.143", "0.143"]},
            {"PixelSpacing": ["0.1000", "0.1009"]},
            {"PixelSpacing": ["0.1009", "0.1000"]},
            {"PixelAspectRatio": ["1", "1"]},
            {"PixelAspectRatio": ["0", "1"]},
            {"PixelSpacing": ["0", "0.2"]},
            {"PixelSpacing": ["-0.1", "0.2"]},
            {"PixelSpacing": "0.2"},
            {"PixelSpacing": ""},
            {"PixelSpacing": ["0.2", "0.2"], "PixelAspectRatio": ["2", "1"]},
            {"PixelSpacing": ["0.2", "0.2"], "ImagerPixelSpacing": ["0.2", "0.1"]},
            {"ImagerPixelSpacing": ["0.2", "0.2"], "NominalScannedPixelSpacing": ["0.2", "0.1"]},
        ],
        ids=str,
    )
    def test_square(self, attributes, render):
        """Equal or nearly equal sides, and sides that are not stated, leave the picture as it is."""
        image = render(**attributes)
        RAMP.check(image.pixels)
        assert ImageWarning.NOT_SQUARE not in image.warnings

    def test_unusable_spacing_leaves_the_next(self, render):
        """A spacing that was not measured says nothing: the next attribute counts."""
        assert render(PixelSpacing=["0", "0"], ImagerPixelSpacing=["0.2", "0.1"]).pixels.shape == (144, 90)

    @pytest.mark.parametrize("ratio", [["5", "1"], ["1", "5"], ["1000000", "1"]])
    def test_impossible_ratio(self, ratio, render):
        """A pixel more than four times as long as wide is a wrong header, and refused by name."""
        with pytest.raises(RejectedInputError, match=r"\(0028,0034\) Pixel Aspect Ratio") as caught:
            render(PixelAspectRatio=ratio)
        assert caught.value.reason_code == ReasonCode.PIXEL_DATA

    def test_too_large_once_square(self, monkeypatch, render):
        """A picture that grows beyond the limits is refused before it is resampled."""
        monkeypatch.setattr(limits, "MAX_SIDE", 143)
        monkeypatch.setattr("xray_batch.decode.geometry.Image.fromarray", None)  # would be called by resampling
        with pytest.raises(RejectedInputError, match="144 rows") as caught:
            render(PixelAspectRatio=["2", "1"])
        assert caught.value.reason_code == ReasonCode.TOO_LARGE


class TestOrientation:
    """Patient Orientation: of the rows, then of the columns (PS3.3 C.7.6.1.1.1)."""

    @pytest.mark.parametrize(
        ("orientation", "shape", "position"),
        [
            ("L/F", (72, 90), (10, 20)),
            ("R/F", (72, 90), (10, 69)),
            ("L/H", (72, 90), (61, 20)),
            ("R/H", (72, 90), (61, 69)),
            ("F/L", (90, 72), (20, 10)),
            ("H/L", (90, 72), (69, 10)),
            ("F/R", (90, 72), (20, 61)),
            ("H/R", (90, 72), (69, 61)),
        ],
    )
    def test_eight_ways_to_hang(self, orientation, shape, position, render):
        """The pixel stored at row 10, column 20 ends where the patient's left is right and the feet are down."""
        cells = np.zeros((72, 90), np.uint16)
        cells[10:, 20:] = 1000
        cells[10, 20] = 4095
        image = render(cells, PatientOrientation=orientation.split("/"))
        assert image.pixels.shape == shape
        assert np.argwhere(image.pixels == 1.0).tolist() == [list(position)]
        assert (ImageWarning.ORIENTATION_CORRECTED in image.warnings) == (orientation != "L/F")

    @pytest.mark.parametrize("orientation", [["RP", "FA"], ["RPF", "F"], ["r", "f"], ["R ", "F"]])
    def test_first_letter_counts(self, orientation, render):
        """Of a compound direction the first letter is the main one."""
        assert np.array_equal(render(PatientOrientation=orientation).pixels, render().pixels[:, ::-1])

    @pytest.mark.parametrize(
        "orientation",
        [["L", "LF"], ["L", "R"], ["F", "H"], ["X", "Y"], ["L"], ["L", "F", "H"], ["", "F"], "", ["LEFT", "DOWN"]],
        ids=str,
    )
    def test_nonsense(self, orientation, render):
        """Directions that cannot be those of a picture say nothing: nothing is turned."""
        image = render(PatientOrientation=orientation)
        RAMP.check(image.pixels)
        assert ImageWarning.ORIENTATION_CORRECTED not in image.warnings

    @pytest.mark.parametrize("orientation", [["A", "F"], ["P", "F"], ["AR", "FR"], ["F", "A"], ["H", "P"]])
    def test_front_and_back(self, orientation, tmp_path):
        """Rows or columns from front to back are those of a lateral film, where nothing else states the view."""
        path = write_dicom(tmp_path / "a.dcm", ViewPosition=None, PatientOrientation=orientation)
        with pytest.raises(RejectedInputError, match=r"\(0020,0020\) Patient Orientation") as caught:
            open_source(path).check_intended_use()
        assert caught.value.reason_code == ReasonCode.LATERAL_VIEW

    @pytest.mark.parametrize("orientation", [["A", "F"], ["P", "H"], ["H", "P"]])
    def test_front_and_back_of_a_frontal_film(self, orientation, render):
        """Against a View Position that says frontal, such an orientation turns nothing and claims nothing."""
        image = render(ViewPosition="PA", PatientOrientation=orientation)
        RAMP.check(image.pixels)
        assert ImageWarning.ORIENTATION_CORRECTED not in image.warnings

    def test_history_is_not_undone(self, render):
        """Field Of View Rotation and Horizontal Flip tell what was done already (PS3.3 C.8.11.4)."""
        RAMP.check(render(FieldOfViewRotation="90", FieldOfViewHorizontalFlip="YES").pixels)

    def test_after_squaring(self, render):
        """Spacing is that of the stored rows and columns: the picture is squared, then turned."""
        image = render(PixelAspectRatio=["2", "1"], PatientOrientation=["F", "L"])
        assert image.pixels.shape == (90, 144)
        assert [step for step in image.steps if step.startswith("geometry")] == [
            "geometry: pixels are 2.000 times as high as wide (PixelAspectRatio); resampled to 144 rows and 90 columns",
            "geometry: Patient Orientation is F/L; mirrored or turned to L/F",
        ]
