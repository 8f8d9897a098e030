"""Two other ways to do the same work, as they are written when nothing but the libraries is at hand.

Both read a DICOM file with pydicom and a picture with Pillow, apply Modality LUT and VOI LUT with pydicom, resize
with Pillow and run the members of the bundle in float32.  They have no gate, no heat map, no database, and no
protection from broken files.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from torch import nn
from torch.utils.data import DataLoader, Dataset

from xray_batch.bundle import Bundle
from xray_batch.classify import select_device
from xray_batch.networks import place
from xray_batch.records import InputSpec
from xray_batch.settings import Settings


def read_film(path: Path, spec: InputSpec) -> npt.NDArray[np.float32]:
    """Return a film resized and standardized, shape (spec.rows, spec.columns); by the smallest and largest pixel."""
    if path.suffix == ".dcm":
        dataset = dcmread(path)
        pixels = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float32)
    else:
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(np.float32)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    small = Image.fromarray(pixels).resize((spec.columns, spec.rows), Image.Resampling.BILINEAR)
    return (np.asarray(small) - np.float32(spec.mean)) / np.float32(spec.std)


class _Networks:
    """The members of a bundle as they were trained."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._device = select_device(settings.device)
        self._networks: list[nn.Module] = [place(network, self._device) for network in bundle.load_networks()]

    def probabilities(self, inputs: torch.Tensor) -> list[list[float]]:
        """Return the mean of the members' probabilities, for inputs of shape (N, 1, rows, columns)."""
        with torch.inference_mode():
            logits = [network(inputs.to(self._device)) for network in self._networks]
            means: list[list[float]] = torch.stack(logits).softmax(dim=-1).mean(dim=0).tolist()
        return means


@contextmanager
def naive_loop(bundle: Bundle, settings: Settings) -> Iterator[Callable[[Sequence[Path]], int]]:
    """Classify one film after the other, in one process; see :data:`xray_batch.bench.contender.Contender`."""
    spec, networks = bundle.manifest.input_spec, _Networks(bundle, settings)

    def classify(paths: Sequence[Path]) -> int:
        found: list[list[float]] = []
        for path in paths:
            found += networks.probabilities(torch.from_numpy(read_film(path, spec))[None, None])
        return len(found)

    yield classify


class _Films(Dataset[npt.NDArray[np.float32]]):
    """Films by their paths."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec

    def __getitem__(self, path: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401 - torch types the key as a number
        return read_film(path, self._spec)[None]


@contextmanager
def data_loader_loop(bundle: Bundle, settings: Settings) -> Iterator[Callable[[Sequence[Path]], int]]:
    """Classify with torch's DataLoader, as many worker processes and as large batches as the pipeline's."""
    networks = _Networks(bundle, settings)
    todo: list[Any] = []  # the sampler, filled anew for each pass; torch wants numbers, and takes what comes
    loader = DataLoader(
        _Films(bundle.manifest.input_spec),
        batch_size=settings.batch_size,
        sampler=todo,
        num_workers=settings.decode_workers,
        persistent_workers=True,
    )

    def classify(paths: Sequence[Path]) -> int:
        todo[:] = paths
        found: list[list[float]] = []
        for inputs in loader:
            found += networks.probabilities(inputs)
        return len(found)

    yield classify
