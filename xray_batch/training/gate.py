"""Fit the gate that looks at the picture, choose its limits, and measure it.

Three parts that share no patient and no copy of a film: the layer is fitted to most of the training split, the
limits are chosen on a fifth of it, and the rates are measured on the validation split.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from xray_batch.architectures import feature_count
from xray_batch.bundle import GateFacts, GateRate, save_gate
from xray_batch.classify import placed, run_batches
from xray_batch.gate import GateLimits, InputGate, Judgement, PictureKind, compress
from xray_batch.networks import for_inference, forward_with_features
from xray_batch.records import InputSpec
from xray_batch.resnet import ResNet
from xray_batch.standardize import WORKING_SIDE, make_picture, measure_sharpness, standardize
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.drawings import DRAWINGS, draw
from xray_batch.training.pixels import Decoding, load_pixels, whole_film_spec
from xray_batch.training.spoil import SPOILERS, Picture, Spoiler, vary

KINDS: Final = tuple(PictureKind)

#: Member whose stages give the features: the smaller and better one.
GATE_ARCHITECTURE: Final = "resnet34"

#: Parts a side that a stage is averaged over: enough to tell top from bottom and left from right.
GRID: Final = 3

#: Films that the layer is fitted to, and those that limits or rates are measured on, at most.
_FILMS: Final = 2400

#: Equal parts of the films, one of which the limits are chosen on.
_PARTS: Final = 5

#: Pictures that are made and run at once.
_BATCH: Final = 32

#: Pictures of each spoilt kind, and of each drawing, for each film.
_SPOILT_SHARE: Final = {kind: 0.4 for kind in SPOILERS} | {PictureKind.CUT: 0.8}  #: halves are the hardest to tell
_DRAWN_SHARE: Final = 0.05

_WEIGHT_DECAY: Final = 0.03
_LABEL_SMOOTHING: Final = 0.02
_STEPS: Final = 120

#: Share of varied films below a limit.  Films of unknown systems must pass, and the variation is wider than
#: that between systems.
_UNFLAGGED: Final = 0.88
_NOT_REFUSED: Final = 0.995

#: How much softer than nearly all training films (in units of sharpness) a film of another system may be.
_SHARPNESS_MARGIN: Final = 0.35


def memory_needed(images: int, spec: InputSpec) -> int:
    """Return how many bytes it takes at most to fit a gate to so many images, beside their pictures for the members."""
    films = min(images, _FILMS) * (_PARTS - 1) // _PARTS
    pixels = 4 * spec.rows * spec.columns + WORKING_SIDE**2
    pictures = films * (2 + sum(_SPOILT_SHARE.values()) + _DRAWN_SHARE * len(DRAWINGS))
    features = round(pictures * feature_count(GATE_ARCHITECTURE, GRID) * 4)
    # Films, a batch of pictures, and the features, twice when their parts are joined; then the features three times.
    return max((films + _BATCH) * pixels * 4 + 2 * features, 3 * features)


def fit_gate(
    network: ResNet,
    spec: InputSpec,
    training: Sequence[LabelledImage],
    groups: npt.NDArray[np.intp],
    validation: Sequence[LabelledImage],
    *,
    path: Path,
    decoding: Decoding,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    task: Callable[[str, int], Callable[[int], None]],
) -> GateFacts:
    """Fit a gate to the features of `network`, write its layer to `path`, and return its facts.

    Parameters
    ----------
    network
        The member named :data:`GATE_ARCHITECTURE`, in evaluation mode, on `device`.
    spec
        Of the bundle.
    training, validation
        No patient, and no copy of an image, may be in both.
    groups
        Of `training`, shape (N,): from :func:`xray_batch.training.duplicates.group_images`.
    task
        Announces a piece of work of so many films, each decoded twice, and returns a function to advance it.
    """
    workshop = _Workshop(network, spec, decoding=decoding, device=device, dtype=dtype, seed=seed)
    chosen = workshop.choose(training)
    fitted_to, limited_by = _hold_out([training[index] for index in chosen], groups[chosen])
    measured = [validation[index] for index in workshop.choose(validation)]
    progress = task("gate", 2 * (len(fitted_to) + len(limited_by) + len(measured)))  # in two sizes
    weight, bias = _fit_layer(workshop.make(workshop.load(fitted_to, progress), varied=True))
    no_limits = GateLimits(flag_above=math.inf, refuse_above=math.inf, sharpness_below=-math.inf)
    limits = workshop.choose_limits(InputGate(weight, bias, KINDS, no_limits), workshop.load(limited_by, progress))
    gate = InputGate(weight, bias, KINDS, limits)
    films = workshop.load(measured, progress)
    return GateFacts(
        file=path.name,
        sha256=save_gate(weight, bias, path),
        architecture=GATE_ARCHITECTURE,
        grid=GRID,
        kinds=KINDS,
        **asdict(limits),
        films=workshop.measure_films(gate, measured, films),
        failures=_rates(gate, workshop.make(films, varied=False)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Films:
    """Films as the features need them, and as the service measures sharpness."""

    fine: npt.NDArray[np.float32]  #: twice the side of the model input, so that half of one is as sharp as a whole
    working: npt.NDArray[np.float32]  #: :data:`WORKING_SIDE` pixels a side

    def __len__(self) -> int:
        return len(self.fine)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """One picture for the gate, of both sizes, and what it is."""

    fine: Picture
    working: Picture
    kind: PictureKind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pictures:
    """What the gate learns from and is asked about: features, sharpness, and what each picture is."""

    features: npt.NDArray[np.float32]  #: shape (N, features)
    sharpness: list[float]
    kinds: list[PictureKind]
    names: list[str]


class _Workshop:
    """Makes pictures and runs the network over them."""

    def __init__(
        self,
        network: ResNet,
        spec: InputSpec,
        *,
        decoding: Decoding,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self._network = for_inference(network, device, dtype)
        self._spec = spec
        self._decoding = decoding
        self._device = device
        self._dtype = dtype
        self._random = np.random.default_rng(seed)

    def choose(self, images: Sequence[LabelledImage]) -> npt.NDArray[np.intp]:
        """Choose films at random, by their indices; those of a source count by one over the square root of its size."""
        sources = [image.source for image in images]
        rare = np.array([1 / sources.count(source) ** 0.5 for source in sources])
        count = min(_FILMS, len(images))
        return np.sort(self._random.choice(len(images), count, replace=False, p=rare / rare.sum()))

    def load(self, images: Sequence[LabelledImage], progress: Callable[[int], None]) -> _Films:
        """Decode films in both sizes, nothing taken away."""
        rows, columns = 2 * self._spec.rows, 2 * self._spec.columns
        return _Films(
            fine=self._load(images, rows, columns, progress),
            working=self._load(images, WORKING_SIDE, WORKING_SIDE, progress),
        )

    def _load(
        self, images: Sequence[LabelledImage], rows: int, columns: int, progress: Callable[[int], None]
    ) -> npt.NDArray[np.float32]:
        spec = whole_film_spec(self._spec, rows, columns)
        return load_pixels(images, spec, decoding=self._decoding, progress=progress)

    def make(self, films: _Films, *, varied: bool) -> _Pictures:
        """Make spoilt films and drawings; where `varied`, of varied films, and films varied and as they are."""
        return self._run(self._sheets(films, varied=varied))

    def _sheets(self, films: _Films, *, varied: bool) -> Iterator[_Sheet]:
        if varied:
            yield from self._vary(films, "film")
            yield from (self._sheet(films, index, "film") for index in range(len(films)))
        for kind, spoil in SPOILERS.items():
            change = partial(_vary_and, spoil) if varied else spoil
            for index in self._random.choice(len(films), _count(len(films), _SPOILT_SHARE[kind])):
                yield self._change(films, index, change, kind, kind)
        for name in DRAWINGS:
            for _ in range(_count(len(films), _DRAWN_SHARE)):
                drawn = draw(name, films.fine.shape[1], self._random)
                yield _Sheet(fine=drawn, working=drawn, kind=PictureKind.OTHER, name=f"drawing: {name}")

    def _vary(self, films: _Films, name: str) -> Iterator[_Sheet]:
        """Vary every film."""
        return (self._change(films, index, vary, PictureKind.FILM, name) for index in range(len(films)))

    def _change(self, films: _Films, index: int, change: Spoiler, kind: PictureKind, name: str) -> _Sheet:
        """Change a film in both sizes alike."""
        seed = int(self._random.integers(2**63))
        fine, working = (
            np.ascontiguousarray(change(pictures[index], np.random.default_rng(seed)), dtype=np.float32)
            for pictures in (films.fine, films.working)
        )
        return _Sheet(fine=fine, working=working, kind=kind, name=name)

    def _sheet(self, films: _Films, index: int, name: str) -> _Sheet:
        return _Sheet(fine=films.fine[index], working=films.working[index], kind=PictureKind.FILM, name=name)

    def _run(self, sheets: Iterator[_Sheet]) -> _Pictures:
        """Make a batch of pictures at a time, and keep what is measured of them: all together are too large."""
        forward = placed(partial(forward_with_features, self._network, grid=GRID), self._device, self._dtype)
        parts: list[npt.NDArray[np.float32]] = []
        sharpness: list[float] = []
        kinds: list[PictureKind] = []
        names: list[str] = []
        while batch := list(islice(sheets, _BATCH)):
            pictures = np.stack([make_picture(sheet.fine, self._spec) for sheet in batch])
            inputs = standardize(pictures, self._spec.mean, self._spec.std)
            _, features, _ = run_batches(forward, inputs, batch_size=_BATCH)
            parts.append(features.astype(np.float32))
            sharpness += [measure_sharpness(sheet.working) for sheet in batch]
            kinds += [sheet.kind for sheet in batch]
            names += [sheet.name for sheet in batch]
        return _Pictures(features=np.concatenate(parts), sharpness=sharpness, kinds=kinds, names=names)

    def choose_limits(self, gate: InputGate, films: _Films) -> GateLimits:
        """Put the limits beyond nearly all varied films, and that of sharpness below the films as they are."""
        atypicality, unlikeness, _ = gate.scores(self._run(self._vary(films, "film")).features)
        sharpness = [measure_sharpness(film) for film in films.working]
        return GateLimits(
            flag_above=float(np.quantile(atypicality, _UNFLAGGED)),
            refuse_above=float(np.quantile(unlikeness, _NOT_REFUSED)),
            sharpness_below=float(np.quantile(sharpness, 0.005)) - _SHARPNESS_MARGIN,
        )

    def measure_films(self, gate: InputGate, images: Sequence[LabelledImage], films: _Films) -> tuple[GateRate, ...]:
        """Measure real films as they are, by source, and all of them varied."""
        plain = (self._sheet(films, index, image.source) for index, image in enumerate(images))
        return _rates(gate, self._run(plain)) + _rates(gate, self._run(self._vary(films, "all, varied")))


def _vary_and(spoil: Spoiler, film: Picture, random: np.random.Generator) -> Picture:
    return spoil(vary(film, random), random)


def _hold_out(
    images: Sequence[LabelledImage], groups: npt.NDArray[np.intp]
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Split into four fifths and one fifth, by group."""
    held_out = np.isin(groups, np.unique(groups)[::_PARTS])
    return (
        [image for image, is_held_out in zip(images, held_out, strict=True) if not is_held_out],
        [image for image, is_held_out in zip(images, held_out, strict=True) if is_held_out],
    )


