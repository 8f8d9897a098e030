"""The pipeline: jobs in, groups of answers out."""

import datetime as dt
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from xray_batch.bundle import Bundle
from xray_batch.decode import RENDERING_VERSION
from xray_batch.errors import BundleError, DeviceMemoryError, ReasonCode
from xray_batch.libraries import COMPUTING, uncollected, versions
from xray_batch.pipeline.patient_age import judge_age
from xray_batch.pipeline.pool import Decoded, DecodePool
from xray_batch.pipeline.unpack import Unpacked
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.records import Computation, Finished, InputSpec, ModelIdentity, ModelInput, Prediction, Rejection
from xray_batch.settings import Settings
from xray_batch.standardize import check_resize_rule, find_least_side, preprocess_sha256

if TYPE_CHECKING:
    import torch

    from xray_batch.classify import Ensemble

T = TypeVar("T")

#: Longest time without a group of answers, empty or not, but for what a film may wait for others.
TICK_SECONDS = 1.0

#: What a film that is ready may wait for others that are being decoded, and what a forward pass of more than one film
#: may take on a CPU: eight films together cost the networks half of what they do one by one, and the database less.
PROMPT_SECONDS: Final = 0.25  #: where somebody waits for the answer, or something urgent may come
ARCHIVE_SECONDS: Final = 1.0  #: where nobody does


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[T]):
    """One file to classify, and whatever its owner wants back with the answer."""

    path: Path
    context: T
    unpack_in: Path | None = None  #: where a zip archive is unpacked; None has it refused
    is_urgent: bool = False  #: goes before what waits for a decoder or the networks, and waits for no other film


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The file got no answer, and it may not be the file's fault."""

    error: str  #: name of the exception's class
    transient: bool  #: the system's fault: to be tried again for as long as it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[T]):
    """One job's end."""

    job: Job[T]
    result: Finished | Failure
    content_sha256: str | None = None  #: of the bytes that were decoded; None: the file was refused unread, or failed
    unpacked: Unpacked | None = None  #: the members of an archive, for the job's owner to see to


