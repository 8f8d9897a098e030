"""One film in every encoding that is read, and how far its answer may then move.

The film has 12 bits and holds neither 0 nor 4095, so that both can be padding; its sides are even.
"""

import gzip
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from dicom_factory import (
    JPEG_XL,
    JPEG_XL_RECOMPRESSION,
    LOSSLESS_SYNTAXES,
    WHITE,
    raw_element,
    write_dicom,
)
from grayscale_encodings import UNSIGN, grayscale_encodings, to_signed
from PIL import Image
from pydicom import uid

#: Largest difference of the probability: for the same values, and for 8 bits, lossy or resampled ones.
LOSSLESS, LOSSY = 1e-3, 0.02

#: Programs of DCMTK and their options; those of the second list lose something.
DCMTK_LOSSLESS = (
    ("dcmcjpeg", "+e1"),
    ("dcmcjpeg", "+el"),
    ("dcmcjpeg", "+el", "+sv", "1"),
    ("dcmcjpeg", "+el", "+sv", "7"),
    ("dcmcjpls", "+el"),
    ("dcmcrle",),
    ("dcmconv", "+te"),
    ("dcmconv", "+tb"),
    ("dcmconv", "+ti"),
    ("dcmconv", "+td"),
    ("dcmconv", "+te", "-e"),  # sequences of undefined length
    ("dcmconv", "+te", "-F"),  # no preamble, no File Meta Information
)
DCMTK_LOSSY = (
    ("dcmcjpeg", "+eb"),
    ("dcmcjpeg", "+ee"),
    ("dcmcjpeg", "+es"),
    ("dcmcjpeg", "+ep"),
    ("dcmcjpls", "+en"),
)

