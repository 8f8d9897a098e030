"""Decode labelled images once, in decode workers, and keep their pictures in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.errors import TrainingDataError
from xray_batch.pipeline.pool import Decoded, DecodePool
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.records import InputSpec
from xray_batch.resources import available_memory
from xray_batch.settings import Settings
from xray_batch.training.dataset import LabelledImage

#: How often a training holds each picture in float32: as it was decoded, once more on its side of the split, and twice
#: while the standard deviation of that side is taken in float64.
_COPIES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How many workers decode, and what each may use."""

    workers: int
    limits: WorkerLimits

    @classmethod
    def from_settings(cls, settings: Settings) -> "Decoding":
        """Decode as the service does."""
        return cls(workers=settings.decode_workers, limits=WorkerLimits.from_settings(settings))


def picture_spec(spec: InputSpec) -> InputSpec:
    """Return the same preprocessing but for the last step: what is made by it is in [0, 1]."""
    return replace(spec, mean=0.0, std=1.0)


def whole_film_spec(spec: InputSpec, rows: int, columns: int) -> InputSpec:
    """Return the same preprocessing at another size, with nothing taken away."""
    return replace(spec, rows=rows, columns=columns, trim_borders=False, stretch=None, smooth=False)


def check_memory(images: Sequence[LabelledImage], spec: InputSpec, *, afterwards: int) -> None:
    """Refuse, before anything is decoded, more pictures than a training could hold in memory.

    Parameters
    ----------
    afterwards
        Bytes that what follows when the members are trained takes, beside the pictures as they were decoded.

    Raises
    ------
    TrainingDataError
        If they take more than is available; the message says how much, and what to do.
    """
    pictures, available = len(images) * spec.rows * spec.columns * 4, available_memory()
    needed = max(_COPIES * pictures, pictures + afterwards)
    if needed > available:
        message = (
            f"{len(images)} images of {spec.rows} x {spec.columns} pixels take {needed / 2**30:.1f} GiB of memory in a "
            f"training, and {available / 2**30:.1f} GiB are available; let the stages end at a smaller side, or list "
            "fewer images"
        )
        raise TrainingDataError(message)


def load_pixels(
    images: Sequence[LabelledImage], spec: InputSpec, *, decoding: Decoding, progress: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    """Make the picture of every image as the service does, but for its mean and standard deviation.

    Parameters
    ----------
    spec
        Its mean and standard deviation are not used.

    Returns
    -------
    numpy.ndarray
        Shape (N, spec.rows, spec.columns), float32 in [0, 1], MONOCHROME2; not standardized.

    Raises
    ------
    TrainingDataError
        If images cannot be decoded; the message counts them, and names the first and what is wrong with it.
    DecoderDiedError
        If workers cannot even be started.
    """
    pixels = np.empty((len(images), spec.rows, spec.columns), dtype=np.float32)
    refused: dict[int, str] = {}
    with DecodePool[int](min(decoding.workers, len(images)), picture_spec(spec), decoding.limits) as pool:
        for index, image in enumerate(images):
            pool.submit(index, image.path)
        for decoded in pool.drain():
            if decoded.pixels is None:
                refused[decoded.job] = _what_is_wrong(decoded)
            else:
                pixels[decoded.job] = decoded.pixels
            progress(1)
    if refused:
        first = min(refused)
        message = (
            f"{len(refused)} of {len(images)} images cannot be used for training, "
            f"the first is {images[first].path}: {refused[first]}"
        )
        raise TrainingDataError(message)
    return pixels


def _what_is_wrong(decoded: Decoded[int]) -> str:
    rejection = decoded.reply.rejection
    if rejection is None:
        return decoded.reply.cause or f"decoding ended with {decoded.reply.failure}"
    return f"{rejection.reason} ({rejection.reason_code})"
