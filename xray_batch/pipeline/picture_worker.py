"""A picture worker: a process that turns one original after another into a picture to look at.

Like a decode worker it has no database, no secret and no torch, and limits on memory, CPU time, files and processes.
It shows what the gate refuses too, as far as it can be shown, and nothing but the bytes that it was asked for.

Started by :mod:`xray_batch.pipeline.pictures`, as ``python -P -m xray_batch.pipeline.picture_worker``.
"""

import argparse
import hashlib
import mmap
import os
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode import open_content, read_file
from xray_batch.errors import ReasonCode, RejectedInputError, TransientError
from xray_batch.pipeline.picture import (
    LONGEST_SIDE,
    MEMORY_BYTES,
    PICTURE_REPLY,
    SHA256_DIGITS,
    PictureFacts,
    PictureReply,
)
from xray_batch.pipeline.sandbox import READY, give_up_rights, limit_cpu, silence
from xray_batch.records import GrayscaleImage, Rejection
from xray_batch.standardize import find_content, resize

WHITE: Final = 65535

PIXEL: Final = np.dtype("<u2")  #: of :data:`PIXEL_BYTES`


def main() -> None:
    """Answer requests, each a SHA-256 and the path of a file, until the parent closes the connection."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connection", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--address-space", type=int, required=True)
    options = parser.parse_args()
    connection = Connection(options.connection)
    with mmap.mmap(options.memory, MEMORY_BYTES) as memory:
        give_up_rights(options.address_space)
        slot = np.frombuffer(memory, dtype=PIXEL)  # after what may fail, as in a decode worker
        connection.send_bytes(READY)
        silence()
        while True:
            try:
                request = connection.recv_bytes()
            except EOFError:
                break
            limit_cpu()
            sha256, path = request[:SHA256_DIGITS].decode(), Path(os.fsdecode(request[SHA256_DIGITS:]))
            connection.send_bytes(PICTURE_REPLY.dump_json(answer(path, sha256, slot)))
        del slot


def answer(path: Path, sha256: str, slot: npt.NDArray[np.uint16]) -> PictureReply:
    """Render the film in a file that has these bytes; its picture goes to the start of `slot`, row by row."""
    try:
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != sha256:
            return PictureReply()
        return PictureReply(picture=_draw(_render(content).pixels, slot))
    except RejectedInputError as error:
        return PictureReply(rejection=Rejection.of(error))
    except MemoryError:
        message = "Decoding the file takes more memory than a decode worker may have."
        return PictureReply(rejection=Rejection(reason_code=ReasonCode.TOO_LARGE, reason=message))
    except TransientError as error:
        return PictureReply(failure=type(error).__name__)
    except Exception as error:  # noqa: BLE001 - the job boundary: a bug in decoding costs one picture
        return PictureReply(failure=type(error).__name__)


def _render(content: bytes) -> GrayscaleImage:
    """Render what the gate refuses too: a lateral film, another modality, a small or a nearly blank picture."""
    source = open_content(content)
    refusal: RejectedInputError | None = None
    try:
        source.check_intended_use()
    except RejectedInputError as error:
        refusal = error
    if refusal is None:
        return source.render()
    with suppress(Exception):  # what the gate lets through is all that rendering must be able to cope with
        return source.render()
    raise refusal


def _draw(pixels: npt.NDArray[np.float32], slot: npt.NDArray[np.uint16]) -> PictureFacts:
    """Write a film, shape (rows, columns) in [0, 1], to `slot`, reduced where it is larger than a screen."""
    factor = min(1.0, LONGEST_SIDE / max(pixels.shape))
    rows, columns = (max(1, round(factor * side)) for side in pixels.shape)
    reduced = resize(pixels, rows, columns)
    slot[: rows * columns] = np.rint(WHITE * np.clip(reduced, 0, 1)).reshape(-1).astype(PIXEL)
    content = find_content(pixels)
    return PictureFacts(
        rows=rows,
        columns=columns,
        original_rows=pixels.shape[0],
        original_columns=pixels.shape[1],
        content=(content.top, content.bottom, content.left, content.right),
    )


if __name__ == "__main__":
    main()
