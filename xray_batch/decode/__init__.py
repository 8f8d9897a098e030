"""Decode one received file to a single-channel grayscale image.

Second stage: intake -> decode -> standardize -> classify -> store.
May import: the standard library, numpy, pydicom, imagecodecs, PIL, and `errors` and `records` of this
package.  It opens no database, imports no torch, moves no file and logs nothing.

The service takes the steps one by one, so that a refused file still has its header::

    content = read_file(path)         the bytes, once: no later step reads the file again
    source = open_content(content)    format by content, header
    source.check_intended_use()       a single-frame chest radiograph?
    image = source.render()           pixels in [0, 1], one polarity

``source.render(least_side=256)`` may be an approximation, of a JPEG 2000 film at half or a quarter of its resolution.

Training calls :func:`decode_file`, which is the same steps: a model never meets an image that was
rendered in another way than those of its training set.
"""

from pathlib import Path
from typing import Final

from xray_batch.decode.archive import is_zip, refuse_zip
from xray_batch.decode.codecs import TransferSyntax, transfer_syntaxes
from xray_batch.decode.dicom import DicomSource
from xray_batch.decode.ending import ends_early, has_ended
from xray_batch.decode.gzipped import unpack_gzip
from xray_batch.decode.identify import identify_format
from xray_batch.decode.raster import RasterSource
from xray_batch.decode.source import Source, read_content
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import GrayscaleImage, SourceFormat

__all__ = [
    "RENDERING_VERSION",
    "Source",
    "TransferSyntax",
    "decode_file",
    "ends_early",
    "has_ended",
    "is_zip",
    "open_content",
    "open_source",
    "read_file",
    "transfer_syntaxes",
]

#: Raised by one with every change that gives other pixels for the same file; a bundle names the one it needs.
RENDERING_VERSION: Final = 2


def read_file(path: Path) -> bytes:
    """Read a file that may be an image.

    Parameters
    ----------
    path
        Complete file; intake has already waited until it stopped growing.

    Raises
    ------
    RejectedInputError
        EMPTY_FILE, UNREADABLE_FILE, ZIP_ARCHIVE or TOO_LARGE: the file was not read.
    TransientError
        If the system could not read the file.
    """
    refuse_zip(path)
    return read_content(path)


def open_content(content: bytes) -> Source:
    """Identify the format of a file's bytes and read its header.

    A gzip file is looked into, once: `film.dcm.gz` is its `film.dcm`.

    Raises
    ------
    RejectedInputError
        UNREADABLE_FILE, TRUNCATED, TOO_LARGE or UNSUPPORTED_TRANSFER_SYNTAX.
    """
    content = unpack_gzip(content)
    source_format = identify_format(content)
    if source_format is None:
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE,
            "The content is neither DICOM nor PNG nor JPEG; the name of the file does not matter.",
        )
    if source_format is SourceFormat.DICOM:
        return DicomSource(content)
    return RasterSource(content, source_format)


def open_source(path: Path) -> Source:
    """Read a file and open it; see :func:`read_file` and :func:`open_content`."""
    return open_content(read_file(path))


def decode_file(path: Path, least_side: int | None = None) -> GrayscaleImage:
    """Decode a DICOM, PNG or JPEG file to a grayscale image.

    Parameters
    ----------
    path
        Complete file; intake has already waited until it stopped growing.
    least_side
        See :meth:`Source.render`.

    Returns
    -------
    GrayscaleImage
        ``pixels`` of shape (rows, columns), float32 in [0, 1], larger is brighter.
        Not resized, not standardized.

    Raises
    ------
    RejectedInputError
        If the file is not a readable single-frame chest radiograph; its reason code says why.
    TransientError
        If the system could not read the file.
    """
    source = open_source(path)
    source.check_intended_use()
    return source.render(least_side)
