import hashlib
from collections import Counter

import numpy as np
import pytest

from xray_batch.bench.films import encodings, make_films, write_mix
from xray_batch.decode import decode_file

SIDE = 128


@pytest.fixture(scope="module")
def films():
    """Small films; each encoding is made once."""
    return make_films(SIDE)


@pytest.mark.parametrize("encoding", encodings(), ids=lambda encoding: encoding.name)
def test_a_film_decodes_to_what_was_written(films, encoding, tmp_path):
    """Every pixel of a lossless encoding comes back; a lossy one stays near it."""
    image = decode_file(films[0].write(tmp_path, encoding))
    written = films[0].stored_as(encoding) / ((1 << encoding.bits) - 1)
    assert image.header.transfer_syntax_uid == encoding.transfer_syntax_uid
    assert image.pixels.shape == (SIDE, SIDE)
    difference = np.abs(image.pixels - written)
    assert difference.max() <= 2**-23 if encoding.is_lossless else 0 < difference.mean() < 0.02


def test_the_same_film_has_the_same_bytes(tmp_path):
    """Two runs write the same files, byte by byte."""
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        for encoding in encodings():
            make_films(SIDE)[0].write(tmp_path / folder, encoding)
    ones = sorted((tmp_path / "one").iterdir())
    assert [path.read_bytes() for path in ones] == [(tmp_path / "other" / path.name).read_bytes() for path in ones]


def test_a_mix_has_its_shares_and_no_two_equal_files(films, tmp_path):
    """Of ten files each encoding has its tenths, early and late, and each file has bytes of its own."""
    by_name = {encoding.name: encoding for encoding in encodings()}
    shares = [(by_name["Explicit VR Little Endian"], 40), (by_name["JPEG"], 40), (by_name["PNG, 8 bits"], 20)]
    paths = list(write_mix(tmp_path, films, shares, 10))
    assert Counter(path.suffix for path in paths) == {".dcm": 4, ".jpeg": 4, ".png": 2}
    assert len({path.suffix for path in paths[:5]}) == 3
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 10
    for path in paths:
        assert decode_file(path).pixels.shape == (SIDE, SIDE)


def test_films_are_of_many_gray_values(films):
    """A film uses most of its 12 bits, and its noise is in it."""
    stored = films[0].stored
    assert stored.max() <= 4095
    assert len(np.unique(stored)) > 1000
