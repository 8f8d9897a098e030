"""DICOM files of one picture in many encodings, with known stored values.

The picture has 12 bits.  Whatever the encoding, a correct rendering is ``stored / 4095``: every window and
table built here is an equivalent of the whole range.
"""

import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence

WHITE = 4095  #: largest stored value of the picture

#: Transfer syntaxes whose pixels are not in fragments.
NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}

#: Those that pydicom 3.0 does not know.
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
JPEG_XL_LOSSLESS = "1.2.840.10008.1.2.4.110"
JPEG_XL_RECOMPRESSION = "1.2.840.10008.1.2.4.111"
JPEG_XL = "1.2.840.10008.1.2.4.112"

#: Those in which `write_dicom` keeps every value.
LOSSLESS_SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    ENCAPSULATED_UNCOMPRESSED,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    DEFLATED_IMAGE_FRAME,
    JPEG_XL_LOSSLESS,
)

#: Tolerance of a rendering that needs no rounding: one step of float32 at 1.
EXACT = 2.0**-23


@dataclass(frozen=True)
class PixelReference:
    """A picture by its known values, after pydicom's tests/pixels/pixels_reference.py."""

    name: str
    stored: npt.NDArray[np.uint16]
    known: dict[tuple[int, int], int] = field(default_factory=dict)
    """Stored values at (row, column), written down by hand."""

    @property
    def pixels(self) -> npt.NDArray[np.float64]:
        """What a correct rendering gives: in [0, 1], larger is brighter."""
        return self.stored / WHITE

    def check(self, pixels: npt.NDArray[np.float32], tolerance: float = EXACT) -> None:
        """Assert that a rendering is this picture, at every pixel and at the known ones."""
        assert pixels.dtype == np.float32
        assert pixels.shape == self.stored.shape
        assert float(np.abs(pixels - self.pixels).max()) <= tolerance
        for position, stored in self.known.items():
            assert abs(float(pixels[position]) - stored / WHITE) <= tolerance


def _ramp() -> npt.NDArray[np.uint16]:
    """Return 72 rows and 90 columns that rise by 45 and 7, with black, white and mid-gray corners."""
    rows, columns = np.mgrid[:72, :90]
    stored = (rows * 45 + columns * 7).astype(np.uint16)
    stored[0, 89], stored[71, 0], stored[71, 89] = 2048, 1, WHITE
    return stored


#: The picture of most tests: asymmetric, uses 0 and 4095, rows differ from columns.
RAMP = PixelReference(
    name="RAMP",
    stored=_ramp(),
    known={(0, 0): 0, (0, 1): 7, (1, 0): 45, (0, 89): 2048, (71, 0): 1, (71, 89): 4095, (10, 20): 590},
)


