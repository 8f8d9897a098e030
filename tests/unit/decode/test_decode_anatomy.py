"""Which part of the body and which view a header states, in whose words ever."""

import pytest
from dicom_factory import RAMP, code_sequence, raw_element, write_dicom

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

#: Nothing but the descriptions says what the film shows.
SILENT = {"BodyPartExamined": None, "ViewPosition": None}


def verdict(tmp_path, **attributes):
    """Return the reason code of a header and the sentence, None where it is accepted."""
    source = open_source(write_dicom(tmp_path / "a.dcm", **attributes))
    try:
        source.check_intended_use()
    except RejectedInputError as error:
        return error.reason_code, str(error)
    return None


@pytest.mark.parametrize(
    "part",
    [
        *("CHEST", "Chest", "THORAX", "TORAX", "TÓRAX", "Tórax PA", "THÓRAX", "TORACE", "LUNGE", "LUNG", "CHEST_PA"),
        *("POUMONS", "Brustkorb", "PULMÓN", "CHEST, PORTABLE", "CXR"),
    ],
)
def test_chest(part, tmp_path):
    """The chest in several languages, with accents and without, is a chest."""
    image = decode_file(write_dicom(tmp_path / "a.dcm", BodyPartExamined=part))
    assert ImageWarning.BODY_PART_ABSENT not in image.warnings


@pytest.mark.parametrize(
    "part",
    [
        *("HAND", "KNEE", "SCHÄDEL", "ABDOMEN", "CHEST WALL", "THORAX ABDOMEN", "RIBS CHEST", "CHESTABDOMEN"),
        *("THORACIC VERTEBRA", "THORACIC_VERTEBRAE"),
    ],
)
def test_other_part(part, tmp_path):
    """Another part, and a chest with something beside it, is refused by the value."""
    code, sentence = verdict(tmp_path, BodyPartExamined=part)
    assert code == ReasonCode.NOT_A_CHEST
    assert part in sentence


@pytest.mark.parametrize("part", ["", "UNKNOWN", "N/A", "-", "OTHER", "\0"])
def test_part_not_said(part, tmp_path):
    """A value that says nothing is taken for none, with a warning."""
    image = decode_file(write_dicom(tmp_path / "a.dcm", BodyPartExamined=part))
    assert ImageWarning.BODY_PART_ABSENT in image.warnings


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("SeriesDescription", "Left hand PA"),
        ("SeriesDescription", "KNEE AP/LAT"),
        ("StudyDescription", "L-SPINE 2 VIEWS"),
        ("StudyDescription", "XR Pelvis"),
        ("ProtocolName", "Skull AP"),
        ("AcquisitionDeviceProcessingDescription", "ABDOMEN"),
    ],
)
def test_described_as_another_part(keyword, text, tmp_path):
    """Without a body part, words of a description that name another one refuse, by that attribute."""
    code, sentence = verdict(tmp_path, **SILENT, **{keyword: text})
    assert code == ReasonCode.NOT_A_CHEST
    assert text in sentence


@pytest.mark.parametrize(
    "attributes",
    [
        {"SeriesDescription": "Chest PA"},
        {"StudyDescription": "XR CHEST AND ABDOMEN"},
        {"StudyDescription": "Shoulder", "SeriesDescription": "Thorax ap"},
        {"StudyDescription": "Tórax y hombro"},
        {"StudyDescription": "Handled by Dr. Kneesworth"},
        {"StudyDescription": "ICU bedside"},
        {"BodyPartExamined": "CHEST", "StudyDescription": "Left hand"},
        {"AnatomicRegionSequence": code_sequence("51185008", "Chest"), "StudyDescription": "Left hand"},
    ],
    ids=str,
)
def test_description_without_another_part(attributes, tmp_path):
    """A chest word beside the other, no whole word at all, or a stated body part: not refused."""
    assert verdict(tmp_path, **(SILENT | attributes)) is None


def test_animal(tmp_path):
    """A quadruped is refused whatever part of it is shown (PS3.3 C.7.6.1.1.1)."""
    code, sentence = verdict(tmp_path, AnatomicalOrientationType="QUADRUPED")
    assert code == ReasonCode.NOT_A_CHEST
    assert "(0010,2210)" in sentence
    assert verdict(tmp_path, AnatomicalOrientationType="BIPED") is None


