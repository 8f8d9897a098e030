"""Facts about pixels, of one image and of many together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from input_specs import make_spec

from xray_batch.pipeline.pixel_facts import HISTOGRAM_BINS, measure_pixels
from xray_batch.pipeline.survey import FAILED, FileFacts, PixelTotals, Totals, input_range
from xray_batch.standardize import standardize

SPEC = make_spec(8, 8, mean=0.5, std=0.25)


def random_images(count, seed=0):
    """Return images of different sizes and brightness."""
    random = np.random.default_rng(seed)
    return [
        (random.random(random.integers(5, 60, 2), dtype=np.float32) ** random.uniform(0.3, 3)) for _ in range(count)
    ]


@pytest.mark.parametrize("shape", [(7, 9), (1200, 1300)], ids=["small", "several blocks"])
def test_one_image(shape):
    """Dimensions, range, mean, SD and histogram are those that NumPy gives of the whole array."""
    pixels = np.random.default_rng(1).random(shape, dtype=np.float32) ** 2
    facts = measure_pixels(pixels, 0.0, 1.0)
    assert (facts.rows, facts.columns, facts.count) == (*shape, pixels.size)
    assert (facts.smallest, facts.largest) == (pixels.min(), pixels.max())
    assert facts.mean == pytest.approx(pixels.mean(dtype=np.float64), abs=1e-12)
    assert facts.std == pytest.approx(pixels.std(dtype=np.float64), abs=1e-12)
    assert facts.histogram == tuple(np.histogram(pixels, HISTOGRAM_BINS, (0, 1))[0])


def test_ends_of_the_histogram():
    """The largest value is in the last part, and what lies beyond the ends is in the first or last."""
    facts = measure_pixels(np.float32([[-0.5, 0.0, 1.0, 1.5]]), 0.0, 1.0)
    assert (facts.histogram[0], facts.histogram[-1]) == (2, 2)


def test_a_view_is_measured_as_it_is_seen():
    """A turned picture, whose memory is in another order, has the same facts with its sides exchanged."""
    (pixels,) = random_images(1)
    facts, turned = measure_pixels(pixels, 0.0, 1.0), measure_pixels(pixels.T, 0.0, 1.0)
    assert (turned.rows, turned.columns) == (facts.columns, facts.rows)
    assert (turned.mean, turned.histogram) == (pytest.approx(facts.mean), facts.histogram)


def test_black_and_white_of_the_model_input():
    """The ends of the model input's histogram are what standardize makes of black and white."""
    ends = standardize(np.float32([0.0, 1.0]), SPEC.mean, SPEC.std)
    assert input_range(SPEC) == tuple(ends.tolist()) == (-2.0, 2.0)


def test_many_images():
    """Running totals are the mean, SD and histogram of all pixels together, large films counting for more."""
    images, totals = random_images(40), PixelTotals()
    for image in images:
        totals.add(measure_pixels(image, 0.0, 1.0))
    everything = np.concatenate([image.ravel() for image in images]).astype(np.float64)
    assert totals.count == everything.size
    assert totals.mean == pytest.approx(everything.mean(), abs=1e-12)
    assert totals.std == pytest.approx(everything.std(), abs=1e-12)
    assert np.array_equal(totals.histogram, np.histogram(everything, HISTOGRAM_BINS, (0, 1))[0])


def test_a_small_spread_is_not_lost():
    """The SD of nearly equal pixels is right after very many of them: no digits cancel."""
    facts = dataclasses.replace(measure_pixels(np.float32([[0.5]]), 0.0, 1.0), rows=10_000, columns=10_000, std=1e-6)
    totals = PixelTotals()
    for _ in range(10_000):
        totals.add(facts)
    assert totals.std == pytest.approx(1e-6, rel=1e-6)


def test_no_image():
    """Totals of nothing are zero."""
    totals = PixelTotals()
    assert (totals.count, totals.mean, totals.std) == (0, 0.0, 0.0)


def test_files():
    """Files are counted, those that were not read by their reason; dimensions have a least and a most."""
    totals = Totals()
    for image in (np.zeros((5, 70), np.float32), np.ones((9, 40), np.float32)):
        facts = measure_pixels(image, 0.0, 1.0)
        totals.add(FileFacts(path=Path("x"), rendered=facts, model_input=facts))
    for code in ("truncated", FAILED, "truncated"):
        totals.add(FileFacts(path=Path("x"), reason_code=code, reason="why"))
    assert (totals.files, totals.films) == (5, 2)
    assert totals.refused == {"truncated": 2, FAILED: 1}
    assert (totals.rows, totals.columns) == ((5, 9), (40, 70))
