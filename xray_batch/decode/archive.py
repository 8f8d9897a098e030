"""Zip archives are told apart by their first bytes, before anything else is read of them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from xray_batch.decode.identify import DICOM_META_OFFSET, has_dicom_prefix
from xray_batch.errors import ReasonCode, RejectedInputError

#: A local file header, or the end of an archive without members (APPNOTE.TXT 4.3.7 and 4.3.16).
ZIP_SIGNATURES: Final = (b"PK\x03\x04", b"PK\x05\x06")


def is_zip(path: Path) -> bool:
    """Tell whether a file's content is a zip archive; False for what cannot be read.

    A DICOM file whose preamble looks like a zip archive is DICOM (PS3.10 section 7.1).
    """
    start = b""
    # O_NONBLOCK: opening a named pipe would otherwise wait for its writer.
    with suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        start = file.read(DICOM_META_OFFSET) or b""
    return start.startswith(ZIP_SIGNATURES) and not has_dicom_prefix(start)


def refuse_zip(path: Path) -> None:
    """Refuse a zip archive: a decoder takes single images, and unpacking is not its work.

    Raises
    ------
    RejectedInputError
        ZIP_ARCHIVE, naming the setting that has archives unpacked.
    """
    if is_zip(path):
        raise RejectedInputError(
            ReasonCode.ZIP_ARCHIVE,
            "This is a zip archive; one that does not itself come out of an archive is unpacked where the setting "
            "unpack_zip is on.",
        )
