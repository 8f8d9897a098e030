"""The header of a JPEG XL picture, read before any decoder sees it (ISO/IEC 18181-1)."""

import imagecodecs
import numpy as np
import pytest
from dicom_factory import JPEG_XL_LOSSLESS, RAMP, write_dicom

from xray_batch.decode import decode_file
from xray_batch.decode.jpegxl import read_jpegxl_size
from xray_batch.errors import ReasonCode, RejectedInputError

#: Boxes of a container: signature and file type.
BOXES = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a" + b"\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl "


def picture(shape, *, bits=12, **options):
    """Return a JPEG XL stream of a picture with something in it."""
    samples = (np.arange(np.prod(shape)) % (1 << bits)).reshape(shape).astype(np.uint8 if bits == 8 else np.uint16)
    return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=bits, **options))


def packed(*fields):
    """Return a bare codestream of (value, bits) fields, least significant bit first."""
    number, length = 0, 0
    for value, bits in fields:
        number |= value << length
        length += bits
    return b"\xff\x0a" + number.to_bytes(-(-length // 8), "little") + bytes(16)


@pytest.mark.parametrize(
    "shape",
    [
        (72, 90),  # written in full
        (64, 64),  # multiples of 8, square: small form with a ratio
        (64, 128),  # ratio 2:1
        (96, 128),  # ratio 4:3
        (80, 120),  # ratio 3:2
        (72, 128),  # ratio 16:9
        (100, 120),  # ratio 12:10, not a multiple of 8
        (128, 160),  # ratio 5:4
        (256, 248),  # the largest small form
        (257, 300),
        (513, 70),  # 13 bits
        (64, 9000),  # 18 bits
    ],
)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_size_and_depth(shape, bits):
    """Rows, columns and depth are those that the encoder was given, whatever form it wrote them in."""
    size = read_jpegxl_size(picture(shape, bits=bits))
    assert (size.rows, size.columns, size.samples_per_pixel, size.precision) == (*shape, 1, bits)
    assert not size.is_signed


def test_written_down():
    """A header written bit by bit: 8 x 16 in the small form, one gray channel of 12 bits."""
    stream = packed(
        (1, 1),  # small
        (0, 5),  # 8 rows
        (7, 3),  # ratio 2:1
        (0, 1),  # not all default
        (0, 1),  # no extra fields
        (0, 1),  # integers
        (2, 2),  # 12 bits
        (1, 1),  # 16-bit buffers suffice
        (0, 2),  # no extra channels
        (0, 1),  # not XYB
        (0, 1),  # colours are not the default
        (0, 1),  # no ICC profile
        (1, 2),  # gray
    )
    size = read_jpegxl_size(stream)
    assert (size.rows, size.columns, size.samples_per_pixel, size.precision) == (8, 16, 1, 12)


def test_all_default():
    """A header of nothing but its size is a colour picture of 8 bits."""
    size = read_jpegxl_size(packed((0, 1), (1, 2), (499, 13), (0, 3), (0, 2), (99, 9), (1, 1)))
    assert (size.rows, size.columns, size.samples_per_pixel, size.precision) == (500, 100, 3, 8)


def test_color():
    """A picture in colour has three samples."""
    assert read_jpegxl_size(picture((72, 90, 3), bits=8)).samples_per_pixel == 3


@pytest.mark.parametrize("box", ["jxlc", "jxlp", "jxlc to the end", "after another box"])
def test_container(box):
    """A codestream in its container, in one part or several, is found."""
    stream = picture((72, 90))
    body = {
        "jxlc": (len(stream) + 8).to_bytes(4, "big") + b"jxlc" + stream,
        "jxlp": (len(stream) + 12).to_bytes(4, "big") + b"jxlp" + b"\x80\0\0\0" + stream,
        "jxlc to the end": b"\0\0\0\0jxlc" + stream,
        "after another box": b"\0\0\0\x0cjxll\x05\0\0\0" + (len(stream) + 8).to_bytes(4, "big") + b"jxlc" + stream,
    }[box]
    size = read_jpegxl_size(BOXES + body)
    assert (size.rows, size.columns) == (72, 90)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"", "no codestream"),
        (b"\xff\x0a", "no image size"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "no codestream"),
        (BOXES, "no codestream"),
        (BOXES + b"\0\0\0\x08free" * 100_000, "no codestream"),
        (BOXES + b"\0\0\0\x01jxlc" + bytes(40), "no codestream"),
    ],
    ids=["empty", "cut", "JPEG", "no box", "boxes without end", "64-bit length"],
)
def test_no_header(stream, words):
    """What has no header is refused for that."""
    with pytest.raises(RejectedInputError, match=words) as caught:
        read_jpegxl_size(stream)
    assert caught.value.reason_code == ReasonCode.PIXEL_DATA


SMALL = ((1, 1), (8, 5), (1, 3), (0, 1))  #: 72 x 72, not all default


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((*SMALL, (1, 1), (5, 3), (0, 3)), "orientation"),
        ((*SMALL, (1, 1), (0, 3), (0, 1), (1, 1)), "preview"),
        ((*SMALL, (1, 1), (0, 3), (0, 1), (0, 1), (1, 1)), "animation"),
        ((*SMALL, (0, 1), (1, 1)), "floating point"),
        ((*SMALL, (0, 1), (0, 1), (2, 2), (1, 1), (1, 2)), "channels beside"),
    ],
    ids=["orientation", "preview", "animation", "float", "extra channel"],
)
def test_not_one_plain_picture(fields, words):
    """An orientation, a preview, an animation, floating point samples and extra channels are refused."""
    with pytest.raises(RejectedInputError, match=words) as caught:
        read_jpegxl_size(packed(*fields))
    assert caught.value.reason_code == ReasonCode.PIXEL_DATA


@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_truncated_stream(part, tmp_path):
    """A stream that ends too early in a complete file is refused, not filled up."""
    stream = bytes(imagecodecs.jpegxl_encode(RAMP.stored, lossless=True, bitspersample=12))
    path = write_dicom(tmp_path / "a.dcm", transfer_syntax=JPEG_XL_LOSSLESS, stream=stream[: int(len(stream) * part)])
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code in (ReasonCode.PIXEL_DATA, ReasonCode.TRUNCATED)
