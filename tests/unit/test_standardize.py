"""Resize and standardize: known values, and the same ones in training and in service."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from dicom_factory import RAMP, write_dicom
from input_specs import make_spec
from PIL import Image
from scipy import ndimage

from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.errors import ConfigurationError
from xray_batch.pipeline import worker
from xray_batch.records import GrayscaleImage, ImageHeader, ImageWarning, SourceFormat
from xray_batch.settings import Settings
from xray_batch.standardize import (
    WORKING_SIDE,
    Content,
    find_content,
    find_least_side,
    make_picture,
    measure_sharpness,
    prepare,
    preprocess_sha256,
    resize,
    standardize,
    trim,
)
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.pixels import Decoding, load_pixels

SPEC = make_spec()


def grayscale_image(pixels):
    """Return an image that has been decoded from a PNG."""
    return GrayscaleImage(
        header=ImageHeader(source_format=SourceFormat.PNG),
        pixels=pixels,
        rendering="window:LINEAR",
        warnings=(ImageWarning.GRAY_AS_COLOR,),
    )


def test_squash_geometry():
    """Both axes are scaled on their own: a mark keeps its relative place, whatever the aspect ratio."""
    pixels = np.zeros((100, 400), dtype=np.float32)
    pixels[50:75, 100:200] = 1.0
    resized = resize(pixels, 40, 20)
    expected = np.zeros((40, 20), dtype=np.float32)
    expected[20:30, 5:10] = 1.0
    assert resized.shape == (40, 20)
    assert resized.dtype == np.float32
    inner = np.s_[21:29, 6:9]
    assert np.allclose(resized[inner], 1.0)
    assert np.abs(resized - expected)[expected == 0].max() <= 0.5
    assert resized[:18].max() == resized[32:].max() == resized[:, :4].max() == resized[:, 11:].max() == 0


def test_input_size_is_unchanged():
    """An image that has the target size already comes back bit for bit."""
    pixels = np.random.default_rng(0).random((224, 224), dtype=np.float32)
    assert np.array_equal(resize(pixels, 224, 224), pixels)


def test_antialias():
    """A checkerboard finer than a target pixel becomes mid-gray, not a pattern that is not in the image."""
    pixels = (np.indices((448, 448)).sum(axis=0) % 2).astype(np.float32)
    assert np.abs(resize(pixels, 50, 50) - 0.5).max() < 0.01


def test_resize_does_not_round():
    """The values are not rounded to 8 bits on the way."""
    pixels = np.full((100, 100), 0.123456, dtype=np.float32)
    assert np.abs(resize(pixels, 32, 32) - np.float32(0.123456)).max() < 1e-6


def test_resize_stays_in_range():
    """Enlarged and shrunk images stay in [0, 1]."""
    pixels = np.random.default_rng(0).integers(0, 2, (90, 70)).astype(np.float32)
    for rows, columns in ((30, 30), (200, 200)):
        resized = resize(pixels, rows, columns)
        assert resized.min() >= 0.0
        assert resized.max() <= 1.0


def test_standardize():
    """Standardizing is (x - mean) / std, in float32."""
    standardized = standardize(np.array([[0.0, 0.5, 1.0]], dtype=np.float32), 0.5, 0.25)
    assert standardized.tolist() == [[-2.0, 0.0, 2.0]]
    assert standardized.dtype == np.float32


def test_prepare():
    """A prepared image has the bundle's size and statistics, and keeps what is known of it."""
    image = grayscale_image(np.full((300, 200), 0.625, dtype=np.float32))
    prepared = prepare(image, SPEC)
    assert prepared.pixels.shape == (48, 40)
    assert prepared.pixels.dtype == np.float32
    assert np.abs(prepared.pixels - 1.0).max() < 1e-5
    assert (prepared.header, prepared.rendering, prepared.warnings) == (image.header, image.rendering, image.warnings)


def test_prepare_does_not_measure_the_image():
    """A brighter image stays brighter: mean and SD come from the bundle, not from the image."""
    dark, bright = (
        prepare(grayscale_image(np.full((64, 64), gray, dtype=np.float32)), SPEC).pixels for gray in (0.25, 0.75)
    )
    assert np.allclose(bright - dark, 0.5 / 0.1875)


