"""Train one member of the ensemble: stages of growing resolution, averaged weights, checkpoints."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xray_batch.errors import TrainingDataError
from xray_batch.networks import N, place
from xray_batch.training.augment import Augmentation, augment, mix
from xray_batch.training.loss import marginal_cross_entropy

#: Share of a stage at its end in which nothing is mixed: the last steps see real films.
_UNMIXED: Final = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Epochs at one resolution, with a cosine from `learning_rate` to zero."""

    side: int  #: rows and columns of the images
    epochs: int
    learning_rate: float  #: peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides how a member is trained, beside its data and its starting weights."""

    stages: tuple[Stage, ...]
    batch_size: int = 64
    augmentation: Augmentation = "full"
    mixup: float = 0.0  #: share of the batches that are mixed; none in the last sixth or so of a stage
    momentum: float = 0.9  #: Nesterov
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    ema_decay: float = 0.99  #: of the running average of the weights, per step; the average is what is kept
    warmup: float = 0.2  #: share of each stage in which the learning rate grows from zero
    clip_norm: float = 1.0  #: largest norm of a gradient
    seed: int = 0

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def images_per_epoch(self, count: int) -> int:
        """Return how many of `count` images fill whole batches."""
        return count // self.batch_size * self.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The training split, and the statistics that standardize it."""

    pixels: npt.NDArray[np.float32]  #: shape (N, rows, columns), in [0, 1]
    targets: npt.NDArray[np.bool_]  #: shape (N, classes)
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What one epoch came to."""

    epoch: int  #: from 0
    side: int
    loss: float  #: mean over the epoch's batches


def train_member(
    network: N,
    data: TrainingData,
    recipe: Recipe,
    *,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    checkpoint: Path,
    on_step: Callable[[int], None],
    on_epoch: Callable[[EpochReport, N], None],
) -> N:
    """Train `network` and return the running average of its weights, in evaluation mode on `device`.

    After each epoch everything needed to go on is in `checkpoint`; where that file exists already,
    training goes on from it and ends with the same weights as an undisturbed run on the same CPU.

    Parameters
    ----------
    compiled
        Whether the network is compiled first: a minute or two for each stage, a third faster then.
    on_step
        Called with the number of images done since the last call.
    on_epoch
        Called with a report and the averaged network; for the last epoch again, if the training is interrupted
        between that and the checkpoint.

    Raises
    ------
    TrainingDataError
        If `checkpoint` comes from another recipe, precision, other data (or the same in another order) or other
        starting weights, or there are fewer images than one batch takes.
    """
    if len(data.pixels) < recipe.batch_size:
        message = f"{len(data.pixels)} training images do not fill one batch of {recipe.batch_size}"
        raise TrainingDataError(message)
    trainee = _make_trainee(place(network, device), recipe, compiled=compiled)
    origin = _origin(recipe, dtype, data, trainee.network)
    average = cast("N", trainee.average.module)  # it is a copy of the network
    done = _resume(checkpoint, origin, trainee)
    on_step(done * recipe.images_per_epoch(len(data.pixels)))
    epoch = 0
    for stage in recipe.stages:
        images: Tensor | None = None
        for stage_epoch in range(stage.epochs):
            if epoch >= done:
                images = at_side(data.pixels, stage.side, device) if images is None else images
                torch.manual_seed(recipe.seed * 1000 + epoch)
                steps = _epoch(
                    images, data, recipe, epoch=epoch, unmixed_from=stage.epochs * (1 - _UNMIXED) - stage_epoch
                )
                loss = _run_epoch(trainee, steps, recipe, stage, stage_epoch, dtype, on_step)
                on_epoch(EpochReport(epoch=epoch, side=stage.side, loss=loss), average.eval())
                _save(checkpoint, origin, epoch + 1, trainee)
            epoch += 1
    return average.eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trainee:
    network: nn.Module
    forward: Callable[[Tensor], Tensor]  #: the same, or compiled
    average: AveragedModel
    optimizer: torch.optim.Optimizer


def _make_trainee(network: nn.Module, recipe: Recipe, *, compiled: bool) -> _Trainee:
    averaging = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call] # no annotation published
    return _Trainee(
        network=network,
        forward=torch.compile(network, dynamic=False) if compiled else network,
        average=AveragedModel(network, multi_avg_fn=averaging, use_buffers=True),
        optimizer=torch.optim.SGD(
            network.parameters(),
            lr=0.0,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    images: Tensor  #: augmented and standardized, (N, 1, side, side)
    targets: Tensor
    partners: Tensor  #: targets of the images mixed in
    share: float  #: of the images themselves in the mixture; 1: nothing is mixed in
    progress: float  #: share of the epoch done before this batch


def _epoch(images: Tensor, data: TrainingData, recipe: Recipe, *, epoch: int, unmixed_from: float) -> Iterator[_Batch]:
    """Yield the batches of one epoch in random order; the last, incomplete one is left out.

    From the share `unmixed_from` of the epoch on no batch is mixed; 0 or less: none is.
    """
    random = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    targets = torch.from_numpy(data.targets)
    order = torch.randperm(len(images), generator=random)
    batches = len(images) // recipe.batch_size
    for number in range(batches):
        chosen = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        batch = augment(images[chosen.to(images.device)], random, recipe.augmentation)
        progress = number / batches
        mixed, partners, share = mix(batch, random, recipe.mixup if progress < unmixed_from else 0.0)
        yield _Batch(
            images=((mixed - data.mean) / data.std).contiguous(memory_format=torch.channels_last),
            targets=targets[chosen].to(images.device),
            partners=targets[chosen[partners]].to(images.device),
            share=share,
            progress=progress,
        )


def _run_epoch(
    trainee: _Trainee,
    batches: Iterator[_Batch],
    recipe: Recipe,
    stage: Stage,
    stage_epoch: int,
    dtype: torch.dtype,
    on_step: Callable[[int], None],
) -> float:
    trainee.network.train()
    losses = []
    for batch in batches:
        for group in trainee.optimizer.param_groups:
            group["lr"] = learning_rate(stage, recipe, stage_epoch + batch.progress)
        with torch.autocast(batch.images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = trainee.forward(batch.images)
        loss = _loss(logits.float(), batch, recipe)
        trainee.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch has no annotation here
        nn.utils.clip_grad_norm_(trainee.network.parameters(), recipe.clip_norm)
        trainee.optimizer.step()
        trainee.average.update_parameters(trainee.network)
        losses.append(loss.detach())
        on_step(len(batch.images))
    return float(torch.stack(losses).mean())


def _loss(logits: Tensor, batch: _Batch, recipe: Recipe) -> Tensor:
    loss = marginal_cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
    if batch.share == 1:
        return loss
    other = marginal_cross_entropy(logits, batch.partners, label_smoothing=recipe.label_smoothing)
    return batch.share * loss + (1 - batch.share) * other


def learning_rate(stage: Stage, recipe: Recipe, epoch: float) -> float:
    """Return the rate `epoch` epochs into a stage: linear warm-up, then a cosine to zero."""
    warmup = recipe.warmup * stage.epochs
    if epoch < warmup:
        return stage.learning_rate * epoch / warmup
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (stage.epochs - warmup)))


def at_side(pixels: npt.NDArray[np.float32], side: int, device: torch.device) -> Tensor:
    """Put the images on `device` at a stage's resolution: float (N, 1, side, side), antialiased."""
    images = torch.from_numpy(pixels)[:, None]
    if images.shape[-2:] == (side, side):
        return images.to(device)
    parts = [
        F.interpolate(images[start : start + 256].to(device), size=(side, side), mode="bilinear", antialias=True)
        for start in range(0, len(images), 256)
    ]
    return torch.cat(parts)


