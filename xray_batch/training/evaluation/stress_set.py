"""The stress set: the same films changed in many ways, through the bundle's preprocessing and the ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xray_batch.bundle import Manifest
from xray_batch.classify import Ensemble, pool
from xray_batch.records import Finding, GrayscaleImage, ImageHeader, InputSpec, SourceFormat
from xray_batch.standardize import prepare, resize
from xray_batch.training.bootstrap import PatientBootstrap
from xray_batch.training.duplicates import ImageHashes
from xray_batch.training.evaluation.decode_again import decode_again, is_seen
from xray_batch.training.evaluation.facts import StressFacts, StressRow
from xray_batch.training.evaluation.predictions import Analysed, Task
from xray_batch.training.statistics import area_under_roc, share
from xray_batch.training.stress import CONTROLS, STRESS_SIDE, STRESSES, Film, keep


@dataclass(frozen=True, slots=True, kw_only=True)
class StressSet:
    """What the stress set came to, and a film to show it on."""

    facts: StressFacts
    example: Film  #: shape (STRESS_SIDE, STRESS_SIDE), values in [0, 1]


def measure_stress(
    films: Analysed,
    ensemble: Ensemble,
    known: ImageHashes | None,
    *,
    per_class: int,
    resamples: int,
    seed: int,
    address_space: int,
    task: Task,
) -> StressSet | None:
    """Change films in every way of :mod:`xray_batch.training.stress`, and classify them again.

    Parameters
    ----------
    films
        A sample of at most `per_class` with and as many without pneumonia is drawn from them.
    known
        Of the images that the ensemble was trained on; None: not recorded.
    address_space
        Bytes that decoding a file may take.

    Returns
    -------
    StressSet or None
        None where no file can be read any more.

    Raises
    ------
    FloatingPointError
        If the networks give no finite numbers for a film that was changed.

    Notes
    -----
    A film that the gate would refuse counts in the other figures all the same: they tell what the networks do.
    """
    chosen, pictures = _load(_sample(films, per_class, seed), ensemble.manifest.input_spec, known, address_space, task)
    if not pictures:
        return None
    changes = STRESSES | CONTROLS
    advance = task("stress set", len(pictures) * len(changes))
    examiner = _Examiner(chosen, ensemble, PatientBootstrap(chosen.patients, resamples=resamples, seed=seed))
    answers: dict[str, _Answers] = {}
    for name, change in changes.items():
        answers[name] = examiner.classify([change(picture) for picture in pictures])
        advance(len(pictures))
    unchanged = next(name for name, change in changes.items() if change is keep)
    positive = chosen.positive
    facts = StressFacts(
        films=len(pictures),
        with_pneumonia=int(positive.sum()),
        without_pneumonia=int((~positive).sum()),
        seen=chosen.seen,
        side=STRESS_SIDE,
        rows=tuple(examiner.row(name, found, answers[unchanged]) for name, found in answers.items()),
    )
    return StressSet(facts=facts, example=pictures[int(positive.argmax())])


def _sample(films: Analysed, per_class: int, seed: int) -> Analysed:
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(films.films), np.bool_)
    for members in (np.flatnonzero(films.positive), np.flatnonzero(~films.positive)):
        chosen[random.permutation(members)[:per_class]] = True
    return films.take(chosen)


def _load(
    films: Analysed, spec: InputSpec, known: ImageHashes | None, address_space: int, task: Task
) -> tuple[Analysed, list[Film]]:
    """Decode films to the size that the changes are made for; one that cannot be read any more is left out."""
    advance = task("decode the stress set", len(films.films))
    found, pictures = [], []
    for film in films.films:
        image = decode_again(film.image.path, address_space)
        if image is not None:
            pictures.append(resize(image.pixels, STRESS_SIDE, STRESS_SIDE))
            found.append(replace(film, seen=is_seen(film, image, known, spec)))
        advance(1)
    return Analysed(films=tuple(found), classes=films.classes), pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What became of the same films, changed in one way."""

    p_pneumonia: npt.NDArray[np.float64]  #: shape (N,), calibrated
    refused: npt.NDArray[np.bool_]  #: shape (N,): whether the gate would refuse the film


class _Examiner:
    """Classifies changed films, and compares."""

    def __init__(self, films: Analysed, ensemble: Ensemble, bootstrap: PatientBootstrap) -> None:
        self._films = films
        self._ensemble = ensemble
        self._manifest: Manifest = ensemble.manifest
        self._bootstrap = bootstrap

    def classify(self, pictures: Sequence[Film]) -> _Answers:
        """Prepare films as the bundle requires, and classify them."""
        header = ImageHeader(source_format=SourceFormat.PNG)
        inputs = [
            prepare(GrayscaleImage(header=header, pixels=picture, rendering="identity"), self._manifest.input_spec)
            for picture in pictures
        ]
        members, judgements = self._ensemble.examine_members(inputs)
        normal = self._manifest.classes.index(Finding.NORMAL)
        return _Answers(
            p_pneumonia=1 - pool(members, self._manifest.scaling, self._manifest.classes)[:, normal],
            refused=np.array([judgement.rejection is not None for judgement in judgements]),
        )

    def row(self, name: str, answers: _Answers, unchanged: _Answers) -> StressRow:
        """Measure what films came to that were all changed in the way called `name`."""
        probability = answers.p_pneumonia
        positive, everything = self._films.positive, np.ones(len(probability), np.bool_)
        called = probability >= self._manifest.operating_points.balanced.threshold
        found, _ = self._bootstrap.estimate(
            {
                "auroc": area_under_roc(positive, probability, everything),
                "sensitivity": share(called, positive, "with pneumonia"),
                "specificity": share(~called, ~positive, "without pneumonia"),
                "refused": share(answers.refused, everything, "at all"),
            }
        )
        change = np.abs(probability - unchanged.p_pneumonia)
        return StressRow(
            name=name,
            is_control=name in CONTROLS,
            auroc=found.get("auroc"),
            sensitivity=found.get("sensitivity"),
            specificity=found.get("specificity"),
            mean_change=float(change.mean()),
            largest_change=float(change.max()),
            refused=found.get("refused"),
        )
