"""The approximate mode: small copies inside JPEG 2000 films, and the films that are decoded whole all the same."""

import io
import itertools
import random

import imagecodecs
import numpy as np
import pytest
from dicom_factory import WHITE, chest_dataset, compress, lut_sequence, write_dicom
from PIL import Image
from pydicom import uid

from xray_batch.decode import decode_file, open_source
from xray_batch.decode.codecs import CODECS, decode_stream
from xray_batch.decode.codestream import read_jpeg2000_size
from xray_batch.decode.reduced import count_halvings, decode_reduced
from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import ImageWarning

LEAST_SIDE = 64
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
EIGHT_BITS = {"WindowCenter": 128, "WindowWidth": 256}


def make_picture(rows=300, columns=270):
    """Return a smooth picture of 12 bits with a little noise: a quarter of it is nearly the average of its pixels."""
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(1).normal(0, 4, (rows, columns))
    return np.clip(2000 + 900 * np.sin(x / 40) + 900 * np.cos(y / 31) + noise, 0, WHITE).astype(np.uint16)


PICTURE = make_picture()


def averages(pixels, divisor):
    """Return the means of square blocks of pixels."""
    rows, columns = (side // divisor * divisor for side in pixels.shape)
    blocks = pixels[:rows, :columns].reshape(rows // divisor, divisor, columns // divisor, divisor)
    return blocks.mean(axis=(1, 3))


def write_film(folder, cells=PICTURE, **facts):
    """Write a JPEG 2000 film with a window over its whole range, unless `facts` say otherwise."""
    return write_dicom(folder / "film.dcm", cells, **({"transfer_syntax": uid.JPEG2000Lossless} | WINDOW | facts))


def end_of(source, least_side):
    """Return why a film is refused, None if it is not."""
    try:
        source.render(least_side)
    except RejectedInputError as error:
        return error.reason_code, str(error)
    return None


def pillow_stream(cells, **options):
    """Compress with an option that only Pillow's encoder has."""
    with io.BytesIO() as file:
        Image.fromarray(cells).save(file, format="JPEG2000", no_jp2=True, **options)
        return file.getvalue()


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("bits", [7, 8, 10, 12, 16])
def test_at_full_resolution_it_is_the_exact_decoder(bits, is_signed):
    """What Pillow does to depth and sign is undone: not reduced, samples are those of the exact decoder, to the bit."""
    container = "8" if bits <= 8 else "16"
    unsigned = np.random.default_rng(bits).integers(0, 1 << bits, (75, 64)).astype(f"u{int(container) // 8}")
    unsigned[0, :2] = 0, (1 << bits) - 1
    cells = unsigned
    if is_signed:
        cells = (unsigned.astype(np.int32) - (1 << (bits - 1))).astype(f"int{container}")
    stream = bytes(imagecodecs.jpeg2k_encode(cells, level=0, reversible=True, codecformat="j2k", bitspersample=bits))
    size = read_jpeg2000_size(stream)
    assert (size.precision, size.is_signed) == (bits, is_signed)
    exact = decode_stream(CODECS[uid.JPEG2000Lossless], stream, size)
    found = decode_reduced(stream, size, 0)
    assert found.dtype == exact.dtype
    assert found.tobytes() == exact.tobytes() == cells.tobytes()


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEG2000])
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_quarter(is_signed, interpretation, syntax, tmp_path):
    """A film is nearly its pixels' averages at a quarter of its resolution, and rendering, step and warning say so."""
    cells, facts = PICTURE, {"PhotometricInterpretation": interpretation, "transfer_syntax": syntax}
    if is_signed:
        cells, facts = (PICTURE.astype(np.int32) - 2048).astype(np.int16), facts | {"WindowCenter": 0}
    source = open_source(write_film(tmp_path, cells, **facts))
    exact, small = source.render(), source.render(LEAST_SIDE)
    assert small.pixels.shape == (75, 68)
    assert small.pixels.dtype == np.float32
    difference = small.pixels[:, :67] - averages(exact.pixels, 4)
    assert np.abs(difference).mean() < 0.001
    assert abs(difference.mean()) < 0.002
    assert small.rendering == "window:LINEAR; decoded at 1/4"
    assert small.steps == ("decoded at 1/4: 75 rows and 68 columns, approximately", *exact.steps)
    assert small.warnings == (*exact.warnings, ImageWarning.REDUCED_RESOLUTION)
    assert (small.header, small.bits) == (exact.header, exact.bits)
    assert exact.rendering == "window:LINEAR"


