"""Files dropped into an inbox in the ways of many senders, and what is to become of each; from one seed."""

import hashlib
import io
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dicom_factory import write_dicom
from film_encodings import png_chunk
from PIL import Image

from xray_batch.demo import sample_files

#: In the names of all files, and in the patient's of DICOM files: must not be seen anywhere but in the database.
MARKER = "ZZCANARY"

#: Shares of a burst: the same bytes once more, and files that cannot be analysed.
DUPLICATES, BAD = 0.05, 0.03


@dataclass
class Burst:
    """Files for one home folder; what was dropped is counted by its SHA-256."""

    home: Path
    seed: int
    dropped: Counter[str] = field(default_factory=Counter)
    bad: set[str] = field(default_factory=set)  #: of those dropped, what cannot be analysed
    _number: int = 0

    def __post_init__(self) -> None:
        """Make the folder that senders write in before they rename: on the file system of the inbox."""
        sys.stdout.write(f"burst of seed {self.seed} in {self.home}\n")
        self._random = random.Random(self.seed)
        self._film = _film()
        self._outside = self.home.parent / "outside"
        self._outside.mkdir(exist_ok=True)

    def drop(self, count: int) -> Iterator[str]:
        """Drop so many files, one after the other; yield the SHA-256 of each when it is whole and has its name."""
        contents: list[bytes] = []
        for _ in range(count):
            self._number += 1
            chance = self._random.random()
            if contents and chance < DUPLICATES:
                content = self._random.choice(contents)
            elif chance < DUPLICATES + BAD:
                content = self._bad()
                self.bad.add(_sha256(content))
            else:
                content = self._good()
            contents.append(content)
            self._random.choice(_STYLES)(self, self._name(), content)
            self.dropped[_sha256(content)] += 1
            yield _sha256(content)

    def _good(self) -> bytes:
        """Return a film that differs from all others in a comment."""
        comment = png_chunk(b"tEXt", f"Comment\0{self.seed}-{self._number}".encode())
        return self._film[:33] + comment + self._film[33:]

    def _bad(self) -> bytes:
        """Return no image, half of an image, or no frontal film."""
        kind = self._number % 3
        if kind == 0:
            return f"no image {self.seed}-{self._number}".encode()
        if kind == 1:
            return self._good()[:-20]
        path = self._outside / "lateral"
        patient = f"{MARKER}^{self._number}"
        return write_dicom(
            path, ViewPosition="LL", PatientName=patient, PatientID=f"{MARKER}{self._number}"
        ).read_bytes()

    def _name(self) -> str:
        """Return a name below the inbox that no other file has, of any bytes."""
        odd = self._random.choice(["", "a b", "-x", "\n", "\u202e", os.fsdecode(b"\xff"), "CON.", "x" * 180, "=1+1"])
        folder = self._random.choice(["", "", "ward/", f"a/{self._number % 7}/"])
        return f"{folder}{odd}{MARKER}-{self._number}.dcm"

    # -- the ways of senders ------------------------------------------------------------------

    def _rename_in(self, name: str, content: bytes) -> None:
        self._outside.joinpath("moved").write_bytes(content)
        self._outside.joinpath("moved").rename(self._place(name))

    def _write_part(self, name: str, content: bytes) -> None:
        place = self._place(name)
        part = place.with_name(f"{self._number}.part")
        part.write_bytes(content)
        part.rename(place)

    def _rsync(self, name: str, content: bytes) -> None:
        place = self._place(name)
        hidden = place.with_name(f".{self._number}.a8Xk2P")
        hidden.write_bytes(content)
        hidden.rename(place)

    def _link_and_unlink(self, name: str, content: bytes) -> None:
        place = self._place(name)
        part = place.with_name(f"{self._number}.filepart")
        part.write_bytes(content)
        place.hardlink_to(part)
        part.unlink()

    def _move_folder(self, name: str, content: bytes) -> None:
        folder = self._outside / f"study-{self._number}"
        folder.mkdir()
        (folder / Path(name).name).write_bytes(content)
        folder.rename(self.home / "inbox" / folder.name)

    def _write_in_place(self, name: str, content: bytes) -> None:
        with self._open(name) as file:
            file.write(content)

    def _write_slowly(self, name: str, content: bytes) -> None:
        with self._open(name) as file:
            for start in range(0, len(content), len(content) // 3 + 1):
                file.write(content[start : start + len(content) // 3 + 1])
                file.flush()
                time.sleep(0.02)

    def _place(self, name: str) -> Path:
        """Return where a file goes; the service may remove an empty folder at any moment."""
        place = self.home / "inbox" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _open(self, name: str) -> io.BufferedWriter:
        return self._place(name).open("xb")


_STYLES: tuple[Callable[[Burst, str, bytes], None], ...] = (
    Burst._rename_in,
    Burst._write_part,
    Burst._rsync,
    Burst._link_and_unlink,
    Burst._move_folder,
    Burst._write_in_place,
    Burst._write_slowly,
)


def _film() -> bytes:
    """Return a small chest film."""
    written = io.BytesIO()
    Image.open(sample_files() / "07-photo.jpeg").convert("L").resize((96, 96)).save(written, format="png")
    return written.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
