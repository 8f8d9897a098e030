"""DICOM transfer syntaxes and the imagecodecs function that reads each.

Every stream is measured first (`codestream`): a decoder allocates what a stream asks for, and some fill
in what a truncated one lacks.  imagecodecs wraps libjpeg-turbo, CharLS, OpenJPEG, OpenJPH and libjxl.
"""

import contextlib
import struct
import sys
import zlib
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
from xray_batch.decode.jpeg_fill import check_not_filled
from xray_batch.decode.jpegxl import read_jpegxl_size
from xray_batch.errors import ReasonCode, RejectedInputError

#: What imagecodecs raises: its own errors are RuntimeErrors.
CODEC_ERRORS: Final = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)

#: What Pillow and the libraries in it raise for damaged files.
PILLOW_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How one family of streams is measured, checked for its end, and decoded."""

    name: str
    module: str  #: of imagecodecs
    read_size: Callable[[bytes], StreamSize]
    check_ends: Callable[[bytes], None] | None  #: None: the decoder itself refuses a truncated stream
    decode: Callable[[bytes], npt.NDArray[Any]]
    version: Callable[[], str]  #: of the library inside
    fills_in: bool = False  #: whether the decoder makes up what a stream has too little data for

    @property
    def is_available(self) -> bool:
        """Whether imagecodecs was built with it; its wheels are, packages of a distribution may not be."""
        return bool(getattr(imagecodecs, self.module.upper()).available)


_JPEG: Final = Codec(
    name="JPEG",
    module="jpeg8",
    read_size=read_jpeg_size,
    check_ends=check_jpeg_ends,
    decode=imagecodecs.jpeg8_decode,
    version=imagecodecs.jpeg8_version,
    fills_in=True,
)
_JPEG_LS: Final = Codec(
    name="JPEG-LS",
    module="jpegls",
    read_size=read_jpeg_size,
    check_ends=check_jpeg_ends,
    decode=imagecodecs.jpegls_decode,
    version=imagecodecs.jpegls_version,
)
_JPEG_2000: Final = Codec(
    name="JPEG 2000",
    module="jpeg2k",
    read_size=read_jpeg2000_size,
    check_ends=check_jpeg2000_ends,
    decode=imagecodecs.jpeg2k_decode,
    version=imagecodecs.jpeg2k_version,
)
_HTJ2K: Final = Codec(
    name="HTJ2K",
    module="htj2k",
    read_size=read_jpeg2000_size,
    check_ends=check_jpeg2000_ends,
    decode=imagecodecs.htj2k_decode,
    version=imagecodecs.htj2k_version,
)
_JPEG_XL: Final = Codec(
    name="JPEG XL",
    module="jpegxl",
    read_size=read_jpegxl_size,
    check_ends=None,
    decode=imagecodecs.jpegxl_decode,
    version=imagecodecs.jpegxl_version,
)

ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"

#: PS3.6 Table A-1 since 2024 and 2025; pydicom 3.0 does not know them yet.
DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"
JPEG_XL_LOSSLESS: Final = "1.2.840.10008.1.2.4.110"
JPEG_XL_RECOMPRESSION: Final = "1.2.840.10008.1.2.4.111"
JPEG_XL: Final = "1.2.840.10008.1.2.4.112"

_NAMES: Final = {
    DEFLATED_IMAGE_FRAME: "Deflated Image Frame Compression",
    JPEG_XL_LOSSLESS: "JPEG XL Lossless",
    JPEG_XL_RECOMPRESSION: "JPEG XL JPEG Recompression",
    JPEG_XL: "JPEG XL",
}

#: Retired, and still written by tools: DCMTK's `dcmcjpeg +es` and `+ep`.
JPEG_SPECTRAL_SELECTION: Final = "1.2.840.10008.1.2.4.53"
JPEG_FULL_PROGRESSION: Final = "1.2.840.10008.1.2.4.55"

#: Encapsulated transfer syntaxes with a codestream (PS3.5 A.4).
CODECS: Final[dict[str, Codec]] = {
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    JPEG_SPECTRAL_SELECTION: _JPEG,
    JPEG_FULL_PROGRESSION: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG_2000,
    uid.JPEG2000: _JPEG_2000,
    uid.HTJ2KLossless: _HTJ2K,
    uid.HTJ2KLosslessRPCL: _HTJ2K,
    uid.HTJ2K: _HTJ2K,
    JPEG_XL_LOSSLESS: _JPEG_XL,
    JPEG_XL_RECOMPRESSION: _JPEG_XL,
    JPEG_XL: _JPEG_XL,
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

#: What reads those without a codestream; `pixel_data` does it.
_OWN_DECODERS: Final = {
    uid.ImplicitVRLittleEndian: "NumPy",
    uid.ExplicitVRLittleEndian: "NumPy",
    uid.ExplicitVRBigEndian: "NumPy",
    uid.DeflatedExplicitVRLittleEndian: "zlib",
    ENCAPSULATED_UNCOMPRESSED: "NumPy",
    uid.RLELossless: "imagecodecs dicomrle",
    DEFLATED_IMAGE_FRAME: "zlib",
}

#: Always lossy.  The others that may be lossy say so in (0028,2110) Lossy Image Compression.
LOSSY_TRANSFER_SYNTAXES: Final = frozenset(
    {
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        JPEG_SPECTRAL_SELECTION,
        JPEG_FULL_PROGRESSION,
        uid.JPEGLSNearLossless,
        JPEG_XL_RECOMPRESSION,
    }
)

#: Those whose samples may exceed the stored bits for compression noise.
MAY_BE_LOSSY: Final = LOSSY_TRANSFER_SYNTAXES | {uid.JPEG2000, uid.HTJ2K, JPEG_XL}

#: Those whose decoder gives RGB for a stream that holds luminance and chrominance.
UNDOES_COLOR_TRANSFORM: Final = frozenset(
    {
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        JPEG_FULL_PROGRESSION,
        JPEG_SPECTRAL_SELECTION,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        uid.HTJ2K,
        JPEG_XL_LOSSLESS,
        JPEG_XL_RECOMPRESSION,
        JPEG_XL,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSyntax:
    """One DICOM encoding that this version reads."""

    uid: str
    name: str  #: as PS3.6 Table A-1 has it
    decoder: str  #: what reads it here
    is_available: bool  #: whether this installation has that decoder


def transfer_syntaxes() -> list[TransferSyntax]:
    """List the DICOM encodings that this version reads, each with its decoder, by UID."""
    own = {value: (decoder, True) for value, decoder in _OWN_DECODERS.items()}
    encoded = {value: (_describe(codec), codec.is_available) for value, codec in CODECS.items()}
    return [
        TransferSyntax(uid=str(value), name=name_transfer_syntax(value), decoder=decoder, is_available=is_available)
        for value, (decoder, is_available) in sorted({**own, **encoded}.items(), key=lambda item: _numbers(item[0]))
    ]


def _describe(codec: Codec) -> str:
    version = codec.version() if codec.is_available else "not in this build"
    return f"imagecodecs {codec.module} ({version})"


def _numbers(value: str) -> list[int]:
    return [int(part) for part in value.split(".")]


def name_transfer_syntax(value: str) -> str:
    """Return the name of a transfer syntax as PS3.6 Table A-1 has it; an unknown UID as it is."""
    return _NAMES.get(value) or uid.UID(value).name


def check_transfer_syntax(transfer_syntax_uid: str) -> None:
    """Refuse an encoding that no decoder here reads.

    Raises
    ------
    RejectedInputError
        UNSUPPORTED_TRANSFER_SYNTAX, naming it, and what would help.
    """
    if transfer_syntax_uid in _OWN_DECODERS:
        return
    codec = CODECS.get(transfer_syntax_uid)
    if codec is not None and codec.is_available:
        return
    name = name_transfer_syntax(transfer_syntax_uid)
    shown = f"{name!r}" if name == transfer_syntax_uid else f"{name!r} ({transfer_syntax_uid})"
    if codec is not None:
        cure = f"the imagecodecs installed here was built without {codec.module}; its wheel on PyPI reads it"
    else:
        cure = (
            "accepted: uncompressed, deflated, RLE, JPEG, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL; no extra of "
            "xray-batch reads this one: have the sender convert it to Explicit VR Little Endian"
        )
    raise RejectedInputError(
        ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX, f"(0002,0010) Transfer Syntax UID is {shown}; {cure}."
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
        PIXEL_DATA, if the stream is corrupt; TRUNCATED, if it has too little data.
    """
    corrupt = RejectedInputError(ReasonCode.PIXEL_DATA, f"(7FE0,0010) Pixel Data holds a corrupt {codec.name} stream.")
    with _unraisable() as swallowed:
        try:
            samples = codec.decode(stream)
            if codec.fills_in:
                check_not_filled(stream, samples, size.precision, codec.decode)
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
