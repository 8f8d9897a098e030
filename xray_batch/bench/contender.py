"""One way to do the work, timed in a process of its own: nothing of another's memory or threads is in its figures.

Started by :mod:`xray_batch.bench.end_to_end`, as ``python -P -m xray_batch.bench.contender``, with its task as JSON
on stdin; what it measured is the last line on stdout.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import TypeAdapter

from xray_batch.bench.baselines import data_loader_loop, naive_loop
from xray_batch.bench.usage import cpu_seconds
from xray_batch.bundle import Bundle
from xray_batch.classify import select_device, select_dtype
from xray_batch.pipeline.engine import Pipeline
from xray_batch.pipeline.in_place import process_in_place
from xray_batch.revisions import open_database
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Gives, once everything is loaded, what classifies files and returns how many have an answer.
Contender: TypeAlias = Callable[[Bundle, Settings], AbstractContextManager[Callable[[Sequence[Path]], int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a contender is to do."""

    contender: str  #: a name in :data:`CONTENDERS`
    bundle: Path
    settings: Settings  #: with a home folder of its own
    warm_up: tuple[Path, ...]  #: files classified before the clock starts
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a contender measured of itself."""

    answers: int
    seconds: float  #: from the first file to the last answer; everything was loaded and started before
    cpu_seconds: float  #: of all its processes in that time
    precision: str


TASK: Final = TypeAdapter(Task)
OUTCOME: Final = TypeAdapter(Outcome)


@contextmanager
def pipeline_loop(bundle: Bundle, settings: Settings) -> Iterator[Callable[[Sequence[Path]], int]]:
    """Classify as `xray-batch process` does, into a database in the home folder."""
    database = open_database(settings.resolved_database_url)
    with closing(Store(database)) as store, Pipeline(bundle, settings) as pipeline:

        def classify(paths: Sequence[Path]) -> int:
            summary = process_in_place(
                paths,
                pipeline,
                store,
                max_attempts=settings.max_attempts,
                on_answers=lambda answers: None,
                on_failure=lambda path, why: None,
            )
            return summary.files - summary.failed

        yield classify


PIPELINE: Final = "xray-batch"
CONTENDERS: Final[dict[str, Contender]] = {
    "naive loop": naive_loop,
    "DataLoader": data_loader_loop,
    PIPELINE: pipeline_loop,
}


def precision_of(contender: str, settings: Settings) -> str:
    """Name the precision that a contender runs the networks in: that of the settings is the pipeline's alone."""
    dtype = select_dtype(settings.precision, select_device(settings.device))
    return str(dtype).removeprefix("torch.") if contender == PIPELINE else "float32"


def run_task(task: Task) -> Outcome:
    """Do a task in this process."""
    with CONTENDERS[task.contender](Bundle(task.bundle), task.settings) as classify:
        classify(task.warm_up)
        cpu, start = cpu_seconds(os.getpid()), time.perf_counter()
        answers = classify(task.files)
        seconds = time.perf_counter() - start
        return Outcome(
            answers=answers,
            seconds=seconds,
            cpu_seconds=cpu_seconds(os.getpid()) - cpu,
            precision=precision_of(task.contender, task.settings),
        )


if __name__ == "__main__":
    sys.stdout.write("\n" + OUTCOME.dump_json(run_task(TASK.validate_json(sys.stdin.read()))).decode() + "\n")
