"""What the members of an ensemble say about labelled films, and what became of every one of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Bundle, Manifest
from xray_batch.classify import Ensemble, decide_outcome, pool
from xray_batch.errors import ReasonCode
from xray_batch.pipeline.engine import as_model_input, check_fit
from xray_batch.pipeline.patient_age import judge_age
from xray_batch.pipeline.pool import Decoded, DecodePool
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.records import Finding, ModelInput, Outcome, Rejection, SourceFormat
from xray_batch.settings import Settings
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.duplicates import ImageHashes, hash_decoded, join_hashes
from xray_batch.training.seen import find_seen, training_hashes

#: Announces a piece of work of so many films, and returns a function to advance it.
Task = Callable[[str, int], Callable[[int], None]]

_WAIT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFacts:
    """What a file says about itself, and what was measured on it; None where it does not say, or was not measured."""

    source_format: SourceFormat | None = None
    modality: str | None = None
    view_position: str | None = None
    patient_age: float | None = None  #: years
    bits_stored: int | None = None
    rows: int | None = None  #: of the rendered picture, before it was resized
    columns: int | None = None  #: likewise
    input_mean: float | None = None  #: see :attr:`xray_batch.records.ModelInput.input_mean`
    input_std: float | None = None  #: likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmPrediction:
    """One labelled film: what the members say, or why nothing is said."""

    image: LabelledImage
    facts: FilmFacts = FilmFacts()
    members: npt.NDArray[np.float64] | None  #: shape (members, classes), not calibrated; None: not analysed
    rejection: Rejection | None = None  #: set where `members` is None
    hashes: ImageHashes | None = None  #: of the one file and its picture; None: not decoded
    seen: bool | None = None  #: whether the bundle was trained on it, or on a copy of it; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Every film of a list, in its order."""

    films: tuple[FilmPrediction, ...]
    architectures: tuple[str, ...]  #: of the members, in their order
    classes: tuple[Finding, ...]  #: in the order of the probabilities
    model_sha256: str | None  #: of the manifest of the bundle they come from; None: of several, as in cross-validation

    @property
    def analysed(self) -> "Analysed":
        """The films that the members saw."""
        return Analysed(
            films=tuple(film for film in self.films if film.members is not None),
            classes=self.classes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysed:
    """Films that the members saw; N of them."""

    films: tuple[FilmPrediction, ...]
    classes: tuple[Finding, ...]

    @property
    def members(self) -> npt.NDArray[np.float64]:
        """Shape (members, N, classes), each row summing to 1; not calibrated."""
        return np.stack([film.members for film in self.films if film.members is not None], axis=1)

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """Shape (N,): keys of :data:`xray_batch.training.dataset.TARGETS`."""
        return np.array([film.image.label for film in self.films])

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """Shape (N,): which films have a pneumonia of any cause by their label."""
        positive: npt.NDArray[np.bool_] = self.labels != Finding.NORMAL
        return positive

    @property
    def patients(self) -> list[str]:
        """Who each film shows."""
        return [film.image.patient for film in self.films]

    @property
    def seen(self) -> int | None:
        """How many of the films the bundle was trained on, or on copies of them; None: not known of some."""
        seen = [film.seen for film in self.films]
        return None if None in seen else sum(map(bool, seen))

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Analysed":
        """Return some of the films."""
        return Analysed(
            films=tuple(film for film, is_chosen in zip(self.films, chosen, strict=True) if is_chosen),
            classes=self.classes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a bundle makes of one film's members."""

    probabilities: dict[Finding, float]  #: calibrated, summing to 1
    disagreement: float  #: largest minus smallest P(pneumonia) among the members, before calibration
    outcome: Outcome

    @property
    def p_pneumonia(self) -> float:
        """Calibrated probability of any pneumonia."""
        return 1.0 - self.probabilities[Finding.NORMAL]


def verdict(film: FilmPrediction, classes: Sequence[Finding], manifest: Manifest) -> Verdict | None:
    """Apply a bundle's temperature and thresholds to one film; None where it was not analysed."""
    if film.members is None:
        return None
    pooled = pool(film.members[:, None], manifest.scaling, classes)[0]
    probabilities = dict(zip(classes, pooled.tolist(), strict=True))
    disagreement = float(np.ptp(film.members[:, classes.index(Finding.NORMAL)]))
    outcome = decide_outcome(manifest, 1.0 - probabilities[Finding.NORMAL], disagreement)
    return Verdict(probabilities=probabilities, disagreement=disagreement, outcome=outcome)


def predict(
    images: Sequence[LabelledImage],
    bundle: Bundle,
    ensemble: Ensemble,
    settings: Settings,
    *,
    task: Task,
    check: Callable[[FilmPrediction], None] = lambda film: None,
) -> Predictions:
    """Decode, judge and classify films as the service does; one that is refused keeps its reason.

    Batches are filled in the order of the list, so that the same list gives the same bits.

    Parameters
    ----------
    check
        Called with each film when its batch is done; what it raises ends the work.

    Raises
    ------
    BundleError
        If the bundle was trained on pictures that this version does not make, or a file of it is damaged.
    DecoderDiedError
        If decode workers cannot even be started.
    DeviceMemoryError
        If the device has not the memory for one image.
    """
    check_fit(bundle)
    known = training_hashes(bundle)
    advance = task("classify", len(images))
    films: list[FilmPrediction] = []
    for group in _groups(images, bundle.manifest, settings):
        for film in _answer(group, images[len(films) : len(films) + len(group)], known, ensemble, settings):
            check(film)
            films.append(film)
        advance(len(group))
    return Predictions(
        films=tuple(films),
        architectures=tuple(member.architecture for member in bundle.manifest.members),
        classes=bundle.manifest.classes,
        model_sha256=bundle.sha256,
    )


def hash_films(
    images: Sequence[LabelledImage], manifest: Manifest, settings: Settings, *, task: Task
) -> list[ImageHashes | None]:
    """Decode films as :func:`predict` does, and hash them; None for each that cannot be decoded.

    Raises
    ------
    DecoderDiedError
        If decode workers cannot even be started.
    """
    advance = task("decode the films set aside", len(images))
    found: list[ImageHashes | None] = []
    for group in _groups(images, manifest, settings):
        found += _hashes(group)
        advance(len(group))
    return found


def _groups(images: Sequence[LabelledImage], manifest: Manifest, settings: Settings) -> Iterator[list[Decoded[int]]]:
    """Decode all images in workers, and yield a batch at a time in their order; two batches at most are in memory."""
    limits = WorkerLimits.from_settings(settings)
    count, submitted = len(images), 0
    with DecodePool[int](min(settings.decode_workers, count), manifest.input_spec, limits) as workers:
        decoded: dict[int, Decoded[int]] = {}
        for start in range(0, count, settings.batch_size):
            group = range(start, min(start + settings.batch_size, count))
            ahead = min(group.stop + settings.batch_size, count)
            for index in range(submitted, ahead):
                workers.submit(index, images[index].path)
            submitted = ahead
            while not all(index in decoded for index in group):
                found = workers.take(_WAIT_SECONDS)
                if found is not None:
                    decoded[found.job] = found
            yield [decoded.pop(index) for index in group]


def _answer(
    group: Sequence[Decoded[int]],
    images: Sequence[LabelledImage],
    known: ImageHashes | None,
    ensemble: Ensemble,
    settings: Settings,
) -> Iterator[FilmPrediction]:
    hashes = _hashes(group)
    seen = _find_seen(hashes, known)
    prepared = [_prepared(decoded, ensemble.manifest, settings) for decoded in group]
    classified = iter(_classify([found for found in prepared if isinstance(found, ModelInput)], ensemble))
    for image, decoded, found, hashed, is_seen in zip(images, group, prepared, hashes, seen, strict=True):
        answer = next(classified) if isinstance(found, ModelInput) else found
        members, rejection = (None, answer) if isinstance(answer, Rejection) else (answer, None)
        yield FilmPrediction(
            image=image,
            facts=_facts(decoded),
            members=members,
            rejection=rejection,
            hashes=hashed,
            seen=is_seen,
        )


def _hashes(group: Sequence[Decoded[int]]) -> list[ImageHashes | None]:
    return [
        None
        if decoded.pixels is None or decoded.reply.content_sha256 is None
        else hash_decoded(decoded.reply.content_sha256, decoded.pixels)
        for decoded in group
    ]


def _find_seen(hashes: Sequence[ImageHashes | None], known: ImageHashes | None) -> list[bool | None]:
    """Tell which films are among those of `known`; None for each that was not decoded, and where nothing is known."""
    seen: list[bool | None] = [None] * len(hashes)
    read = [(index, hashed) for index, hashed in enumerate(hashes) if hashed is not None]
    if known is not None and read:
        found = find_seen(known, join_hashes([hashed for _, hashed in read]))
        for (index, _), is_seen in zip(read, found, strict=True):
            seen[index] = bool(is_seen)
    return seen


def _prepared(decoded: Decoded[int], manifest: Manifest, settings: Settings) -> ModelInput | Rejection:
    """Return what is for the networks, or why nothing is."""
    prepared = as_model_input(decoded)
    if prepared is None:
        return decoded.reply.rejection or _ended_abnormally(decoded.reply.failure or "unknown")
    judged = judge_age(prepared.header.patient_age, manifest.ages, settings.age_policy)
    return judged if isinstance(judged, Rejection) else prepared


def _classify(inputs: Sequence[ModelInput], ensemble: Ensemble) -> list[npt.NDArray[np.float64] | Rejection]:
    """Run the members over prepared films; one without finite numbers does not take the others with it."""
    if not inputs:
        return []
    try:
        members, judgements = ensemble.examine_members(inputs)
    except FloatingPointError as error:
        if len(inputs) == 1:
            return [_ended_abnormally(type(error).__name__)]
        return [answer for prepared in inputs for answer in _classify([prepared], ensemble)]
    return [judgement.rejection or members[:, index] for index, judgement in enumerate(judgements)]


def _ended_abnormally(failure: str) -> Rejection:
    reason = f"Processing the file ended abnormally, with {failure}."
    return Rejection(reason_code=ReasonCode.ATTEMPTS_EXHAUSTED, reason=reason)


def _facts(decoded: Decoded[int]) -> FilmFacts:
    header, reply = decoded.reply.header, decoded.reply
    if header is None:
        return FilmFacts()
    return FilmFacts(
        source_format=header.source_format,
        modality=header.modality,
        view_position=header.view_position,
        patient_age=header.patient_age,
        bits_stored=header.bits_stored,
        rows=reply.rows,
        columns=reply.columns,
        input_mean=reply.input_mean,
        input_std=reply.input_std,
    )
