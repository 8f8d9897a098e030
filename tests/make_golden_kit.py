"""Make the golden files of `xray-batch selftest` again: `python tests/make_golden_kit.py [FOLDER]`.

Needs the Debian packages `dcmtk` and `openjph-tools`, and FFmpeg with its own JPEG 2000 and JPEG-LS encoders: on the
PATH, or named by $FFMPEG.  With the same versions of these the same bytes come out.

The film is one of the demo's samples (Kermany et al., CC BY 4.0), made smaller.  The patient is invented.
"""

import gzip
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from dicom_factory import (
    DEFLATED_IMAGE_FRAME,
    ENCAPSULATED_UNCOMPRESSED,
    JPEG_XL,
    JPEG_XL_LOSSLESS,
    JPEG_XL_RECOMPRESSION,
    WHITE,
    lut_sequence,
    set_transfer_syntax,
)
from golden_encoders import (
    CORNER,
    FILM,
    FILM_8,
    IDENTITY,
    LIBJXL,
    NEGATIVE,
    NUMPY,
    OPENJPEG,
    OPENJPH,
    PILLOW,
    PYDICOM,
    SIGNED,
    UNSIGN,
    WINDOW,
    by_dcmtk,
    by_ffmpeg,
    by_openjph,
    dcmtk,
    ffmpeg,
    jpeg_of_dcmtk,
    openjph,
    padded,
    sigmoid_cells,
    write,
    write_gzip,
)
from installed_command import CT_IMAGE, png_header_of
from PIL import Image
from pydicom import uid
from pydicom.uid import UID

KIT = Path(__file__).resolve().parent.parent / "xray_batch" / "golden"

#: Largest difference in probability: where the picture is the same, and where it is not quite.
SAME, SIMILAR = 0.001, 0.02

#: Half a step of 8 bits.
EIGHT_BITS = 0.5 / 255

