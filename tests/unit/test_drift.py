"""The population stability index: known values, what chance does, and when there is none."""

import math

import numpy as np
import pytest

from xray_batch.drift import Band, least_results, measure_drift, take_bins
from xray_batch.records import ReferenceBins

#: A tenth of 1,000 films in each bin.
EVEN = ReferenceBins(edges=tuple(tenth / 10 for tenth in range(1, 10)), shares=(0.1,) * 10, n=1000)


def test_bins_are_deciles():
    """Each bin has a tenth of the films; one at an edge is in the bin above it."""
    bins = take_bins(np.arange(1, 102, dtype=np.float64))
    assert bins.edges == pytest.approx([11, 21, 31, 41, 51, 61, 71, 81, 91])
    assert bins.shares == pytest.approx([10 / 101] * 9 + [11 / 101])
    assert bins.n == 101


def test_films_that_are_alike():
    """Where films have one number, edges coincide and the bins between them are empty."""
    bins = take_bins(np.full(20, 0.5))
    assert set(bins.edges) == {0.5}
    assert bins.shares == (*(0.0,) * 9, 1.0)
    drift = measure_drift([0] * 9 + [1000], ReferenceBins(edges=bins.edges, shares=bins.shares, n=1000))
    assert drift.index == pytest.approx(0.0)


def test_known_index():
    """The index is the sum of (a - e) ln(a / e): half of one bin's films gone to another is worth 0.0896."""
    counts = [50, 150] + [100] * 8
    drift = measure_drift(counts, EVEN)
    assert drift.index == pytest.approx(-0.05 * math.log(0.5) + 0.05 * math.log(1.5))
    assert (drift.results, drift.band) == (1000, Band.STABLE)


def test_no_shift_is_zero():
    """Results that are spread like the reference have an index of zero, whatever their number."""
    assert measure_drift([70] * 10, EVEN).index == 0.0


def test_an_empty_bin_counts_as_half_a_film():
    """A bin without results, or without reference films, has a finite part in the index."""
    drift = measure_drift([0, 200] + [100] * 8, EVEN)
    assert drift.index == pytest.approx((0.0005 - 0.1) * math.log(0.0005 / 0.1) + 0.1 * math.log(2))
    assert drift.band is Band.LARGE
    one_empty = ReferenceBins(edges=EVEN.edges, shares=(0.0, 0.2, *(0.1,) * 8), n=1000)
    assert measure_drift([100] * 10, one_empty).index == pytest.approx(
        (0.1 - 0.0005) * math.log(0.1 / 0.0005) - 0.1 * math.log(0.5)
    )


def test_band_between():
    """An index from 0.1 and below 0.25 is a moderate shift."""
    drift = measure_drift([30, 170] + [100] * 8, EVEN)
    assert 0.1 < drift.index < 0.25
    assert drift.band is Band.MODERATE


@pytest.mark.parametrize(("n", "least"), [(100, None), (169, None), (523, 251), (1000, 204), (5000, 176)])
def test_least_results(n, least):
    """The fewer reference films, the more results it takes; with fewer than 170 no number is enough."""
    assert least_results(n) == least


def test_too_few_results():
    """Below the least number there is no index, and still what chance alone would make of it."""
    drift = measure_drift([21] * 9 + [14], EVEN)
    assert (drift.results, drift.index, drift.band, drift.least_results) == (203, None, None, 204)
    assert drift.expected == pytest.approx(9 * (1 / 203 + 1 / 1000))
    assert measure_drift([21] * 9 + [15], EVEN).index is not None
    assert measure_drift([0] * 10, EVEN).expected is None


def test_too_few_reference_films():
    """Against a small reference there is no index, however many results there are."""
    small = ReferenceBins(edges=EVEN.edges, shares=EVEN.shares, n=112)
    assert measure_drift([100_000] * 10, small).index is None


def test_chance_alone():
    """Without drift the index at the least number is 9 (1/n + 1/m) on average, and below 0.1 in 19 of 20 cases."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        bins = take_bins(rng.random(523))
        counts = np.bincount(np.searchsorted(bins.edges, rng.random(251), side="right"), minlength=10)
        found.append(measure_drift(counts.tolist(), bins).index)
    assert np.mean(found) == pytest.approx(9 * (1 / 251 + 1 / 523), rel=0.05)
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.95, abs=0.02)
