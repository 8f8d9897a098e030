"""Files that were compressed with gzip before they were sent."""

import gzip
import io

import numpy as np
import pytest
from dicom_factory import RAMP, write_dicom
from PIL import Image

from xray_batch.decode import decode_file, gzipped, open_source
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import SourceFormat


def refuse(path, content):
    """Return the reason code of some content."""
    path.write_bytes(content)
    with pytest.raises(RejectedInputError) as caught:
        open_source(path)
    return caught.value.reason_code


@pytest.fixture
def path(tmp_path):
    """Return an ordinary film, not yet compressed."""
    return write_dicom(tmp_path / "film.dcm.gz")


def test_dicom(path):
    """A compressed DICOM file is read as what is in it."""
    path.write_bytes(gzip.compress(path.read_bytes()))
    RAMP.check(decode_file(path).pixels)


def test_name_and_comment(path):
    """A gzip header with a file name, as the gzip program writes it, is read too."""
    buffer = io.BytesIO()
    with gzip.GzipFile("a patient's name.dcm", "wb", fileobj=buffer) as file:
        file.write(path.read_bytes())
    path.write_bytes(buffer.getvalue())
    RAMP.check(decode_file(path).pixels)


def test_png(tmp_path):
    """So is a compressed picture."""
    buffer = io.BytesIO()
    Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).save(buffer, format="PNG")
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(buffer.getvalue()))
    assert decode_file(path).header.source_format is SourceFormat.PNG


def in_members(content):
    """Compress content as parallel programs do: in blocks, each a gzip member of its own, one of them empty."""
    return b"".join(gzip.compress(content[start : start + 5_000]) for start in range(0, len(content) + 5_000, 5_000))


def test_members(path):
    """Several members one after another are one file, also with zeros behind the last."""
    path.write_bytes(in_members(path.read_bytes()) + bytes(512))
    RAMP.check(decode_file(path).pixels)


@pytest.mark.parametrize("length", [-9, -1, 3_000])
def test_truncated_member(length, path):
    """A file that ends inside a later member is refused as truncated."""
    assert refuse(path, in_members(path.read_bytes())[:length]) == ReasonCode.TRUNCATED


def test_too_large_together(path, monkeypatch):
    """The limit is that of all members together."""
    monkeypatch.setattr(gzipped, "MAX_INFLATED_BYTES", 1_000_000)
    assert refuse(path, 4 * gzip.compress(bytes(300_000))) == ReasonCode.TOO_LARGE


def test_too_many_members(path):
    """A film behind 20,000 empty members is given up."""
    film = gzip.compress(path.read_bytes())
    assert refuse(path, 20_000 * gzip.compress(b"") + film) == ReasonCode.UNREADABLE_FILE


@pytest.mark.parametrize("length", [2, 10, 200, -9, -1])
def test_truncated(length, path):
    """One that ends too early is refused as that, at any place, its checksum included."""
    assert refuse(path, gzip.compress(path.read_bytes())[:length]) == ReasonCode.TRUNCATED


def test_damaged(path):
    """One whose checksum does not match is refused as damaged."""
    content = bytearray(gzip.compress(path.read_bytes()))
    content[-8] ^= 1
    assert refuse(path, content) == ReasonCode.UNREADABLE_FILE


def test_bomb(path, monkeypatch):
    """One that holds more than the limit stops there."""
    monkeypatch.setattr(gzipped, "MAX_INFLATED_BYTES", 1_000_000)
    assert refuse(path, gzip.compress(bytes(50_000_000))) == ReasonCode.TOO_LARGE


def test_gzip_in_gzip(path):
    """A gzip in a gzip is not looked into."""
    assert refuse(path, gzip.compress(gzip.compress(path.read_bytes()))) == ReasonCode.UNREADABLE_FILE


def test_nothing_inside(path):
    """A gzip of nothing is no film."""
    assert refuse(path, gzip.compress(b"")) == ReasonCode.UNREADABLE_FILE
