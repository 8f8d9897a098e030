"""The ensemble, timed on each device and in each precision."""

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Final

import numpy as np

from xray_batch.bench.measures import ForwardTimes, Times
from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble, select_device, select_dtype
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.errors import ConfigurationError, RejectedInputError
from xray_batch.records import InputSpec, ModelInput
from xray_batch.settings import DeviceName, PrecisionName, Settings
from xray_batch.standardize import prepare

_PRECISIONS: Final[tuple[PrecisionName, ...]] = ("float32", "bfloat16")


def prepare_samples(spec: InputSpec) -> list[ModelInput]:
    """Prepare the packaged sample films that are not refused for their header."""
    prepared = []
    for path in sorted(sample_files().iterdir()):
        try:
            prepared.append(prepare(decode_file(path), spec))
        except RejectedInputError:  # some of the samples are there to be refused
            continue
    return prepared


def devices(settings: Settings) -> list[DeviceName]:
    """Name the devices to measure: the CPU, and a CUDA GPU where there is one and the settings allow it."""
    if settings.device == "cpu":
        return ["cpu"]
    try:
        select_device("cuda")
    except ConfigurationError:
        return ["cpu"]
    return ["cpu", "cuda"]


def count_forwards(settings: Settings) -> int:
    """Tell how many measurements :func:`measure_forward` makes."""
    return len(devices(settings)) * len(_PRECISIONS) * len(_batches(settings))


def _batches(settings: Settings) -> list[int]:
    return sorted({1, settings.batch_size})


def measure_forward(bundle: Bundle, settings: Settings, repeats: int) -> Iterator[ForwardTimes]:
    """Time the ensemble with one image, and with as many as the settings allow, `repeats` times each.

    What is timed is what the service does with a batch: to the device, the members, the gate, heat and
    calibration, and back.
    """
    films = prepare_samples(bundle.manifest.input_spec)
    reference: list[float] | None = None
    for name in devices(settings):
        device = select_device(name)
        for precision in _PRECISIONS:
            dtype = select_dtype(precision, device)
            ensemble = Ensemble(bundle, device=device, dtype=dtype, batch_size=settings.batch_size)
            found = [prediction.p_pneumonia for prediction, _ in ensemble.examine(films)]
            reference = reference or found
            drift = np.abs(np.subtract(found, reference))
            for images in _batches(settings):
                wall, cpu = _time_batches(ensemble, list(islice(cycle(films), images)), repeats)
                image = Times.of([seconds / images for seconds in wall])
                yield ForwardTimes(
                    device=name,
                    precision=precision,
                    batch_images=images,
                    image=image,
                    images_per_second=1000 / image.median_ms,
                    core_ms=1000 * statistics.median(cpu) / images,
                    drift_max=float(drift.max()),
                    drift_mean=float(drift.mean()),
                )


def _time_batches(ensemble: Ensemble, batch: Sequence[ModelInput], repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds and the CPU seconds of each repeat, after one that does not count."""
    ensemble.predict(batch)
    wall, cpu = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        ensemble.predict(batch)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return wall, cpu
