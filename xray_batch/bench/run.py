"""The whole benchmark: films, steps, ensemble, end to end."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xray_batch.bench.contender import CONTENDERS
from xray_batch.bench.end_to_end import MIX, find_ceiling, measure_end_to_end
from xray_batch.bench.films import Film, encodings, make_films, write_mix
from xray_batch.bench.forward import count_forwards, measure_forward
from xray_batch.bench.measures import ForwardTimes, Machine, Report, StageTimes, WorklistTimes
from xray_batch.bench.stages import measure_stages
from xray_batch.bundle import Bundle
from xray_batch.classify import select_device
from xray_batch.pipeline.engine import check_fit
from xray_batch.settings import Settings

#: Announces a piece of work of so many steps; what it returns is called with the steps that are done.
Progress = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    files: int  #: in the mix
    repeats: int  #: of everything that is timed
    side: int  #: rows, and columns, of a film
    results: int  #: in the database of the worklist; 0: that is not measured


def run_benchmark(bundle: Bundle, settings: Settings, extent: Extent, machine: Machine, progress: Progress) -> Report:
    """Measure this machine; the films are in a temporary folder, and go with it.

    Parameters
    ----------
    machine
        From :func:`xray_batch.bench.machine.describe_machine`.

    Raises
    ------
    BundleError, ConfigurationError
        If the bundle does not fit this version, or the device cannot be used.
    BenchmarkError
        If a run from end to end fails.
    """
    check_fit(bundle)
    films = make_films(extent.side)
    with tempfile.TemporaryDirectory(prefix="xray-batch-bench-") as name:
        folder = Path(name)
        stages = _measure_stages(films, folder, bundle, extent, progress)
        forwards = _measure_forwards(bundle, settings, extent, progress)
        ceiling = find_ceiling(stages, forwards, settings, select_device(settings.device).type, machine.cores)
        warm_up = 2 * settings.decode_workers
        paths = _write_mix(films, folder, warm_up + extent.files)
        done = progress("end to end", extent.repeats * len(CONTENDERS))
        runs = measure_end_to_end(
            paths[warm_up:], paths[:warm_up], bundle, settings, ceiling, extent.repeats, lambda: done(1)
        )
    worklist = _measure_worklist(extent, progress) if extent.results else []
    return Report(
        machine=machine,
        side=extent.side,
        repeats=extent.repeats,
        mix=dict(MIX),
        stages=tuple(stages),
        forwards=tuple(forwards),
        ceiling=ceiling,
        runs=tuple(runs),
        worklist=tuple(worklist),
    )


def _measure_stages(
    films: Sequence[Film], folder: Path, bundle: Bundle, extent: Extent, progress: Progress
) -> list[StageTimes]:
    """Time the steps of every encoding; the files of one go before the next ones come."""
    ways = encodings()
    done = progress("decode", len(ways))
    stages = []
    for encoding in ways:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            spec = bundle.manifest.input_spec
            stages.append(measure_stages(encoding, films, Path(place), spec, extent.repeats))
        done(1)
    return stages


def _measure_forwards(bundle: Bundle, settings: Settings, extent: Extent, progress: Progress) -> list[ForwardTimes]:
    forwards = []
    done = progress("forward", count_forwards(settings))
    for times in measure_forward(bundle, settings, extent.repeats):
        forwards.append(times)
        done(1)
    return forwards


def _write_mix(films: Sequence[Film], folder: Path, files: int) -> list[Path]:
    shares = [(encoding, MIX[encoding.name]) for encoding in encodings() if encoding.name in MIX]
    return list(write_mix(folder, films, shares, files))


def _measure_worklist(extent: Extent, progress: Progress) -> list[WorklistTimes]:
    from xray_batch.bench.worklist import measure_worklist  # needs the extra `web`

    return list(measure_worklist(extent.results, extent.repeats, progress("worklist", extent.results)))
