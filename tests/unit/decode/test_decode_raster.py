"""PNG and JPEG files: every layout that shows one gray, and none that does not."""

import base64
import io
import itertools
import re
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from dicom_factory import EXACT, RAMP
from film_encodings import png_chunk
from PIL import Image, ImageCms

from xray_batch.decode import decode_file, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning, SourceFormat

DEEP = RAMP.stored * np.uint16(16)  #: 16 bits
GRAY = (RAMP.stored >> 4).astype(np.uint8)
EXPECTED = GRAY / np.float32(255)

#: 90 x 72, 40 rows of a ramp and 32 of gray: `cjpeg -quality 20 -arithmetic -progressive` of libjpeg-turbo.
ARITHMETIC_JPEG = base64.b64decode(
    b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wCDEAAoABwAHgAjAB4AGQAoACMAIQAjAC0AKwAoADAAPABkAEEAPAA3ADcAPAB7AFgAXQBJAGQAkQCA"
    b"AJkAlgCPAIAAjACKAKAAtADmAMMAoACqANoArQCKAIwAyAERAMsA2gDuAPUBAgEEAQIAmwDBARsBLwEYAPoBLADmAP0BAgD4/8oACwgASABa"
    b"AQERAP/MAAQAEP/aAAgBAQAAAAH9xGMa/M/vO7bDlSsF3086QP/MAAQQBf/aAAgBAQABBQKo/8wABBAF/9oACAEBAAY/Aqj/zAAEEAX/2gAI"
    b"AQEAAT8hqP/aAAgBAQAAABAWABqfJSj5X1kg/8wABBAF/9oACAEBAAE/EACBMyr24vm7223GZhPdOLPJPFl2NaIiupCzE6gksP/Z"
)


def write_image(path, image, **options):
    """Write a Pillow image and return its path."""
    image.save(path, **options)
    return path


def test_8_bit_png(tmp_path):
    """An 8-bit gray PNG keeps its values, without a warning."""
    image = decode_file(write_image(tmp_path / "a.png", Image.fromarray(GRAY)))
    assert np.array_equal(image.pixels, EXPECTED)
    assert image.pixels.dtype == np.float32
    assert image.header.source_format is SourceFormat.PNG
    assert image.rendering == "identity"
    assert image.warnings == ()


def test_16_bit_png(tmp_path):
    """A 16-bit gray PNG keeps all its bits."""
    pixels = decode_file(write_image(tmp_path / "a.png", Image.fromarray(DEEP))).pixels
    assert np.abs(pixels - DEEP / 65535).max() <= EXACT


def test_1_bit_png(tmp_path):
    """A black and white PNG is 0 and 1."""
    bits = Image.fromarray(GRAY).convert("1")
    pixels = decode_file(write_image(tmp_path / "a.png", bits)).pixels
    assert np.array_equal(pixels, np.asarray(bits).astype(np.float32))