Stored = npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way to write the film."""

    write: Callable[[Path], object]
    tolerance: float  #: largest difference of the probability
    program: str | None = None  #: of DCMTK, that it takes


def encodings(stored: Stored) -> dict[str, Encoding]:
    """Return every encoding of a film by name; nothing is written before its `write` is called."""
    lossless = _headers(stored) | _syntaxes(stored) | _containers(stored) | _padded(stored) | _deep_pictures(stored)
    lossy = _lossy(stored) | _resampled(stored) | _shallow(stored) | _pictures(stored)
    return (
        {name: Encoding(write=write, tolerance=LOSSLESS) for name, write in (lossless | _turned(stored)).items()}
        | {name: Encoding(write=write, tolerance=LOSSY) for name, write in lossy.items()}
        | {" ".join(command): _dcmtk(stored, command, LOSSLESS) for command in DCMTK_LOSSLESS}
        | {" ".join(command): _dcmtk(stored, command, LOSSY) for command in DCMTK_LOSSY}
    )


Writers = dict[str, Callable[[Path], object]]


def dicom(cells: npt.NDArray[Any], **options: Any) -> Callable[[Path], object]:
    """Return what writes a DICOM file."""
    return lambda path: write_dicom(path, cells, **options)


def _headers(stored: Stored) -> Writers:
    """Every form of the grayscale pipeline, and depths that the pixels do not use."""
    table = grayscale_encodings(stored)
    writers = {name: dicom(cells, **attributes) for name, (cells, attributes, _) in table.items()}
    return writers | {
        "12 bits declared as 16": dicom(stored, BitsStored=16, HighBit=15),
        "12 bits declared as 14": dicom(stored, BitsStored=14, HighBit=13),
        "12 bits declared as 16, signed": dicom(
            to_signed(stored), BitsStored=16, HighBit=15, RescaleIntercept="2048", RescaleSlope="1"
        ),
        "two windows, explanations": dicom(
            stored,
            WindowCenter=["2048", "1"],
            WindowWidth=["4096", "2"],
            WindowCenterWidthExplanation=["NORMAL", "HARDER"],
        ),
        "digital radiograph": dicom(
            stored,
            SOPClassUID=uid.DigitalXRayImageStorageForPresentation,
            Modality="DX",
            PresentationIntentType="FOR PRESENTATION",
            PresentationLUTShape="IDENTITY",
            PixelIntensityRelationship="LOG",
            PixelIntensityRelationshipSign=-1,
        ),
        "secondary capture": dicom(stored, SOPClassUID=uid.SecondaryCaptureImageStorage, ConversionType="DF"),
        "equal spacing": dicom(stored, PixelSpacing=["0.143", "0.143"], ImagerPixelSpacing=["0.15", "0.15"]),
        "field of view turned": dicom(stored, FieldOfViewRotation="90", FieldOfViewHorizontalFlip="YES"),
    }


def _syntaxes(stored: Stored) -> Writers:
    """Every lossless transfer syntax, of unsigned and of signed pixels."""
    signed = to_signed(stored)
    return {
        f"{syntax.keyword or syntax}, {sign}": dicom(cells, transfer_syntax=syntax, **attributes)
        for syntax in map(uid.UID, LOSSLESS_SYNTAXES)
        for sign, cells, attributes in (("unsigned", stored, {}), ("signed", signed, UNSIGN))
    }


def _containers(stored: Stored) -> Writers:
    """Put things around the data set, into it, and behind it."""

    def changed(change: Callable[[bytes], bytes], **options: Any) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(change(write_dicom(path, stored, **options).read_bytes()))

    private = b"".join(
        raw_element(0x0029, number, vr, value)
        for number, vr, value in (
            (0x0010, "LO", b"MAKER OF PLATES "),
            (0x1010, "OB", bytes(range(256)) * 16),
            (0x1018, "UN", struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"abcd"),
            (0x1020, "LT", b"<script>alert(1)</script> "),
        )
    )
    overlay = raw_element(0x6000, 0x3000, "OW", b"\xff" * 256)
    pixels = struct.pack("<HH", 0x7FE0, 0x0010)
    trailing = raw_element(0xFFFC, 0xFFFC, "OB", bytes(1000))
    jpegls = {"transfer_syntax": uid.JPEGLSLossless}
    return {
        "gzip": changed(gzip.compress),
        "gzip of compressed": changed(gzip.compress, **jpegls),
        "no preamble": changed(lambda content: content[132:]),
        "no meta information": changed(lambda content: content[content.index(b"\x08\x00\x16\x00UI", 132) :]),
        "preamble of a TIFF": changed(lambda content: b"II*\0" + content[4:]),
        "private groups": changed(lambda content: private.join(split_before(content, pixels))),
        "overlay plane": changed(lambda content: overlay.join(split_before(content, pixels))),
        "data set trailing padding": changed(lambda content: content + trailing),
        "data set trailing padding, compressed": changed(lambda content: content + trailing, **jpegls),
        "one byte behind the pixels": changed(lambda content: longer_pixels(content, b"\0")),
    }


def split_before(content: bytes, tag: bytes) -> tuple[bytes, bytes]:
    """Cut a file in two before the last occurrence of a tag."""
    at = content.rindex(tag)
    return content[:at], content[at:]


def longer_pixels(content: bytes, tail: bytes) -> bytes:
    """Return a file whose explicit Pixel Data has bytes behind its frame, of odd length too."""
    before, after = split_before(content, struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    length = int.from_bytes(after[8:12], "little") + len(tail)
    return before + after[:8] + length.to_bytes(4, "little") + after[12:] + tail


def _padded(stored: Stored) -> Writers:
    """Put a frame of padding around the film, in either polarity, with and without a range."""
    edges = ((24, 8), (0, 40))
    monochrome1 = {"PhotometricInterpretation": "MONOCHROME1"}

    def framed(cells: npt.NDArray[Any], value: int, **attributes: Any) -> Callable[[Path], object]:
        return dicom(np.pad(cells, edges, constant_values=value), PixelPaddingValue=value, **attributes)

    # A range holds other values than 0 and 4095: the film lies above or below it, shown by a window.
    is_frame = np.pad(np.zeros_like(stored), edges, constant_values=1)
    frame = is_frame * (np.arange(is_frame.shape[1]) % 100)
    wide = {"BitsStored": 16, "HighBit": 15, "WindowWidth": "4096"}
    above = (np.pad(stored + 100, edges) + frame).astype(np.uint16)
    below = (np.pad(WHITE - stored, edges) + frame + 5000 * is_frame).astype(np.uint16)
    return {
        "padding": framed(stored, 0),
        "padding, MONOCHROME1": framed(WHITE - stored, WHITE, **monochrome1),
        "padding of the other polarity": framed(stored, WHITE),
        "padding, signed": framed(to_signed(stored), -2048, **UNSIGN),
        "padding range": dicom(above, PixelPaddingValue=0, PixelPaddingRangeLimit=99, WindowCenter="2148", **wide),
        "padding range, MONOCHROME1": dicom(
            below, PixelPaddingValue=5099, PixelPaddingRangeLimit=5000, WindowCenter="2048", **wide, **monochrome1
        ),
        "padding, JPEG 2000": framed(stored, 0, transfer_syntax=uid.JPEG2000Lossless),
        "padding, window": framed(stored, 0, WindowCenter="2048", WindowWidth="4096"),
    }


def _turned(stored: Stored) -> Writers:
    """Frontal films that hang in all other ways, with the Patient Orientation that says so."""
    turned = {
        "L/F": stored,
        "R/F": stored[:, ::-1],
        "L/H": stored[::-1],
        "R/H": stored[::-1, ::-1],
        "F/L": stored.T,
        "H/L": stored.T[:, ::-1],
        "F/R": stored.T[::-1],
        "H/R": stored.T[::-1, ::-1],
    }
    return {
        f"orientation {orientation}": dicom(np.ascontiguousarray(cells), PatientOrientation=orientation.split("/"))
        for orientation, cells in turned.items()
    }


def _resampled(stored: Stored) -> Writers:
    """Pixels that are not square: the film has been averaged along one axis."""
    low = np.rint(stored.reshape(-1, 2, stored.shape[1]).mean(axis=1)).astype(np.uint16)
    narrow = np.rint(stored.reshape(stored.shape[0], -1, 2).mean(axis=2)).astype(np.uint16)
    return {
        "aspect ratio 2/1": dicom(low, PixelAspectRatio=["2", "1"]),
        "aspect ratio 1/2": dicom(narrow, PixelAspectRatio=["1", "2"]),
        "spacing 2/1": dicom(low, PixelSpacing=["0.28", "0.14"]),
        "imager spacing 1/2": dicom(narrow, ImagerPixelSpacing=["0.1", "0.2"]),
        "aspect ratio 2/1, turned": dicom(
            np.ascontiguousarray(narrow.T), PixelAspectRatio=["2", "1"], PatientOrientation=["F", "L"]
        ),
    }


def _lossy(stored: Stored) -> Writers:
    """Every lossy transfer syntax."""
    gray = to_8_bits(stored)
    wavelets = imagecodecs.jpeg2k_encode(stored, level=45, reversible=False, codecformat="j2k", bitspersample=12)
    return {
        "JPEGBaseline8Bit": dicom(gray, transfer_syntax=uid.JPEGBaseline8Bit),
        "JPEGExtended12Bit": dicom(stored, transfer_syntax=uid.JPEGExtended12Bit),
        "JPEGLSNearLossless": dicom(stored, transfer_syntax=uid.JPEGLSNearLossless),
        "JPEG2000, lossy": dicom(stored, transfer_syntax=uid.JPEG2000, stream=bytes(wavelets)),
        "JPEG XL, lossy": dicom(stored, transfer_syntax=JPEG_XL),
        "JPEG XL of a JPEG": dicom(gray, transfer_syntax=JPEG_XL_RECOMPRESSION),
    }


def _shallow(stored: Stored) -> Writers:
    """8 bits: plain, inverted, in an odd number of bytes, as colour, with a table."""
    gray = to_8_bits(stored)
    capture = {"SOPClassUID": uid.SecondaryCaptureImageStorage}
    return {
        "8 bits": dicom(gray),
        "8 bits, MONOCHROME1": dicom(255 - gray, PhotometricInterpretation="MONOCHROME1"),
        "8 bits, odd length": dicom(np.ascontiguousarray(gray[:-1, :-1])),
        "8 bits in 16": dicom(gray.astype(np.uint16), BitsStored=8, HighBit=7),
        "8 bits declared as 16": dicom(gray.astype(np.uint16), BitsStored=16, HighBit=15),
        "8 bits, big endian": dicom(gray, transfer_syntax=uid.ExplicitVRBigEndian),
        "8 bits, RLE": dicom(gray, transfer_syntax=uid.RLELossless),
        "8 bits, JPEG lossless": dicom(gray, transfer_syntax=uid.JPEGLosslessSV1),
        "10 bits": dicom(stored >> 2, BitsStored=10, HighBit=9),
        "RGB": dicom(as_rgb(gray), **capture),
        "RGB, JPEG 2000": dicom(as_rgb(gray), transfer_syntax=uid.JPEG2000Lossless, **capture),
        "YBR, JPEG": dicom(
            as_rgb(gray), transfer_syntax=uid.JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422", **capture
        ),
    }


def _deep_pictures(stored: Stored) -> Writers:
    """PNG files of 16 bits."""
    deep = np.rint(stored * (65535 / WHITE)).astype(np.uint16)
    opaque = np.full_like(deep, 65535)

    def png(samples: npt.NDArray[Any]) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(imagecodecs.png_encode(samples))

    return {
        "PNG, 16 bits": png(deep),
        "PNG, 16 bits, gray and alpha": png(np.stack([deep, opaque], axis=-1)),
        "PNG, 16 bits, RGB": png(as_rgb(deep)),
        "PNG, 16 bits, RGBA": png(np.stack([deep, deep, deep, opaque], axis=-1)),
        "PNG, 16 bits, interlaced": lambda path: path.write_bytes(interlaced_png(deep)),
        "PNG, 12 bits in 16": png(stored),
        "PNG, gzip": lambda path: path.write_bytes(gzip.compress(imagecodecs.png_encode(deep))),
    }


def _pictures(stored: Stored) -> Writers:
    """PNG and JPEG files of 8 bits."""
    image = Image.fromarray(to_8_bits(stored))

    def saved(picture: Image.Image, kind: str, **options: Any) -> Callable[[Path], object]:
        return lambda path: picture.save(path, format=kind, **options)

    palette = image.convert("P")
    jpegs = {
        f"JPEG, EXIF orientation {orientation}": saved(
            image if turn is None else image.transpose(turn), "JPEG", quality=95, exif=exif_of(orientation)
        )
        for orientation, turn in EXIF_TURNS.items()
    }
    return jpegs | {
        "PNG": saved(image, "PNG"),
        "PNG, palette": saved(palette, "PNG"),
        "PNG, gray and alpha": saved(image.convert("LA"), "PNG"),
        "PNG, RGB": saved(image.convert("RGB"), "PNG"),
        "PNG, RGBA": saved(image.convert("RGBA"), "PNG"),
        "PNG, interlaced": lambda path: path.write_bytes(interlaced_png(to_8_bits(stored))),
        "JPEG": saved(image, "JPEG", quality=95),
        "JPEG, quality 75": saved(image, "JPEG", quality=75),
        "JPEG, RGB": saved(image.convert("RGB"), "JPEG", quality=95),
        "JPEG, progressive": saved(image, "JPEG", quality=95, progressive=True),
    }


#: How a camera has stored what :class:`PIL.ImageOps` would turn upright, by EXIF orientation.
EXIF_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def exif_of(orientation: int) -> Image.Exif:
    """Return metadata that say how a picture is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def to_8_bits(stored: Stored) -> npt.NDArray[np.uint8]:
    """Return the film in 8 bits."""
    return np.rint(stored * (255 / WHITE)).astype(np.uint8)


def as_rgb(gray: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return three equal channels."""
    return np.stack([gray] * 3, axis=-1)


def interlaced_png(gray: npt.NDArray[Any]) -> bytes:
    """Return a gray PNG in the seven passes of Adam7 (PNG specification, 8.2)."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in gray.astype(gray.dtype.newbyteorder(">"))[top::down, left::right]
    ]
    depth = 8 * gray.dtype.itemsize
    header = struct.pack(">LLBBBBB", gray.shape[1], gray.shape[0], depth, 0, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def _dcmtk(stored: Stored, command: tuple[str, ...], tolerance: float) -> Encoding:
    """Return what writes the film with DICOM's other great toolkit."""

    def write(path: Path) -> None:
        plain = path.with_suffix(".plain")
        write_dicom(plain, stored)
        subprocess.run([*command, plain, path], check=True, capture_output=True, timeout=60)

    return Encoding(write=write, tolerance=tolerance, program=command[0])
