"""A file that was compressed with gzip before it was sent, as archives do with `film.dcm.gz` (RFC 1952)."""

import zlib
from typing import Final

from xray_batch.decode.limits import MAX_INFLATED_BYTES
from xray_batch.errors import ReasonCode, RejectedInputError

GZIP_SIGNATURE: Final = b"\x1f\x8b"

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS  #: what tells zlib that a gzip header and checksum are there


def unpack_gzip(content: bytes) -> bytes:
    """Return what a gzip file holds, and anything else as it is.

    A second gzip inside is left as it is, and refused as what it is: no film.

    Raises
    ------
    RejectedInputError
        TOO_LARGE, TRUNCATED or UNREADABLE_FILE.
    """
    if not content.startswith(GZIP_SIGNATURE):
        return content
    inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
    try:
        inflated = inflater.decompress(content, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise RejectedInputError(
            ReasonCode.UNREADABLE_FILE, "The gzip file is damaged; it cannot be unpacked."
        ) from error
    if inflater.eof:
        return inflated
    if len(inflated) >= MAX_INFLATED_BYTES:
        raise RejectedInputError(
            ReasonCode.TOO_LARGE,
            f"The gzip file holds more than {MAX_INFLATED_BYTES:,} bytes, the most that is accepted.",
        )
    raise RejectedInputError(ReasonCode.TRUNCATED, "The gzip file ends before its content does.")
