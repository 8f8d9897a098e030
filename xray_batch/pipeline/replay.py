"""Recompute one stored result from its original, and compare.

The original goes through the same pipeline as in service.  No result is written, and no file is moved.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xray_batch.bundle import Bundle
from xray_batch.bundle_folders import folder_with_manifest
from xray_batch.decode import is_zip
from xray_batch.errors import ConfigurationError, ReasonCode, ReplayError
from xray_batch.intake import Folders
from xray_batch.pipeline.engine import Failure, Job, Pipeline
from xray_batch.pipeline.originals import find_original
from xray_batch.records import (
    PROBABILITY_COLUMNS,
    Computation,
    Finished,
    ImageWarning,
    Outcome,
    Prediction,
    ResultRecord,
    StoredResult,
)
from xray_batch.settings import DecodeName, Settings
from xray_batch.standardize import find_least_side, preprocess_sha256

#: How far a probability may be from the stored one where both were computed on CPUs in float32.  In torch's own
#: kernels, used where there is no oneDNN, one image alone and in a batch differ by up to 2.3e-7, one thread and two by
#: up to 1.1e-7 (48 films, AVX2).
FLOAT32_TOLERANCE: Final = 1e-6

#: Likewise in float32 where a GPU computed the one or the other: it adds in any order (a bound).
GPU_TOLERANCE: Final = 2e-3

#: Likewise where bfloat16 may have computed the one or the other: with the packaged bundle CPUs with other instructions
#: for it differ by up to 4.6e-3, and bfloat16 from float32 by up to 9.7e-3 (409 films; most in the disagreement).
BFLOAT16_TOLERANCE: Final = 2e-2

#: Columns of the view `results` that are compared.
VALUES: Final = ("p_pneumonia", *PROBABILITY_COLUMNS, "disagreement")

#: Columns that tell how the values came about.  A difference there alone is none of the answer, but of its bits.
RECORDED: Final = ("heat_in_thorax", "member_probabilities", "input_mean", "input_std")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an answer says, as far as it is compared."""

    outcome: Outcome
    reason_code: str | None
    warnings: str  #: codes separated by commas
    values: dict[str, float | None]  #: by the names in :data:`VALUES`
    recorded: dict[str, object]  #: by the names in :data:`RECORDED`; None too where an answer is older than the column
    preprocess_sha256: str
    computation: Computation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A stored answer, the recomputed one, and whether they agree."""

    record: ResultRecord
    then: Answer
    now: Answer
    tolerance: float  #: of each value

    @property
    def difference(self) -> float | None:
        """Largest absolute difference of a value; None where one of the answers has none."""
        pairs = [(self.then.values[name], self.now.values[name]) for name in VALUES]
        differences = [abs(then - now) for then, now in pairs if then is not None and now is not None]
        return max(differences, default=None)

    @property
    def is_prepared_alike(self) -> bool:
        """Whether the picture is prepared by the same rules."""
        return self.then.preprocess_sha256 == self.now.preprocess_sha256

    @property
    def agrees(self) -> bool:
        """Whether outcome, reason, warnings and rules are the same, and no value differs by more than the tolerance."""
        then, now = self.then, self.now
        same_end = (then.outcome, then.reason_code, then.warnings) == (now.outcome, now.reason_code, now.warnings)
        return same_end and self.is_prepared_alike and (self.difference or 0.0) <= self.tolerance

    @property
    def is_bit_equal(self) -> bool:
        """Whether they agree, and every value to the last bit, those included that not every version stored."""
        same = all(self.then.recorded[name] in (None, self.now.recorded[name]) for name in RECORDED)
        return self.agrees and same and self.then.values == self.now.values


def replay(stored: StoredResult, settings: Settings, file: Path | None) -> Replayed:
    """Recompute a result with the bundle that made it, as exactly decoded and in the precision that is recorded.

    Parameters
    ----------
    file
        The original; None looks where it was filed or classified.

    Raises
    ------
    ConfigurationError
        If the bundle is not here.
    ReplayError
        If the original is not here or an archive, or it got no answer now.
    """
    record, then = stored.record, stored.computation
    bundle = find_maker(record, settings)
    path = find_original(stored, settings.home, file)
    if is_zip(path) and record.reason_code != ReasonCode.ZIP_ARCHIVE:
        message = (
            f"result {record.result_id} is that of an archive, {record.reason_code}, which unpacking it came to; "
            "archives are not unpacked again"
        )
        raise ReplayError(message)
    recorded: dict[str, object] = {"decode": find_decode(record, bundle), "decode_workers": 1}
    if then is not None:
        recorded["precision"] = then.precision
    with Pipeline(bundle, settings.model_copy(update=recorded)) as pipeline:
        results = [answered.result for group in pipeline.run([Job(path=path, context=None)]) for answered in group]
    (result,) = results
    if isinstance(result, Failure):
        message = f"result {record.result_id} cannot be recomputed: processing ended with {result.error}"
        raise ReplayError(message)
    return Replayed(
        record=record,
        then=_stored_answer(stored),
        now=_answer(result, pipeline.model.preprocess_sha256),
        tolerance=tolerance(then, result.computation),
    )


def find_decode(record: ResultRecord, bundle: Bundle) -> DecodeName:
    """Return the setting `decode` that a result was made with; `exact` where its rules are not those of now."""
    spec = bundle.manifest.input_spec
    return "fast" if record.preprocess_sha256 == preprocess_sha256(spec, find_least_side(spec)) else "exact"


def find_maker(record: ResultRecord, settings: Settings) -> Bundle:
    """Return the bundle that made a result: the configured one, an installed or a packaged one.

    Raises
    ------
    ConfigurationError
        If none of them has the manifest; the message says which model is needed.
    """
    folder = folder_with_manifest(record.model_sha256, settings.bundle, Folders(settings.home).bundles)
    if folder is not None:
        return Bundle(folder)
    message = (
        f"result {record.result_id} was made by {record.model_id} (manifest SHA-256 {record.model_sha256}), which is "
        "neither the configured bundle nor installed nor packaged; install it, or name its folder with --bundle"
    )
    raise ConfigurationError(message)


def tolerance(then: Computation | None, now: Computation | None) -> float:
    """Return how far the values of two computations may differ.

    Zero only where nothing is different: the same CPU instructions, threads, precision and libraries, and both
    times the image alone in its batch.
    """
    known = [computation for computation in (then, now) if computation is not None]
    if len(known) < 2:
        return BFLOAT16_TOLERANCE
    on_gpu = any(computation.device.startswith("cuda") for computation in known)
    if then == now and not on_gpu and all(computation.batch_images <= 1 for computation in known):
        return 0.0
    if any(computation.precision != "float32" for computation in known):
        return BFLOAT16_TOLERANCE
    return GPU_TOLERANCE if on_gpu else FLOAT32_TOLERANCE


def _stored_answer(stored: StoredResult) -> Answer:
    record = stored.record
    return Answer(
        outcome=record.outcome,
        reason_code=record.reason_code,
        # That of other films in the database says nothing about this one.
        warnings=",".join(code for code in record.warnings.split(",") if code != ImageWarning.UID_CONFLICT),
        values={name: getattr(record, name) for name in VALUES},
        recorded={name: getattr(record, name) for name in RECORDED},
        preprocess_sha256=record.preprocess_sha256,
        computation=stored.computation,
    )


def _answer(finished: Finished, preprocess_sha256: str) -> Answer:
    answer = finished.answer
    values: dict[str, float | None] = dict.fromkeys(VALUES)
    if isinstance(answer, Prediction):
        values |= {name: answer.probabilities[finding] for name, finding in PROBABILITY_COLUMNS.items()}
        values |= {"p_pneumonia": answer.p_pneumonia, "disagreement": answer.disagreement}
    return Answer(
        outcome=finished.outcome,
        reason_code=finished.reason_code,
        warnings=",".join(warning.value for warning in finished.warnings),
        values=values,
        recorded={name: getattr(answer, name, None) for name in RECORDED},
        preprocess_sha256=preprocess_sha256,
        computation=finished.computation,
    )