@pytest.mark.parametrize("depth", [2, 4])
def test_2_and_4_bit_png(depth, tmp_path):
    """Gray PNGs of 2 and 4 bits reach from 0 to 1."""
    codes = (GRAY >> (8 - depth)).astype(np.uint8)
    codes = codes[:, : codes.shape[1] // 8 * 8]
    per_byte = 8 // depth
    shifts = np.arange(per_byte)[::-1] * depth
    packed = (codes.reshape(len(codes), -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">LLBBBBB", codes.shape[1], codes.shape[0], depth, 0, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    pixels = decode_file(path).pixels
    assert np.abs(pixels - codes / (2**depth - 1)).max() <= EXACT


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_gray_as_color_png(mode, tmp_path):
    """An RGB or palette PNG whose channels are equal is read as gray, with a warning."""
    image = decode_file(write_image(tmp_path / "a.png", Image.fromarray(GRAY).convert(mode)))
    assert np.array_equal(image.pixels, EXPECTED)
    assert image.warnings == (ImageWarning.GRAY_AS_COLOR,)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_ignored(mode, tmp_path):
    """An alpha channel is dropped, not blended with a background nobody chose, with a warning."""
    picture = Image.fromarray(GRAY).convert(mode)
    picture.putalpha(Image.fromarray(255 - GRAY))
    image = decode_file(write_image(tmp_path / "a.png", picture))
    assert np.array_equal(image.pixels, EXPECTED)
    assert ImageWarning.ALPHA_IGNORED in image.warnings


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_channels(channels, tmp_path):
    """A PNG of 16-bit gray and alpha, RGB or RGBA keeps all its bits."""
    samples = np.stack([DEEP] * channels, axis=-1)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(samples))
    image = decode_file(path)
    assert np.abs(image.pixels - DEEP / 65535).max() <= EXACT
    assert (ImageWarning.ALPHA_IGNORED in image.warnings) == (channels in (2, 4))
    assert (ImageWarning.GRAY_AS_COLOR in image.warnings) == (channels > 2)


@pytest.mark.parametrize(("difference", "is_gray"), [(8, True), (9, False)])
def test_gray_tolerance(difference, is_gray, tmp_path):
    """Channels that differ by up to 8 of 255 are chroma noise; more is colour, be it one pixel."""
    rgb = np.stack([GRAY] * 3, axis=-1)
    rgb[20, 30, 2] += difference
    path = write_image(tmp_path / "a.png", Image.fromarray(rgb))
    if is_gray:
        assert np.array_equal(decode_file(path).pixels, EXPECTED)
        return
    with pytest.raises(RejectedInputError, match="differ by up to 9") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.COLOR_IMAGE


def test_gray_jpeg(tmp_path):
    """A gray JPEG is read as its luminance."""
    image = decode_file(write_image(tmp_path / "a.jpg", Image.fromarray(GRAY), quality=95))
    assert np.abs(image.pixels - EXPECTED).max() <= 0.025
    assert image.header.source_format is SourceFormat.JPEG
    assert image.warnings == ()


def test_gray_as_color_jpeg(tmp_path):
    """The same picture as gray and as colour JPEG gives the same pixels."""
    gray = decode_file(write_image(tmp_path / "a.jpg", Image.fromarray(GRAY), quality=90))
    color = decode_file(write_image(tmp_path / "b.jpg", Image.fromarray(GRAY).convert("RGB"), quality=90))
    assert np.array_equal(gray.pixels, color.pixels)
    assert color.warnings == (ImageWarning.GRAY_AS_COLOR,)


def test_progressive_jpeg(tmp_path):
    """A progressive JPEG is read like a sequential one."""
    plain = decode_file(write_image(tmp_path / "a.jpg", Image.fromarray(GRAY), quality=90))
    progressive = write_image(tmp_path / "b.jpg", Image.fromarray(GRAY), quality=90, progressive=True)
    assert np.array_equal(plain.pixels, decode_file(progressive).pixels)


def test_exif_orientation(tmp_path):
    """A JPEG that a camera has turned is turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = write_image(tmp_path / "a.jpg", Image.fromarray(GRAY), quality=95, exif=exif)
    plain = write_image(tmp_path / "b.jpg", Image.fromarray(GRAY), quality=95)
    assert np.array_equal(decode_file(turned).pixels, np.rot90(decode_file(plain).pixels, -1))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (imagecodecs.jpeg8_encode(RAMP.stored, level=95, bitspersample=12), "12 bits"),
        (imagecodecs.jpeg8_encode(DEEP, lossless=True, bitspersample=16), "16 bits"),
        (imagecodecs.jpegls_encode(GRAY), "JPEG-LS"),
    ],
    ids=["12 bits", "16 bits", "JPEG-LS"],
)
def test_jpeg_of_another_kind(content, kind, tmp_path):
    """A sound JPEG file that is not read is refused as what it is, not as damaged."""
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(RejectedInputError, match=kind) as caught:
        open_source(path)
    assert caught.value.reason_code == ReasonCode.UNREADABLE_FILE


def test_cmyk_jpeg(tmp_path):
    """A CMYK JPEG is refused by its header."""
    path = write_image(tmp_path / "a.jpg", Image.fromarray(GRAY).convert("RGB").convert("CMYK"))
    with pytest.raises(RejectedInputError, match="CMYK") as caught:
        open_source(path).check_intended_use()
    assert caught.value.reason_code == ReasonCode.COLOR_IMAGE


def test_color_jpeg(tmp_path):
    """A photograph in colour is refused."""
    rgb = np.stack([GRAY, GRAY[::-1], GRAY], axis=-1)
    with pytest.raises(RejectedInputError) as caught:
        decode_file(write_image(tmp_path / "a.jpg", Image.fromarray(rgb)))
    assert caught.value.reason_code == ReasonCode.COLOR_IMAGE


def test_animation(tmp_path):
    """An animated PNG is refused for its frames."""
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    path = write_image(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.MULTI_FRAME


def test_blank(tmp_path):
    """A picture of one gray is refused."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(write_image(tmp_path / "a.png", Image.new("L", (100, 100), 128)))
    assert caught.value.reason_code == ReasonCode.BLANK_IMAGE


def test_too_small(tmp_path):
    """A thumbnail is refused."""
    with pytest.raises(RejectedInputError) as caught:
        decode_file(write_image(tmp_path / "a.png", Image.fromarray(GRAY[:63])))
    assert caught.value.reason_code == ReasonCode.TOO_SMALL


def test_12_bits_in_a_16_bit_png(tmp_path):
    """A PNG of 16 bits that uses 12 is shown by its 12, with a warning."""
    image = decode_file(write_image(tmp_path / "a.png", Image.fromarray(RAMP.stored)))
    RAMP.check(image.pixels)
    assert image.warnings == (ImageWarning.BITS_UNUSED,)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_icc_profile(kind, tmp_path):
    """An embedded colour profile is not applied, with a warning."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decode_file(write_image(tmp_path / "a", Image.fromarray(GRAY), format=kind))
    profiled = decode_file(write_image(tmp_path / "b", Image.fromarray(GRAY), format=kind, icc_profile=profile))
    assert np.array_equal(profiled.pixels, plain.pixels)
    assert profiled.warnings == (ImageWarning.ICC_IGNORED,)


def test_exif_orientation_of_png(tmp_path):
    """A PNG with EXIF metadata is turned upright like a JPEG."""
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = write_image(tmp_path / "a.png", Image.fromarray(GRAY), exif=exif)
    assert np.array_equal(decode_file(turned).pixels, np.rot90(EXPECTED))


@pytest.mark.parametrize("noise", [1, 2])
def test_nearly_blank(noise, tmp_path):
    """A lead marker on an even plate is no radiograph: half a percent of the pixels at each end do not count."""
    plate = np.full((100, 100), 128, np.uint8)
    plate[:5, :9] = 255
    plate[::2] += np.uint8(noise)
    path = write_image(tmp_path / "a.png", Image.fromarray(plate))
    if noise > 1:
        assert decode_file(path).pixels.shape == (100, 100)
        return
    with pytest.raises(RejectedInputError, match="same gray") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.BLANK_IMAGE


@pytest.mark.parametrize(("columns", "rows"), [(20_000, 100), (12_000, 12_000), (60_000, 60_000)])
def test_png_bomb(columns, rows, tmp_path):
    """A PNG that asks for too many pixels is refused by its header, before anything is inflated."""
    header = struct.pack(">LLBBBBB", columns, rows, 8, 0, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(RejectedInputError) as caught:
        open_source(path)
    assert caught.value.reason_code == ReasonCode.TOO_LARGE


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated(kind, part, tmp_path):
    """A picture that ends too early is refused as truncated, never filled up."""
    buffer = io.BytesIO()
    Image.fromarray(GRAY).save(buffer, format=kind)
    content = buffer.getvalue()
    path = tmp_path / "a"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.TRUNCATED


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_with_too_little_before_its_end(mode, tmp_path):
    """So is a JPEG that was cut and closed with an end marker; a whole one that ends in the same gray is not."""
    gray = GRAY.copy()
    gray[40:] = 128
    path = write_image(tmp_path / "a.jpg", Image.fromarray(gray).convert(mode))
    assert np.abs(decode_file(path).pixels[-8:] - 0.5).max() < 0.003
    content = write_image(path, Image.fromarray(GRAY).convert(mode)).read_bytes()
    path.write_bytes(content[: -len(content) // 4] + b"\xff\xd9")
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.TRUNCATED


def test_arithmetic_jpeg(tmp_path):
    """A whole JPEG of arithmetic coding is read: its encoder may leave out zeros at the end."""
    path = tmp_path / "a.jpg"
    path.write_bytes(ARITHMETIC_JPEG)
    ramp = np.add.outer(np.arange(40), np.arange(90)) / np.float32(255)
    pixels = decode_file(path).pixels
    assert np.abs(pixels[:32] - ramp[:32]).max() < 0.05
    assert np.abs(pixels[-8:] - 0.5).max() < 0.003


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_that_lost_a_part_between_restart_markers(mode, progressive, tmp_path):
    """So is one that lost data between restart markers, or some of these: it would be shown with other pixels."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160), np.uint8)).convert(mode)
    plain = decode_file(write_image(tmp_path / "a.jpg", noise, progressive=progressive))
    path = write_image(tmp_path / "b.jpg", noise, progressive=progressive, restart_marker_rows=1)
    assert np.array_equal(decode_file(path).pixels, plain.pixels)
    content = path.read_bytes()
    restarts = [each.start() for each in re.finditer(rb"\xff[\xd0-\xd7]", content)]
    assert len(restarts) >= 9
    halves = [((start + end) // 2, end) for start, end in itertools.pairwise(restarts[:9])]
    wholes = itertools.pairwise(restarts[:9])
    eight = (restarts[0], restarts[8])
    for start, end in (*halves, *wholes, eight):
        path.write_bytes(content[:start] + content[end:])
        with pytest.raises(RejectedInputError) as caught:
            decode_file(path)
        assert caught.value.reason_code == ReasonCode.TRUNCATED


@pytest.mark.parametrize("restart", [{}, {"restart_marker_rows": 1}], ids=["", "restart"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_progressive_jpeg_with_too_little_before_its_end(mode, restart, tmp_path):
    """So is a progressive one, cut between two scans or within one: it would be shown without its detail."""
    path = write_image(tmp_path / "a.jpg", Image.fromarray(GRAY).convert(mode), progressive=True, **restart)
    content = path.read_bytes()
    assert decode_file(path).pixels.shape == GRAY.shape
    scans = [each.start() for each in re.finditer(rb"\xff\xda", content)]
    assert len(scans) > 4
    for cut in (*scans[1:], *range(scans[-1] + 16, len(content) - 8, 8)):
        path.write_bytes(content[:cut] + b"\xff\xd9")
        with pytest.raises(RejectedInputError) as caught:
            decode_file(path)
        assert caught.value.reason_code == ReasonCode.TRUNCATED


@pytest.mark.parametrize(
    ("depth", "color", "interlaced", "size"),
    [
        *((1, 0, 0, 40 * 13), (8, 0, 0, 40 * 91), (16, 0, 0, 40 * 181), (8, 2, 0, 40 * 271), (16, 2, 0, 40 * 541)),
        *((8, 3, 0, 40 * 91), (8, 0, 1, 6615 - 2 * 91)),  # interlaced: two rows of the last pass are missing
    ],
)
def test_png_of_too_few_rows(depth, color, interlaced, size, tmp_path):
    """A PNG with fewer rows than it says is refused, though its compressed data have an end; Pillow shows black."""
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">LLBBBBB", 90, 72, depth, color, 0, 0, interlaced))
        + (png_chunk(b"PLTE", bytes(range(256)) * 3) if color == 3 else b"")
        + png_chunk(b"IDAT", zlib.compress(size * b"\1"))  # rows that rise: their first byte says "differences"
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.TRUNCATED


@pytest.mark.parametrize("image", [Image.fromarray(GRAY), Image.fromarray(DEEP), Image.fromarray(GRAY).convert("P")])
def test_png_that_ends_in_black(image, tmp_path):
    """A whole PNG whose last rows are black is accepted."""
    image = image.copy()
    image.paste(0, (0, 40, image.width, image.height))
    assert not decode_file(write_image(tmp_path / "a.png", image)).pixels[40:].any()


def test_truncated_jpeg_with_thumbnail(tmp_path):
    """The end marker of a thumbnail is not taken for the picture's."""
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(GRAY).resize((20, 20)).save(small, format="JPEG")
    Image.fromarray(GRAY).save(large, format="JPEG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(small.getvalue()) + 2) + small.getvalue()
    content = b"\xff\xd8" + thumbnail + large.getvalue()[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert decode_file(path).pixels.shape == GRAY.shape
    path.write_bytes(content[:-200])
    with pytest.raises(RejectedInputError) as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.TRUNCATED


def test_bytes_after_the_picture(tmp_path):
    """Bytes that some systems append after the end of a picture do no harm."""
    path = write_image(tmp_path / "a.jpg", Image.fromarray(GRAY))
    before = decode_file(path).pixels
    path.write_bytes(path.read_bytes() + b"\xff\xda trailer")
    assert np.array_equal(decode_file(path).pixels, before)


def test_flipped_bit_in_png(tmp_path):
    """A PNG whose data does not match its checksum is refused as damaged."""
    path = write_image(tmp_path / "a.png", Image.fromarray(GRAY))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RejectedInputError, match="checksum") as caught:
        decode_file(path)
    assert caught.value.reason_code == ReasonCode.UNREADABLE_FILE