def test_prepare_tells_what_the_input_was_like():
    """Mean and SD of the input are those of its pixels before they were standardized."""
    stripes = np.tile(np.array([0.25, 0.75], dtype=np.float32), (48, 20))
    prepared = prepare(grayscale_image(stripes), SPEC)
    assert (prepared.input_mean, prepared.input_std) == pytest.approx((0.5, 0.25), abs=1e-6)
    assert prepared.input_mean == pytest.approx(prepared.pixels.mean() * SPEC.std + SPEC.mean, abs=1e-6)


def test_unknown_resize_rule():
    """A bundle with a resize rule of another version is refused, with both rules named."""
    spec = replace(SPEC, resize="letterbox-bicubic")
    with pytest.raises(ConfigurationError, match=r"'letterbox-bicubic'.*'squash-bilinear-antialias'"):
        prepare(grayscale_image(np.zeros((64, 64), dtype=np.float32)), spec)


def test_preprocess_sha256_is_stable():
    """The hash of known facts is known: it is stored with results and must not change with a release."""
    spec = make_spec(224, 224, mean=0.5, std=0.25)
    assert preprocess_sha256(spec) == "7ef6d23b187c10641adfcc8a6215686bec093d9350adc51e5e0c49a4e73cb9dc"


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 49},
        {"columns": 41},
        {"mean": 0.438},
        {"std": 0.188},
        {"resize": "other"},
        {"trim_borders": True},
        {"stretch": (0.5, 99.5)},
        {"smooth": True},
        {"rendering_version": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_preprocess_sha256_changes_with_each_fact(change):
    """Every fact of the preprocessing is in its hash."""
    assert preprocess_sha256(replace(SPEC, **change)) != preprocess_sha256(SPEC)


def test_preprocess_sha256_changes_with_an_approximation():
    """Answers about whole pictures and about small copies of them are never taken for each other."""
    hashes = {preprocess_sha256(SPEC, side) for side in (None, 224, 256)}
    assert len(hashes) == 3
    assert preprocess_sha256(SPEC, None) == preprocess_sha256(SPEC)


@pytest.mark.parametrize(
    ("rows", "columns", "trim_borders", "expected"),
    [
        (128, 128, False, 448),
        (256, 160, False, 512),
        (160, 256, False, 512),
        (128, 128, True, 1792),
    ],
)
def test_least_side(rows, columns, trim_borders, expected):
    """A small copy is twice what it is resized to, for the model or for measuring, and more where borders may go."""
    assert find_least_side(make_spec(rows, columns, trim_borders=trim_borders)) == expected


@pytest.fixture(params=["dicom-monochrome1", "dicom-windowed", "png", "png-16-bit", "jpeg"])
def image_file(request, tmp_path):
    """Write one image file in each way that has its own rendering."""
    path = tmp_path / "image"
    if request.param == "dicom-monochrome1":
        return write_dicom(path, PhotometricInterpretation="MONOCHROME1")
    if request.param == "dicom-windowed":
        return write_dicom(path, WindowCenter=2000, WindowWidth=1500)
    if request.param == "png-16-bit":
        Image.fromarray(RAMP.stored * np.uint16(16)).save(path, format="PNG")
    else:
        Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).save(path, format=request.param)
    return path


@pytest.mark.parametrize("spec", [SPEC, make_spec(trim_borders=True, stretch=(0.5, 99.5), smooth=True)])
def test_training_and_service_see_the_same(spec, image_file):
    """The pixels that training learns from are, bit for bit, those that the service classifies."""
    image = LabelledImage(path=image_file, label="normal", patient_id="1", source="made-up")
    decoding = Decoding.from_settings(Settings(decode_workers=1))
    loaded = load_pixels([image], spec, decoding=decoding, progress=lambda images: None)
    trained = standardize(loaded, spec.mean, spec.std)[0]
    served = prepare(decode_file(image_file), spec).pixels
    assert trained.tobytes() == served.tobytes()


def test_decode_worker_sees_the_same(image_file):
    """A decode worker hands over, bit for bit, what `prepare` gives, and what is known of the image."""
    slot = np.empty((SPEC.rows, SPEC.columns), dtype=np.float32)
    with ThreadPoolExecutor(1) as hasher:
        reply = worker.answer(image_file, SPEC, slot, hasher)
    assert reply.content_sha256 == hashlib.sha256(image_file.read_bytes()).hexdigest()
    served = prepare(decode_file(image_file), SPEC)
    assert slot.tobytes() == served.pixels.tobytes()
    assert (reply.header, reply.rendering, reply.warnings) == (served.header, served.rendering, served.warnings)
    assert (reply.rejection, reply.failure) == (None, None)


