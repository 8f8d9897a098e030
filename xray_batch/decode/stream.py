"""The bytes that pydicom reads from: they end a data set that is cut off, or built to keep a reader busy.

A film has hundreds of elements.  A file of nothing but empty items asks a reader for millions of objects:
16 MB of them took pydicom 40 seconds and 1.3 GB.
"""

import io
from typing import Final

from xray_batch.errors import ReasonCode, RejectedInputError

#: Reads of one data set: one or two for each element or item, those of nested sequences included.
_MOST_READS: Final = 150_000

#: Bytes of one data set that are read, not skipped; tables of 65,536 entries have 131,072.
_MOST_BYTES: Final = 1 << 25

#: Bytes of (0008,0005) Specific Character Set: pydicom looks each of its values up.
_LONGEST_CHARACTER_SET: Final = 1024

_CHARACTER_SET_TAGS: Final = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")


class BoundedStream(io.BytesIO):
    """Bytes that remember how often a reader asked for more than there is, and end one that asks too much.

    pydicom ends a data set in silence where the file ends.  A data set that is complete meets the end once,
    when the reader asks for the next tag and gets nothing.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._length = len(content)
        self._reads = 0
        self._bytes = 0
        self._is_character_set = False
        self.short_reads = 0
        self.is_cut = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and note an answer that is shorter than the question.

        Raises
        ------
        RejectedInputError
            UNREADABLE_FILE, if the data set has more elements, or larger ones, than that of an image.
        """
        # A length that leads beyond the end is that of a file cut off.
        count = max(min(-1 if size is None else size, self._length - self.tell()), 0)
        self._reads += 1
        self._bytes += count
        is_long = self._is_character_set and count > _LONGEST_CHARACTER_SET
        if self._reads > _MOST_READS or self._bytes > _MOST_BYTES or is_long:
            raise RejectedInputError(
                ReasonCode.UNREADABLE_FILE,
                "The DICOM data set has more elements, or longer ones, than that of an image; it is not read.",
            )
        found = super().read(size)
        if size == 8:  # the head of an element
            self._is_character_set = found.startswith(_CHARACTER_SET_TAGS)
        if size is not None and len(found) < size:
            self.short_reads += 1
            self.is_cut = self.is_cut or bool(found) or self.tell() > self._length
        return found

    @property
    def is_complete(self) -> bool:
        """Whether the reader has met the end only between two elements."""
        return self.short_reads <= 1 and not self.is_cut
