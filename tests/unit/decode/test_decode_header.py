"""What the header record holds of a DICOM file, whatever the file holds."""

import datetime as dt
import logging
import warnings

import pytest
from dicom_factory import RAMP, raw_element, write_dicom
from pydicom import uid

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import RejectedInputError
from xray_batch.records import SourceFormat

UID_OF_INSTANCE = b"1.2.826.0.1.3680043.8.498.1\0"


def replace_element(content: bytes, old: bytes, new: bytes) -> bytes:
    """Return a file's bytes with one element for another."""
    assert content.count(old) == 1
    return content.replace(old, new)


def test_ordinary_header(tmp_path):
    """Every field is the attribute of its name."""
    header = open_source(write_dicom(tmp_path / "a.dcm")).header
    assert header.source_format is SourceFormat.DICOM
    assert header.transfer_syntax_uid == uid.ExplicitVRLittleEndian
    assert header.sop_class_uid == uid.ComputedRadiographyImageStorage
    assert header.sop_instance_uid == "1.2.826.0.1.3680043.8.498.1"
    assert header.study_instance_uid == "1.2.826.0.1.3680043.8.498.2"
    assert header.series_instance_uid == "1.2.826.0.1.3680043.8.498.3"
    assert header.patient_id == "PAT1"
    assert header.accession_number == "ACC1"
    assert header.study_date == dt.date(2024, 1, 31)
    assert header.modality == "CR"
    assert header.view_position == "PA"
    assert header.bits_stored == 12


def test_absent_identifiers(tmp_path):
    """Absent identifiers are None; SOP UIDs then come from File Meta Information."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber", "StudyDate")
    header = open_source(write_dicom(tmp_path / "a.dcm", SOPInstanceUID=None, **dict.fromkeys(names))).header
    assert header.sop_instance_uid == "1.2.3"
    assert header.study_instance_uid is None
    assert header.series_instance_uid is None
    assert header.patient_id is None
    assert header.accession_number is None
    assert header.study_date is None


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("LO", b"  P1 \0", "P1"),
        ("LO", b"A\x1b[31mB\r\nC", "A[31mBC"),
        ("LO", b"FIRST\\SECOND", "FIRST"),
        ("LO", b"x" * 200, "x" * 64),
        ("LO", b"", None),
        ("LO", b"\0\0", None),
        ("UN", b"P1", "P1"),
        ("US", b"\x05\x00", "5"),
        ("US", b"\x05", None),
        ("ZZ", b"P1", None),
        ("LO", "Größe".encode("latin-1"), "Größe"),
    ],
    ids=["padded", "controls", "several", "long", "empty", "nul", "un", "us", "odd_us", "unknown", "latin"],
)
def test_patient_id(vr, value, expected, tmp_path):
    """Patient ID is printable text of at most 64 characters, or None, whatever bytes and VR it has."""
    path = write_dicom(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 100")
    old, new = raw_element(0x10, 0x20, "LO", b"PAT1"), raw_element(0x10, 0x20, vr, value)
    path.write_bytes(replace_element(path.read_bytes(), old, new))
    assert open_source(path).header.patient_id == expected


@pytest.mark.parametrize(
    ("character_set", "value", "expected"),
    [
        (b"ISO_IR 192", "Ж1".encode(), "Ж1"),
        (b"ISO_IR 192", b"\xff\xfeA", None),
        (b"ISO 2022 IR 87", b"\x1b$B;3ED", "山田"),
        (b"ISO_IR 144", "Жа".encode("iso8859-5"), "Жа"),
        (b"NO SUCH SET ", b"P1", "P1"),
        (b"\\ISO 2022 IR 149 ", b"\x1b$)C\xb1\xe8", "김"),
        (b"\xff\xff", b"P1", "P1"),
    ],
)
def test_character_sets(character_set, value, expected, tmp_path):
    """Text in any character set is read or replaced; a wrong one never fails the file."""
    path = write_dicom(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 100")
    content = path.read_bytes()
    old, new = (raw_element(8, 5, "CS", text) for text in (b"ISO_IR 100", character_set))
    content = replace_element(content, old, new)
    old, new = (raw_element(0x10, 0x20, "LO", text) for text in (b"PAT1", value))
    path.write_bytes(replace_element(content, old, new))
    image = decode_file(path)
    RAMP.check(image.pixels)
    if expected is not None:
        assert image.header.patient_id == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"19991231", dt.date(1999, 12, 31)),
        (b"1999.12.31", dt.date(1999, 12, 31)),
        (b"19991331", None),
        (b"00000000", None),
        (b"99", None),
        (b"20240131-20240201 ", None),
        (b"yesterday ", None),
    ],
)
def test_study_date(text, expected, tmp_path):
    """A date is read in its present and its former form; anything else is None."""
    path = write_dicom(tmp_path / "a.dcm")
    old, new = raw_element(8, 0x20, "DA", b"20240131"), raw_element(8, 0x20, "DA", text)
    path.write_bytes(replace_element(path.read_bytes(), old, new))
    assert open_source(path).header.study_date == expected


@pytest.mark.parametrize(
    ("element", "name"),
    [
        (raw_element(0x28, 0x10, "US", b"7"), "Rows"),
        (raw_element(0x28, 0x10, "IS", b"1A"), "Rows"),
        (raw_element(0x28, 0x10, "DS", b"nan "), "Rows"),
        (raw_element(0x28, 0x10, "DS", b"7.5 "), "Rows"),
        (raw_element(0x28, 0x10, "SQ", b""), "Rows"),
        (raw_element(0x28, 0x10, "SQ", b"abcdefgh"), "Rows"),
    ],
)
def test_damaged_number(element, name, tmp_path):
    """A number of the pixel description that cannot be read refuses the file by name."""
    path = write_dicom(tmp_path / "a.dcm")
    old = raw_element(0x28, 0x10, "US", (72).to_bytes(2, "little"))
    path.write_bytes(replace_element(path.read_bytes(), old, element))
    with pytest.raises(RejectedInputError, match=name):
        decode_file(path)


def test_patient_attributes_are_not_kept(tmp_path):
    """A patient's name is nowhere in what an opened file holds, except in the file's own bytes."""
    source = open_source(write_dicom(tmp_path / "a.dcm"))
    assert "Nobody" not in repr(source.header)
    assert "PatientName" not in source._file.attributes._dataset


def test_pydicom_is_silent(tmp_path, caplog):
    """What pydicom warns of and logs about a bad value reaches neither warnings nor logs."""
    path = write_dicom(tmp_path / "a.dcm", StudyDate="not a date", PatientID="\x01secret")
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        decode_file(path)
    assert not caught
    assert not caplog.records
    assert not logging.getLogger("pydicom").disabled
