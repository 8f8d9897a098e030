"""The ages that a bundle is meant for, and what happens with others."""

import pytest

from xray_batch.errors import ReasonCode
from xray_batch.pipeline.patient_age import judge_age
from xray_batch.records import AgeRange, ImageWarning

AGES = AgeRange(youngest=1, oldest=5)


@pytest.mark.parametrize("age", [1.0, 1.5, 5.0, 5.99])
def test_included(age):
    """The whole year of the oldest is included: 5 years and 11 months is 5."""
    assert judge_age(age, AGES, "refuse") is None


@pytest.mark.parametrize("age", [0.99, 6.0, 64.0])
def test_flagged(age):
    """Another age is flagged by default."""
    assert judge_age(age, AGES, "flag") is ImageWarning.AGE_OUT_OF_RANGE


def test_refused_without_naming_the_age():
    """With `refuse` another age is refused; the reason names the bundle's ages and not the patient's."""
    verdict = judge_age(64.0, AGES, "refuse")
    assert verdict.reason_code == ReasonCode.AGE_OUT_OF_RANGE
    assert "1 to 5 years old" in verdict.reason
    assert "64" not in verdict.reason


@pytest.mark.parametrize(("age", "ages"), [(None, AGES), (64.0, None)])
def test_unknown(age, ages):
    """Neither an age that is not stated nor a bundle without ages refuses anybody."""
    assert judge_age(age, ages, "refuse") is None
