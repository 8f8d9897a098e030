"""What a benchmark measures; every field is a key of the JSON output."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long the same work took, several times."""

    median_ms: float
    best_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Sum up one repeat or more, each in seconds."""
        return cls(median_ms=1000 * statistics.median(seconds), best_ms=1000 * min(seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the figures were measured on."""

    cpu: str  #: as the kernel names it
    cores: int  #: that this process may use
    memory_bytes: int
    device: str  #: that the networks run on by the settings
    load_average: float | None  #: of the last minute, before anything was measured
    is_quiet: bool  #: less than half a core was busy
    python: str
    libraries: dict[str, str]  #: versions


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """From a file to the model input, in one process, per film of one encoding."""

    encoding: str
    transfer_syntax_uid: str | None  #: None: no DICOM
    decoder: str  #: what reads it here
    file_bytes: int  #: mean of the films
    read: Times  #: read, hash (SHA-256), parse the header, gate
    decode: Times  #: to stored values
    render: Times  #: Modality LUT, VOI LUT, polarity: to gray in [0, 1]
    resize: Times  #: and standardize: to the model input
    core_ms: float  #: CPU time of all four, median


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTimes:
    """From a batch of model inputs to answers."""

    device: str
    precision: str
    batch_images: int
    image: Times  #: per image
    images_per_second: float  #: median
    core_ms: float  #: CPU time per image, median
    drift_max: float  #: of P(pneumonia) from float32 on the CPU, over the packaged films
    drift_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the cores could do with the mix if none of them ever waited."""

    cores: int
    preprocess_core_ms: float  #: per image of the mix
    forward_core_ms: float  #: per image; on a GPU that of the process which feeds it
    images_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """From the files of the mix to their answers."""

    contender: str
    files: int
    answers: int
    workers: int  #: processes that decode
    precision: str
    images_per_second: float  #: median of the rounds
    best_images_per_second: float
    cpu_seconds: float  #: of all processes, median
    memory_bytes: int  #: largest of all processes together; a page that several share counts once
    share_of_ceiling: float | None  #: of the pipeline alone: the others do other work per image


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistTimes:
    """What the server does for one page of the worklist."""

    request: str
    results: int  #: in the database
    server: Times  #: from the request to the last byte of the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one run measured."""

    machine: Machine
    side: int  #: rows, and columns, of a film
    repeats: int
    mix: dict[str, int]  #: share of each encoding, in percent
    stages: tuple[StageTimes, ...]
    forwards: tuple[ForwardTimes, ...]
    ceiling: Ceiling
    runs: tuple[EndToEnd, ...]
    worklist: tuple[WorklistTimes, ...]  #: empty unless asked for
