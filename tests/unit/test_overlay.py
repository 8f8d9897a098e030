"""Heat maps as pictures: what colour where, and what stands in every picture."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from PIL import ImageFont

from xray_batch.overlay import CAPTION, draw_explanation, overlay

FILM = np.random.default_rng(0).random((60, 90))


def test_a_film_without_heat_stays_as_it_is():
    """Where there is no heat, the overlay is the film in gray, of the film's size."""
    shown = np.asarray(overlay(FILM, np.zeros((3, 3))))
    assert shown.shape == (60, 90, 3)
    assert np.array_equal(shown, np.repeat(np.rint(255 * FILM)[..., None], 3, axis=2))


def test_heat_is_where_it_is():
    """The heat of a corner colours that corner and leaves the opposite one as it was."""
    heat = np.zeros((3, 3))
    heat[0, 2] = 1.0
    difference = np.abs(np.asarray(overlay(FILM, heat)).astype(int) - np.asarray(overlay(FILM, 0 * heat)))
    assert difference[:5, -5:].mean() > 50
    assert not difference[30:, :40].any()


def test_hotter_is_brighter():
    """On a black film, luminance grows with heat without a step back."""
    shown = np.asarray(overlay(np.zeros((1, 256)), np.linspace(0, 1, 256)[None])).astype(float)[0]
    luminance = shown @ (0.2126, 0.7152, 0.0722)
    assert np.diff(luminance).min() > -1
    assert luminance[-1] - luminance[0] > 100


def test_colours_are_those_of_inferno():
    """The colours differ from matplotlib's by no more than the eye can tell, 6 of 255."""
    heat = np.linspace(0, 1, 256)
    expected = 0.6 * heat[:, None] * mpl.colormaps["inferno"](heat)[:, :3] * 255
    assert np.abs(np.asarray(overlay(np.zeros((1, 256)), heat[None]))[0] - expected).max() < 6


def test_values_beyond_the_range_are_cut():
    """Rounding beyond [0, 1] neither wraps round nor fails."""
    shown = np.asarray(overlay(np.array([[1.0001, -0.0001]]), np.full((1, 1), 1.0001)))
    assert np.array_equal(shown, np.asarray(overlay(np.array([[1.0, 0.0]]), np.ones((1, 1)))))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 2000), (2000, 64), (3000, 2500)])
def test_any_shape_of_film(shape):
    """Both films are scaled to a longer side of 768 pixels, and both are in the picture."""
    film = np.linspace(0, 1, shape[1])[None].repeat(shape[0], axis=0)
    picture = np.asarray(draw_explanation(film, np.zeros((3, 3)), "title", ["a line"]))
    factor = 768 / max(shape)
    rows, columns = round(factor * shape[0]), round(factor * shape[1])
    left = picture[52 : 52 + rows, 24 : 24 + columns]
    assert np.ptp(left) > 200
    # The outermost columns are without the frame.
    assert np.array_equal(left[:, :2], picture[52 : 52 + rows, -24 - columns : -22 - columns])


@pytest.mark.parametrize("shape", [(60, 90), (2000, 64)])
def test_the_title_has_room(shape):
    """Over a film of any width the whole title stands, and ends before the margin."""
    title = "heat map, mean of resnet34 and resnet50"
    head = np.asarray(draw_explanation(np.zeros(shape), np.zeros((3, 3)), title, []))[:50, 100:]
    bare = np.asarray(draw_explanation(np.zeros(shape), np.zeros((3, 3)), "", []))[:50, 100:]
    written = np.flatnonzero((head != bare).any(axis=(0, 2)))
    font = ImageFont.load_default(size=20)
    assert np.ptp(written) == pytest.approx(font.getlength(title), abs=4)
    assert written.max() < head.shape[1] - 24


def test_a_long_line_is_broken():
    """Text that does not fit makes the picture taller, never wider."""
    short = draw_explanation(FILM, np.zeros((3, 3)), "title", ["word"])
    long = draw_explanation(FILM, np.zeros((3, 3)), "title", ["word " * 100])
    assert long.width == short.width
    assert long.height > short.height


def test_the_caption_is_in_the_pixels(monkeypatch):
    """Every explanation has the caption as its last line, whatever else it says."""
    assert "not where disease is" in CAPTION
    assert "Research use only" in CAPTION
    with_caption = np.asarray(draw_explanation(FILM, np.zeros((3, 3)), "title", []))
    monkeypatch.setattr("xray_batch.overlay.CAPTION", " ")
    without = np.asarray(draw_explanation(FILM, np.zeros((3, 3)), "title", []))
    assert with_caption.shape[0] > without.shape[0]
    assert with_caption[without.shape[0] - 24 :].max() > 200


def test_it_needs_no_torch():
    """Importing the overlay loads no torch and no matplotlib."""
    program = "import sys, xray_batch.overlay; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
