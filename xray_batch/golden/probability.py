"""Classify every golden film by the installed pipeline, and compare P(pneumonia) with the film's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from xray_batch.bundle import Bundle
from xray_batch.golden.kit import GoldenFile, Kit, Verdict
from xray_batch.pipeline.engine import Failure, Job, Pipeline
from xray_batch.records import Finished, Prediction
from xray_batch.settings import Settings

#: Of each file, and of the film itself under None.
_Results: TypeAlias = Mapping[GoldenFile | None, Finished | Failure]


def check_probabilities(kit: Kit, verdicts: list[Verdict], bundle: Bundle, settings: Settings) -> list[Verdict]:
    """Classify the films that were rendered; return their verdicts with the differences, the others as they are.

    In float32 and decoded exactly whatever the settings: bfloat16 alone moves probabilities more than the files may
    differ.  Nor is any refused for the age of its invented patient, which says nothing about the installation.
    Whatever the bundle says of the film is right: the files must agree with it.  An answer without a
    probability, the model's own refusal included, is a failure of that file alone.

    Raises
    ------
    BundleError
        If the bundle does not fit this version.
    """
    films = [verdict.golden for verdict in verdicts if verdict.difference is not None]
    jobs: list[Job[GoldenFile | None]] = [Job(path=kit.film_path, context=None)]
    jobs += [Job(path=kit.path(golden), context=golden) for golden in films]
    exact = settings.model_copy(update={"precision": "float32", "decode": "exact", "age_policy": "flag"})
    with Pipeline(bundle, exact) as pipeline:
        results = {answered.job.context: answered.result for group in pipeline.run(jobs) for answered in group}
    return [_judge(verdict, results) if verdict.golden in results else verdict for verdict in verdicts]


def _judge(verdict: Verdict, results: _Results) -> Verdict:
    """Compare one film's probability with that of the film."""
    expected, found = _probability(results[None]), _probability(results[verdict.golden])
    if isinstance(found, str):
        return verdict.fail(found)
    if isinstance(expected, str):
        return verdict.fail(f"there is no probability to compare with; the film itself was {expected}")
    difference = abs(found - expected)
    verdict = replace(verdict, p_difference=difference)
    tolerance = verdict.golden.p_tolerance
    if tolerance is None or not difference <= tolerance:
        return verdict.fail(f"P(pneumonia) is {found:.4f}, of the film {expected:.4f}; they may differ by {tolerance}")
    return verdict


def _probability(result: Finished | Failure) -> float | str:
    """Return P(pneumonia), or why there is none."""
    if isinstance(result, Failure):
        return f"not classified: {result.error}"
    if isinstance(result.answer, Prediction):
        return result.answer.p_pneumonia
    return f"refused as {result.answer.reason_code}: {result.answer.reason}"
