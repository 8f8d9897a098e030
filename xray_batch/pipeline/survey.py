"""Survey of image files: what each is like, and all of them together, in constant memory."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.pipeline.pixel_facts import HISTOGRAM_BINS, PixelFacts, measure_pixels
from xray_batch.pipeline.pool import Decoded, DecodePool
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.records import InputSpec, SourceFormat
from xray_batch.settings import Settings

#: Why a file was not read where it may not be the file's fault; beside the reason codes.
FAILED: Final = "failed"

_WAIT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What one file is like, or why it was not read."""

    path: Path
    source_format: SourceFormat | None = None  #: None where the file could not be read that far
    bits: int | None = None  #: of a stored value
    rendered: PixelFacts | None = None  #: of the film, values in [0, 1]; None of a refused file
    model_input: PixelFacts | None = None  #: likewise, after resize and standardize, in SD of the training split
    reason_code: str | None = None  #: why it was refused, or :data:`FAILED`
    reason: str | None = None  #: one sentence for people; may quote the file


@dataclass(slots=True)
class PixelTotals:
    """Facts about the pixels of many images, kept as running sums.

    Mean and standard deviation are updated as by Chan, Golub and LeVeque 1979: no sum of squares that loses its
    digits over a hundred thousand films.
    """

    count: int = 0
    mean: float = 0.0
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    _deviations: float = 0.0  #: sum of squared distances from the mean

    @property
    def std(self) -> float:
        """Standard deviation of all pixels."""
        return (self._deviations / self.count) ** 0.5 if self.count else 0.0

    def add(self, facts: PixelFacts) -> None:
        """Take one more image in."""
        count = self.count + facts.count
        step = facts.mean - self.mean
        self._deviations += facts.count * facts.std**2 + step**2 * self.count * facts.count / count
        self.mean += step * facts.count / count
        self.count = count
        self.histogram += np.array(facts.histogram)


@dataclass(slots=True)
class Totals:
    """Facts about many files."""

    films: int = 0
    refused: Counter[str] = field(default_factory=Counter)  #: files that were not read, by reason code
    rows: tuple[int, int] | None = None  #: least and most
    columns: tuple[int, int] | None = None
    rendered: PixelTotals = field(default_factory=PixelTotals)
    model_input: PixelTotals = field(default_factory=PixelTotals)

    @property
    def files(self) -> int:
        """Every file seen."""
        return self.films + self.refused.total()

    def add(self, facts: FileFacts) -> None:
        """Take one more file in."""
        if facts.rendered is None or facts.model_input is None:
            self.refused[facts.reason_code or FAILED] += 1
            return
        self.films += 1
        self.rows = _widen(self.rows, facts.rendered.rows)
        self.columns = _widen(self.columns, facts.rendered.columns)
        self.rendered.add(facts.rendered)
        self.model_input.add(facts.model_input)


def survey_files(files: Iterable[Path], spec: InputSpec, settings: Settings) -> Iterator[FileFacts]:
    """Decode and measure files in decode workers, as `process` decodes them; yield their facts in their order.

    At most four files per worker are inside.  A zip archive is refused.

    Raises
    ------
    DecoderDiedError
        If workers cannot even be started.
    """
    limits = WorkerLimits.from_settings(settings)
    source = enumerate(files)
    done: dict[int, FileFacts] = {}
    outstanding, following, exhausted = 0, 0, False
    with DecodePool[tuple[int, Path]](settings.decode_workers, spec, limits, measure=True) as pool:
        while outstanding or done or not exhausted:
            while not exhausted and outstanding + len(done) < 4 * settings.decode_workers:
                number, path = next(source, (-1, Path()))
                exhausted = number < 0
                if exhausted:
                    break
                problem = _find_problem(path)
                if problem is None:
                    pool.submit((number, path), path)
                    outstanding += 1
                else:
                    done[number] = FileFacts(path=path, reason_code=FAILED, reason=problem)
            decoded = pool.take(_WAIT_SECONDS) if outstanding else None
            if decoded is not None:
                outstanding -= 1
                done[decoded.job[0]] = _describe(decoded, spec)
            while following in done:
                yield done.pop(following)
                following += 1


def _find_problem(path: Path) -> str | None:
    """Return why the system cannot open a file, None if it can."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))  # a named pipe must not block
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _describe(decoded: Decoded[tuple[int, Path]], spec: InputSpec) -> FileFacts:
    """Turn a worker's reply into facts."""
    reply, (_, path) = decoded.reply, decoded.job
    source_format = reply.header.source_format if reply.header else None
    if decoded.pixels is None:
        rejection = reply.rejection
        return FileFacts(
            path=path,
            source_format=source_format,
            reason_code=rejection.reason_code.value if rejection else FAILED,
            reason=rejection.reason if rejection else f"decoding ended with {reply.failure}",
        )
    return FileFacts(
        path=path,
        source_format=source_format,
        bits=reply.bits,
        rendered=reply.rendered,
        model_input=measure_pixels(decoded.pixels, *input_range(spec)),
    )


def input_range(spec: InputSpec) -> tuple[float, float]:
    """Return what black and white are in a model input, in SD of the training split."""
    return (0.0 - spec.mean) / spec.std, (1.0 - spec.mean) / spec.std


def _widen(ends: tuple[int, int] | None, value: int) -> tuple[int, int]:
    return (value, value) if ends is None else (min(ends[0], value), max(ends[1], value))
