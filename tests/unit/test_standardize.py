"""Resize and standardize: known values, and the same ones in training and in service."""

from dataclasses import replace

import numpy as np
import pytest
from dicom_factory import RAMP, write_dicom
from PIL import Image
from scipy import ndimage

from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.errors import ConfigurationError
from xray_batch.pipeline import worker
from xray_batch.records import GrayscaleImage, ImageHeader, ImageWarning, InputSpec, SourceFormat
from xray_batch.standardize import (
    SQUASH_BILINEAR_ANTIALIAS,
    measure_sharpness,
    prepare,
    preprocess_sha256,
    resize,
    standardize,
)
from xray_batch.training.dataset import LabelledImage, load_pixels

SPEC = InputSpec(rows=48, columns=40, mean=0.4375, std=0.1875, resize=SQUASH_BILINEAR_ANTIALIAS, rendering_version=1)


def grayscale_image(pixels):
    """Return an image that has been decoded from a PNG."""
    return GrayscaleImage(
        header=ImageHeader(source_format=SourceFormat.PNG),
        pixels=pixels,
        rendering="identity",
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


def test_unknown_resize_rule():
    """A bundle with a resize rule of another version is refused, with both rules named."""
    spec = replace(SPEC, resize="letterbox-bicubic")
    with pytest.raises(ConfigurationError, match=r"'letterbox-bicubic'.*'squash-bilinear-antialias'"):
        prepare(grayscale_image(np.zeros((64, 64), dtype=np.float32)), spec)


def test_preprocess_sha256_is_stable():
    """The hash of known facts is known: it is stored with results and must not change with a release."""
    spec = InputSpec(rows=224, columns=224, mean=0.5, std=0.25, resize=SQUASH_BILINEAR_ANTIALIAS, rendering_version=1)
    assert preprocess_sha256(spec) == "be7b68cd5c2d016b51fec5bd4b0fab8a9dd157f702e419003a00fa3a58d4e040"


@pytest.mark.parametrize(
    "change",
    [{"rows": 49}, {"columns": 41}, {"mean": 0.438}, {"std": 0.188}, {"resize": "other"}, {"rendering_version": 2}],
    ids=lambda change: next(iter(change)),
)
def test_preprocess_sha256_changes_with_each_fact(change):
    """Every fact of the preprocessing is in its hash."""
    assert preprocess_sha256(replace(SPEC, **change)) != preprocess_sha256(SPEC)


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


def test_training_and_service_see_the_same(image_file):
    """The pixels that training learns from are, bit for bit, those that the service classifies."""
    image = LabelledImage(path=image_file, label="normal", patient_id="1", source="made-up")
    loaded = load_pixels([image], SPEC.rows, SPEC.columns, progress=lambda images: None)
    trained = standardize(loaded, SPEC.mean, SPEC.std)[0]
    served = prepare(decode_file(image_file), SPEC).pixels
    assert trained.tobytes() == served.tobytes()


def test_decode_worker_sees_the_same(image_file):
    """A decode worker hands over, bit for bit, what `prepare` gives, and what is known of the image."""
    slot = np.empty((SPEC.rows, SPEC.columns), dtype=np.float32)
    reply = worker.answer(image_file, SPEC, slot)
    served = prepare(decode_file(image_file), SPEC)
    assert slot.tobytes() == served.pixels.tobytes()
    assert (reply.header, reply.rendering, reply.warnings) == (served.header, served.rendering, served.warnings)
    assert (reply.rejection, reply.failure) == (None, None)


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
