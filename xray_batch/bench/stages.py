"""The steps of a decode worker, timed one by one in this process."""

import hashlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xray_batch.bench.films import Encoding, Film
from xray_batch.bench.measures import StageTimes, Times
from xray_batch.decode import open_content, read_file, transfer_syntaxes
from xray_batch.libraries import versions
from xray_batch.records import InputSpec
from xray_batch.standardize import prepare


class _Laps(NamedTuple):
    """Seconds of one film's steps, and the CPU seconds of all of them."""

    read: float
    decode: float
    render: float
    resize: float
    cpu: float


def measure_stages(
    encoding: Encoding, films: Sequence[Film], folder: Path, spec: InputSpec, repeats: int
) -> StageTimes:
    """Time the steps from file to model input; each film `repeats` times, after one time that does not count.

    Parameters
    ----------
    folder
        Where the films are written; they are read again and again, so from memory rather than from disk.
    """
    paths = [film.write(folder, encoding) for film in films]
    for path in paths:
        _time_steps(path, spec)
    laps = [_time_steps(path, spec) for _ in range(repeats) for path in paths]
    return StageTimes(
        encoding=encoding.name,
        transfer_syntax_uid=encoding.transfer_syntax_uid,
        decoder=_decoder(encoding),
        file_bytes=round(statistics.mean(path.stat().st_size for path in paths)),
        read=Times.of([lap.read for lap in laps]),
        decode=Times.of([lap.decode for lap in laps]),
        render=Times.of([lap.render for lap in laps]),
        resize=Times.of([lap.resize for lap in laps]),
        core_ms=1000 * statistics.median(lap.cpu for lap in laps),
    )


def _time_steps(path: Path, spec: InputSpec) -> _Laps:
    """Take the steps of :func:`xray_batch.pipeline.worker.answer`."""
    cpu, start = time.process_time(), time.perf_counter()
    content = read_file(path)
    hashlib.sha256(content)
    source = open_content(content)
    source.check_intended_use()
    opened = time.perf_counter()
    render = source.decode()
    decoded = time.perf_counter()
    image = render()
    rendered = time.perf_counter()
    prepare(image, spec)
    end = time.perf_counter()
    return _Laps(opened - start, decoded - opened, rendered - decoded, end - rendered, time.process_time() - cpu)


def _decoder(encoding: Encoding) -> str:
    """Name what reads an encoding here."""
    if encoding.transfer_syntax_uid is None:
        return f"Pillow {versions('pillow')['pillow']}"
    decoders = (syntax.decoder for syntax in transfer_syntaxes() if syntax.uid == encoding.transfer_syntax_uid)
    return next(decoders, "none")