class TestBorders:
    """One-gray borders are found and cut off, and nothing else is."""

    @pytest.fixture
    def film(self):
        """Return a packaged film."""
        return decode_file(sample_files() / "01-dx-12-bit.dcm").pixels

    @pytest.mark.parametrize("gray", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("widths", [(30, 0, 0, 0), (0, 40, 25, 0), (20, 30, 40, 50)])
    def test_a_border_is_found(self, gray, widths, film):
        """Black, gray or white, at any side: what is left is the film, to less than a row of the working picture."""
        framed = np.pad(film, (widths[:2], widths[2:]), constant_values=gray)
        content, rows, columns = find_content(framed), *framed.shape
        found = (content.top * rows, (1 - content.bottom) * rows, content.left * columns, (1 - content.right) * columns)
        step = max(rows, columns) / WORKING_SIDE
        assert np.abs(np.subtract(found, widths)).max() <= 2 * step

    @pytest.mark.parametrize(("spread", "others", "border"), [(0.019, 0.01, 21), (0.021, 0.01, 0), (0.019, 0.03, 0)])
    def test_what_a_border_is(self, spread, others, border):
        """98 % of each line is one gray, give or take 2 % of the scale; the line next to it goes with it."""
        film = np.random.default_rng(0).random((WORKING_SIDE, WORKING_SIDE), dtype=np.float32)
        film[:20] = 0.5
        film[:20, ::3] += np.float32(spread)
        film[:20, : round(others * WORKING_SIDE)] = 1.0
        expected = border / WORKING_SIDE
        assert find_content(film) == Content(top=expected)
        assert find_content(film[::-1]) == Content(bottom=1 - expected)
        assert find_content(film.T) == Content(left=expected)
        assert find_content(film.T[:, ::-1]) == Content(right=1 - expected)

    def test_borders_of_two_grays(self, film):
        """A black border beside a white one is found, whichever of them goes round the corner."""
        above, beside = ((40, 0), (0, 0)), ((0, 0), (40, 0))
        black_in_corner = np.pad(np.pad(film, beside, constant_values=1.0), above)
        white_in_corner = np.pad(np.pad(film, above), beside, constant_values=1.0)
        for framed in (black_in_corner, white_in_corner):
            content = find_content(framed)
            assert min(content.top, content.left) > 0.05

    def test_wide_borders(self):
        """Borders are wide where they take more than an eighth of the height or of the width."""
        assert not Content(top=0.0625, bottom=0.9375, right=0.875).has_wide_borders
        assert Content(top=0.0625, bottom=0.93).has_wide_borders
        assert Content(left=0.0625, right=0.93).has_wide_borders

    def test_a_film_without_borders_is_whole(self, film):
        """Nothing of a film that fills its picture is cut off, and it is not warned of."""
        assert find_content(film).is_whole
        prepared = prepare(grayscale_image(film), make_spec(trim_borders=True))
        assert ImageWarning.BORDER_TRIMMED not in prepared.warnings

    @pytest.mark.parametrize(("gray", "stretch"), [(0.0, None), (1.0, (0.5, 99.5))])
    def test_a_framed_film_comes_to_the_same(self, gray, stretch, film):
        """A wide border changes the model input by little once it is trimmed, by much if not, and is warned of."""
        framed = np.pad(film, 60, constant_values=gray)
        plain, trimming = (make_spec(96, 96, trim_borders=trim, stretch=stretch) for trim in (False, True))
        kept, cut = (np.abs(make_picture(framed, spec) - make_picture(film, spec)).mean() for spec in (plain, trimming))
        assert cut < 0.02 < kept
        warnings = prepare(grayscale_image(framed), trimming).warnings
        assert warnings == (ImageWarning.GRAY_AS_COLOR, ImageWarning.BORDER_TRIMMED)

    def test_trim(self, film):
        """What is shown beside a heat map is the film without its border, at its own size."""
        framed = np.pad(film, 60)
        trimmed = trim(framed, make_spec(trim_borders=True))
        assert np.abs(np.subtract(trimmed.shape, film.shape)).max() <= 8
        assert trimmed.base is not None
        assert np.array_equal(trim(framed, make_spec()), framed)

    def test_a_copy_with_ringing_is_trimmed(self, film):
        """A border with the ringing of JPEG at its inner edge is found, too."""
        eight_bit = np.round(np.pad(film, 60) * 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(eight_bit).save(stream, "JPEG", quality=60)
        copy = np.asarray(Image.open(stream), dtype=np.float32) / 255
        assert find_content(copy).has_wide_borders

    def test_a_blank_picture_keeps_a_quarter(self):
        """A picture of one gray is all border; a quarter of each side is left, and nothing fails."""
        content = find_content(np.full((300, 400), 0.25, np.float32))
        assert 0.2 < content.bottom - content.top <= 0.25
        assert 0.2 < content.right - content.left <= 0.25
        assert np.isfinite(make_picture(np.zeros((300, 400), np.float32), make_spec(stretch=(0.5, 99.5)))).all()


class TestGrayLevels:
    """What exposure and sharpening change is taken away where the bundle says so."""

    @pytest.fixture
    def film(self):
        """Return a packaged film at the size of the training films."""
        return resize(decode_file(sample_files() / "01-dx-12-bit.dcm").pixels, WORKING_SIDE, WORKING_SIDE)

    def test_contrast_and_brightness_do_not_matter(self, film):
        """A flatter and brighter film has the same picture once its gray levels are stretched."""
        spec = make_spec(stretch=(0.5, 99.5))
        flat = film * np.float32(0.5) + np.float32(0.3)
        assert np.abs(make_picture(flat, spec) - make_picture(film, spec)).max() < 1e-5

    def test_percentiles_become_black_and_white(self):
        """The gray levels at the percentiles are the ends of the scale."""
        noise = np.random.default_rng(0).random((WORKING_SIDE, WORKING_SIDE), dtype=np.float32)
        picture = make_picture(noise, make_spec(WORKING_SIDE, WORKING_SIDE, stretch=(2.0, 90.0)))
        assert (picture == 0).mean() == pytest.approx(0.02, abs=0.01)
        assert (picture == 1).mean() == pytest.approx(0.10, abs=0.01)

    def test_noise_is_not_stretched(self):
        """A nearly blank picture is not blown up to the whole scale."""
        faint = np.random.default_rng(0).uniform(0.5, 0.51, (300, 300)).astype(np.float32)
        assert np.ptp(make_picture(faint, make_spec(stretch=(0.5, 99.5)))) < 0.2

    @pytest.mark.parametrize("shape", [(WORKING_SIDE, WORKING_SIDE), (256, 320)])
    def test_smoothing_is_a_binomial_filter(self, shape):
        """A point becomes 1 2 1 by 1 2 1 over 16, and an edge keeps its gray; a larger model input loses no pixel."""
        point = np.zeros(shape, np.float32)
        point[100, 50] = 1.0
        smoothed = make_picture(point, make_spec(*shape, smooth=True))
        assert np.allclose(smoothed[99:102, 49:52] * 16, np.outer([1, 2, 1], [1, 2, 1]))
        assert smoothed.sum() == pytest.approx(1.0)
        white = make_picture(np.ones((300, 300), np.float32), make_spec(smooth=True))
        assert np.allclose(white, 1.0)


class TestSharpness:
    """How much finest detail a picture has, measured before it is made small."""

    @pytest.fixture
    def film(self):
        """Return a packaged film."""
        return decode_file(sample_files() / "01-dx-12-bit.dcm").pixels

    def test_exposure_does_not_matter(self, film):
        """Contrast and brightness do not change it."""
        assert measure_sharpness(film * np.float32(0.3) + np.float32(0.5)) == pytest.approx(
            measure_sharpness(film), abs=1e-3
        )

    @pytest.mark.parametrize(("share", "limit"), [(0.0075, -2.0), (0.02, -2.4)])
    def test_blur(self, share, limit, film):
        """A film is far above what is left of it after a blur."""
        blurred = ndimage.gaussian_filter(film, [share * side for side in film.shape])
        assert measure_sharpness(film) > -1.6
        assert measure_sharpness(blurred) < limit

    @pytest.mark.parametrize("side", [100, 224])
    def test_small_pictures(self, side, film):
        """A picture with fewer pixels is measured at its own size, and is not taken for a blurred one."""
        assert measure_sharpness(resize(film, side, side)) > -1.6

    def test_of_the_picture_before_the_resize(self, film):
        """What `prepare` gives is that of the whole picture, which the model input cannot show."""
        image = grayscale_image(film)
        assert prepare(image, SPEC).sharpness == measure_sharpness(film)

    def test_black(self):
        """A picture without any detail has a number, too."""
        assert np.isfinite(measure_sharpness(np.zeros((300, 300), np.float32)))