def chest_dataset(**attributes: Any) -> Dataset:
    """Return the header of an ordinary chest radiograph; a value of None takes its attribute away."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": uid.ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.1",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.3",
        "StudyDate": "20240131",
        "AccessionNumber": "ACC1",
        "Modality": "CR",
        "PatientName": "Nobody^Knows",
        "PatientID": "PAT1",
        "PatientAge": "004Y",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the wrong values that tests ask for
        for keyword, value in (values | attributes).items():
            if value is not None:
                setattr(dataset, keyword, value)
    return dataset


def write_dicom(
    path: Path,
    cells: npt.NDArray[Any] = RAMP.stored,
    *,
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
    stream: bytes | None = None,
    **attributes: Any,
) -> Path:
    """Write one DICOM file and return its path.

    Parameters
    ----------
    cells
        Sample containers as they go into Pixel Data: (rows, columns) or (rows, columns, 3), 8 or 16 bits.
    stream
        The compressed picture, where `transfer_syntax` is encapsulated; by default what `compress` gives.
    attributes
        Added to the ordinary header or, with None, taken away from it.
    """
    inferred: dict[str, Any] = {"Rows": cells.shape[0], "Columns": cells.shape[1]}
    if cells.dtype.itemsize == 1:
        inferred |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    if cells.dtype.kind == "i":
        inferred |= {"PixelRepresentation": 1}
    if cells.ndim == 3:
        inferred |= {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    dataset = chest_dataset(**(inferred | attributes))
    syntax = uid.UID(transfer_syntax)
    if syntax not in NATIVE:
        frame = compress(cells, syntax, dataset) if stream is None else stream
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
    else:
        order = "<" if syntax.is_little_endian else ">"
        value = cells.astype(cells.dtype.newbyteorder(order)).tobytes()
        dataset.PixelData = value + b"\0" * (len(value) % 2)
        dataset["PixelData"].VR = "OB" if cells.dtype.itemsize == 1 else "OW"
    return save(path, dataset, transfer_syntax=transfer_syntax)


def save(path: Path, dataset: Dataset, *, transfer_syntax: str = uid.ExplicitVRLittleEndian) -> Path:
    """Write a data set with File Meta Information; pydicom need not know the transfer syntax."""
    written = transfer_syntax if transfer_syntax in uid.UID_dictionary else uid.JPEG2000
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom writes the true one where there is any
    meta.TransferSyntaxUID = uid.UID(written)
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", uid.ComputedRadiographyImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.498.9"
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # likewise
        dcmwrite(path, file, enforce_file_format=False)
    if written != transfer_syntax:
        set_transfer_syntax(path, transfer_syntax)
    return path


def set_transfer_syntax(path: Path, transfer_syntax: str) -> None:
    """Write another (0002,0010) Transfer Syntax UID, true or not, into a file that :func:`save` wrote."""
    content = path.read_bytes()
    start = content.index(b"\x02\x00\x10\x00UI") + 6
    end = start + 2 + int.from_bytes(content[start : start + 2], "little")
    value = transfer_syntax.encode() + b"\0" * (len(transfer_syntax) % 2)
    # (0002,0000) is the first element after the prefix; its value begins at 140.
    group_length = int.from_bytes(content[140:144], "little") + len(value) - (end - start - 2)
    content = content[:start] + len(value).to_bytes(2, "little") + value + content[end:]
    path.write_bytes(content[:140] + group_length.to_bytes(4, "little") + content[144:])


def compress(cells: npt.NDArray[Any], syntax: str, dataset: Dataset) -> bytes:
    """Return `cells` compressed in a transfer syntax; lossless where the syntax allows it."""
    bits = int(dataset.BitsStored)
    unsigned = cells.view(f"u{cells.dtype.itemsize}")
    if cells.dtype.kind == "i":
        unsigned = unsigned & unsigned.dtype.type((1 << bits) - 1)
    if syntax == uid.RLELossless:
        return _compress_rle(cells, dataset)
    jpeg, jpeg2k = imagecodecs.jpeg8_encode, imagecodecs.jpeg2k_encode
    encoders: dict[str, Callable[[], bytes | bytearray]] = {
        uid.JPEGBaseline8Bit: lambda: jpeg(unsigned, level=95),
        uid.JPEGExtended12Bit: lambda: jpeg(unsigned, level=95, bitspersample=bits),
        uid.JPEGLossless: lambda: jpeg(unsigned, lossless=True, predictor=4, bitspersample=bits),
        uid.JPEGLosslessSV1: lambda: jpeg(unsigned, lossless=True, predictor=1, bitspersample=bits),
        uid.JPEGLSLossless: lambda: imagecodecs.jpegls_encode(unsigned),
        uid.JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(unsigned, level=2),
        uid.JPEG2000Lossless: lambda: jpeg2k(cells, level=0, reversible=True, codecformat="j2k", bitspersample=bits),
        uid.HTJ2KLossless: lambda: imagecodecs.htj2k_encode(cells, reversible=True),
    }
    encoders |= {
        ENCAPSULATED_UNCOMPRESSED: lambda: cells.tobytes(),
        DEFLATED_IMAGE_FRAME: lambda: zlib.compress(cells.tobytes(), wbits=-zlib.MAX_WBITS),
        JPEG_XL_LOSSLESS: lambda: imagecodecs.jpegxl_encode(unsigned, lossless=True, bitspersample=bits),
        JPEG_XL_RECOMPRESSION: lambda: imagecodecs.jpegxl_encode_jpeg(bytes(jpeg(unsigned, level=95))),
        JPEG_XL: lambda: imagecodecs.jpegxl_encode(unsigned, distance=0.5, bitspersample=bits),
    }
    encoders[uid.JPEG2000] = encoders[uid.JPEG2000Lossless]
    encoders[uid.HTJ2K] = encoders[uid.HTJ2KLosslessRPCL] = encoders[uid.HTJ2KLossless]
    return bytes(encoders[syntax]())


def _compress_rle(cells: npt.NDArray[Any], dataset: Dataset) -> bytes:
    """Return `cells` compressed with RLE (PS3.5 Annex G)."""
    return RLELosslessEncoder.encode(
        cells.astype(cells.dtype.newbyteorder("<")).tobytes(),
        encoding_plugin="pydicom",
        rows=cells.shape[0],
        columns=cells.shape[1],
        samples_per_pixel=int(dataset.SamplesPerPixel),
        planar_configuration=0,
        number_of_frames=1,
        bits_allocated=8 * cells.dtype.itemsize,
        bits_stored=int(dataset.BitsStored),
        pixel_representation=int(dataset.PixelRepresentation),
        photometric_interpretation=str(dataset.PhotometricInterpretation),
    )


def lut_sequence(
    entries: npt.NDArray[Any] | bytes,
    *,
    count: int,
    first_mapped: int = 0,
    bits: int = 12,
    data_vr: str = "OW",
    descriptor_vr: str = "US",
) -> Sequence:
    """Return a Modality LUT or VOI LUT sequence of one item."""
    item = Dataset()
    low = first_mapped if descriptor_vr == "SS" else first_mapped & 0xFFFF
    item.add_new("LUTDescriptor", descriptor_vr, [count & 0xFFFF, low, bits])
    if data_vr == "US":
        item.add_new("LUTData", "US", [int(entry) for entry in np.asarray(entries)])
    else:
        item.add_new("LUTData", data_vr, entries if isinstance(entries, bytes) else entries.tobytes())
    return Sequence([item])


def code_sequence(value: str, meaning: str, scheme: str = "SCT") -> Sequence:
    """Return a coded concept as a sequence of one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def raw_element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """Return one explicit little endian element, whatever its value."""
    head = struct.pack("<HH2s", group, number, vr.encode())
    if vr in ("OB", "OD", "OF", "OW", "SQ", "UN", "UT"):
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value
