"""A decode worker: a process that turns one file after another into a model input.

It has no database, no secret and no torch, and limits on memory, CPU time, files and processes: what a
hostile or broken file can do, it can do only here.  What it says to its parent is JSON that the parent
validates, and pixels in memory that both map; never a pickle.

Started by :mod:`xray_batch.pipeline.pool`, as ``python -P -m xray_batch.pipeline.worker``.
"""

import argparse
import hashlib
import mmap
import os
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from xray_batch.decode import Source, open_content, read_file
from xray_batch.errors import ReasonCode, RejectedInputError, TransientError
from xray_batch.pipeline.pixel_facts import PixelFacts, measure_pixels
from xray_batch.pipeline.sandbox import READY, give_up_rights, limit_cpu, silence
from xray_batch.records import (
    GrayscaleImage,
    ImageHeader,
    ImageWarning,
    InputSpec,
    ModelInput,
    Rejection,
)
from xray_batch.standardize import prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a worker says about one file; the pixels of a prepared one are in the shared memory."""

    seconds: float
    content_sha256: str | None = None  #: of the bytes that everything here is about; None: they were not read
    header: ImageHeader | None = None
    rendering: str | None = None  #: set where the file was prepared
    sharpness: float | None = None  #: likewise
    input_mean: float | None = None  #: likewise
    input_std: float | None = None  #: likewise
    bits: int | None = None  #: of a stored value; likewise
    rendered: PixelFacts | None = None  #: of the picture before the resize; likewise, where that is asked for
    rows: int | None = None  #: likewise; of the picture before it was resized
    columns: int | None = None  #: likewise
    warnings: tuple[ImageWarning, ...] = ()
    rejection: Rejection | None = None
    failure: str | None = None  #: name of an exception's class: neither prepared nor rejected
    transient: bool = False  #: of a failure: the system's fault, not to be held against the file
    cause: str | None = None  #: of a failure that is no bug: what happened, for people; names no file
    short_of_memory: bool = False  #: of a rejection: a worker that holds nothing of other films may do it


_TOO_LARGE: Final = Rejection(
    reason_code=ReasonCode.TOO_LARGE, reason="Decoding the file takes more memory than a decode worker may have."
)

REPLY: Final = TypeAdapter(Reply)
INPUT_SPEC: Final = TypeAdapter(InputSpec)


def main() -> None:
    """Answer requests, each the path of a file, until the parent closes the connection."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connection", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--spec", required=True)
    parser.add_argument("--address-space", type=int, required=True)
    parser.add_argument("--least-side", type=int)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    spec = INPUT_SPEC.validate_json(options.spec)
    connection = Connection(options.connection)
    with mmap.mmap(options.memory, spec.rows * spec.columns * 4) as memory, ThreadPoolExecutor(1) as hasher:
        hasher.submit(_sha256, b"").result()  # its thread starts now: without rights none can be started
        give_up_rights(options.address_space)
        # After what may fail: memory that is looked into cannot be closed, which would be the error that is told.
        slot = np.frombuffer(memory, dtype=np.float32).reshape(spec.rows, spec.columns)
        connection.send_bytes(READY)
        silence()
        while True:
            try:
                path = Path(os.fsdecode(connection.recv_bytes()))
            except EOFError:
                break
            limit_cpu()
            reply = answer(path, spec, slot, hasher, least_side=options.least_side, measure=options.measure)
            connection.send_bytes(REPLY.dump_json(reply))
        del slot


def answer(
    path: Path,
    spec: InputSpec,
    slot: npt.NDArray[np.float32],
    hasher: Executor,
    *,
    least_side: int | None = None,
    measure: bool = False,
) -> Reply:
    """Decode and prepare one file; the pixels go to `slot`, shape (spec.rows, spec.columns).

    The bytes are hashed by `hasher` meanwhile.
    `least_side` is that of :meth:`Source.render`.  `measure` has the rendered picture measured too, which classifying
    does not need.
    """
    start = time.perf_counter()
    digest: Future[str] | None = None
    source: Source | None = None
    rejection: Rejection | None = None
    failure: str | None = None
    cause: str | None = None
    transient = short_of_memory = False
    image: GrayscaleImage | None = None
    prepared: ModelInput | None = None
    rendered: PixelFacts | None = None
    try:
        content = read_file(path)
        digest = hasher.submit(_sha256, content)
        source = open_content(content)
        source.check_intended_use()
        image = source.render(least_side)
        rendered = measure_pixels(image.pixels, 0.0, 1.0) if measure else None
        prepared = prepare(image, spec)
        slot[...] = prepared.pixels
    except RejectedInputError as error:
        rejection = Rejection.of(error)
    except MemoryError:
        rejection, short_of_memory = _TOO_LARGE, True
    except TransientError as error:
        failure, cause, transient = type(error).__name__, str(error), True
    except Exception as error:  # noqa: BLE001 - the job boundary: a bug in decoding costs one attempt of one file
        failure = type(error).__name__
    sha256 = digest.result() if digest else None
    return Reply(
        seconds=time.perf_counter() - start,
        content_sha256=sha256,
        header=source.header if source else None,
        rendering=prepared.rendering if prepared else None,
        sharpness=prepared.sharpness if prepared else None,
        input_mean=prepared.input_mean if prepared else None,
        input_std=prepared.input_std if prepared else None,
        bits=image.bits if image and prepared else None,
        rendered=rendered if prepared else None,
        rows=image.pixels.shape[0] if image and prepared else None,
        columns=image.pixels.shape[1] if image and prepared else None,
        warnings=prepared.warnings if prepared else (),
        rejection=rejection,
        failure=failure,
        transient=transient,
        cause=cause,
        short_of_memory=short_of_memory,
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