#: Half a step of 16 bits: what a rounded 16-bit picture may differ.
SIXTEEN_BITS = 0.5 / 65535


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What `golden.json` says about one file."""

    file: str
    sha256: str = ""
    shows: str
    encoder: str
    transfer_syntax_uid: str | None = None
    tolerance: float | None = 0.0
    p_tolerance: float | None = SAME
    reason_code: str | None = None


Made = tuple[Entry, Callable[[Path], object]]


def syntaxes() -> Iterator[Made]:
    """Yield one file per transfer syntax."""

    def of_dcmtk(name: str, syntax: str, *command: str, **facts: Any) -> Made:
        cells = facts.pop("cells", FILM)
        entry = Entry(file=f"syntax-{name}.dcm", shows=syntax, encoder=f"{by_dcmtk()} ({command[0]})", **facts)
        return entry, lambda path: dcmtk(path, *command, cells=cells)

    def of_stream(
        name: str, syntax: str, encoder: str, stream: Callable[[], bytes] | None, cells: Any = FILM, **facts: Any
    ) -> Made:
        entry = Entry(file=f"syntax-{name}.dcm", shows=syntax, encoder=encoder, **facts)
        return entry, lambda path: write(
            path, cells, transfer_syntax=syntax, stream=None if stream is None else stream()
        )

    def lossy(tolerance: float) -> dict[str, float]:
        return {"tolerance": tolerance, "p_tolerance": SIMILAR}

    jpeg = ("dcmcjpeg", "+un")
    yield of_dcmtk("implicit-little-endian", uid.ImplicitVRLittleEndian, "dcmconv", "+ti")
    yield of_stream("explicit-little-endian", uid.ExplicitVRLittleEndian, NUMPY, None)
    yield of_stream("encapsulated-uncompressed", ENCAPSULATED_UNCOMPRESSED, NUMPY, None)
    yield of_dcmtk("deflated", uid.DeflatedExplicitVRLittleEndian, "dcmconv", "+td")
    yield of_dcmtk("explicit-big-endian", uid.ExplicitVRBigEndian, "dcmconv", "+tb")
    baseline = {"cells": FILM_8, **lossy(0.04)}
    yield of_dcmtk("jpeg-baseline", uid.JPEGBaseline8Bit, *jpeg, "+eb", "+q", "95", **baseline)
    yield of_dcmtk("jpeg-extended-12-bit", uid.JPEGExtended12Bit, *jpeg, "+ee", "+q", "95", **lossy(0.003))
    yield of_dcmtk("jpeg-spectral-selection", "1.2.840.10008.1.2.4.53", *jpeg, "+es", "+q", "95", **lossy(0.003))
    yield of_dcmtk("jpeg-progressive", "1.2.840.10008.1.2.4.55", *jpeg, "+ep", "+q", "95", **lossy(0.003))
    yield of_dcmtk("jpeg-lossless", uid.JPEGLossless, *jpeg, "+el", "+sv", "6")
    yield of_dcmtk("jpeg-lossless-sv1", uid.JPEGLosslessSV1, *jpeg, "+e1")
    yield of_dcmtk("jpeg-ls-lossless", uid.JPEGLSLossless, "dcmcjpls", "+un", "+el")
    near = lossy(2 / WHITE)
    yield of_dcmtk("jpeg-ls-near-lossless", uid.JPEGLSNearLossless, "dcmcjpls", "+un", "+en", "+md", "2", **near)
    j2k = ("gray12le", "-c:v", "jpeg2000", "-format", "j2k", "-pred")
    yield of_stream(
        "jpeg-2000-lossless",
        uid.JPEG2000Lossless,
        f"{by_ffmpeg()} (its own jpeg2000)",
        lambda: ffmpeg(FILM, *j2k, "dwt53"),
    )
    yield of_stream(
        "jpeg-2000",
        uid.JPEG2000,
        f"{by_ffmpeg()} (its own jpeg2000)",
        lambda: ffmpeg(FILM, *j2k, "dwt97int", "-q:v", "2"),
        **lossy(0.004),
    )
    yield of_stream(
        "jpeg-xl-lossless",
        JPEG_XL_LOSSLESS,
        LIBJXL,
        lambda: bytes(imagecodecs.jpegxl_encode(FILM, lossless=True, bitspersample=12)),
    )
    yield of_stream(
        "jpeg-xl-recompression",
        JPEG_XL_RECOMPRESSION,
        f"{LIBJXL}, of a JPEG by {by_dcmtk()}",
        lambda: bytes(imagecodecs.jpegxl_encode_jpeg(jpeg_of_dcmtk())),
        cells=FILM_8,
        **lossy(0.04),
    )
    yield of_stream(
        "jpeg-xl",
        JPEG_XL,
        LIBJXL,
        lambda: bytes(imagecodecs.jpegxl_encode(FILM, distance=0.1, bitspersample=12)),
        **lossy(0.02),
    )
    yield of_stream(
        "htj2k-lossless",
        uid.HTJ2KLossless,
        by_openjph(),
        lambda: openjph("-reversible", "true", "-prog_order", "LRCP"),
    )
    yield of_stream(
        "htj2k-lossless-rpcl",
        uid.HTJ2KLosslessRPCL,
        OPENJPH,
        lambda: bytes(imagecodecs.htj2k_encode(FILM, reversible=True, tlm=True)),
    )
    yield of_stream("htj2k", uid.HTJ2K, by_openjph(), lambda: openjph("-qstep", "0.002"), **lossy(0.005))
    yield of_dcmtk("rle", uid.RLELossless, "dcmcrle", "+un")
    yield of_stream("deflated-image-frame", DEFLATED_IMAGE_FRAME, f"zlib, in a file by {PYDICOM}", None)


def renderings() -> Iterator[Made]:
    """Yield the same film in other ways of storing it; deflated, to be small."""

    def deflated(name: str, shows: str, cells: Any = FILM, tolerance: float = 0.0, **attributes: Any) -> Made:
        similar = SIMILAR if tolerance >= EIGHT_BITS else SAME
        entry = Entry(file=f"{name}.dcm", shows=shows, encoder=PYDICOM, tolerance=tolerance, p_tolerance=similar)
        syntax = uid.DeflatedExplicitVRLittleEndian
        return entry, lambda path: write(path, cells, transfer_syntax=syntax, **attributes)

    yield deflated("monochrome1", "MONOCHROME1", WHITE - FILM, **NEGATIVE)
    yield deflated(
        "monochrome1-inverse",
        "MONOCHROME1 with Presentation LUT Shape INVERSE and a window: turned round once",
        WHITE - FILM,
        PresentationLUTShape="INVERSE",
        **NEGATIVE,
        **WINDOW,
    )
    yield deflated("window-linear", "window LINEAR", **WINDOW)
    exact = {"WindowCenter": "2047.5", "WindowWidth": "4095", "VOILUTFunction": "LINEAR_EXACT"}
    yield deflated("window-linear-exact", "window LINEAR_EXACT", **exact)
    sigmoid = {"BitsStored": 16, "HighBit": 15, "VOILUTFunction": "SIGMOID"}
    sigmoid |= {"WindowCenter": "32768", "WindowWidth": "8000"}
    yield deflated("window-sigmoid", "window SIGMOID, its inverse stored", sigmoid_cells(), 0.0002, **sigmoid)
    several = {"WindowCenter": ["2048", "100"], "WindowWidth": ["4096", "50"]}
    yield deflated("window-several", "two windows: the first is shown", **several)
    yield deflated("window-width-zero", "window of width 0: none", WindowCenter="0", WindowWidth="0")
    yield deflated("signed", "signed, with a Rescale Intercept", SIGNED, **UNSIGN)
    not_extended = SIGNED.view(np.uint16) & np.uint16(WHITE)
    yield deflated(
        "signed-not-extended", "signed, without sign extension", not_extended, PixelRepresentation=1, **UNSIGN
    )
    slope = {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "3995.5", "WindowWidth": "8191"}
    yield deflated("rescale", "Rescale Slope 2 and Intercept -100, and a window", **slope)
    inverting = {"RescaleSlope": "-1", "RescaleIntercept": "4095"}
    yield deflated("rescale-inverting", "Rescale Slope -1", WHITE - FILM, **inverting)
    yield deflated("high-bit-15", "12 bits, High Bit 15", FILM << 4, HighBit=15)
    yield deflated("overlay-in-unused-bits", "overlay in the unused bits", FILM | np.uint16(0xA000))
    sixteen = {"BitsStored": 16, "HighBit": 15}
    wide = {"WindowCenter": "32760.5", "WindowWidth": "65521"}
    yield deflated("16-bit", "16 bits and a window", FILM * 16, **sixteen, **wide)
    yield deflated("16-bit-unused", "12 bits that say they are 16, no window", **sixteen)
    yield deflated("8-bit", "8 bits", FILM_8, EIGHT_BITS)
    yield deflated("8-bit-monochrome1", "8 bits, MONOCHROME1", 255 - FILM_8, EIGHT_BITS, **NEGATIVE)
    yield from luts(deflated)
    framed = {"PixelPaddingValue": 65000, **sixteen, **WINDOW}
    yield deflated("padding", "a frame of padding around the film", padded(FILM, 65000), **framed)
    negative = np.uint16(WHITE) - FILM
    both = {"PixelPaddingValue": 65000, "PixelPaddingRangeLimit": 64000, **sixteen, **WINDOW, **NEGATIVE}
    yield deflated("padding-range", "padding of two values, MONOCHROME1", padded(negative, 64500, 65000), **both)
    yield deflated("mirrored", "Patient Orientation R/F", FILM[:, ::-1], PatientOrientation=["R", "F"])
    yield deflated("upside-down", "Patient Orientation L/H", FILM[::-1], PatientOrientation=["L", "H"])
    yield deflated("turned", "Patient Orientation F/L", np.ascontiguousarray(FILM.T), PatientOrientation=["F", "L"])
    yield deflated(
        "gray-as-color",
        "Secondary Capture, RGB with three equal channels",
        np.stack([FILM_8] * 3, axis=-1),
        EIGHT_BITS,
        SOPClassUID=uid.SecondaryCaptureImageStorage,
    )


def luts(deflated: Callable[..., Made]) -> Iterator[Made]:
    """Yield the film with tables."""
    table = lut_sequence(IDENTITY, count=4096)
    narrow = {"WindowCenter": "100", "WindowWidth": "10"}
    yield deflated("voi-lut", "VOI LUT of 12 bits, preferred to a window", VOILUTSequence=table, **narrow)
    eight = (IDENTITY * 255.0 / WHITE).round().astype(np.uint8).tobytes()
    packed = lut_sequence(eight, count=4096, bits=8)
    yield deflated("voi-lut-8-bit", "VOI LUT of 4096 entries of 8 bits", FILM, EIGHT_BITS, VOILUTSequence=packed)
    declared = lut_sequence(IDENTITY, count=4096, bits=16)
    yield deflated("voi-lut-declared-16-bit", "VOI LUT of 12 bits that says 16", VOILUTSequence=declared)
    negative = lut_sequence(IDENTITY, count=4096, first_mapped=-2048, descriptor_vr="SS")
    yield deflated("voi-lut-negative", "VOI LUT whose first input is negative", SIGNED, VOILUTSequence=negative)
    yield deflated("modality-lut", "Modality LUT of 12 bits", ModalityLUTSequence=table)
    backwards = lut_sequence(IDENTITY[::-1].copy(), count=4096)
    yield deflated("modality-lut-inverting", "Modality LUT that inverts", WHITE - FILM, ModalityLUTSequence=backwards)


def streams() -> Iterator[Made]:
    """Yield streams that other encoders, or signs, make different."""

    def entry(name: str, shows: str, encoder: str) -> Entry:
        return Entry(file=f"{name}.dcm", shows=shows, encoder=encoder)

    def signed(name: str, shows: str, *command: str) -> Made:
        made = entry(name, f"{shows}, signed", f"{by_dcmtk()} ({command[0]})")
        return made, lambda path: dcmtk(path, *command, cells=SIGNED, **UNSIGN)

    yield signed("jpeg-lossless-signed", "JPEG Lossless", "dcmcjpeg", "+un", "+e1")
    yield signed("jpeg-ls-signed", "JPEG-LS", "dcmcjpls", "+un", "+el")
    yield signed("rle-signed", "RLE", "dcmcrle", "+un")
    yield (
        entry("jpeg-2000-signed", "JPEG 2000, signed", OPENJPEG),
        lambda path: write(path, SIGNED, transfer_syntax=uid.JPEG2000Lossless, **UNSIGN),
    )
    sixteen = {"BitsStored": 16, "HighBit": 15, "WindowCenter": "32760.5", "WindowWidth": "65521"}
    yield (
        entry("jpeg-ls-16-bit", "JPEG-LS of 16 bits, by another encoder", f"{by_ffmpeg()} (its own jpegls)"),
        lambda path: write(
            path,
            FILM * 16,
            transfer_syntax=uid.JPEGLSLossless,
            stream=ffmpeg(FILM * 16, "gray16le", "-c:v", "jpegls", "-pred", "left"),
            **sixteen,
        ),
    )
    yield (
        entry("fragments", "one frame in several fragments", f"{by_dcmtk()} (dcmcjpeg)"),
        lambda path: dcmtk(path, "dcmcjpeg", "+un", "+e1", "+fs", "4"),
    )


def pictures() -> Iterator[Made]:
    """Yield files that are not DICOM, and a DICOM file in an envelope."""

    def entry(file: str, shows: str, encoder: str, tolerance: float = 0.0) -> Entry:
        similar = SIMILAR if tolerance >= EIGHT_BITS else SAME
        return Entry(file=file, shows=shows, encoder=encoder, tolerance=tolerance, p_tolerance=similar)

    sixteen = np.round(FILM / WHITE * 65535).astype(np.uint16)
    gray, color = Image.fromarray(FILM_8), Image.fromarray(np.stack([FILM_8] * 3, axis=-1))
    yield (
        entry("png-16-bit.png", "PNG of 16 bits", PILLOW, SIXTEEN_BITS),
        lambda path: Image.fromarray(sixteen).save(path, optimize=True),
    )
    yield entry("png-8-bit.png", "PNG of 8 bits", PILLOW, EIGHT_BITS), lambda path: gray.save(path, optimize=True)
    yield entry("jpeg.jpeg", "JPEG", PILLOW, 0.04), lambda path: gray.save(path, quality=95)
    yield (
        entry("jpeg-color.jpeg", "JPEG in colour, of a gray picture", PILLOW, 0.04),
        lambda path: color.save(path, quality=95),
    )
    yield entry("gzip.dcm.gz", "DICOM in gzip", NUMPY), write_gzip


def refusals() -> Iterator[Made]:
    """Yield files that must be refused, each for one reason."""

    def refused(reason_code: str, shows: str, write_file: Callable[[Path], object], suffix: str = "dcm") -> Made:
        name = f"refused-{reason_code.replace('_', '-')}.{suffix}"
        facts = {"encoder": PYDICOM, "tolerance": None, "p_tolerance": None, "reason_code": reason_code}
        return Entry(file=name, shows=shows, **facts), write_file

    def corner(**attributes: Any) -> Callable[[Path], object]:
        cells = attributes.pop("cells", CORNER)
        return lambda path: write(path, cells, **attributes)

    def cut(path: Path) -> None:
        path.write_bytes(write(path, CORNER).read_bytes()[:-2000])

    def private(path: Path) -> None:
        set_transfer_syntax(write(path, CORNER), "1.2.840.10008.1.2.4.100")

    tinted = np.stack([FILM_8[:64, :64], FILM_8[:64, :64] // 2, FILM_8[:64, :64]], axis=-1)
    capture = {"cells": tinted, "SOPClassUID": uid.SecondaryCaptureImageStorage}
    frames = {"cells": np.concatenate([CORNER, CORNER]), "Rows": 64, "NumberOfFrames": "2"}
    damaged = {"transfer_syntax": uid.JPEG2000Lossless, "stream": b"\xff\x4f\xff\x51" + bytes(60)}
    raw = {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing, "Modality": "DX"}
    yield refused("truncated", "cut off before its end", cut)
    yield refused("for_processing", "raw detector data", corner(PresentationIntentType="FOR PROCESSING", **raw))
    yield refused("lateral_view", "View Position LL", corner(ViewPosition="LL"))
    yield refused("multi_frame", "two frames", corner(**frames))
    yield refused("color_image", "channels that differ", corner(**capture))
    yield refused("unsupported_transfer_syntax", "MPEG2", private)
    bomb = png_header_of(50_000, 50_000)
    yield refused("too_large", "PNG that promises 2.5 billion pixels", lambda path: path.write_bytes(bomb), "png")
    yield refused("unsupported_modality", "CT", corner(Modality="CT", SOPClassUID=CT_IMAGE))
    yield refused("not_a_chest", "Body Part Examined HAND", corner(BodyPartExamined="HAND"))
    yield refused("blank_image", "one gray", corner(cells=np.full_like(CORNER, 2000)))
    yield refused("too_small", "32 x 32", corner(cells=CORNER[:32, :32]))
    yield refused("pixel_data", "a damaged JPEG 2000 stream", corner(**damaged))
    text = "A text file that somebody named .dcm.\n"
    yield refused("unreadable_file", "text", lambda path: path.write_text(text, encoding="ascii"))
    yield refused("empty_file", "no bytes", lambda path: path.touch())


def transfer_syntax_of(path: Path) -> str | None:
    """Return what the file's own meta information says; None where it is not DICOM."""
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    found = re.search(rb"\x02\x00\x10\x00UI..([\d.]+)", content[:1000], re.DOTALL)
    return found[1].decode() if found and content[128:132] == b"DICM" else None


