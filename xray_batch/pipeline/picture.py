"""What a picture worker and its parent say to each other; no decoder is imported here."""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from pydantic import Field, TypeAdapter

from xray_batch.records import Rejection

#: Longer side of a picture, in pixels: what a screen shows.  Larger films are reduced to it.
LONGEST_SIDE: Final = 2048

#: Gray values are 0 (black) to 65535 (white), two bytes each, the lower one first.
PIXEL_BYTES: Final = 2

MEMORY_BYTES: Final = LONGEST_SIDE * LONGEST_SIDE * PIXEL_BYTES

#: Hexadecimal digits before the path in a request.
SHA256_DIGITS: Final = 64

Side: TypeAlias = Annotated[int, Field(ge=1, le=LONGEST_SIDE)]
OriginalSide: TypeAlias = Annotated[int, Field(ge=1, le=1 << 20)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What the picture in the shared memory is like."""

    rows: Side
    columns: Side
    original_rows: OriginalSide  #: of the rendered film, before it was reduced
    original_columns: OriginalSide
    content: tuple[Share, Share, Share, Share]
    """Where it is inside borders of one gray: top, bottom, left, right, see :class:`xray_batch.standardize.Content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReply:
    """What a worker says about one file: one of these, and nothing where it has other bytes than it was asked for."""

    picture: PictureFacts | None = None
    rejection: Rejection | None = None  #: why the file cannot be shown
    failure: str | None = None  #: name of an exception's class


PICTURE_REPLY: Final = TypeAdapter(PictureReply)