def test_a_half(tmp_path):
    """Where a quarter would be too small, half the resolution is decoded."""
    small = decode_file(write_film(tmp_path), least_side=100)
    assert small.pixels.shape == (150, 135)
    assert small.rendering == "window:LINEAR; decoded at 1/2"


def test_tiles(tmp_path):
    """Tiles whose sides are no multiple of four come to the same as one."""
    stream = pillow_stream((PICTURE >> 4).astype(np.uint8), tile_size=(97, 101))
    source = open_source(write_film(tmp_path, (PICTURE >> 4).astype(np.uint8), stream=stream, **EIGHT_BITS))
    exact, small = source.render(), source.render(LEAST_SIDE)
    assert small.rendering == "window:LINEAR; decoded at 1/4"
    assert np.abs(small.pixels[:, :67] - averages(exact.pixels, 4)).mean() < 0.004


def test_8_bits_need_no_window(tmp_path):
    """A film of 8 bits is shown in its whole range, whatever its pixels: a small copy will do."""
    cells = (PICTURE >> 4).astype(np.uint8)
    small = decode_file(write_film(tmp_path, cells, WindowCenter=None, WindowWidth=None), least_side=LEAST_SIDE)
    assert small.rendering == "identity; decoded at 1/4"


def test_a_table(tmp_path):
    """A VOI LUT is applied to a small copy like to the whole picture."""
    table = lut_sequence(np.arange(4096, dtype="<u2")[::-1], count=4096)
    source = open_source(write_film(tmp_path, VOILUTSequence=table))
    exact, small = source.render(), source.render(LEAST_SIDE)
    assert small.rendering == "voi_lut; decoded at 1/4"
    assert np.abs(small.pixels[:, :67] - averages(exact.pixels, 4)).mean() < 0.001


@pytest.mark.parametrize(
    ("rows", "columns", "least_side", "expected"),
    [
        (2000, 2000, 256, 2),
        (1024, 1024, 256, 2),
        (1023, 1024, 256, 2),
        (1020, 1024, 256, 1),
        (2000, 1000, 256, 1),
        (2001, 2000, 256, 1),  # a quarter is 501 rows for OpenJPEG and 500 for Pillow
        (2000, 2001, 256, 1),
        (2003, 2002, 256, 2),
        (511, 2000, 256, 1),
        (510, 2000, 256, 0),
        (8000, 8000, 256, 2),
    ],
)
def test_how_often_the_resolution_is_halved(rows, columns, least_side, expected):
    """Twice at most, as long as no side becomes too short, and both libraries round alike."""
    assert count_halvings(rows, columns, least_side) == expected


def test_every_size_that_is_halved_is_decoded():
    """For no number of rows and columns is a resolution chosen that Pillow then refuses."""
    for rows, columns in itertools.product(range(64, 72), range(80, 88)):
        stream = bytes(imagecodecs.jpeg2k_encode(PICTURE[:rows, :columns], level=0, codecformat="j2k"))
        halvings = count_halvings(rows, columns, 16)
        assert halvings == (1 if 1 in (rows % 4, columns % 4) else 2)
        assert decode_reduced(stream, read_jpeg2000_size(stream), halvings) is not None, (rows, columns)


def other_than_reduced():
    """Return, by why it is decoded whole, what differs from a film that is not."""
    signed = (PICTURE.astype(np.int32) - 2048).astype(np.int16)
    as_unsigned = signed.view(np.uint16) & 0xFFF
    overlay = PICTURE | ((PICTURE > 2000).astype(np.uint16) << 12)
    small = PICTURE[:120, :110]
    two_levels = pillow_stream((PICTURE >> 4).astype(np.uint8), num_resolutions=2)
    shifted = pillow_stream((PICTURE >> 4).astype(np.uint8), offset=(1, 1), tile_offset=(0, 0), tile_size=(512, 512))
    eight = {"cells": (PICTURE >> 4).astype(np.uint8), **EIGHT_BITS}
    rgb = np.dstack([PICTURE >> 4] * 3).astype(np.uint8)
    return {
        "padding": {"PixelPaddingValue": 0},
        "no window": {"WindowCenter": None, "WindowWidth": None},
        "bits above the stored ones": {
            "cells": overlay,
            "stream": bytes(imagecodecs.jpeg2k_encode(overlay, level=0, codecformat="j2k", bitspersample=16)),
        },
        "signed values as unsigned": {
            "cells": signed,
            "stream": bytes(imagecodecs.jpeg2k_encode(as_unsigned, level=0, codecformat="j2k", bitspersample=12)),
            "WindowCenter": 0,
        },
        "pixels not square": {"PixelSpacing": [0.2, 0.1]},
        "too small": {"cells": small},
        "colour": {
            "cells": rgb,
            "SOPClassUID": uid.SecondaryCaptureImageStorage,
            "WindowCenter": None,
            "WindowWidth": None,
        },
        "fewer resolutions": eight | {"stream": two_levels},
        "off the origin": eight | {"stream": shifted},
        "JP2": eight | {"stream": bytes(imagecodecs.jpeg2k_encode(eight["cells"], level=0, codecformat="jp2"))},
        "High-Throughput JPEG 2000": {"transfer_syntax": uid.HTJ2KLossless},
        "JPEG-LS": {"transfer_syntax": uid.JPEGLSLossless},
        "uncompressed": {"transfer_syntax": uid.ExplicitVRLittleEndian},
    }