class Pipeline:
    """Decode workers and an ensemble, for one caller at a time; to be entered before it is run.

    To import torch and load the networks takes longer than anything else before the first answer.  It is done when the
    decode workers have their first files, or by :meth:`load`.

    Parameters
    ----------
    bundle
        Checked; all of its facts are used, none is replaced by a setting.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        check_fit(bundle)
        self.model = identify_model(bundle, settings)
        self._bundle = bundle
        self._spec = bundle.manifest.input_spec
        self._ages = bundle.manifest.ages
        self._settings = settings
        self._together = settings.batch_size  #: images of one forward pass at most
        self._workers = ExitStack()
        self._pool: DecodePool[Job[Any]] | None = None

    def __enter__(self) -> Self:
        """Start the decode workers."""
        self._start_workers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the decode workers."""
        self._end_workers()

    def load(self) -> None:
        """Load the networks now, onto the device that the settings name.

        Raises
        ------
        BundleError
            If a file of the bundle differs from its hash or holds something else.
        DeviceUnusableError
            If the device cannot be used.
        """
        _ = self._ensemble

    @cached_property
    def device(self) -> "torch.device":
        """Where the networks run."""
        return self._ensemble.device

    @cached_property
    def _ensemble(self) -> "Ensemble":
        with uncollected():
            from xray_batch.classify import Ensemble
        return Ensemble.from_settings(self._bundle, self._settings)

    @cached_property
    def _computation(self) -> Computation:
        from xray_batch.classify import describe_device

        return Computation(
            device=describe_device(self._ensemble.device),
            precision=str(self._ensemble.dtype).removeprefix("torch."),
            libraries=", ".join(f"{name} {version}" for name, version in versions("xray-batch", *COMPUTING).items()),
            batch_images=0,
        )

    def _start_workers(self) -> DecodePool[Job[Any]]:
        settings = self._settings
        limits = WorkerLimits.from_settings(settings)
        least_side = choose_least_side(self._spec, settings)
        pool = DecodePool[Job[Any]](settings.decode_workers, self._spec, limits, least_side=least_side)
        self._pool = self._workers.enter_context(pool)
        return self._pool

    def _end_workers(self) -> None:
        self._pool = None
        self._workers.close()

    def run(self, jobs: Iterable[Job[T]], *, wait_seconds: float = PROMPT_SECONDS) -> Generator[list[Answered[T]]]:
        """Answer jobs, in no particular order.

        `jobs` is read only as far as the work in hand needs: at most two forward passes and one file per worker
        are inside.  A group comes at least every :data:`TICK_SECONDS`, and `wait_seconds` more if films are to wait,
        if need be an empty one, so that the caller can see to other things, or close the generator: what is inside
        is then given up.

        Parameters
        ----------
        wait_seconds
            What a film may wait for others, while every worker is busy, and what a forward pass may take on a CPU, so
            that films are classified and recorded together.  On a GPU a pass takes as long for one as for a full batch.
        """
        pool = self._pool or self._start_workers()
        source = iter(jobs)
        exhausted = False
        inside = 0
        try:
            while inside or not exhausted:
                until = time.monotonic() + TICK_SECONDS
                while inside < 2 * self._together + self._settings.decode_workers and not exhausted:
                    if inside and time.monotonic() > until:  # they come slowly: see to those that are here
                        break
                    job = next(source, None)
                    if job is None:
                        exhausted = True
                    else:
                        pool.submit(job, job.path, job.unpack_in, urgent=job.is_urgent)
                        inside += 1
                if inside:
                    self.load()
                group = self._take_group(pool, inside, wait_seconds) if inside else []
                inside -= len(group)
                yield self._answer(group, wait_seconds) if group else []
        finally:
            if inside:  # their results must not turn up in the next run, which starts new workers
                self._end_workers()

    def _take_group(self, pool: DecodePool[Job[Any]], inside: int, wait_seconds: float) -> list[Decoded[Job[Any]]]:
        """Wait for one decoded file, and for others, up to a forward pass, while every worker has one in hand."""
        group: list[Decoded[Job[Any]]] = []
        decoded, until = pool.take(TICK_SECONDS), time.monotonic() + wait_seconds
        while decoded is not None:
            group.append(decoded)
            if len(group) == self._together:
                break
            waits = inside - len(group) >= self._settings.decode_workers and not any(
                taken.job.is_urgent for taken in group
            )
            decoded = pool.take(max(0.0, until - time.monotonic()) if waits else 0.0)
        return group

    def _answer(self, group: Sequence[Decoded[Job[T]]], wait_seconds: float) -> list[Answered[T]]:
        group = [self._judge_age(decoded) for decoded in group]
        inputs = [as_model_input(decoded) for decoded in group]
        start = time.perf_counter()
        predictions = iter(self._predict([prepared for prepared in inputs if prepared is not None]))
        seen = sum(prepared is not None for prepared in inputs)
        seconds = (time.perf_counter() - start) / max(1, seen)
        if seen and self.device.type == "cpu":
            self._together = max(1, min(self._settings.batch_size, int(wait_seconds / seconds)))
        return [
            Answered(
                job=decoded.job,
                result=_finished(decoded, (None, 0), 0.0, self._computation)
                if prepared is None
                else _finished(decoded, next(predictions), seconds, self._computation),
                content_sha256=decoded.reply.content_sha256,
                unpacked=decoded.unpacked,
            )
            for decoded, prepared in zip(group, inputs, strict=True)
        ]

    def _judge_age(self, decoded: Decoded[Job[T]]) -> Decoded[Job[T]]:
        """Add the warning, or the rejection, that the patient's age calls for."""
        reply = decoded.reply
        if decoded.pixels is None or reply.header is None:
            return decoded
        verdict = judge_age(reply.header.patient_age, self._ages, self._settings.age_policy)
        if verdict is None:
            return decoded
        if isinstance(verdict, Rejection):
            return replace(decoded, reply=replace(reply, rejection=verdict), pixels=None)
        return replace(decoded, reply=replace(reply, warnings=(*reply.warnings, verdict)))

    def _predict(self, inputs: Sequence[ModelInput]) -> list[tuple[Prediction | Rejection | Failure, int]]:
        """Classify a batch, and tell of each image how many its pass had.

        An image without finite probabilities does not take the others with it.
        Any other error of the device goes up and ends the process: a GPU that has failed fails for ever in it.
        """
        try:
            return list(self._ensemble.answer(inputs))
        except DeviceMemoryError as error:
            return [(Failure(error=type(error).__name__, transient=True), 0)] * len(inputs)
        except FloatingPointError as error:
            if len(inputs) == 1:
                return [(Failure(error=type(error).__name__, transient=False), 0)]
            return [answer for prepared in inputs for answer in self._predict([prepared])]


