"""What both members of a training say about images, as they are and changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from xray_batch.classify import placed, run_batches, softmax
from xray_batch.networks import for_inference, forward_with_features
from xray_batch.resnet import ResNet
from xray_batch.standardize import make_picture, measure_input, standardize
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.held_out import HeldOut
from xray_batch.training.order import Progress, TrainingOrder
from xray_batch.training.pixels import load_pixels, whole_film_spec
from xray_batch.training.stress import CHANGES, STRESS_SIDE

_BATCH: Final = 32

#: Films that are held at once, at the size of the stress set, to be changed: 50 MB.
_FILMS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Both members of one training, as the bundle stores them, and the statistics of their training split."""

    networks: Sequence[ResNet]
    training: npt.NDArray[np.intp]
    mean: float
    std: float


class Examiner:
    """Has members say what they make of images."""

    def __init__(self, order: TrainingOrder, *, device: torch.device, dtype: torch.dtype, progress: Progress) -> None:
        self._order = order
        self._device = device
        self._dtype = dtype
        self._progress = progress

    def ask(
        self,
        members: Members,
        images: Sequence[LabelledImage],
        pixels: npt.NDArray[np.float32],
        name: str,
        *,
        changed: bool,
    ) -> HeldOut:
        """Ask about images, and, where `changed`, about these changed in each way of the stress set.

        Parameters
        ----------
        pixels
            Of the images, shape (N, side, side), in [0, 1]; not standardized.
        name
            How the images were held out, for people.

        Raises
        ------
        TrainingDataError
            If an image that is to be changed cannot be decoded any more.
        """
        return HeldOut(
            name=name,
            images=images,
            members=self._say(members, pixels),
            inputs=np.array([measure_input(picture) for picture in pixels]),
            changed=self._ask_changed(members, images) if changed else (),
        )

    def logits(self, network: ResNet, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the logits, shape (N, classes), of standardized inputs of shape (N, side, side)."""
        forward = partial(forward_with_features, for_inference(network.eval(), self._device, self._dtype), grid=None)
        logits, _, _ = run_batches(placed(forward, self._device, self._dtype), inputs, batch_size=_BATCH)
        return logits

    def _ask_changed(self, members: Members, images: Sequence[LabelledImage]) -> tuple[npt.NDArray[np.float64], ...]:
        """Decode images once more, at the size that the changes are made for, and ask about all changes of them."""
        spec = self._order.options.input_spec(members.mean, members.std)
        whole = whole_film_spec(spec, STRESS_SIDE, STRESS_SIDE)
        advance = self._progress.task("changed films", len(images))
        parts: list[list[npt.NDArray[np.float64]]] = [[] for _ in CHANGES]
        for start in range(0, len(images), _FILMS):
            films = load_pixels(images[start : start + _FILMS], whole, decoding=self._order.decoding, progress=advance)
            for part, change in zip(parts, CHANGES.values(), strict=True):
                part.append(self._say(members, np.stack([make_picture(change(film), spec) for film in films])))
        return tuple(np.concatenate(part, axis=1) for part in parts)

    def _say(self, members: Members, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return each member's probabilities of pictures that are not standardized, shape (members, N, classes)."""
        inputs = standardize(pixels, members.mean, members.std)
        return np.stack([softmax(self.logits(network, inputs)) for network in members.networks])
