"""The part of the input gate that looks at the picture, and tells upright, whole chest films from others.

The networks of the ensemble have seen nothing but chest films.  What their stages make of a picture tells
other pictures apart: a linear layer on these features was fitted to films, to the same films spoilt
(turned, inverted, cut, padded, blurred), and to drawn pictures of anything else (outlier exposure,
Hendrycks et al. 2018, arXiv 1812.04606).  It gives two scores, each with a threshold from training films
that it was not fitted to; bundle and model card hold both, and how often they are wrong.

Blur finer than the model's input is measured on the larger picture, as `ModelInput.sharpness`.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.errors import ReasonCode
from xray_batch.records import ImageWarning, Rejection


class PictureKind(enum.StrEnum):
    """What a picture looks like to the gate."""

    FILM = "film"  #: An upright frontal chest film.
    INVERTED = "inverted"  #: Air is bright and bone is dark.
    SIDEWAYS = "sideways"  #: Turned by 90 degrees.
    UPSIDE_DOWN = "upside_down"  #: Turned by 180 degrees, or flipped.
    CUT = "cut"  #: About half of the chest.
    PADDED = "padded"  #: Wide borders around it.
    BLURRED = "blurred"  #: Too soft to show a lung's texture.
    OTHER = "other"  #: No chest: another part of the body, a test pattern, a photograph.


#: Kinds on which an answer would mean nothing; the others are answered, with a warning.
REFUSED_KINDS: Final = (PictureKind.INVERTED, PictureKind.SIDEWAYS, PictureKind.UPSIDE_DOWN, PictureKind.OTHER)

_WARNINGS: Final = {
    PictureKind.INVERTED: ImageWarning.SUSPECT_POLARITY,
    PictureKind.SIDEWAYS: ImageWarning.SUSPECT_ORIENTATION,
    PictureKind.UPSIDE_DOWN: ImageWarning.SUSPECT_ORIENTATION,
    PictureKind.CUT: ImageWarning.SUSPECT_FRAMING,
    PictureKind.PADDED: ImageWarning.SUSPECT_FRAMING,
    PictureKind.BLURRED: ImageWarning.SUSPECT_SHARPNESS,
    PictureKind.OTHER: ImageWarning.ATYPICAL_IMAGE,
}

_LOOKS: Final = {
    PictureKind.INVERTED: "a film with black and white exchanged",
    PictureKind.SIDEWAYS: "a film turned by 90 degrees",
    PictureKind.UPSIDE_DOWN: "a film that is upside down",
    PictureKind.OTHER: "no chest film",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """Where the gate flags and refuses; facts of a bundle."""

    flag_above: float  #: atypicality
    refuse_above: float  #: unlikeness
    sharpness_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the gate says of one picture."""

    kind: PictureKind  #: the likeliest, but for FILM
    atypicality: float  #: log odds of anything but a film, natural logarithm
    unlikeness: float  #: log odds of a kind that is refused
    sharpness: float
    warnings: tuple[ImageWarning, ...]
    rejection: Rejection | None


class InputGate:
    """A linear layer on the networks' features, and its limits.

    Parameters
    ----------
    weight, bias
        Shapes (features, kinds) and (kinds,).
    kinds
        In the order of the layer's outputs.
    """

    def __init__(
        self,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        kinds: Sequence[PictureKind],
        limits: GateLimits,
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._kinds = tuple(kinds)
        self.limits = limits

    def judge(self, features: npt.NDArray[np.float32], sharpness: Sequence[float]) -> list[Judgement]:
        """Judge pictures by their features, shape (N, features), and their sharpness."""
        atypicality, unlikeness, kinds = self.scores(features)
        return [
            self._judgement(kind, float(atypical), float(unlike), sharp)
            for kind, atypical, unlike, sharp in zip(kinds, atypicality, unlikeness, sharpness, strict=True)
        ]

    def scores(
        self, features: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[PictureKind]]:
        """Return atypicality and unlikeness of each picture, and its likeliest kind but for FILM."""
        # Row by row: a product of all rows adds up in an order that depends on how many there are.
        logits = (np.stack([row @ self._weight for row in compress(features)]) + self._bias).astype(np.float64)
        is_film = np.array([kind is PictureKind.FILM for kind in self._kinds])
        is_refused = np.array([kind in REFUSED_KINDS for kind in self._kinds])
        likeliest = np.where(is_film, -np.inf, logits).argmax(axis=1)
        return _log_odds(logits, ~is_film), _log_odds(logits, is_refused), [self._kinds[index] for index in likeliest]

    def _judgement(self, kind: PictureKind, atypicality: float, unlikeness: float, sharpness: float) -> Judgement:
        warnings = [_WARNINGS[kind]] if atypicality > self.limits.flag_above else []
        if sharpness < self.limits.sharpness_below and ImageWarning.SUSPECT_SHARPNESS not in warnings:
            warnings.append(ImageWarning.SUSPECT_SHARPNESS)
        rejection = None
        if unlikeness > self.limits.refuse_above:
            rejection = Rejection(
                reason_code=ReasonCode.OUT_OF_DISTRIBUTION,
                reason=f"The picture looks like {_LOOKS.get(kind, _LOOKS[PictureKind.OTHER])} "
                f"(score {unlikeness:.2f}; up to {self.limits.refuse_above:.2f} is accepted).",
            )
        return Judgement(
            kind=kind,
            atypicality=atypicality,
            unlikeness=unlikeness,
            sharpness=sharpness,
            warnings=tuple(warnings),
            rejection=rejection,
        )


def compress(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the square root of features: means after a ReLU, never negative, and spread over decades."""
    return np.sqrt(np.maximum(features, 0, dtype=np.float32))


def _log_odds(logits: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the log odds of the chosen classes together against all others, by image."""
    odds: npt.NDArray[np.float64] = np.logaddexp.reduce(logits[:, chosen], axis=1) - np.logaddexp.reduce(
        logits[:, ~chosen], axis=1
    )
    return odds
