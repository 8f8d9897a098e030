"""Which DICOM headers are accepted as single-frame chest radiographs, and the reason codes of the others."""

import numpy as np
import pytest
from dicom_factory import RAMP, chest_dataset, code_sequence, save, write_dicom
from pydicom import uid

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

CAPTURE = {"SOPClassUID": uid.SecondaryCaptureImageStorage}
PROCESSING = {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing}

#: Attributes of the file, the reason code, and what the sentence must name.
REFUSED = {
    "ct": ({"Modality": "CT", "SOPClassUID": uid.CTImageStorage}, "unsupported_modality", "CT Image Storage"),
    "mr": ({"Modality": "MR", "SOPClassUID": uid.MRImageStorage}, "unsupported_modality", "(0008,0060)"),
    "mammogram": ({"Modality": "MG"}, "unsupported_modality", "(0008,0060)"),
    "other_without_body_part": (
        CAPTURE | {"Modality": "OT", "BodyPartExamined": None},
        "unsupported_modality",
        "(0008,0060)",
    ),
    "other_no_capture": ({"Modality": "OT"}, "unsupported_modality", "(0008,0060)"),
    "ct_without_modality": (
        {"Modality": None, "SOPClassUID": uid.CTImageStorage},
        "unsupported_sop_class",
        "(0008,0016)",
    ),
    "intra_oral": (
        {"Modality": "DX", "SOPClassUID": uid.DigitalIntraOralXRayImageStorageForPresentation},
        "unsupported_sop_class",
        "(0008,0016)",
    ),
    "private_sop_class": ({"SOPClassUID": "1.2.3.4"}, "unsupported_sop_class", "(0008,0016)"),
    "for_processing_class": (PROCESSING | {"Modality": "DX"}, "for_processing", "(0008,0016)"),
    "for_processing_intent": (
        {"PresentationIntentType": "FOR PROCESSING"},
        "for_processing",
        "(0008,0068)",
    ),
    "two_frames": ({"NumberOfFrames": "2"}, "multi_frame", "(0028,0008)"),
    "rgb": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "color_image", "(0028,0004)"),
    "ybr": ({"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3}, "color_image", "(0028,0004)"),
    "palette": (CAPTURE | {"PhotometricInterpretation": "PALETTE COLOR"}, "color_image", "(0028,0004)"),
    "ybr_uncompressed_capture": (
        CAPTURE | {"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3},
        "color_image",
        "(0028,0004)",
    ),
    "hand": ({"BodyPartExamined": "HAND"}, "not_a_chest", "(0018,0015)"),
    "thoracic_spine": ({"BodyPartExamined": "THORACIC SPINE"}, "not_a_chest", "(0018,0015)"),
    "spine": ({"BodyPartExamined": "TSPINE"}, "not_a_chest", "(0018,0015)"),
    "ribs": ({"BodyPartExamined": "RIB"}, "not_a_chest", "(0018,0015)"),
    "chest_and_abdomen": ({"BodyPartExamined": "CHESTABDOMEN"}, "not_a_chest", "(0018,0015)"),
    "chest_abdomen_words": ({"BodyPartExamined": "CHEST ABDOMEN"}, "not_a_chest", "(0018,0015)"),
    "whole_body": ({"BodyPartExamined": "WHOLEBODY"}, "not_a_chest", "(0018,0015)"),
    "region_of_hip": (
        {"BodyPartExamined": None, "AnatomicRegionSequence": code_sequence("24136001", "Hip joint")},
        "not_a_chest",
        "(0008,2218)",
    ),
    "region_of_mediastinum": (
        {"BodyPartExamined": None, "AnatomicRegionSequence": code_sequence("T-D3300", "Mediastinum", "SRT")},
        "not_a_chest",
        "(0008,2218)",
    ),
    "left_lateral": ({"ViewPosition": "LL"}, "lateral_view", "(0018,5101)"),
    "right_lateral": ({"ViewPosition": "RL"}, "lateral_view", "(0018,5101)"),
    "decubitus": ({"ViewPosition": "LLD"}, "lateral_view", "(0018,5101)"),
    "oblique": ({"ViewPosition": "RAO"}, "lateral_view", "(0018,5101)"),
    "lateral_word": ({"ViewPosition": "LATERAL"}, "lateral_view", "(0018,5101)"),
    "lordotic_ap": ({"ViewPosition": "AP LORDOTIC"}, "lateral_view", "(0018,5101)"),
    "lateral_code": (
        {"ViewPosition": None, "ViewCodeSequence": code_sequence("399173006", "")},
        "lateral_view",
        "(0054,0220)",
    ),
    "lateral_code_beside_pa": (
        {"ViewPosition": "PA", "ViewCodeSequence": code_sequence("399198007", "right lateral")},
        "lateral_view",
        "(0054,0220)",
    ),
    "lateral_in_body_part": (
        {"ViewPosition": None, "BodyPartExamined": "CHEST LAT"},
        "lateral_view",
        "(0018,5101)",
    ),
    "rows_absent": ({"Rows": None}, "pixel_data", "(0028,0010)"),
    "rows_zero": ({"Rows": 0}, "pixel_data", "(0028,0010)"),
    "bits_allocated_32": ({"BitsAllocated": 32}, "pixel_data", "(0028,0100)"),
    "bits_stored_above_allocated": ({"BitsStored": 17}, "pixel_data", "(0028,0101)"),
    "high_bit_too_low": ({"HighBit": 3}, "pixel_data", "(0028,0102)"),
    "high_bit_too_high": ({"HighBit": 16}, "pixel_data", "(0028,0102)"),
    "pixel_representation_absent": ({"PixelRepresentation": None}, "pixel_data", "(0028,0103)"),
    "photometric_absent": ({"PhotometricInterpretation": None}, "pixel_data", "(0028,0004)"),
    "photometric_unknown": ({"PhotometricInterpretation": "MONO"}, "pixel_data", "(0028,0004)"),
    "samples_contradict": ({"SamplesPerPixel": 3}, "pixel_data", "(0028,0002)"),
    "too_many_rows": ({"Rows": 20000}, "too_large", "20000 rows"),
    "too_many_pixels": ({"Rows": 12000, "Columns": 12000}, "too_large", "12000 rows"),
    "pixels_shorter_than_rows": ({"Rows": 144}, "truncated", "(7FE0,0010)"),
    "pixels_for_two": ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "pixel_data", "(7FE0,0010)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    """Each header is refused before decoding, with its reason code and the attribute in the sentence."""
    attributes, reason_code, tag = REFUSED[name]
    source = open_source(write_dicom(tmp_path / "a.dcm", **attributes))
    with pytest.raises(RejectedInputError) as caught:
        source.check_intended_use()
    assert caught.value.reason_code == reason_code
    assert tag in str(caught.value)
    assert str(caught.value).endswith(".")
    assert source.header.sop_instance_uid == "1.2.826.0.1.3680043.8.498.1"


#: Attributes of the file and the warnings that its image carries, beside that of the missing window.
ACCEPTED = {
    "ordinary": ({}, set()),
    "dx": ({"Modality": "DX", "SOPClassUID": uid.DigitalXRayImageStorageForPresentation}, set()),
    "digitised_film": (CAPTURE | {"Modality": "RG"}, {"secondary_capture"}),
    "capture_of_one_frame": (
        {"SOPClassUID": uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "NumberOfFrames": "1"},
        {"secondary_capture"},
    ),
    "capture_of_other": (CAPTURE | {"Modality": "OT"}, {"secondary_capture"}),
    "for_presentation": ({"PresentationIntentType": "FOR PRESENTATION"}, set()),
    "modality_absent": ({"Modality": None}, {"modality_absent"}),
    "body_part_absent": ({"BodyPartExamined": None}, {"body_part_absent"}),
    "body_part_empty": ({"BodyPartExamined": ""}, {"body_part_absent"}),
    "body_part_unknown": ({"BodyPartExamined": "UNKNOWN"}, {"body_part_absent"}),
    "thorax": ({"BodyPartExamined": "Thorax"}, set()),
    "lungs": ({"BodyPartExamined": "LUNGS"}, set()),
    "chest_pa": ({"BodyPartExamined": "CHEST, PA"}, set()),
    "region_of_thorax": (
        {"BodyPartExamined": None, "AnatomicRegionSequence": code_sequence("51185008", "Chest")},
        set(),
    ),
    "region_by_code": (
        {"BodyPartExamined": None, "AnatomicRegionSequence": code_sequence("T-D3000", "x", "SRT")},
        set(),
    ),
    "region_of_thoracic_cavity": (
        {"BodyPartExamined": None, "AnatomicRegionSequence": code_sequence("T-D3200", "Cavum thoracis", "SRT")},
        set(),
    ),
    "view_absent": ({"ViewPosition": None}, {"view_absent"}),
    "view_by_code": (
        {"ViewPosition": None, "ViewCodeSequence": code_sequence("272479007", "postero-anterior")},
        set(),
    ),
    "frontal_view_in_french": ({"ViewPosition": "FACE"}, set()),
    "frontal_view_in_portuguese": ({"ViewPosition": "FRENTE"}, set()),
    "frontal_view_by_meaning": (
        {"ViewPosition": None, "ViewCodeSequence": code_sequence("X1", "frontal", "99X")},
        set(),
    ),
    "view_by_meaning": (
        {"ViewPosition": None, "ViewCodeSequence": code_sequence("X1", "antero-posterior", "99X")},
        set(),
    ),
    "burned_in": ({"BurnedInAnnotation": "YES"}, {"burned_in_annotation"}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name, tmp_path):
    """Each header is accepted, with a warning for what it does not say."""
    attributes, expected = ACCEPTED[name]
    image = decode_file(write_dicom(tmp_path / "a.dcm", **attributes))
    assert set(image.warnings) - {ImageWarning.NO_WINDOW} == expected


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "ap"}, "AP"),
        ({"ViewPosition": "AP SUPINE"}, "AP"),
        ({"ViewPosition": "Posteroanterior"}, "PA"),
        ({"ViewPosition": "LL"}, "LL"),
        ({"ViewPosition": "", "ViewCodeSequence": code_sequence("399348003", "")}, "AP"),
        ({"ViewPosition": None}, None),
        ({"ViewPosition": "UNKNOWN"}, None),
    ],
)
def test_view_of_header(attributes, view, tmp_path):
    """The header names the view PA or AP, in the file's own words where it is another."""
    assert open_source(write_dicom(tmp_path / "a.dcm", **attributes)).header.view_position == view


def test_without_pixels(tmp_path):
    """A data set that ends before Pixel Data is refused for the missing attribute."""
    path = save(tmp_path / "a.dcm", chest_dataset(Rows=72, Columns=90))
    with pytest.raises(RejectedInputError, match=r"\(7FE0,0010\) Pixel Data is absent") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.PIXEL_DATA


def test_float_pixels(tmp_path):
    """Floating point pixels are refused: no radiograph has them."""
    dataset = chest_dataset(Rows=72, Columns=90, BitsAllocated=32)
    dataset.FloatPixelData = b"\0" * (72 * 90 * 4)
    with pytest.raises(RejectedInputError, match="floating point") as caught:
        decode_file(save(tmp_path / "a.dcm", dataset))
    assert caught.value.reason_code == ReasonCode.PIXEL_DATA


@pytest.mark.parametrize("shape", [(63, 90), (90, 63), (16, 16)])
def test_too_small(shape, tmp_path):
    """Fewer than 64 rows or columns are refused."""
    path = write_dicom(tmp_path / "a.dcm", np.resize(RAMP.stored, shape))
    with pytest.raises(RejectedInputError, match="at least 64") as caught:
        open_source(path).check_intended_use()
    assert caught.value.reason_code == ReasonCode.TOO_SMALL


@pytest.mark.parametrize(
    ("cells", "attributes"),
    [
        (np.full((72, 90), 100, np.uint16), {}),
        (np.pad(np.full((70, 80), 5, np.uint16), 5), {"PixelPaddingValue": 0}),
        (np.where(RAMP.stored < 1000, 0, 5).astype(np.uint16), {"PixelPaddingValue": 0}),
        (RAMP.stored, {"WindowCenter": "-500", "WindowWidth": "10"}),
        (RAMP.stored, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}),
    ],
    ids=["constant", "constant_in_padding", "constant_around_padding", "window_beside_values", "all_padding"],
)
def test_blank(cells, attributes, tmp_path):
    """An image that shows one gray is refused when it is rendered."""
    source = open_source(write_dicom(tmp_path / "a.dcm", cells, **attributes))
    source.check_intended_use()
    with pytest.raises(RejectedInputError, match=r"same gray|is padding") as caught:
        source.render()
    assert caught.value.reason_code == ReasonCode.BLANK_IMAGE


@pytest.mark.parametrize(
    ("attributes", "tag"),
    [
        ({"RescaleSlope": "0", "WindowCenter": "2048", "WindowWidth": "4096"}, "(0028,1053)"),
        ({"RescaleSlope": "1e308"}, "(0028,1053)"),
        ({"RescaleIntercept": "1e300"}, "(0028,1053)"),
        ({"WindowCenter": "1", "WindowWidth": "9", "VOILUTFunction": "LOG"}, "(0028,1056)"),
    ],
)
def test_damaged_display_attributes(attributes, tag, tmp_path):
    """A rescale or window that cannot be applied is refused, not guessed."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(write_dicom(tmp_path / "a.dcm", **attributes))
    assert caught.value.reason_code == ReasonCode.PIXEL_DATA
    assert tag in str(caught.value)
