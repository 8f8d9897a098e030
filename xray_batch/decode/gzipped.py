"""A file that was compressed with gzip before it was sent, as archives do with `film.dcm.gz` (RFC 1952)."""

import io
import zlib
from typing import Final

from xray_batch.decode.limits import MAX_INFLATED_BYTES
from xray_batch.errors import ReasonCode, RejectedInputError

GZIP_SIGNATURE: Final = b"\x1f\x8b"

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS  #: what tells zlib that a gzip header and checksum are there

#: Members of one file; those of 64 kB, as `bgzip` writes them, would make 1 GB.
_MOST_MEMBERS: Final = 1 << 14

#: Bytes given to zlib at once: it copies those that belong to the next member.
_BLOCK: Final = 1 << 16


def unpack_gzip(content: bytes) -> bytes:
    """Return what a gzip file holds, and anything else as it is.

    Programs that work in blocks or in parallel write many members, one after another; together they are the file
    (RFC 1952 section 2.2).  A second gzip inside is left as it is, and refused as what it is: no film.

    Raises
    ------
    RejectedInputError
        TOO_LARGE, TRUNCATED or UNREADABLE_FILE.
    """
    if not content.startswith(GZIP_SIGNATURE):
        return content
    inflated, offset, count = io.BytesIO(), 0, 0
    while content.startswith(GZIP_SIGNATURE, offset):
        count += 1
        if count > _MOST_MEMBERS:
            raise RejectedInputError(
                ReasonCode.UNREADABLE_FILE, f"The gzip file has more than {_MOST_MEMBERS:,} members; it is not read."
            )
        offset = _inflate_member(content, offset, inflated)
    return inflated.getvalue()


def _inflate_member(content: bytes, offset: int, inflated: io.BytesIO) -> int:
    """Append what the member at `offset` holds to `inflated`; return the offset after it."""
    inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
    while not inflater.eof:
        room = MAX_INFLATED_BYTES - inflated.tell()
        if room <= 0:
            raise RejectedInputError(
                ReasonCode.TOO_LARGE,
                f"The gzip file holds more than {MAX_INFLATED_BYTES:,} bytes, the most that is accepted.",
            )
        block = content[offset : offset + _BLOCK]
        if not block:
            raise RejectedInputError(ReasonCode.TRUNCATED, "The gzip file ends before its content does.")
        try:
            inflated.write(inflater.decompress(block, room))
        except zlib.error as error:
            raise RejectedInputError(
                ReasonCode.UNREADABLE_FILE, "The gzip file is damaged; it cannot be unpacked."
            ) from error
        offset += len(block) - len(inflater.unconsumed_tail) - len(inflater.unused_data)
    return offset