def _count(films: int, share: float) -> int:
    return max(2, round(films * share))


def _fit_layer(pictures: _Pictures) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fit a multinomial logistic regression to standardized features; return it for features as they are."""
    features = compress(pictures.features)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 0.01
    features -= mean  # in place, for they are large
    features /= spread
    inputs = torch.from_numpy(features)
    targets = torch.tensor([KINDS.index(kind) for kind in pictures.kinds])
    weight = torch.zeros(inputs.shape[1], len(KINDS), requires_grad=True)
    bias = torch.zeros(len(KINDS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(inputs @ weight + bias, targets, label_smoothing=_LABEL_SMOOTHING)
        value = value + _WEIGHT_DECAY / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call] # torch
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call] # torch
    fitted = (weight.detach().numpy() / spread[:, None]).astype(np.float16).astype(np.float32)  # as it is stored
    return fitted, (bias.detach().numpy() - mean @ fitted).astype(np.float32)


def _rates(gate: InputGate, pictures: _Pictures) -> tuple[GateRate, ...]:
    """Count what is refused and what is flagged, by the pictures' names."""
    judgements: dict[str, list[Judgement]] = {}
    for name, judgement in zip(pictures.names, gate.judge(pictures.features, pictures.sharpness), strict=True):
        judgements.setdefault(name, []).append(judgement)
    return tuple(
        GateRate(
            name=name,
            n=len(judged),
            refused=sum(judgement.rejection is not None for judgement in judged),
            flagged=sum(judgement.rejection is None and bool(judgement.warnings) for judgement in judged),
        )
        for name, judged in judgements.items()
    )
