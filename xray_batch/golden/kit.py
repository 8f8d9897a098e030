"""The golden files and what must come out of each.

The film is read by Pillow and NumPy alone: a mistake of the decode stage must not be in what it is compared with.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from pydantic import TypeAdapter, ValidationError

from xray_batch.errors import ReasonCode, XrayBatchError

PACKAGED_KIT: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFile:
    """One file of the kit."""

    file: str  #: name in `files/`
    sha256: str  #: 64 lower-case hex digits
    shows: str  #: the transfer syntax, or what else is particular
    encoder: str  #: who made the stream or file, with its version
    transfer_syntax_uid: str | None  #: (0002,0010); None where it is not DICOM
    tolerance: float | None  #: largest difference of a pixel in [0, 1], 0 if lossless; None where it must be refused
    p_tolerance: float | None  #: largest difference of P(pneumonia); likewise
    reason_code: ReasonCode | None  #: why it must be refused; None of a film


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """The picture that all golden films show."""

    file: str  #: a PNG beside `golden.json`
    sha256: str
    white: int  #: value that is shown white; 0 is black


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """The contents of `golden.json`."""

    film: Film
    files: tuple[GoldenFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """The golden files, in the order of `golden.json`."""

    folder: Path
    film_path: Path
    film: npt.NDArray[np.float32]  #: shape (rows, columns), values in [0, 1], larger is brighter
    files: tuple[GoldenFile, ...]

    def path(self, golden: GoldenFile) -> Path:
        """Return where a golden file is."""
        return self.folder / "files" / golden.file


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one golden file."""

    golden: GoldenFile
    decoder: str  #: what reads it on this installation
    problem: str | None = None  #: one sentence; None if it passed
    difference: float | None = None  #: largest difference of a pixel from the film; None where nothing was rendered
    p_difference: float | None = None  #: of P(pneumonia) from the film's; None where there is none

    @property
    def passed(self) -> bool:
        """Whether what came out is what must."""
        return self.problem is None

    def fail(self, problem: str) -> "Verdict":
        """Return a failed verdict; the first problem is kept, since later ones follow from it."""
        return replace(self, problem=self.problem or problem)


class KitError(XrayBatchError):
    """The kit is not complete and unchanged, so that it can prove nothing."""


_CONTENTS: Final = TypeAdapter(_Contents)


def read_kit(folder: Path = PACKAGED_KIT) -> Kit:
    """Read what `golden.json` says, and the film.

    Raises
    ------
    KitError
        If one of the two is missing, damaged or not the one of the kit.
    """
    try:
        contents = _CONTENTS.validate_json((folder / "golden.json").read_bytes())
    except (OSError, ValidationError) as error:
        message = f"{folder / 'golden.json'} is missing or damaged; install the package again"
        raise KitError(message) from error
    path = folder / contents.film.file
    problem = check_unchanged(path, contents.film.sha256)
    if problem is not None:
        raise KitError(problem)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            stored = np.asarray(image).astype(np.float64)
    except (OSError, UnidentifiedImageError) as error:
        message = f"{path.name} cannot be read by Pillow: {error}"
        raise KitError(message) from error
    film = (stored / contents.film.white).astype(np.float32)
    return Kit(folder=folder, film_path=path, film=film, files=contents.files)


def check_unchanged(path: Path, sha256: str) -> str | None:
    """Return what is wrong with a file of the kit; None if it has the bytes that it was made with."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}; install the package again"
    if found != sha256:
        return f"{path.name} is not the file of the kit (SHA-256 {found[:12]}...); install the package again"
    return None
