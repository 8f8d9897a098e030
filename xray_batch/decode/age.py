"""How old the patient was when the film was made."""

import datetime as dt
import re
from typing import Final

from xray_batch.decode.attributes import Attributes

#: AS (PS3.5 section 6.2): three digits and days, weeks, months or years.  Fewer digits are met, too.
_AGE: Final = re.compile(r"(\d{1,3}) ?([DWMY])")

_YEARS: Final = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}

#: DA as it is now, and as it was before 1993: 20240131, 2024.01.31 (PS3.5 section 6.2).
_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")

#: Older than anybody: the date of birth is a placeholder, 19000101 for instance, or the age is, 999Y.
_OLDEST: Final = 120.0


def find_age(attributes: Attributes) -> float | None:
    """Return the patient's age in years, None where the file does not say.

    (0010,1010) Patient's Age, or the time from (0010,0030) Patient's Birth Date to (0008,0020) Study Date.
    """
    match = _AGE.fullmatch(attributes.code("PatientAge") or "")
    stated = int(match[1]) * _YEARS[match[2]] if match else None
    if stated is not None and stated <= _OLDEST:
        return stated
    born, studied = parse_date(attributes.text("PatientBirthDate")), parse_date(attributes.text("StudyDate"))
    if born is None or studied is None:
        return None
    years = (studied - born).days / 365.25
    return years if 0 <= years <= _OLDEST else None


def parse_date(text: str | None) -> dt.date | None:
    """Return the day that a DA value names, None where it names none."""
    match = _DATE.fullmatch(text or "")
    if not match:
        return None
    year, month, day = (int(part) for part in match.groups())
    try:
        return dt.date(year, month, day)
    except ValueError:
        return None
