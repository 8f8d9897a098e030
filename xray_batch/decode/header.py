"""DICOM attributes to the record that later stages need; everything else in the file is dropped."""

from xray_batch.decode.age import find_age, parse_date
from xray_batch.decode.anatomy import find_view
from xray_batch.decode.part10 import DicomFile
from xray_batch.errors import RejectedInputError
from xray_batch.records import ImageHeader, SourceFormat


def read_header(file: DicomFile) -> ImageHeader:
    """Return the header of a DICOM file; a value that cannot be read is None.

    Texts are printable and have at most 64 characters, whatever the file holds.
    """
    attributes = file.attributes
    return ImageHeader(
        source_format=SourceFormat.DICOM,
        transfer_syntax_uid=file.transfer_syntax_uid,
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        study_instance_uid=attributes.text("StudyInstanceUID"),
        series_instance_uid=attributes.text("SeriesInstanceUID"),
        patient_id=attributes.text("PatientID"),
        accession_number=attributes.text("AccessionNumber"),
        study_date=parse_date(attributes.text("StudyDate")),
        modality=attributes.code("Modality"),
        view_position=_read_view(file),
        patient_age=find_age(attributes),
        bits_stored=_read_bits_stored(file),
    )


def _read_view(file: DicomFile) -> str | None:
    """Return PA, AP or what else the file says; a damaged View Code Sequence is left to the gate."""
    try:
        return find_view(file.attributes)
    except RejectedInputError:
        return file.attributes.code("ViewPosition")


def _read_bits_stored(file: DicomFile) -> int | None:
    """Return (0028,0101) Bits Stored; a damaged value is left to the pixel checks."""
    try:
        return file.attributes.integer("BitsStored")
    except RejectedInputError:
        return None