def give_up(failure: Failure) -> Finished:
    """Turn the last failed attempt into an answer: the file is not analysed."""
    reason = f"Every attempt to process the file ended abnormally, the last with {failure.error}."
    return not_analysed(Rejection(reason_code=ReasonCode.ATTEMPTS_EXHAUSTED, reason=reason), 0.0)


def is_given_up(finished: Finished) -> bool:
    """Tell whether this is no answer of ours, but the end of the attempts to give one."""
    return finished.reason_code is ReasonCode.ATTEMPTS_EXHAUSTED


def not_analysed(rejection: Rejection, seconds: float) -> Finished:
    """Answer for a file of which nothing is known but why it is not analysed."""
    return Finished(
        answer=rejection,
        header=None,
        rendering=None,
        warnings=(),
        classified_at=dt.datetime.now(dt.UTC),
        processing_seconds=seconds,
    )


def check_fit(bundle: Bundle) -> None:
    """Refuse a bundle that was made for other pixels than this version renders.

    Raises
    ------
    BundleError, ConfigurationError
        Naming what the bundle needs and what this version has.
    """
    if bundle.manifest.input.rendering_version != RENDERING_VERSION:
        raise BundleError(
            f"bundle {bundle.manifest.model_id} was trained on rendering version "
            f"{bundle.manifest.input.rendering_version}; this version of xray-batch renders version "
            f"{RENDERING_VERSION}. Train it again, or use a bundle made for this version."
        )
    check_resize_rule(bundle.manifest.input_spec)


def choose_least_side(spec: InputSpec, settings: Settings) -> int | None:
    """Return the shortest side that a small copy in a file must have to be decoded instead; None: none will do."""
    return find_least_side(spec) if settings.decode == "fast" else None


def identify_model(bundle: Bundle, settings: Settings) -> ModelIdentity:
    """Name the model and the preprocessing of the results that `bundle` gives with `settings`."""
    spec = bundle.manifest.input_spec
    return ModelIdentity(
        model_id=bundle.manifest.model_id,
        model_sha256=bundle.sha256,
        preprocess_sha256=preprocess_sha256(spec, choose_least_side(spec, settings)),
        manifest=bundle.manifest_text,
    )


def as_model_input(decoded: Decoded[T]) -> ModelInput | None:
    """Return what a decode worker prepared, None where it rejected the file or failed."""
    reply = decoded.reply
    if decoded.pixels is None or reply.header is None or reply.rendering is None:
        return None
    if reply.sharpness is None or reply.input_mean is None or reply.input_std is None:
        return None
    return ModelInput(
        header=reply.header,
        pixels=decoded.pixels,
        sharpness=reply.sharpness,
        input_mean=reply.input_mean,
        input_std=reply.input_std,
        rendering=reply.rendering,
        warnings=reply.warnings,
    )


def _finished(
    decoded: Decoded[Job[T]],
    judged: tuple[Prediction | Rejection | Failure | None, int],
    seconds: float,
    computation: Computation,
) -> Finished | Failure:
    reply = decoded.reply
    verdict, images = judged
    answer = verdict or reply.rejection or Failure(error=reply.failure or "unknown", transient=reply.transient)
    if isinstance(answer, Failure):
        return answer
    return Finished(
        answer=answer,
        header=reply.header,
        rendering=reply.rendering,
        warnings=reply.warnings + (answer.warnings if isinstance(answer, Prediction) else ()),
        classified_at=dt.datetime.now(dt.UTC),
        processing_seconds=reply.seconds + seconds,
        computation=replace(computation, batch_images=images),
    )
