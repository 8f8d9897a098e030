"""The films of a benchmark: the packaged sample films, enlarged to the size of a real one, in many encodings.

The same numbers give the same bytes, and no patient is in them.  What a codec makes of a picture depends on its
noise, so there is noise as in a film: with it lossless JPEG 2000 takes about 40 % of the uncompressed size, as it
does with clinical chest films.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

from xray_batch.decode import decode_file
from xray_batch.decode.identify import PNG_SIGNATURE
from xray_batch.demo import sample_files

#: Largest stored value; 12 bits are what most chest systems store.
WHITE: Final = 4095

#: Standard deviation of the noise, in stored values.
_NOISE: Final = 16.0

#: Samples that are frontal chest films in DICOM.
_SAMPLES: Final = "0[1-5]-*.dcm"

_JPEG_QUALITY: Final = 90

_NATIVE: Final = (uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)

#: What every film's header has in common; nobody's.
_FRONTAL_CHEST: Final[dict[str, Any]] = {
    "SOPClassUID": uid.ComputedRadiographyImageStorage,
    "Modality": "CR",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
}

Stored: TypeAlias = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """One way to write a film to a file."""

    name: str  #: as PS3.6 Table A-1 has the transfer syntax, shortened; or the format
    transfer_syntax_uid: str | None  #: None: no DICOM
    bits: int  #: of a stored value: 8 or 12, or 16 in a PNG, which knows no 12
    is_lossless: bool
    compress: Callable[[Stored], bytes]
    """Takes shape (rows, columns); uint8 for 8 bits, else uint16."""

    @property
    def suffix(self) -> str:
        """Last part of the file's name."""
        return ".dcm" if self.transfer_syntax_uid else ".png" if self.name.startswith("PNG") else ".jpeg"


def _as_they_are(stored: Stored) -> bytes:
    return stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def _run_lengths(stored: Stored) -> bytes:
    """Compress with RLE: the high bytes, then the low, each row on its own (PS3.5 Annex G)."""
    segments = [
        b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane)
        for plane in ((stored >> 8).astype(np.uint8), (stored & 255).astype(np.uint8))
    ]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [2, 64, 64 + len(segments[0])]
    return struct.pack("<16L", *offsets, *[0] * (16 - len(offsets))) + b"".join(segments)


def _jpeg_lossless(stored: Stored) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=12))


def _jpeg_ls(stored: Stored) -> bytes:
    return bytes(imagecodecs.jpegls_encode(stored))


def _jpeg_2000(stored: Stored) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat="j2k", bitspersample=12))


def _htj2k(stored: Stored) -> bytes:
    return bytes(imagecodecs.htj2k_encode(stored, reversible=True))


def _jpeg(stored: Stored) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(stored, level=_JPEG_QUALITY))


def _png(stored: Stored) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(stored).save(file, format="png")
        return file.getvalue()


def encodings() -> list[Encoding]:
    """List the encodings that films can be written in here, uncompressed DICOM first."""
    dicom: list[tuple[str, str, int, bool, Callable[[Stored], bytes]]] = [
        ("Explicit VR Little Endian", uid.ExplicitVRLittleEndian, 12, True, _as_they_are),
        ("Deflated Explicit VR Little Endian", uid.DeflatedExplicitVRLittleEndian, 12, True, _as_they_are),
        ("RLE Lossless", uid.RLELossless, 12, True, _run_lengths),
        ("JPEG Lossless SV1", uid.JPEGLosslessSV1, 12, True, _jpeg_lossless),
        ("JPEG-LS Lossless", uid.JPEGLSLossless, 12, True, _jpeg_ls),
        ("JPEG 2000 Lossless", uid.JPEG2000Lossless, 12, True, _jpeg_2000),
        ("JPEG Baseline", uid.JPEGBaseline8Bit, 8, False, _jpeg),
    ]
    if imagecodecs.HTJ2K.available:
        dicom.insert(-1, ("HTJ2K Lossless", uid.HTJ2KLossless, 12, True, _htj2k))
    files: list[tuple[str, None, int, bool, Callable[[Stored], bytes]]] = [
        ("PNG, 8 bits", None, 8, True, _png),
        ("PNG, 16 bits", None, 16, True, _png),
        ("JPEG", None, 8, False, _jpeg),
    ]
    return [
        Encoding(name=name, transfer_syntax_uid=syntax, bits=bits, is_lossless=lossless, compress=compress)
        for name, syntax, bits, lossless, compress in (*dicom, *files)
    ]


