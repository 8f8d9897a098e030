"""The pipeline on a mix of files, in turn with two other ways to do the same work."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from xray_batch.bench.contender import CONTENDERS, OUTCOME, PIPELINE, TASK, Outcome, Task, precision_of
from xray_batch.bench.measures import Ceiling, EndToEnd, ForwardTimes, StageTimes
from xray_batch.bench.usage import MemoryPeak
from xray_batch.bundle import Bundle
from xray_batch.errors import BenchmarkError
from xray_batch.pipeline.environment import WAIT_POLICY
from xray_batch.settings import Settings

#: Shares of the encodings, in percent; a mix of old and new systems, photographs and exports.
MIX: Final[Mapping[str, int]] = {
    "Explicit VR Little Endian": 40,
    "JPEG 2000 Lossless": 30,
    "JPEG": 20,
    "PNG, 8 bits": 10,
}


def find_ceiling(
    stages: Sequence[StageTimes], forwards: Sequence[ForwardTimes], settings: Settings, device: str, cores: int
) -> Ceiling:
    """Calculate what the cores could do with :data:`MIX`, from what its parts take one by one.

    A second of a core is 1000 core-ms; so many images fit into the seconds of all cores.  A GPU may allow less.

    Parameters
    ----------
    device
        Type of the device that the pipeline runs on: `cpu` or `cuda`.
    """
    by_name = {stage.encoding: stage.core_ms for stage in stages}
    preprocess = sum(by_name[name] * share for name, share in MIX.items()) / 100
    (forward,) = (
        found
        for found in forwards
        if found.device == device
        and found.precision == precision_of(PIPELINE, settings)
        and found.batch_images == settings.batch_size
    )
    of_cores = cores * 1000 / (preprocess + forward.core_ms)
    return Ceiling(
        cores=cores,
        preprocess_core_ms=preprocess,
        forward_core_ms=forward.core_ms,
        images_per_second=of_cores if device == "cpu" else min(of_cores, forward.images_per_second),
    )


def measure_end_to_end(
    files: Sequence[Path],
    warm_up: Sequence[Path],
    bundle: Bundle,
    settings: Settings,
    ceiling: Ceiling,
    rounds: int,
    on_run: Callable[[], None] = lambda: None,
) -> list[EndToEnd]:
    """Let the contenders classify the same files in turn, `rounds` times: what else the machine does hits all alike.

    Parameters
    ----------
    warm_up
        Files that each of them has classified before the clock starts; other bytes than those of `files`.
    on_run
        Called after each of ``rounds * len(CONTENDERS)`` runs.

    Raises
    ------
    BenchmarkError
        If one of them ends without an outcome.
    """
    found: dict[str, list[tuple[Outcome, int]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            with tempfile.TemporaryDirectory(prefix="xray-batch-bench-home-") as home:
                own = {"home": Path(home), "database_url": None, "database_url_file": None}
                task = Task(
                    contender=name,
                    bundle=bundle.folder.absolute(),
                    settings=settings.model_copy(update=own),
                    warm_up=tuple(warm_up),
                    files=tuple(files),
                )
                found[name].append(_run(task))
                on_run()
    return [_sum_up(name, outcomes, len(files), settings, ceiling) for name, outcomes in found.items()]


def _run(task: Task) -> tuple[Outcome, int]:
    """Run a task in a process of its own; return its outcome, and the most memory that it took, in bytes."""
    command = [sys.executable, "-P", "-m", "xray_batch.bench.contender"]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment_of(task.contender)) as process,
        MemoryPeak(process.pid) as memory,
    ):
        output, errors = process.communicate(TASK.dump_json(task))
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        message = f"the contender {task.contender!r} ended with code {process.returncode}: {lines[-1]}"
        raise BenchmarkError(message)
    return OUTCOME.validate_json(output.strip().splitlines()[-1]), memory.largest


def environment_of(contender: str) -> dict[str, str]:
    """Return the variables of a contender: how threads wait is set for the pipeline, and left to torch for others."""
    return {name: value for name, value in os.environ.items() if name != WAIT_POLICY or contender == PIPELINE}


def _sum_up(
    name: str, outcomes: Sequence[tuple[Outcome, int]], files: int, settings: Settings, ceiling: Ceiling
) -> EndToEnd:
    speeds = [files / outcome.seconds for outcome, _ in outcomes]
    speed = statistics.median(speeds)
    return EndToEnd(
        contender=name,
        files=files,
        answers=min(outcome.answers for outcome, _ in outcomes),
        workers=0 if name == "naive loop" else settings.decode_workers,
        precision=outcomes[0][0].precision,
        images_per_second=speed,
        best_images_per_second=max(speeds),
        cpu_seconds=statistics.median(outcome.cpu_seconds for outcome, _ in outcomes),
        memory_bytes=max(memory for _, memory in outcomes),
        share_of_ceiling=speed / ceiling.images_per_second if name == PIPELINE else None,
    )