@pytest.mark.parametrize(
    "text",
    [
        *("CHEST LAT", "Chest lateral", "THORAX LL", "Chest obl. RAO", "Decubitus left", "LATERAL Thorax"),
        *("Thorax profil", "Tórax perfil", "Thorax seitlich", "Torace laterale", "Torace latero-laterale"),
        *("Tórax oblicua", "Torace obliqua", "Thorax schräg"),
    ],
)
def test_described_as_lateral(text, tmp_path):
    """Where the view is not stated, a series described as lateral is refused by its description."""
    code, sentence = verdict(tmp_path, ViewPosition=None, SeriesDescription=text)
    assert code == ReasonCode.LATERAL_VIEW
    assert "(0008,103E) Series Description" in sentence


@pytest.mark.parametrize(
    "attributes",
    [
        {"SeriesDescription": "CHEST PA AND LATERAL"},
        {"SeriesDescription": "Chest 2 views, p.a. & lat"},
        {"SeriesDescription": "Thorax frontal/lateral"},
        {"SeriesDescription": "Thorax face et profil"},
        {"SeriesDescription": "Tórax frente y perfil"},
        {"SeriesDescription": "Torace frontale e laterale"},
        {"SeriesDescription": "Chest profile 2"},
        {"StudyDescription": "CHEST LATERAL"},
        {"SeriesDescription": "collateral plate"},
        {"ViewPosition": "PA", "SeriesDescription": "CHEST LATERAL"},
        {"ViewCodeSequence": code_sequence("272479007", "postero-anterior"), "SeriesDescription": "CHEST LATERAL"},
    ],
    ids=str,
)
def test_description_of_more_than_lateral(attributes, tmp_path):
    """Both views named, the study's description, or a stated frontal view: not refused."""
    assert verdict(tmp_path, **({"ViewPosition": None} | attributes)) is None


@pytest.mark.parametrize(
    ("character_set", "text"),
    [
        (b"ISO_IR 192", "胸部 CHEST PA".encode()),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87 ", b"\x1b$B6;It\x1b(B CHEST PA"),
        (b"\\ISO 2022 IR 149 ", b"\x1b$)C\xc8\xe4\xba\xce CHEST PA"),
        (b"ISO_IR 100", "Poumon, incidence thorax à deux".encode("latin-1")),
        (b"GB18030 ", "胸部 CHEST PA".encode("gb18030")),
    ],
    ids=["UTF-8", "Japanese", "Korean", "Latin", "Chinese"],
)
def test_description_in_any_character_set(character_set, text, tmp_path, caplog):
    """A chest word in a description of any character set is found; the text goes to no log."""
    path = write_dicom(
        tmp_path / "a.dcm", BodyPartExamined=None, StudyDescription="STUDYTEXT", SpecificCharacterSet="X"
    )
    content = path.read_bytes()
    for old, new in (
        (raw_element(8, 5, "CS", b"X "), raw_element(8, 5, "CS", character_set)),
        (raw_element(8, 0x1030, "LO", b"STUDYTEXT "), raw_element(8, 0x1030, "LO", text + b" " * (len(text) % 2))),
        (raw_element(0x10, 0x20, "LO", b"PAT1"), raw_element(0x10, 0x20, "LO", text + b" " * (len(text) % 2))),
    ):
        assert content.count(old) == 1
        content = content.replace(old, new)
    path.write_bytes(content)
    caplog.clear()  # of what pydicom said about the file when it wrote it
    image = decode_file(path)
    RAMP.check(image.pixels)
    assert image.header.patient_id.isprintable()
    assert not caplog.records


def test_markup_in_texts(tmp_path, caplog):
    """Markup in a value is a value like another: kept as text in the header, quoted in a refusal, never logged."""
    markup = "<script>alert('x')</script>"
    path = write_dicom(tmp_path / "a.dcm", PatientID=markup, AccessionNumber="'; DROP T--", BodyPartExamined="<B>HAND")
    caplog.clear()
    source = open_source(path)
    assert source.header.patient_id == markup
    with pytest.raises(RejectedInputError, match="<B>HAND"):
        source.check_intended_use()
    assert not caplog.records


def test_without_sop_class(tmp_path):
    """A film from before DICOM 3.0, without SOP Class, is accepted for its Modality, with a warning."""
    path = write_dicom(tmp_path / "a.dcm", SOPClassUID=None)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x18\x00UI", 132) :])  # File Meta Information names one
    assert ImageWarning.SOP_CLASS_ABSENT in decode_file(path).warnings


def test_without_sop_class_and_modality(tmp_path):
    """Without Modality as well, nothing says that it is a radiograph."""
    path = write_dicom(tmp_path / "a.dcm", SOPClassUID=None, Modality=None)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x18\x00UI", 132) :])
    with pytest.raises(RejectedInputError, match=r"\(0008,0016\) SOP Class UID is absent") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.UNSUPPORTED_SOP_CLASS
