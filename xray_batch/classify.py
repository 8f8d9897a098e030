"""Classify model inputs: batches on the device, logits, gate, calibrated probabilities, verdict.

Fourth stage: intake -> decode -> standardize -> classify -> store.
May import: torch, numpy, and ``bundle``, ``gate``, ``networks``, ``settings``, ``errors`` and ``records`` of this
package.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from xray_batch.bundle import Bundle
from xray_batch.errors import ConfigurationError, DeviceMemoryError
from xray_batch.gate import Judgement
from xray_batch.networks import forward_with_features
from xray_batch.records import Finding, ModelInput, Outcome, Prediction, Rejection
from xray_batch.settings import DeviceName, PrecisionName

N = TypeVar("N", bound=nn.Module)

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def select_device(name: DeviceName) -> torch.device:
    """Choose where the networks run; `auto` is a CUDA GPU where there is one.

    Raises
    ------
    ConfigurationError
        If `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        message = "device is 'cuda', but no CUDA GPU can be used; set it to 'auto' or 'cpu'"
        raise ConfigurationError(message)
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")


def select_dtype(name: PrecisionName, device: torch.device) -> torch.dtype:
    """Choose the precision of the convolutions; `auto` is bfloat16 where that is faster than float32.

    That is on GPUs and on CPUs with matrix units (AMX) or with AMD's full-rate AVX-512 BF16.  Intel CPUs
    without AMX have the same instructions at half the rate of float32.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    full_rate = str(capabilities.get("cpu_name", "")).startswith("AMD") and capabilities.get("avx512_bf16")
    return torch.bfloat16 if capabilities.get("amx_bf16") or full_rate else torch.float32


def describe_device(device: torch.device) -> str:
    """Name what decides the last bits of a result on `device`: the GPU, or the instructions and threads of the CPU."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


class Ensemble:
    """The members of a bundle on one device.

    Parameters
    ----------
    bundle
        Checked; its weights are loaded here.
    device, dtype
        From :func:`select_device` and :func:`select_dtype`.
    batch_size
        Images in one forward pass at most.
    """

    def __init__(self, bundle: Bundle, *, device: torch.device, dtype: torch.dtype, batch_size: int) -> None:
        self.manifest = bundle.manifest
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self._gate = bundle.load_gate()
        architectures = [member.architecture for member in self.manifest.members]
        self._gate_member = architectures.index(self.manifest.gate.architecture)
        networks = bundle.load_networks()
        try:
            self._networks = [place(network, device) for network in networks]
        except RuntimeError as error:  # no memory left, a driver that does not fit, a GPU that fell off the bus
            message = f"the model cannot be put on device {device.type!r}: {str(error).splitlines()[0]}; try 'cpu'"
            raise ConfigurationError(message) from error

    def predict(self, inputs: Sequence[ModelInput]) -> list[Prediction | Rejection]:
        """Classify images, or refuse those that look like no upright chest film, in the order of the inputs.

        Each input's ``pixels`` has the shape (rows, columns) of the manifest.  Where the device has not the
        memory for all, halves are tried.

        Raises
        ------
        DeviceMemoryError
            If it has not the memory for one.
        FloatingPointError
            If the networks give no finite numbers.
        """
        return [judgement.rejection or prediction for prediction, judgement in self.examine(inputs)]

    def examine(self, inputs: Sequence[ModelInput]) -> list[tuple[Prediction, Judgement]]:
        """Classify images and judge them; :meth:`predict` makes the two one answer."""
        if not inputs:
            return []
        probabilities, judgements = self.examine_members(inputs)
        pooled = pool(probabilities, self.manifest.temperature)
        normal = self.manifest.classes.index(Finding.NORMAL)
        disagreement = np.ptp(probabilities[:, :, normal], axis=0)
        return [
            (self._prediction(pooled[i], float(disagreement[i]), judgement), judgement)
            for i, judgement in enumerate(judgements)
        ]

    def examine_members(self, inputs: Sequence[ModelInput]) -> tuple[npt.NDArray[np.float64], list[Judgement]]:
        """Run every member over one image or more, and judge them; nothing is calibrated yet.

        Returns
        -------
        tuple
            Probabilities of shape (members, N, classes), each row summing to 1, in the manifest's order of
            members and classes; and what the gate says of each image.

        Raises
        ------
        DeviceMemoryError
            If the device has not the memory for one image.
        FloatingPointError
            If the networks give no finite numbers.
        """
        try:
            return self._run_members(inputs)
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                message = f"device {self.device.type!r} has no memory left for one image"
                raise DeviceMemoryError(message) from error
        middle = len(inputs) // 2
        first, second = self.examine_members(inputs[:middle]), self.examine_members(inputs[middle:])
        return np.concatenate([first[0], second[0]], axis=1), [*first[1], *second[1]]

    def _run_members(self, inputs: Sequence[ModelInput]) -> tuple[npt.NDArray[np.float64], list[Judgement]]:
        pixels = np.stack([model_input.pixels for model_input in inputs])
        grid = self.manifest.gate.grid
        # The features of the other members come with their logits at no cost, and are left.
        runs = [self._run(partial(forward_with_features, network, grid=grid), pixels) for network in self._networks]
        probabilities = np.stack([softmax(logits) for logits, _ in runs])
        features = runs[self._gate_member][1]
        if not np.isfinite(probabilities).all() or not np.isfinite(features).all():
            message = "the networks gave no finite numbers"
            raise FloatingPointError(message)
        sharpness = [model_input.sharpness for model_input in inputs]
        return probabilities, self._gate.judge(features.astype(np.float32), sharpness)

    def _run(
        self, forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], pixels: npt.NDArray[np.float32]
    ) -> list[npt.NDArray[np.float64]]:
        return run_batches(forward, pixels, device=self.device, dtype=self.dtype, batch_size=self.batch_size)

    def _prediction(
        self, probabilities: npt.NDArray[np.float64], disagreement: float, judgement: Judgement
    ) -> Prediction:
        by_finding = dict(zip(self.manifest.classes, probabilities.tolist(), strict=True))
        return Prediction(
            outcome=self._outcome(1.0 - by_finding[Finding.NORMAL], disagreement),
            probabilities=by_finding,
            disagreement=disagreement,
            threshold_low=self.manifest.threshold_low,
            threshold_high=self.manifest.threshold_high,
            warnings=judgement.warnings,
        )

    def _outcome(self, p_pneumonia: float, disagreement: float) -> Outcome:
        if disagreement > self.manifest.disagreement_limit:
            return Outcome.INDETERMINATE
        if p_pneumonia >= self.manifest.threshold_high:
            return Outcome.PNEUMONIA
        if p_pneumonia < self.manifest.threshold_low:
            return Outcome.NORMAL
        return Outcome.INDETERMINATE


def place(network: N, device: torch.device) -> N:
    """Move a network to `device`, in the memory format that its convolutions are fastest in."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return] # not in torch's stubs


def run_batches(
    forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    pixels: npt.NDArray[np.float32],
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
) -> list[npt.NDArray[np.float64]]:
    """Run a network over images, in batches.

    Parameters
    ----------
    forward
        Takes (N, 1, rows, columns) on `device` and gives tensors with N rows: the network itself, or more.
    pixels
        Shape (N, rows, columns), standardized.

    Returns
    -------
    list of numpy.ndarray
        What `forward` gives, for all images, float64.
    """
    parts = []
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), autocast:
        for start in range(0, len(pixels), batch_size):
            batch = torch.from_numpy(pixels[start : start + batch_size, None]).to(device)
            found = forward(batch.contiguous(memory_format=torch.channels_last))
            parts.append([tensor.double().cpu().numpy() for tensor in found])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def predict_logits(
    network: nn.Module,
    pixels: npt.NDArray[np.float32],
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """Run one network over images, in batches.

    Parameters
    ----------
    network
        On `device`, in evaluation mode.
    pixels
        Shape (N, rows, columns), standardized.

    Returns
    -------
    numpy.ndarray
        Logits of shape (N, classes), float64.
    """
    (logits,) = run_batches(lambda batch: (network(batch),), pixels, device=device, dtype=dtype, batch_size=batch_size)
    return logits


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logits to probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def pool(members: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Average the members' probabilities, then calibrate the average by one temperature.

    Pooling comes first: calibrated members make an under-confident ensemble (Rahaman and Thiery,
    "Uncertainty Quantification and Deep Ensembles", 2020, arXiv 2007.08792).

    Parameters
    ----------
    members
        Shape (members, N, classes), each row summing to 1.

    Returns
    -------
    numpy.ndarray
        Shape (N, classes), each row summing to 1.
    """
    average = members.mean(axis=0)
    return softmax(np.log(np.maximum(average, np.finfo(np.float64).tiny)) / temperature)