class Film:
    """One sample film at the size of a real one; each encoding is made once.

    Parameters
    ----------
    sample
        A DICOM file of the packaged samples.
    side
        Rows, and columns.
    """

    def __init__(self, sample: Path, side: int) -> None:
        self._sample = sample
        self._side = side
        self._pictures: dict[str, bytes] = {}

    @cached_property
    def stored(self) -> npt.NDArray[np.uint16]:
        """Stored values: shape (side, side), 0 black to :data:`WHITE`."""
        small = Image.fromarray(decode_file(self._sample).pixels)
        large = np.asarray(small.resize((self._side, self._side), Image.Resampling.BICUBIC))
        noise = np.random.default_rng(zlib.crc32(self._sample.name.encode())).normal(0.0, _NOISE, large.shape)
        return np.clip(np.rint(large * WHITE + noise), 0, WHITE).astype(np.uint16)

    def stored_as(self, encoding: Encoding) -> Stored:
        """Return the stored values that `encoding` is given: of 8 bits the high ones of 12; 16 are filled up."""
        if encoding.bits == 8:
            return (self.stored >> 4).astype(np.uint8)
        return self.stored << np.uint16(4) if encoding.bits == 16 else self.stored

    def write(self, folder: Path, encoding: Encoding, number: int = 0) -> Path:
        """Write the film to `folder`; films with different numbers differ in their bytes, not in their pixels."""
        if encoding.name not in self._pictures:
            self._pictures[encoding.name] = encoding.compress(self.stored_as(encoding))
        picture = self._pictures[encoding.name]
        path = folder / f"{number:05d}-{self._sample.stem}{encoding.suffix}"
        if encoding.transfer_syntax_uid:
            _write_dicom(path, picture, encoding, self._side, number)
        else:
            path.write_bytes(_numbered(picture, number))
        return path


def make_films(side: int) -> list[Film]:
    """Return the films, each of `side` rows and columns, in a fixed order; nothing is computed yet."""
    return [Film(sample, side) for sample in sorted(sample_files().glob(_SAMPLES))]


def write_mix(
    folder: Path, films: Sequence[Film], shares: Sequence[tuple[Encoding, int]], files: int
) -> Iterator[Path]:
    """Write `files` files of different bytes whose encodings have the given shares, well mixed.

    Parameters
    ----------
    shares
        Each encoding with its share in percent; together 100.
    """
    owed = [0] * len(shares)
    for number in range(files):
        owed = [debt + share for debt, (_, share) in zip(owed, shares, strict=True)]
        which = owed.index(max(owed))
        owed[which] -= 100
        yield films[number % len(films)].write(folder, shares[which][0], number)


def _write_dicom(path: Path, picture: bytes, encoding: Encoding, side: int, number: int) -> None:
    """Write a frontal chest film of nobody, with a window over the whole range, as most films have one."""
    syntax = uid.UID(encoding.transfer_syntax_uid or "")
    white = (1 << encoding.bits) - 1
    cell_bits = 8 if encoding.bits == 8 else 16
    root = f"2.25.{zlib.crc32(path.name.encode())}.{number}"
    dataset = Dataset()
    for keyword, value in _FRONTAL_CHEST.items():
        setattr(dataset, keyword, value)
    for position, keyword in enumerate(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")):
        setattr(dataset, keyword, f"{root}.{position}")
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = cell_bits, encoding.bits, encoding.bits - 1
    dataset.WindowCenter, dataset.WindowWidth = (white + 1) / 2, white + 1
    dataset.PixelData = picture if syntax in _NATIVE else encapsulate([picture])
    dataset["PixelData"].VR = "OW" if syntax in _NATIVE else "OB"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    dcmwrite(path, file, enforce_file_format=True)


def _numbered(picture: bytes, number: int) -> bytes:
    """Add a comment with the number to a PNG, after its header, or to a JPEG, after its start."""
    comment = b"xray-batch bench %d" % number
    if picture.startswith(PNG_SIGNATURE):
        chunk = b"tEXtComment\0" + comment
        end = len(PNG_SIGNATURE) + 25  # of the IHDR chunk (PNG specification, 11.2.2)
        framed = struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk))
        return picture[:end] + framed + picture[end:]
    return picture[:2] + struct.pack(">BBH", 0xFF, 0xFE, len(comment) + 2) + comment + picture[2:]
