"""Explain what a bundle says of one film: the answer, and where the networks find what raises P(pneumonia)."""

from dataclasses import dataclass
from functools import cached_property

from xray_batch.bundle import Bundle
from xray_batch.classify import NOT_FINITE, Ensemble, Explanation
from xray_batch.pipeline.engine import check_fit
from xray_batch.pipeline.patient_age import judge_age
from xray_batch.records import ImageWarning, ModelInput, Rejection
from xray_batch.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What a bundle says of one film that is not refused."""

    explanation: Explanation
    warnings: tuple[ImageWarning, ...]  #: about the file, the patient's age and the picture


class Explainer:
    """A bundle that explains films, one at a time.  Its networks are loaded for the first that needs them.

    Raises
    ------
    BundleError, ConfigurationError
        If it was made for other pixels than this version renders.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        check_fit(bundle)
        self._bundle = bundle
        self._settings = settings

    @cached_property
    def _ensemble(self) -> Ensemble:
        return Ensemble.from_settings(self._bundle, self._settings, batch_size=1)

    def explain(self, model_input: ModelInput) -> Explained | Rejection:
        """Explain a film that was prepared for this bundle, or tell what the service would refuse it for.

        Raises
        ------
        DeviceMemoryError
            If the device has not the memory.
        ConfigurationError
            If the model cannot be loaded or put on the device.
        """
        age = judge_age(model_input.header.patient_age, self._bundle.manifest.ages, self._settings.age_policy)
        if isinstance(age, Rejection):
            return age
        try:
            explanation = self._ensemble.explain(model_input)
        except FloatingPointError:
            return NOT_FINITE
        if explanation.judgement.rejection is not None:
            return explanation.judgement.rejection
        warnings = (*model_input.warnings, *((age,) if age else ()), *explanation.judgement.warnings)
        return Explained(explanation=explanation, warnings=warnings)