@pytest.mark.parametrize("why", other_than_reduced())
def test_decoded_whole(why, tmp_path):
    """What hangs on single stored values, or has no small copy that is as good, is the exact picture, bit for bit."""
    source = open_source(write_film(tmp_path, **other_than_reduced()[why]))
    exact, found = source.render(), source.render(LEAST_SIDE)
    assert found.pixels.tobytes() == exact.pixels.tobytes()
    assert (found.rendering, found.steps, found.warnings) == (exact.rendering, exact.steps, exact.warnings)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_other_formats_are_decoded_whole(kind, tmp_path):
    """PNG and JPEG have no small copies."""
    path = tmp_path / "film"
    Image.fromarray((PICTURE >> 4).astype(np.uint8)).save(path, format=kind)
    assert decode_file(path, least_side=LEAST_SIDE).pixels.tobytes() == decode_file(path).pixels.tobytes()


def test_what_is_blank_only_at_a_quarter(tmp_path):
    """A picture of nothing but the finest detail is the exact one: its small copy is one gray, and would be refused."""
    cells = np.where(np.indices((300, 272)).sum(axis=0) % 2, 1000, 3000).astype(np.uint16)
    source = open_source(write_film(tmp_path, cells))
    assert source.render(LEAST_SIDE).pixels.tobytes() == source.render().pixels.tobytes()


def refusals():
    """Return films that are refused for their pixels, by the reason code."""
    stream = compress(PICTURE, uid.JPEG2000Lossless, chest_dataset())
    return {
        ReasonCode.TRUNCATED: {"stream": stream[: len(stream) // 2]},
        ReasonCode.PIXEL_DATA: {"stream": stream, "Rows": 301},
        ReasonCode.BLANK_IMAGE: {"cells": np.full_like(PICTURE, 7)},
    }


@pytest.mark.parametrize("reason_code", refusals())
def test_refusals_are_those_of_the_exact_decoder(reason_code, tmp_path):
    """A film that is refused has the same reason, word for word, whichever way it would have been decoded."""
    source = open_source(write_film(tmp_path, **refusals()[reason_code]))
    exact, found = end_of(source, None), end_of(source, LEAST_SIDE)
    assert exact[0] is reason_code
    assert found == exact


def test_a_stream_with_fewer_samples_than_points(tmp_path):
    """A stream whose samples do not fill its grid is refused as the exact decoder refuses it."""
    stream = bytearray(compress(PICTURE, uid.JPEG2000Lossless, chest_dataset()))
    assert stream[43:45] == b"\1\1"  # XRsiz and YRsiz
    stream[43:45] = b"\2\2"
    source = open_source(write_film(tmp_path, stream=bytes(stream)))
    assert end_of(source, None)[0] is ReasonCode.PIXEL_DATA
    assert end_of(source, LEAST_SIDE) == end_of(source, None)


def test_damaged_films_end_alike(tmp_path):
    """A stream with a few bits turned over is refused for the same reason, or decoded, whichever way is taken."""
    stream = compress(PICTURE, uid.JPEG2000Lossless, chest_dataset())
    ends = []
    for seed in range(100):
        chance, damaged = random.Random(seed), bytearray(stream)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(200 if seed % 2 else len(damaged))] ^= 1 << chance.randrange(8)
        source = open_source(write_film(tmp_path, stream=bytes(damaged)))
        ends.append(tuple(end_of(source, least_side) for least_side in (None, LEAST_SIDE)))
    assert all(exact == small for exact, small in ends)
    assert len(set(ends)) > 2
