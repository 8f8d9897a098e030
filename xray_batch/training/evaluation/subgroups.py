"""Films in groups by what their list or their header says, to see whether the model works as well for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.training.bootstrap import PatientBootstrap
from xray_batch.training.evaluation.facts import Subgroup
from xray_batch.training.evaluation.predictions import FilmPrediction
from xray_batch.training.statistics import Statistic, share

#: Fewer films than this say nothing about a group.
LEAST_FILMS: Final = 30

#: Upper ends of the age groups, in years, and their names.
_AGES: Final = ((1.0, "under 1 year"), (6.0, "1 to 5 years"), (18.0, "6 to 17 years"), (65.0, "18 to 64 years"))
_OLDEST: Final = "65 years and older"

_ATTRIBUTES: Final[dict[str, Callable[[FilmPrediction], str | None]]] = {
    "source": lambda film: film.image.source,
    "label": lambda film: film.image.label.replace("_", " "),
    "age": lambda film: _age_group(film.facts.patient_age),
    "view position": lambda film: film.facts.view_position,
    "modality": lambda film: film.facts.modality,
    "file format": lambda film: film.facts.source_format,
    "bits stored": lambda film: None if film.facts.bits_stored is None else f"{film.facts.bits_stored} bits",
}

_NOT_STATED: Final = "not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    attribute: str
    name: str
    films: npt.NDArray[np.bool_]  #: shape (N,)


def measure_subgroups(
    films: Sequence[FilmPrediction],
    positive: npt.NDArray[np.bool_],
    called: npt.NDArray[np.bool_],
    bootstrap: PatientBootstrap,
) -> tuple[tuple[Subgroup, ...], tuple[str, ...]]:
    """Measure sensitivity and specificity in every group.

    Parameters
    ----------
    positive, called
        Shape (N,): which films have pneumonia, and which are called so.

    Returns
    -------
    tuple
        The groups, and the attributes that no file states.
    """
    groups = [group for attribute in _ATTRIBUTES for group in _groups(films, attribute)]
    unknown = tuple(name for name in _ATTRIBUTES if all(_ATTRIBUTES[name](film) is None for film in films))
    groups += _resolution_tertiles(films)
    statistics: dict[str, Statistic] = {}
    for index, group in enumerate(groups):
        for name, right, of in (("+", called, positive), ("-", ~called, ~positive)):
            if (group.films & of).sum() >= LEAST_FILMS:
                statistics[f"{name}{index}"] = share(right, group.films & of, "of this kind")
    estimates, _ = bootstrap.estimate(statistics)
    return tuple(
        Subgroup(
            attribute=group.attribute,
            group=group.name,
            films=int(group.films.sum()),
            with_pneumonia=int((group.films & positive).sum()),
            without_pneumonia=int((group.films & ~positive).sum()),
            sensitivity=estimates.get(f"+{index}"),
            specificity=estimates.get(f"-{index}"),
        )
        for index, group in enumerate(groups)
    ), unknown


def _groups(films: Sequence[FilmPrediction], attribute: str) -> list[_Group]:
    """Group films by one attribute; none where no film states it."""
    stated = [_ATTRIBUTES[attribute](film) for film in films]
    if all(value is None for value in stated):
        return []
    names = np.array([_NOT_STATED if value is None else value for value in stated])
    return [_Group(attribute=attribute, name=str(name), films=names == name) for name in sorted(set(names.tolist()))]


def _age_group(age: float | None) -> str | None:
    if age is None:
        return None
    return next((name for end, name in _AGES if age < end), _OLDEST)


def _resolution_tertiles(films: Sequence[FilmPrediction]) -> list[_Group]:
    """Group films by their pixels, in three parts of equal size where the sizes allow it."""
    pixels = np.array([(film.facts.rows or 0) * (film.facts.columns or 0) for film in films])
    known = pixels > 0
    if not known.any():
        return []
    ends = sorted({*np.quantile(pixels[known], [1 / 3, 2 / 3], method="lower").tolist(), pixels.max()})
    part = np.searchsorted(ends, pixels)
    return [
        _Group(attribute="resolution", name=f"up to {end} megapixels", films=known & (part == number))
        for number, end in enumerate(_apart(ends))
        if (known & (part == number)).any()
    ]


def _apart(pixels: Sequence[int]) -> list[str]:
    """Write numbers of pixels in millions, with as many digits as tell them apart."""
    digits = 2
    while len({f"{number / 1e6:.{digits}f}" for number in pixels}) < len(pixels):
        digits += 1
    return [f"{number / 1e6:.{digits}f}" for number in pixels]
