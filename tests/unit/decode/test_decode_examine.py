"""The gate's questions one by one: every question with its value, also after the first refusal."""

import io
import struct

import numpy as np
import pytest
from dicom_factory import RAMP, chest_dataset, save, write_dicom
from PIL import Image
from pydicom import uid

from xray_batch.decode import open_source
from xray_batch.errors import RejectedInputError

QUESTIONS = [
    "complete",
    "modality",
    "sop_class",
    "presentation_intent",
    "frames",
    "photometric_interpretation",
    "body_part",
    "view",
    "pixels",
]

MPEG4 = uid.MPEG4HP41

HEADERS = {
    "ordinary": {},
    "lateral hand": {"BodyPartExamined": "HAND", "ViewPosition": "LL"},
    "ct": {"Modality": "CT", "SOPClassUID": uid.CTImageStorage, "BodyPartExamined": "HEAD"},
    "for processing": {"PresentationIntentType": "FOR PROCESSING", "NumberOfFrames": "3"},
    "rgb": {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
    "silent": {"BodyPartExamined": None, "ViewPosition": None, "Modality": None},
    "damaged": {"Rows": None, "ViewPosition": "RL"},
    "short": {"Rows": 144},
    "unread encoding and bits": {"transfer_syntax": MPEG4, "stream": b"MPEG", "BitsAllocated": 32},
}


@pytest.mark.parametrize("name", HEADERS)
def test_first_refusal_is_that_of_the_gate(name, tmp_path):
    """All questions are asked in their order, and the first refusal is the one of `check_intended_use`."""
    source = open_source(write_dicom(tmp_path / "a.dcm", **HEADERS[name]))
    checks = source.examine()
    assert [check.name for check in checks] == QUESTIONS
    refused = [check.rejection for check in checks if check.rejection]
    try:
        source.check_intended_use()
    except RejectedInputError as error:
        assert (refused[0].reason_code, refused[0].reason) == (error.reason_code, str(error))
    else:
        assert not refused


def test_what_the_gate_does_not_read(tmp_path):
    """A damaged Anatomic Region is no refusal where Body Part Examined says chest."""
    path = write_dicom(tmp_path / "a.dcm")
    content, damaged = path.read_bytes(), struct.pack("<HH2sHL", 0x0008, 0x2218, b"SQ", 0, 3) + b"\xfe\xff\x00"
    patient = content.index(b"\x10\x00\x10\x00PN")
    path.write_bytes(content[:patient] + damaged + content[patient:])
    source = open_source(path)
    source.check_intended_use()
    checks = source.examine()
    assert not [check for check in checks if check.rejection]
    assert {check.name: check.found for check in checks}["body_part"] == "CHEST"


def test_values(tmp_path):
    """What the file says stands beside what is accepted, in the file's own words."""
    path = write_dicom(tmp_path / "a.dcm", BodyPartExamined="Left Hand", ViewPosition=None)
    found = {check.name: check.found for check in open_source(path).examine()}
    assert found == {
        "complete": "yes",
        "modality": "CR",
        "sop_class": "Computed Radiography Image Storage",
        "presentation_intent": "absent",
        "frames": "absent",
        "photometric_interpretation": "MONOCHROME2",
        "body_part": "Left Hand",
        "view": "absent",
        "pixels": "72 rows, 90 columns, 12 bits of 16 at High Bit 11",
    }


def test_several_refusals(tmp_path):
    """A file refused for one reason shows the others."""
    checks = open_source(write_dicom(tmp_path / "a.dcm", **HEADERS["lateral hand"])).examine()
    codes = {check.name: check.rejection.reason_code for check in checks if check.rejection}
    assert codes == {"body_part": "not_a_chest", "view": "lateral_view"}


def test_without_pixels(tmp_path):
    """A file without pixels answers all questions."""
    checks = open_source(save(tmp_path / "a.dcm", chest_dataset(Rows=72, Columns=90))).examine()
    assert [check.name for check in checks] == QUESTIONS
    assert checks[-1].rejection.reason_code == "pixel_data"


@pytest.mark.parametrize(("mode", "code"), [("L", None), ("CMYK", "color_image")])
def test_picture(mode, code, tmp_path):
    """PNG and JPEG have questions of their own."""
    buffer = io.BytesIO()
    Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).convert("RGB").convert(mode).save(buffer, format="JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(buffer.getvalue())
    checks = open_source(path).examine()
    assert [(check.name, check.found) for check in checks] == [
        ("color_space", mode),
        ("pictures", "1"),
        ("size", "72 rows, 90 columns"),
    ]
    assert (checks[0].rejection and checks[0].rejection.reason_code) == code
