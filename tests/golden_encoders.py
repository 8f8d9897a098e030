"""The golden film, and the programs that encode it for `make_golden_kit`."""

import functools
import gzip
import os
import re
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from dicom_factory import WHITE, write_dicom
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import generate_frames

DEMO_SAMPLE = Path(__file__).resolve().parent.parent / "xray_batch" / "demo" / "samples" / "05-dx-rle.dcm"

ROWS, COLUMNS = 104, 136

PYDICOM = f"pydicom {metadata.version('pydicom')}"
PILLOW = f"Pillow {metadata.version('pillow')}"
NUMPY = f"NumPy, in a file by {PYDICOM}"
OPENJPEG = f"OpenJPEG {imagecodecs.jpeg2k_version().split()[-1]} (imagecodecs)"
OPENJPH = f"OpenJPH {imagecodecs.htj2k_version().split()[-1]} (imagecodecs)"
LIBJXL = f"libjxl {imagecodecs.jpegxl_version().split()[-1]} (imagecodecs)"


def make_film() -> npt.NDArray[np.uint16]:
    """Return the film: shape (104, 136), 12 bits, 0 and 4095 among them."""
    sample = dcmread(DEMO_SAMPLE).pixel_array  # 625 x 640
    pixels = sample[70:559].astype(np.float32)
    small = np.asarray(Image.fromarray(pixels).resize((COLUMNS, ROWS), Image.Resampling.LANCZOS), np.float64)
    stretched: npt.NDArray[np.uint16] = np.round((small - small.min()) / np.ptp(small) * WHITE).astype(np.uint16)
    return stretched


FILM = make_film()
FILM_8 = np.round(FILM / WHITE * 255).astype(np.uint8)
SIGNED = (FILM.astype(np.int32) - 2048).astype(np.int16)
UNSIGN = {"RescaleIntercept": "2048", "RescaleSlope": "1"}
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}
IDENTITY = np.arange(WHITE + 1, dtype="<u2")  #: a table that changes nothing
NEGATIVE = {"PhotometricInterpretation": "MONOCHROME1"}
CORNER = FILM[24:88, 40:104]  #: 64 x 64: of the files that are refused


def patient(name: str) -> dict[str, object]:
    """Return the attributes of the invented patient; the instance differs by file."""
    return {
        "PatientName": "Golden^Film",
        "PatientID": "GOLDEN-001",
        "PatientSex": "O",
        "PatientAge": "004Y",
        "AccessionNumber": "GOLDEN",
        "StudyDate": "20260101",
        "StudyInstanceUID": uid.generate_uid(entropy_srcs=["xray-batch golden study"]),
        "SeriesInstanceUID": uid.generate_uid(entropy_srcs=["xray-batch golden series"]),
        "SOPInstanceUID": uid.generate_uid(entropy_srcs=["xray-batch golden instance", name]),
        "Manufacturer": "xray-batch golden kit",
        "BurnedInAnnotation": "NO",
        "ViewPosition": "AP",
    }


def write(path: Path, cells: npt.NDArray[Any], **attributes: Any) -> Path:
    """Write a DICOM file of the invented patient."""
    return write_dicom(path, cells, **(patient(path.stem) | attributes))


def run(*command: str | Path, text: bytes = b"") -> bytes:
    """Run an encoder and return what it prints."""
    return subprocess.run(list(map(str, command)), input=text, capture_output=True, check=True, timeout=60).stdout


@functools.cache
def by_dcmtk() -> str:
    """Name the DCMTK installed here, with its version."""
    return "DCMTK " + re.findall(rb"v(\d+\.\d+\.\d+)", run("dcmcjpeg", "--version"))[0].decode()


@functools.cache
def by_openjph() -> str:
    """Name the OpenJPH of the Debian package, with its version."""
    version = run("dpkg-query", "-f", "${source:Upstream-Version}", "-W", "openjph-tools").decode()
    return f"OpenJPH {version} (ojph_compress)"


@functools.cache
def by_ffmpeg() -> str:
    """Name the FFmpeg installed here, with its version."""
    return "FFmpeg " + re.findall(rb"version n?(\d+\.\d+(?:\.\d+)?)", run(ffmpeg_program(), "-version"))[0].decode()


def ffmpeg_program() -> str:
    """Return the FFmpeg to run."""
    return os.environ.get("FFMPEG", "ffmpeg")


def dcmtk(path: Path, *command: str, cells: npt.NDArray[Any] = FILM, **attributes: Any) -> None:
    """Have a tool of DCMTK encode an uncompressed file; `command` is its name and options."""
    with tempfile.TemporaryDirectory() as folder:
        run(*command, write(Path(folder) / path.name, cells, **attributes), path)


def ffmpeg(cells: npt.NDArray[Any], layout: str, *options: str) -> bytes:
    """Have FFmpeg encode one picture; `layout` is its name of the pixels' format."""
    rows, columns = cells.shape
    source = ["-f", "rawvideo", "-pix_fmt", layout, "-s", f"{columns}x{rows}", "-i", "-"]
    exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1"]
    encoder = [*exact, "-frames:v", "1", *options, "-f", "rawvideo", "-"]
    return run(ffmpeg_program(), "-v", "error", *source, *encoder, text=cells.tobytes())


def openjph(*options: str) -> bytes:
    """Have OpenJPH encode the film."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "film.pgm", Path(folder) / "film.j2c"
        source.write_bytes(b"P5 %d %d %d\n" % (COLUMNS, ROWS, WHITE) + FILM.astype(">u2").tobytes())
        run("ojph_compress", "-i", source, "-o", result, *options)
        return result.read_bytes()


def jpeg_of_dcmtk() -> bytes:
    """Return the bare JPEG stream of a baseline file by DCMTK."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "baseline.dcm"
        dcmtk(path, "dcmcjpeg", "+eb", "+q", "95", "+un", cells=FILM_8)
        return next(generate_frames(dcmread(path).PixelData, number_of_frames=1))


def sigmoid_cells() -> npt.NDArray[np.uint16]:
    """Return what a SIGMOID window of center 32768 and width 8000 shows as the film (PS3.3 C.11.2.1.3.1)."""
    shown = np.clip(FILM / WHITE, 0.5 / WHITE, 1 - 0.5 / WHITE)
    cells: npt.NDArray[np.uint16] = np.round(32768 + 8000 / 4 * np.log(shown / (1 - shown))).astype(np.uint16)
    return cells


def padded(cells: npt.NDArray[np.uint16], *values: int) -> npt.NDArray[np.uint16]:
    """Return a frame of each value in turn around `cells`, 3 rows and 5 columns wide."""
    for value in values:
        cells = np.pad(cells, ((3, 3), (5, 5)), constant_values=value)
    return cells


def write_gzip(path: Path) -> None:
    """Write an uncompressed DICOM file in gzip, without a time."""
    with tempfile.TemporaryDirectory() as folder:
        content = write(Path(folder) / "gzip.dcm", FILM).read_bytes()
    path.write_bytes(gzip.compress(content, mtime=0))
