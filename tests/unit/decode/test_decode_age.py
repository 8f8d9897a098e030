"""The patient's age: from its attribute, or from the dates of birth and study."""

import pytest
from dicom_factory import write_dicom

from xray_batch.decode import decode_file, open_source
from xray_batch.records import ImageWarning


def read_age(tmp_path, **attributes):
    """Return the age that the header of a file gives."""
    return open_source(write_dicom(tmp_path / "a.dcm", **attributes)).header.patient_age


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("018M", 1.5),
        ("004Y", 4.0),
        ("012W", 84 / 365.25),
        ("003D", 3 / 365.25),
        ("004y", 4.0),
        ("4Y", 4.0),
        ("04 Y", 4.0),
        ("000D", 0.0),
        ("120Y", 120.0),
        ("121Y", None),
        ("999Y", None),
        ("", None),
        ("Y", None),
        ("4", None),
        ("-04Y", None),
        ("004X", None),
        ("ADULT", None),
    ],
)
def test_stated(text, years, tmp_path):
    """Days, weeks, months and years (PS3.5 section 6.2, AS); anything else, and an age of nobody, is none."""
    age = read_age(tmp_path, PatientAge=text)
    assert age == (None if years is None else pytest.approx(years))


@pytest.mark.parametrize(
    ("born", "years"),
    [
        ("20200131", 1461 / 365.25),
        ("2020.01.31", 1461 / 365.25),
        ("20240131", 0.0),
        ("20240201", None),
        ("19000101", None),
        ("20200231", None),
        ("2020", None),
        ("", None),
    ],
    ids=["plain", "dots", "newborn", "future", "placeholder", "impossible", "year", "empty"],
)
@pytest.mark.parametrize("age", [None, "", "999Y"])
def test_from_dates(age, born, years, tmp_path):
    """Without a usable age, the days from birth to study count; a birth after it, or 120 years before, does not."""
    found = read_age(tmp_path, PatientAge=age, PatientBirthDate=born)
    assert found == (None if years is None else pytest.approx(years))


def test_age_before_dates(tmp_path):
    """The stated age counts before the date of birth, which is often a placeholder."""
    assert read_age(tmp_path, PatientAge="002Y", PatientBirthDate="19800101") == 2.0


def test_without_study_date(tmp_path):
    """A date of birth alone gives no age."""
    assert read_age(tmp_path, PatientAge=None, PatientBirthDate="20200131", StudyDate=None) is None


def test_absent(tmp_path):
    """A film without age is accepted with a warning."""
    assert ImageWarning.AGE_ABSENT in decode_file(write_dicom(tmp_path / "a.dcm", PatientAge=None)).warnings