def _origin(recipe: Recipe, dtype: torch.dtype, data: TrainingData, network: nn.Module) -> str:
    """Identify what a checkpoint belongs to: recipe, precision, data and starting weights, 64 hex digits."""
    digest = hashlib.sha256(json.dumps([asdict(recipe), str(dtype), data.mean, data.std]).encode())
    digest.update(data.targets.tobytes())
    digest.update(np.ascontiguousarray(data.pixels).data)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(checkpoint: Path, origin: str, epochs: int, trainee: _Trainee) -> None:
    tensors = {f"network.{name}": tensor for name, tensor in trainee.network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in trainee.average.state_dict().items()}
    for name, parameter in trainee.network.named_parameters():
        tensors[f"momentum.{name}"] = trainee.optimizer.state[parameter]["momentum_buffer"]
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"epochs": str(epochs), "origin": origin}
    partial = checkpoint.with_suffix(".partial")
    safetensors.torch.save_file(tensors, partial, metadata=metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(checkpoint)


def _resume(checkpoint: Path, origin: str, trainee: _Trainee) -> int:
    """Load a checkpoint where there is one, and return how many epochs it holds."""
    if not checkpoint.exists():
        return 0
    try:
        with safe_open(checkpoint, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(checkpoint)
    except SafetensorError as error:
        message = f"{checkpoint} is damaged ({error}); remove it to begin again"
        raise TrainingDataError(message) from error
    if metadata.get("origin") != origin:
        message = (
            f"{checkpoint} was made with another recipe or precision, other data or other starting weights; "
            "remove it, or choose another folder with --out"
        )
        raise TrainingDataError(message)
    trainee.network.load_state_dict(_with_prefix(tensors, "network."))
    trainee.average.load_state_dict(_with_prefix(tensors, "average."))
    momentum = _with_prefix(tensors, "momentum.")
    for name, parameter in trainee.network.named_parameters():
        trainee.optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter)
    return int(metadata["epochs"])


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
