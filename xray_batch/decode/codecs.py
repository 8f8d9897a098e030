"""DICOM transfer syntaxes and the imagecodecs function that reads each.

Every stream is measured first (`codestream`): a decoder allocates what a stream asks for, and some fill
in what a truncated one lacks.  imagecodecs wraps libjpeg-turbo, CharLS, OpenJPEG and OpenJPH.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import uid

from xray_batch.decode.codestream import (
    StreamSize,
    check_jpeg2000_ends,
    check_jpeg_ends,
    read_jpeg2000_size,
    read_jpeg_size,
)
from xray_batch.errors import ReasonCode, RejectedInputError

#: What imagecodecs raises: its own errors are RuntimeErrors.
CODEC_ERRORS: Final = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How one family of streams is measured, checked for its end, and decoded."""

    name: str
    read_size: Callable[[bytes], StreamSize]
    check_ends: Callable[[bytes], None]
    decode: Callable[[bytes], npt.NDArray[Any]]


_JPEG: Final = Codec(name="JPEG", read_size=read_jpeg_size, check_ends=check_jpeg_ends, decode=imagecodecs.jpeg8_decode)
_JPEG_LS: Final = Codec(
    name="JPEG-LS", read_size=read_jpeg_size, check_ends=check_jpeg_ends, decode=imagecodecs.jpegls_decode
)
_JPEG_2000: Final = Codec(
    name="JPEG 2000",
    read_size=read_jpeg2000_size,
    check_ends=check_jpeg2000_ends,
    decode=imagecodecs.jpeg2k_decode,
)
_HTJ2K: Final = Codec(
    name="HTJ2K",
    read_size=read_jpeg2000_size,
    check_ends=check_jpeg2000_ends,
    decode=imagecodecs.htj2k_decode,
)

#: Encapsulated transfer syntaxes with a codestream (PS3.5 A.4).  RLE has none and is read by `pixel_data`.
CODECS: Final[dict[str, Codec]] = {
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG_2000,
    uid.JPEG2000: _JPEG_2000,
    uid.HTJ2KLossless: _HTJ2K,
    uid.HTJ2KLosslessRPCL: _HTJ2K,
    uid.HTJ2K: _HTJ2K,
}

#: Transfer syntaxes whose pixels are in the data set as they are (PS3.5 A.1 to A.3, A.5).
NATIVE_TRANSFER_SYNTAXES: Final = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)

#: Always lossy.  The others that may be lossy say so in (0028,2110) Lossy Image Compression.
LOSSY_TRANSFER_SYNTAXES: Final = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless})

#: Those whose samples may exceed the stored bits for compression noise.
MAY_BE_LOSSY: Final = LOSSY_TRANSFER_SYNTAXES | {uid.JPEG2000, uid.HTJ2K}

#: Those whose decoder gives RGB for a stream that holds luminance and chrominance.
UNDOES_COLOR_TRANSFORM: Final = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2K}
)


def readable_transfer_syntaxes() -> list[str]:
    """Name the DICOM encodings that are read here, as PS3.6 Annex A does."""
    return sorted(uid.UID(value).name for value in {*NATIVE_TRANSFER_SYNTAXES, *CODECS, uid.RLELossless})


def check_transfer_syntax(transfer_syntax_uid: str) -> None:
    """Refuse an encoding that no decoder here reads.

    Raises
    ------
    RejectedInputError
        UNSUPPORTED_TRANSFER_SYNTAX.
    """
    if transfer_syntax_uid in NATIVE_TRANSFER_SYNTAXES or transfer_syntax_uid in CODECS:
        return
    if transfer_syntax_uid != uid.RLELossless:
        raise RejectedInputError(
            ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX,
            f"(0002,0010) Transfer Syntax UID is {uid.UID(transfer_syntax_uid).name!r}; "
            "accepted: uncompressed, deflated, RLE, JPEG, JPEG-LS, JPEG 2000, HTJ2K.",
        )


def decode_stream(codec: Codec, stream: bytes, size: StreamSize) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Decode one picture whose size has been checked.

    Returns
    -------
    numpy.ndarray
        Shape (rows, columns), or (rows, columns, samples) with several samples per pixel; uint8 up to a
        precision of 8 bits, else uint16.  Signed samples keep their bits (two's complement).

    Raises
    ------
    RejectedInputError
        PIXEL_DATA, if the stream is corrupt.
    """
    corrupt = RejectedInputError(ReasonCode.PIXEL_DATA, f"(7FE0,0010) Pixel Data holds a corrupt {codec.name} stream.")
    with _unraisable() as swallowed:
        try:
            samples = codec.decode(stream)
        except CODEC_ERRORS as error:
            raise corrupt from error
    if swallowed:
        raise corrupt
    shape: tuple[int, ...] = (size.rows, size.columns)
    if size.samples_per_pixel > 1:
        shape += (size.samples_per_pixel,)
    if samples.shape != shape or samples.dtype.kind not in "iu" or samples.dtype.itemsize > 2:
        raise RejectedInputError(
            ReasonCode.PIXEL_DATA,
            f"(7FE0,0010) Pixel Data decodes to shape {samples.shape} of {samples.dtype}; "
            f"its {codec.name} header says {shape} with {size.precision} bits.",
        )
    return samples.view(np.dtype(f"u{samples.dtype.itemsize}"))


@contextlib.contextmanager
def _unraisable() -> Iterator[list[str]]:
    """Collect the names of errors that an extension module met and could not raise.

    imagecodecs 2026.3 lets an OpenJPH error end the copying of rows and returns the rest as zeros;
    all that is left of the error is a call of this hook (PyErr_WriteUnraisable).
    """
    swallowed: list[str] = []
    previous = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: swallowed.append(unraisable.exc_type.__name__)
    try:
        yield swallowed
    finally:
        sys.unraisablehook = previous