def main(arguments: Sequence[str]) -> None:
    """Write the kit."""
    kit = Path(arguments[0]) if arguments else KIT
    files = kit / "files.new"  # the old ones stay until all are made
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    film = kit / "film.png"
    Image.fromarray(FILM).save(film, optimize=True)
    entries = []
    for make in (syntaxes, renderings, streams, pictures, refusals):
        for entry, write_file in make():
            path = files / entry.file
            write_file(path)
            syntax = transfer_syntax_of(path)
            shows = _name(entry.shows)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            entries.append(asdict(replace(entry, shows=shows, sha256=sha256, transfer_syntax_uid=syntax)))
    facts = {
        "film": {"file": film.name, "sha256": hashlib.sha256(film.read_bytes()).hexdigest(), "white": WHITE},
        "files": entries,
    }
    shutil.rmtree(kit / "files", ignore_errors=True)
    files.rename(kit / "files")
    text = json.dumps(facts, indent=1) + "\n"
    (kit / "golden.json").write_text(text, encoding="utf-8")


def _name(shows: str) -> str:
    """Name a transfer syntax as the product does; any other text is kept."""
    from xray_batch.decode.codecs import name_transfer_syntax

    return name_transfer_syntax(shows) if isinstance(shows, UID) or shows.startswith("1.2.840") else shows


if __name__ == "__main__":
    main(sys.argv[1:])
