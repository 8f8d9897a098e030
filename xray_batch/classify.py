"""Classify model inputs: batches on the device, logits, gate, calibrated probabilities, heat, verdict.

Fourth stage: intake -> decode -> standardize -> classify -> store.
May import: torch, numpy, and ``bundle``, ``cuda_graph``, ``gate``, ``heat_map``, ``networks``, ``resnet``,
``settings``, ``errors`` and ``records`` of this package.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from xray_batch.bundle import Bundle, Manifest
from xray_batch.cuda_graph import RecordedPass
from xray_batch.errors import DeviceMemoryError, DeviceUnusableError, ReasonCode
from xray_batch.gate import Judgement
from xray_batch.heat_map import make_heat_map, pneumonia_heat, thorax_shares
from xray_batch.networks import for_inference, forward_with_features
from xray_batch.records import Finding, HeatMap, ModelInput, Outcome, Prediction, Rejection, Scaling
from xray_batch.resnet import ResNet
from xray_batch.settings import DeviceName, PrecisionName, Settings

#: The answer to a picture that the networks give no finite numbers for, where nobody tries again.
NOT_FINITE: Final = Rejection(
    reason_code=ReasonCode.ATTEMPTS_EXHAUSTED, reason="The networks give no finite numbers for the picture."
)

#: From a batch of images to tensors with a row for each.
Forward: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Instructions of CPUs that oneDNN computes in bfloat16 with, each with other last bits; torch calls such CPUs AVX512.
_BFLOAT16_INSTRUCTIONS: Final = ("avx512_bf16", "amx_bf16")


def select_device(name: DeviceName) -> torch.device:
    """Choose where the networks run; `auto` is a CUDA GPU where there is one.

    Raises
    ------
    DeviceUnusableError
        If `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        message = "device is 'cuda', but no CUDA GPU can be used; set it to 'auto' or 'cpu'"
        raise DeviceUnusableError(message)
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
    capabilities = torch.cpu.get_capabilities()
    more = [name.upper() for name in _BFLOAT16_INSTRUCTIONS if capabilities.get(name)]
    instructions = " ".join([torch.backends.cpu.get_cpu_capability(), *more])
    return f"{device.type} {instructions}, {torch.get_num_threads()} threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything that the ensemble says about one picture."""

    prediction: Prediction
    judgement: Judgement
    heat_map: HeatMap


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What one pass of N images through the members gave."""

    answers: list[tuple[Prediction, Judgement]]
    probabilities: npt.NDArray[np.float64]  #: shape (members, N, classes), before calibration
    heat: list[npt.NDArray[np.float64]]  #: of each member, shape (N, rows, columns) of its last stage
    images: int  #: that the kernels ran with: N on a CPU, on a GPU the size of the recorded pass


@dataclass(frozen=True, slots=True)
class _Members:
    """The members in one pass; they know of no ensemble, so that its memory is freed with the last who holds it."""

    networks: Sequence[ResNet]
    grids: Sequence[int | None]  #: of the features of each; None where nobody wants them

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give logits, features and class maps of the first member, then of the next."""
        runs = (
            forward_with_features(network, images, grid)
            for network, grid in zip(self.networks, self.grids, strict=True)
        )
        return tuple(chain.from_iterable(runs))


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
        self._architectures = [member.architecture for member in self.manifest.members]
        self._gate_member = self._architectures.index(self.manifest.gate.architecture)
        networks = bundle.load_networks()
        grids = [self.manifest.gate.grid if index == self._gate_member else None for index in range(len(networks))]
        try:
            # Held here too: what is recorded reads the weights where they are, and does not keep them.
            self._members = _Members([for_inference(network, device, dtype) for network in networks], grids)
            self._forward: Forward = placed(self._members, device, dtype)
            if device.type == "cuda":
                self._forward = self._record()
        except RuntimeError as error:  # no memory left, a driver that does not fit, a GPU that fell off the bus
            message = f"the model cannot be put on device {device.type!r}: {str(error).splitlines()[0]}; try 'cpu'"
            raise DeviceUnusableError(message) from error

    @classmethod
    def from_settings(cls, bundle: Bundle, settings: Settings, *, batch_size: int | None = None) -> Self:
        """Load a bundle onto the device and in the precision of the settings, for batches of their size if not given.

        Raises
        ------
        BundleError
            If a file of the bundle differs from its hash or holds something else.
        DeviceUnusableError
            If the device cannot be used.
        """
        device = select_device(settings.device)
        dtype = select_dtype(settings.precision, device)
        return cls(bundle, device=device, dtype=dtype, batch_size=batch_size or settings.batch_size)

    def _record(self) -> RecordedPass:
        """Record the members for the GPU; fewer images are run at once where it has not the memory for more."""
        spec = self.manifest.input_spec
        recorded = RecordedPass(
            self._members,
            images=self.batch_size,
            rows=spec.rows,
            columns=spec.columns,
            device=self.device,
            dtype=self.dtype,
        )
        self.batch_size = recorded.images
        return recorded

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
        return [answer for answer, _ in self.answer(inputs)]

    def answer(self, inputs: Sequence[ModelInput]) -> list[tuple[Prediction | Rejection, int]]:
        """Do as :meth:`predict`, and tell of each how many images its pass had: fewer where memory is short."""
        return [
            (judgement.rejection or prediction, found.images)
            for found in self._passes(inputs)
            for prediction, judgement in found.answers
        ]

    def examine(self, inputs: Sequence[ModelInput]) -> list[tuple[Prediction, Judgement]]:
        """Classify images and judge them; :meth:`predict` makes the two one answer."""
        return [answer for found in self._passes(inputs) for answer in found.answers]

    def examine_members(self, inputs: Sequence[ModelInput]) -> tuple[npt.NDArray[np.float64], list[Judgement]]:
        """Run every member over one image or more, and judge them; nothing is calibrated yet.

        Returns
        -------
        tuple
            Probabilities of shape (members, N, classes), each row summing to 1, in the manifest's order of
            members and classes; and what the gate says of each image.

        Raises
        ------
        DeviceMemoryError, FloatingPointError
            As :meth:`predict`.
        """
        passes = self._passes(inputs)
        probabilities = np.concatenate([found.probabilities for found in passes], axis=1)
        return probabilities, [judgement for found in passes for _, judgement in found.answers]

    def explain(self, model_input: ModelInput) -> Explanation:
        """Classify and judge one image, and tell where the members find what raises P(pneumonia).

        Raises
        ------
        DeviceMemoryError, FloatingPointError
            As :meth:`predict`.
        """
        (found,) = self._passes([model_input])
        return Explanation(
            prediction=found.answers[0][0],
            judgement=found.answers[0][1],
            heat_map=make_heat_map([heat[0] for heat in found.heat], *model_input.pixels.shape),
        )

    def _passes(self, inputs: Sequence[ModelInput]) -> list[_Pass]:
        """Run all inputs at once, or halves of them where the device has not the memory."""
        if not inputs:
            return []
        try:
            return [self._pass(inputs)]
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                message = f"device {self.device.type!r} has no memory left for one image"
                raise DeviceMemoryError(message) from error
        middle = len(inputs) // 2
        return [*self._passes(inputs[:middle]), *self._passes(inputs[middle:])]

    def _pass(self, inputs: Sequence[ModelInput]) -> _Pass:
        pixels = np.stack([model_input.pixels for model_input in inputs])
        outputs = run_batches(self._forward, pixels, batch_size=self.batch_size)
        runs = list(zip(outputs[0::3], outputs[1::3], outputs[2::3], strict=True))
        probabilities = np.stack([softmax(logits) for logits, _, _ in runs])
        features = runs[self._gate_member][1]
        pooled = pool(probabilities, self.manifest.scaling, self.manifest.classes)
        if not np.isfinite(pooled).all() or not np.isfinite(features).all():
            message = "the networks gave no finite numbers"
            raise FloatingPointError(message)
        normal = self.manifest.classes.index(Finding.NORMAL)
        p_normal = probabilities[:, :, normal]
        heat = [pneumonia_heat(class_maps, logits, normal) for logits, _, class_maps in runs]
        judgements = self._gate.judge(features.astype(np.float32), [model_input.sharpness for model_input in inputs])
        answers = [
            (self._prediction(*found), found[-1])
            for found in zip(
                inputs, pooled, p_normal.T, thorax_shares(heat, *pixels.shape[1:]), judgements, strict=True
            )
        ]
        images = self.batch_size if self.device.type == "cuda" else min(len(inputs), self.batch_size)
        return _Pass(answers=answers, probabilities=probabilities, heat=heat, images=images)

    def _prediction(
        self,
        model_input: ModelInput,
        probabilities: npt.NDArray[np.float64],
        p_normal: npt.NDArray[np.float64],
        heat_in_thorax: float | None,
        judgement: Judgement,
    ) -> Prediction:
        by_finding = dict(zip(self.manifest.classes, probabilities.tolist(), strict=True))
        disagreement = float(np.ptp(p_normal))
        return Prediction(
            outcome=decide_outcome(self.manifest, 1.0 - by_finding[Finding.NORMAL], disagreement),
            probabilities=by_finding,
            disagreement=disagreement,
            threshold_low=self.manifest.threshold_low,
            threshold_high=self.manifest.threshold_high,
            heat_in_thorax=heat_in_thorax,
            member_probabilities=dict(zip(self._architectures, (1.0 - p_normal).tolist(), strict=True)),
            input_mean=model_input.input_mean,
            input_std=model_input.input_std,
            warnings=judgement.warnings,
        )


def decide_outcome(manifest: Manifest, p_pneumonia: float, disagreement: float) -> Outcome:
    """Say what a probability comes to, by the thresholds of a bundle.

    Parameters
    ----------
    p_pneumonia
        Calibrated, 0 to 1.
    disagreement
        Largest minus smallest P(pneumonia) among the members, before calibration, 0 to 1.
    """
    if disagreement > manifest.disagreement_limit:
        return Outcome.INDETERMINATE
    if p_pneumonia >= manifest.threshold_high:
        return Outcome.PNEUMONIA
    if p_pneumonia < manifest.threshold_low:
        return Outcome.NORMAL
    return Outcome.INDETERMINATE


def placed(forward: Forward, device: torch.device, dtype: torch.dtype) -> Forward:
    """Return a forward pass that takes its images from the CPU, as float32, and puts them where they are wanted."""
    return lambda images: forward(images.to(device=device, dtype=dtype, memory_format=torch.channels_last))


def run_batches(forward: Forward, pixels: npt.NDArray[np.float32], *, batch_size: int) -> list[npt.NDArray[np.float64]]:
    """Run a network over images, in batches.

    Parameters
    ----------
    forward
        Takes float32 (N, 1, rows, columns) on the CPU and gives tensors with N rows each, on any device.
    pixels
        Shape (N, rows, columns), standardized.

    Returns
    -------
    list of numpy.ndarray
        What `forward` gives, for all images, float64.
    """
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            found = forward(torch.from_numpy(pixels[start : start + batch_size, None]))
            parts.append([tensor.cpu().double().numpy() for tensor in found])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logits to probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def pool(members: npt.NDArray[np.float64], scaling: Scaling, classes: Sequence[Finding]) -> npt.NDArray[np.float64]:
    """Average the members' probabilities, then calibrate the average by one temperature and one shift.

    Pooling comes first: calibrated members make an under-confident ensemble (Rahaman and Thiery,
    "Uncertainty Quantification and Deep Ensembles", 2020, arXiv 2007.08792).  The shift is that of the log odds
    of pneumonia (Platt, "Probabilistic Outputs for Support Vector Machines", 1999); the kinds of pneumonia keep
    their shares among themselves.

    Parameters
    ----------
    members
        Shape (members, N, classes), each row summing to 1.
    classes
        In the order of the last axis.

    Returns
    -------
    numpy.ndarray
        Shape (N, classes), each row summing to 1.
    """
    average = members.mean(axis=0)
    logits = np.log(np.maximum(average, np.finfo(np.float64).tiny)) / scaling.temperature
    logits[:, classes.index(Finding.NORMAL)] -= scaling.shift
    return softmax(logits)
