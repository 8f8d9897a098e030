"""Where in a picture the networks find what raises P(pneumonia): Grad-CAM, without a backward pass.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017,
arXiv 1610.02391, at the last stage of each member, for its log odds of pneumonia, ``log((1 - p_normal) / p_normal)``.

A ResNet ends in a global average and one linear layer.  The logit of a class is therefore the mean of its *class
map*, the last stage weighted by the class's row of that layer (Zhou et al. 2016, arXiv 1512.04150), plus a bias,
and the gradient that Grad-CAM weights the stage by is known in closed form: with `q` the softmax over the classes
of pneumonia alone, the sum of their rows weighted by `q`, minus the row of normal.  What is left is a weighted sum
of class maps, and of it what is positive: the parts of the picture that raise pneumonia.

A heat map shows where a network is sensitive, not where disease is, and says nothing of how much: it is relative
to its own hottest point, on a film called normal too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.records import HeatMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A part of a picture, in shares of its height and width from the upper left corner."""

    top: float
    bottom: float
    left: float
    right: float

    @property
    def area(self) -> float:
        """Share of the picture; the share in the box of heat that is spread evenly."""
        return (self.bottom - self.top) * (self.right - self.left)


#: Where lungs and heart are in a frontal film: 70 % of the width and 75 % of the height.  In the average of 300
#: films of children and of 300 of adults, both lungs from apex to diaphragm lie within, and shoulders, arms, lead
#: markers, borders and most of the abdomen without.
THORAX: Final = Box(top=0.10, bottom=0.85, left=0.15, right=0.85)


def pneumonia_heat(
    class_maps: npt.NDArray[np.float64], logits: npt.NDArray[np.float64], normal: int
) -> npt.NDArray[np.float64]:
    """Return one member's Grad-CAM of the log odds of pneumonia.

    Parameters
    ----------
    class_maps
        Shape (N, classes, rows, columns), from :func:`xray_batch.networks.forward_with_features`.
    logits
        Shape (N, classes), of the same pass.
    normal
        Index of the class that is no pneumonia.

    Returns
    -------
    numpy.ndarray
        Shape (N, rows, columns) of the last stage, not negative: the paper's map in its own unit, logits per pixel
        of that stage.  All zero where no part of the picture raises pneumonia.
    """
    others = np.delete(np.arange(logits.shape[1]), normal)
    odds = np.exp(logits[:, others] - logits[:, others].max(axis=1, keepdims=True))
    gradient = np.empty_like(logits)
    gradient[:, others] = odds / odds.sum(axis=1, keepdims=True)
    gradient[:, normal] = -1.0
    pixels = class_maps.shape[2] * class_maps.shape[3]
    heat: npt.NDArray[np.float64] = np.maximum(np.einsum("nk,nkrc->nrc", gradient, class_maps) / pixels, 0.0)
    return heat


def make_heat_map(members: Sequence[npt.NDArray[np.floating]], rows: int, columns: int) -> HeatMap:
    """Enlarge the members' heat of one picture to the size of the model input, and average it.

    Each member's heat is brought to a sum of 1 first, so that each has the same say, however steep it is; a member
    without heat has none.  For the eye, every map is then scaled to a maximum of 1.

    Parameters
    ----------
    members
        Of each member, shape (rows, columns) of its last stage, not negative.
    rows, columns
        Of the model input.
    """
    enlarged = [_enlargement(heat.shape[0], rows) @ heat @ _enlargement(heat.shape[1], columns).T for heat in members]
    shares = [heat / heat.sum() for heat in enlarged if heat.any()]
    average = np.mean(shares, axis=0) if shares else np.zeros((rows, columns))
    (thorax_share,) = thorax_shares([heat[None] for heat in members], rows, columns)
    return HeatMap(
        average=_to_maximum_1(average),
        members=tuple(_to_maximum_1(heat) for heat in enlarged),
        thorax_share=thorax_share,
    )


def thorax_shares(members: Sequence[npt.NDArray[np.floating]], rows: int, columns: int) -> list[float | None]:
    """Return how much of each picture's average heat lies within :data:`THORAX`.

    The same as of the enlarged maps, without enlarging them: 1-D sums do.

    Parameters
    ----------
    members
        Of each member, shape (N, rows, columns) of its last stage, not negative.
    rows, columns
        Of the model input, on which the box lies.

    Returns
    -------
    list
        N shares from 0 to 1, the mean over the members that have heat; None where none has.
        Heat that is spread evenly has :attr:`Box.area`.
    """
    total, count = np.zeros(len(members[0])), np.zeros(len(members[0]), np.int64)
    for heat in members:
        down, across = _enlargement(heat.shape[1], rows), _enlargement(heat.shape[2], columns)
        inside = _coverage(THORAX.top, THORAX.bottom, rows) @ down
        inside_across = _coverage(THORAX.left, THORAX.right, columns) @ across
        whole = np.einsum("r,nrc,c->n", down.sum(axis=0), heat, across.sum(axis=0))
        part = np.einsum("r,nrc,c->n", inside, heat, inside_across)
        has_heat = whole > 0
        total[has_heat] += part[has_heat] / whole[has_heat]
        count += has_heat
    return [
        min(1.0, float(share / members_with_heat)) if members_with_heat else None
        for share, members_with_heat in zip(total, count, strict=True)
    ]


def _to_maximum_1(heat: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Scale a map to [0, 1] by its maximum; one without heat stays zero."""
    return (heat / heat.max() if heat.any() else heat).astype(np.float32)


def _enlargement(size: int, target: int) -> npt.NDArray[np.float64]:
    """Return the matrix (target, size) that interpolates linearly between the centres of `size` equal parts."""
    centres = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    weights: npt.NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(size)))
    return weights


def _coverage(start: float, end: float, size: int) -> npt.NDArray[np.float64]:
    """Return how much of each of `size` equal parts of [0, 1] lies between `start` and `end`, 0 to 1 each."""
    edges = np.arange(size + 1) / size
    covered: npt.NDArray[np.float64] = np.diff(np.clip(edges, start, end)) * size
    return covered
