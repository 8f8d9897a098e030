"""A received file that has been opened: the contract that DICOM, PNG and JPEG share."""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode.limits import MAX_FILE_BYTES
from xray_batch.errors import ReasonCode, RejectedInputError, TransientError
from xray_batch.records import GateCheck, GrayscaleImage, ImageHeader, Rejection

#: Pixels looked at to tell whether an image is blank.
_BLANK_SAMPLE: Final = 1 << 16


class Source(ABC):
    """One opened file whose header has been read and whose pixels have not.

    The three steps are separate so that a refused file still has the identifiers of its header.
    """

    header: ImageHeader

    @abstractmethod
    def check_intended_use(self) -> None:
        """Refuse what is no single-frame chest radiograph by its header.

        Raises
        ------
        RejectedInputError
            Naming the first attribute that fails, what was found and what is accepted.
        """

    @abstractmethod
    def examine(self) -> list[GateCheck]:
        """Ask every question of :meth:`check_intended_use`, those after the first refusal too."""

    @abstractmethod
    def decode(self) -> Callable[[], GrayscaleImage]:
        """Decode the pixels; what comes back renders them: brings them to one polarity and range.

        Raises
        ------
        RejectedInputError
            If the pixels are missing, truncated, corrupt, or in an unsupported encoding.  Rendering raises it
            where they are colour or blank.
        """

    def render(self, least_side: int | None = None) -> GrayscaleImage:
        """Decode the pixels and render them.

        Parameters
        ----------
        least_side
            A small copy inside the file will do, if it has no side shorter than this; its warnings say so.  None: the
            whole picture.

        Returns
        -------
        GrayscaleImage
            ``pixels`` of shape (rows, columns), float32 in [0, 1], larger is brighter.

        Raises
        ------
        RejectedInputError
            If the pixels are missing, truncated, corrupt, colour, blank, or in an unsupported encoding.
        """
        small = self.render_reduced(least_side) if least_side is not None else None
        return small or self.decode()()

    def render_reduced(self, least_side: int) -> GrayscaleImage | None:
        """Render a small copy; None where the file has none that is as good, the formats with none among them."""
        return None


def read_content(path: Path) -> bytes:
    """Return all bytes of a regular file of acceptable size.

    Raises
    ------
    RejectedInputError
        EMPTY_FILE, TOO_LARGE, or UNREADABLE_FILE where `path` is no regular file.
    TransientError
        If the system could not read the file: that is not the file's fault.
    """
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RejectedInputError(
                    ReasonCode.UNREADABLE_FILE, "This is a folder or a device; a regular file is accepted."
                )
            # One byte more than there should be, and no more: Python reserves what it is asked to read.
            content = file.read(status.st_size + 1) if status.st_size <= MAX_FILE_BYTES else None
    except IsADirectoryError:
        raise RejectedInputError(ReasonCode.UNREADABLE_FILE, "This is a folder; a regular file is accepted.") from None
    except OSError as error:
        raise TransientError(f"The file could not be read: {error.strerror}.") from error
    if content is None or len(content) > MAX_FILE_BYTES:
        raise RejectedInputError(
            ReasonCode.TOO_LARGE,
            f"The file has {max(status.st_size, MAX_FILE_BYTES + 1):,} bytes; at most {MAX_FILE_BYTES:,} are accepted.",
        )
    if not content:
        raise RejectedInputError(ReasonCode.EMPTY_FILE, "The file is empty.")
    return content


def check_not_blank(pixels: npt.NDArray[np.float32]) -> None:
    """Refuse an image in which nothing can be seen.

    A lead marker on an unexposed plate is no radiograph: half a percent of the pixels at each end does not
    count, and what is left must differ by one step of 8 bits.

    Parameters
    ----------
    pixels
        Any shape, values in [0, 1], without padding.

    Raises
    ------
    RejectedInputError
        BLANK_IMAGE.
    """
    sample = pixels.reshape(-1)[:: pixels.size // _BLANK_SAMPLE | 1]
    low, high = np.percentile(sample, (0.5, 99.5)) if sample.size else (0.0, 0.0)
    if high - low < 1 / 255:
        raise RejectedInputError(
            ReasonCode.BLANK_IMAGE,
            f"Nearly every pixel shows the same gray, {low:.3f} of white; an image with contrast is accepted.",
        )


def answer(name: str, accepted: str, find: Callable[[], object], check: Callable[[], object]) -> GateCheck:
    """Ask one question of the gate.

    Parameters
    ----------
    find
        Returns what the file says, None for nothing.  It may look at more than `check`, and decides nothing: what it
        cannot read is shown as that.
    check
        Raises :class:`RejectedInputError` where that is not accepted.
    """
    rejection = None
    try:
        check()
    except RejectedInputError as error:
        rejection = Rejection.of(error)
    try:
        found = find()
    except RejectedInputError:
        found = "not readable"
    shown = "absent" if found is None else str(found)
    return GateCheck(name=name, found=shown, accepted=accepted, rejection=rejection)
