"""Files that stop before their format does, told without decoding them."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from dicom_factory import raw_element
from film_encodings import encodings, png_chunk

from xray_batch.decode import ends_early, has_ended

#: 12 bits without 0 and 4095, as the encodings want it.
FILM = np.random.default_rng(7).integers(1, 4095, (64, 80), dtype=np.uint16)

ENCODINGS = {name: encoding for name, encoding in encodings(FILM).items() if encoding.program is None}

META = bytes(128) + b"DICM" + raw_element(2, 0x10, "UI", b"1.2.840.10008.1.2.1\0")


@pytest.fixture
def is_early(tmp_path):
    """Write some bytes and ask of them."""

    def ask(content):
        path = tmp_path / "asked"
        path.write_bytes(content)
        with path.open("rb") as file:
            return ends_early(file.fileno())

    return ask


@pytest.fixture
def is_whole(tmp_path):
    """Write some bytes and ask of them whether their end is certain."""

    def ask(content):
        path = tmp_path / "asked"
        path.write_bytes(content)
        with path.open("rb") as file:
            return has_ended(file.fileno())

    return ask


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_whole_film_has_ended(name, is_early, is_whole, tmp_path):
    """In every encoding that is read; certain unless it is deflated as a whole, gzipped or without its preamble."""
    ENCODINGS[name].write(tmp_path / "film")
    content = (tmp_path / "film").read_bytes()
    assert not is_early(content)
    is_known = content[128:132] == b"DICM" or content.startswith((b"\x89PNG", b"\xff\xd8"))
    is_opaque = b"1.2.840.10008.1.2.1.99" in content[:400]
    assert is_whole(content) == (is_known and not is_opaque)


@pytest.mark.parametrize(
    "name",
    [
        *("ImplicitVRLittleEndian, unsigned", "plain", "ExplicitVRBigEndian, signed", "JPEG2000, unsigned"),
        *("RLELossless, signed", "PNG, 16 bits", "PNG, interlaced", "JPEG", "JPEG, progressive"),
    ],
)
def test_a_cut_film_has_not(name, is_early, tmp_path):
    """Wherever it is cut, in its header or in its pixels."""
    ENCODINGS[name].write(tmp_path / "film")
    content = (tmp_path / "film").read_bytes()
    rows = max(content.find(b"\x28\x00\x10\x00"), content.find(b"\x00\x28\x00\x10"))
    first = rows + 10 if content[128:132] == b"DICM" else 20
    for cut in [*range(first, min(len(content), first + 200)), *range(first, len(content), 97), len(content) - 1]:
        assert is_early(content[:cut]), cut


def test_what_may_go_on_is_not_certain_to_be_whole(is_early, is_whole):
    """A header that stops between two elements, a preview's end in that of a JPEG, an archive, bytes of no format."""
    jpeg = b"\xff\xd8\xff\xe1preview\xff\xd9header"
    header = META + raw_element(0x10, 0x20, "LO", b"ID")
    for content in (header, jpeg, b"PK\x03\x04" + bytes(30) + b"PK\x05\x06" + bytes(18), b"text", b""):
        assert not is_whole(content)
        assert not is_early(content)
    assert is_whole(jpeg + b"\xff\xd9")
    assert is_whole(jpeg + b"\xff\xd9" + bytes(100))


def test_sequences_of_undefined_length_are_walked_through(is_early):
    """They end where their delimiters say, however deep; before that the file has not ended."""
    undefined = b"\xff\xff\xff\xff"
    item, item_end, end = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    sequence = struct.pack("<HH", 8, 0x1140) + b"SQ\0\0" + undefined + item + undefined
    content = META + 3 * sequence
    for _ in range(3):
        assert is_early(content)
        content += item_end + end
    assert not is_early(content)


def test_vrs_in_what_says_to_be_implicit(is_early, is_whole):
    """A film with VRs that File Meta Information denies is walked through as decode reads it."""
    film = bytes(128) + b"DICM" + raw_element(2, 0x10, "UI", b"1.2.840.10008.1.2\0")
    film += raw_element(0x28, 0x10, "US", b"\x40\x00") + raw_element(0x7FE0, 0x10, "OW", bytes(100))
    assert is_whole(film)
    assert is_early(film[:-1])


@pytest.mark.parametrize(("number", "vr"), [(0x08, "OF"), (0x09, "OD"), (0x10, "OW")])
def test_pixels_of_any_kind_end_a_film(number, vr, is_early, is_whole):
    """Float Pixel Data and Double Float Pixel Data are pixels, too: nothing waits for others (PS3.3 C.7.6.24, 25)."""
    film = META + raw_element(0x28, 0x10, "US", b"\x40\x00")
    assert is_early(film)
    film += raw_element(0x7FE0, number, vr, bytes(100))
    assert is_whole(film)
    assert is_early(film[:-1])


def test_an_icon_is_not_the_film(is_early, is_whole):
    """A film whose header holds a small copy of it has not ended with that, and owes no pixels for a copy alone."""
    rows = raw_element(0x28, 0x10, "US", b"\x40\x00")
    sequence = struct.pack("<HH", 0x88, 0x200) + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    pixels = raw_element(0x7FE0, 0x10, "OW", bytes(100))
    film = META + rows + sequence + rows + pixels + end
    assert is_early(film)
    assert not is_whole(film)
    assert is_whole(film + pixels)
    assert not is_early(META + sequence + rows + end)


@pytest.mark.parametrize(
    "content",
    [
        META + raw_element(8, 0x60, "CS", b"DX") + bytes(512),
        META + raw_element(8, 0x60, "CS", b"DX") + bytes(2),
        META + b"\x08\x00\x60\x00??\x02\x00DX",
        META + struct.pack("<HH", 9, 0x1001) + b"UN\0\0\xff\xff\xff\xff",
        META + b"\xfe\xff\xdd\xe0" + bytes(4),
        META + 30_000 * raw_element(9, 0x1001, "LO", b""),
        META + 30_000 * raw_element(2, 0x12, "UI", b""),
        bytes(128) + b"DICM" + raw_element(8, 0x60, "CS", b"DX"),
        b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x0d1234 and so on",
        b"PK\x05\x06" + bytes(18),
        b"no format at all",
        b"",
    ],
    ids=[
        *(
            "zeros at the end",
            "two zeros",
            "no VR",
            "UN of undefined length",
            "an end without a start",
            "a flood of elements",
            "a flood of File Meta Information",
        ),
        *("no transfer syntax", "no PNG chunk", "an empty zip", "unknown", "empty"),
    ],
)
def test_what_cannot_be_told_has_ended(content, is_early):
    """It is for decode to say what it is; nothing waits for the end of something that has none."""
    assert not is_early(content)


def test_what_follows_the_end_does_not_matter(is_early):
    """Cameras, archives and senders append things."""
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13)) + png_chunk(b"IEND", b"")
    assert not is_early(png + b"appended")
    assert not is_early(b"\xff\xd8\xff\xe0 scan \xff\xd9" + bytes(4096))


def test_a_zip_archive_ends_with_its_directory(is_early):
    """Its members may be there long before."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("film.dcm", zlib.compress(FILM.tobytes()))
        archive.comment = b"from the PACS"
    content = written.getvalue()
    assert not is_early(content)
    assert is_early(content[:-60])
