"""Whether a patient is as old as those that a bundle is meant for."""

from xray_batch.errors import ReasonCode
from xray_batch.records import AgeRange, ImageWarning, Rejection
from xray_batch.settings import AgePolicyName


def judge_age(age: float | None, ages: AgeRange | None, policy: AgePolicyName) -> Rejection | ImageWarning | None:
    """Refuse or flag an age outside the bundle's, as the setting `age_policy` says.

    An age that is not known is no reason to refuse: many films do not state it.

    Parameters
    ----------
    age
        Years, as :class:`xray_batch.records.ImageHeader` has it.
    ages
        That the bundle is meant for; None where it names none.
    """
    if age is None or ages is None or ages.includes(age):
        return None
    if policy == "flag":
        return ImageWarning.AGE_OUT_OF_RANGE
    return Rejection(
        reason_code=ReasonCode.AGE_OUT_OF_RANGE,
        reason=f"The patient is not {ages}, the ages that the model is meant for; `age_policy` is `refuse`.",
    )
