"""The layer that tells films from other pictures: its scores, limits, warnings and refusals."""

import math

import numpy as np
import pytest

from xray_batch.errors import ReasonCode
from xray_batch.gate import REFUSED_KINDS, GateLimits, InputGate, PictureKind, compress
from xray_batch.records import ImageWarning

KINDS = tuple(PictureKind)
OPEN = GateLimits(flag_above=math.inf, refuse_above=math.inf, sharpness_below=-math.inf)


def gate_of(limits=OPEN, kinds=KINDS):
    """Return a gate of one feature a kind, each of which is its kind's logit."""
    return InputGate(np.eye(len(kinds), dtype=np.float32), np.zeros(len(kinds), np.float32), kinds, limits)


def features_of(**logits):
    """Return the features of one picture that has these logits, by kind; the others are 0."""
    return np.array([[logits.get(kind.value, 0.0) ** 2 for kind in KINDS]], dtype=np.float32)


def test_features_are_compressed():
    """The layer sees the square roots of the features; one that rounding made negative counts as 0."""
    assert compress(np.array([[4.0, 0.25, -1e-9]], np.float32)).tolist() == [[2.0, 0.5, 0.0]]


def test_atypicality():
    """Atypicality is the log odds of all kinds but FILM together."""
    (judgement,) = gate_of().judge(features_of(film=3.0, cut=1.0), [-1.0])
    assert judgement.atypicality == pytest.approx(math.log((math.e + 6) / math.e**3))


def test_unlikeness():
    """Unlikeness is the log odds of the refused kinds together, against FILM and the kinds that are answered."""
    (judgement,) = gate_of().judge(features_of(film=3.0, inverted=2.0, cut=1.0), [-1.0])
    refused, answered = math.e**2 + 3, math.e**3 + math.e + 2
    assert len(REFUSED_KINDS) == 4
    assert judgement.unlikeness == pytest.approx(math.log(refused / answered))


def test_order_of_kinds():
    """Kinds are taken in the order of the bundle."""
    backwards = gate_of(kinds=KINDS[::-1])
    (judgement,) = backwards.judge(features_of(film=3.0)[:, ::-1].copy(), [-1.0])
    assert judgement.atypicality == pytest.approx(math.log(7 / math.e**3))


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        ("inverted", ImageWarning.SUSPECT_POLARITY),
        ("sideways", ImageWarning.SUSPECT_ORIENTATION),
        ("upside_down", ImageWarning.SUSPECT_ORIENTATION),
        ("cut", ImageWarning.SUSPECT_FRAMING),
        ("padded", ImageWarning.SUSPECT_FRAMING),
        ("blurred", ImageWarning.SUSPECT_SHARPNESS),
        ("other", ImageWarning.ATYPICAL_IMAGE),
    ],
)
def test_warning_of_each_kind(kind, warning):
    """Beyond the limit of atypicality the likeliest kind gives its warning."""
    limits = GateLimits(flag_above=0.0, refuse_above=math.inf, sharpness_below=-math.inf)
    (judgement,) = gate_of(limits).judge(features_of(**{kind: 5.0}), [-1.0])
    assert judgement.kind == kind
    assert judgement.warnings == (warning,)
    assert judgement.rejection is None


def test_a_film_is_not_flagged():
    """A film has no warning, however the other kinds compare among each other."""
    limits = GateLimits(flag_above=0.0, refuse_above=0.0, sharpness_below=-2.0)
    (judgement,) = gate_of(limits).judge(features_of(film=6.0, cut=3.0), [-1.0])
    assert (judgement.warnings, judgement.rejection) == ((), None)


@pytest.mark.parametrize(("sharpness", "warnings"), [(-1.99, ()), (-2.01, (ImageWarning.SUSPECT_SHARPNESS,))])
def test_sharpness(sharpness, warnings):
    """A picture below the limit of sharpness is flagged, whatever the layer says."""
    limits = GateLimits(flag_above=0.0, refuse_above=0.0, sharpness_below=-2.0)
    (judgement,) = gate_of(limits).judge(features_of(film=6.0), [sharpness])
    assert judgement.warnings == warnings


def test_blur_is_one_warning():
    """Blur that both see is one warning."""
    limits = GateLimits(flag_above=0.0, refuse_above=math.inf, sharpness_below=-2.0)
    (judgement,) = gate_of(limits).judge(features_of(blurred=6.0), [-3.0])
    assert judgement.warnings == (ImageWarning.SUSPECT_SHARPNESS,)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("inverted", "black and white exchanged"),
        ("sideways", "turned by 90 degrees"),
        ("upside_down", "upside down"),
        ("other", "no chest film"),
    ],
)
def test_refusal(kind, words):
    """A kind on which an answer would mean nothing is refused beyond the limit, and named."""
    limits = GateLimits(flag_above=math.inf, refuse_above=2.0, sharpness_below=-math.inf)
    (judgement,) = gate_of(limits).judge(features_of(**{kind: 5.0}), [-1.0])
    assert judgement.rejection.reason_code == ReasonCode.OUT_OF_DISTRIBUTION
    assert words in judgement.rejection.reason


def test_several_kinds_refuse_together():
    """What is likeliest a cut film, and likelier one or another kind that is refused, is refused as no chest film."""
    limits = GateLimits(flag_above=math.inf, refuse_above=0.5, sharpness_below=-math.inf)
    (judgement,) = gate_of(limits).judge(features_of(cut=5.0, inverted=4.9, sideways=4.9, other=4.9), [-1.0])
    assert judgement.kind is PictureKind.CUT
    assert "looks like no chest film" in judgement.rejection.reason


def test_a_refusal_says_by_how_much():
    """Score and limit have the digits of `inspect`: one that is just beyond does not read as if it were accepted."""
    (judgement,) = gate_of().judge(features_of(other=1.0), [-1.0])
    limits = GateLimits(flag_above=math.inf, refuse_above=judgement.unlikeness - 0.02, sharpness_below=-math.inf)
    (refused,) = gate_of(limits).judge(features_of(other=1.0), [-1.0])
    assert refused.rejection.reason.endswith("(score 0.36; up to 0.34 is accepted).")


@pytest.mark.parametrize("kind", ["cut", "padded", "blurred"])
def test_not_refused(kind):
    """Other kinds are never refused for themselves."""
    limits = GateLimits(flag_above=math.inf, refuse_above=2.0, sharpness_below=-math.inf)
    (judgement,) = gate_of(limits).judge(features_of(**{kind: 9.0}), [-1.0])
    assert judgement.rejection is None
