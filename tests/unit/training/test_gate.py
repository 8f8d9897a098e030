"""Pictures that the gate learns from, and how its limits and rates come about."""

import tracemalloc

import numpy as np
import pytest
import torch
from input_specs import make_spec
from PIL import Image
from scipy import ndimage

from xray_batch.decode import decode_file
from xray_batch.gate import PictureKind
from xray_batch.resnet import ResNet
from xray_batch.settings import Settings
from xray_batch.standardize import measure_sharpness, prepare, resize
from xray_batch.training import gate as module
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.drawings import DRAWINGS, draw
from xray_batch.training.gate import _Films, _fit_layer, _hold_out, _Workshop, memory_needed
from xray_batch.training.pixels import Decoding
from xray_batch.training.spoil import SPOILERS, blur, cut, invert, pad, turn_sideways, turn_upside_down, vary

CPU = torch.device("cpu")

DECODING = Decoding.from_settings(Settings(decode_workers=2))


def rng(seed=0):
    """Return a generator."""
    return np.random.default_rng(seed)


@pytest.fixture
def film():
    """Return a picture that is bright at the top left and falls off, with texture."""
    y, x = np.mgrid[:96, :96] / 95
    return np.clip(0.9 - 0.5 * y - 0.3 * x + 0.05 * rng().random((96, 96)), 0, 1).astype(np.float32)


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings(name):
    """Every drawing is in [0, 1], of the side asked for, and another one each time."""
    first, second = draw(name, 96, rng(1)), draw(name, 96, rng(2))
    assert first.shape == (96, 96)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert not np.array_equal(first, second)
    assert np.array_equal(first, draw(name, 96, rng(1)))


def test_every_kind_is_made():
    """Every kind but FILM and OTHER has a way to spoil a film."""
    assert set(SPOILERS) == set(PictureKind) - {PictureKind.FILM, PictureKind.OTHER}


def test_varied_films_stay_upright(film):
    """A varied film is in [0, 1], of the same size, and still bright at the top."""
    for seed in range(20):
        varied = vary(film, rng(seed))
        assert varied.shape == film.shape
        assert varied.dtype == np.float32
        assert 0 <= varied.min() <= varied.max() <= 1
        assert varied[8:40].mean() > varied[-40:-8].mean()


def test_invert(film):
    """Black and white change places."""
    assert np.allclose(invert(film, rng()), 1 - film)


def test_turns(film):
    """Sideways is a quarter turn to either side; upside down has the bright rows at the bottom."""
    sides = {turn_sideways(film, rng(seed)).tobytes() for seed in range(20)}
    assert sides == {np.rot90(film).tobytes(), np.rot90(film, 3).tobytes()}
    assert all(turn_upside_down(film, rng(seed))[-20:].mean() > 0.6 for seed in range(20))


def test_cut(film):
    """Half of the film is stretched over the whole picture: its range is about half of the whole."""
    spans = [np.ptp(ndimage.uniform_filter(cut(film, rng(seed)), 9)[8:-8, 8:-8]) for seed in range(20)]
    assert max(spans) < 0.85 * np.ptp(ndimage.uniform_filter(film, 9)[8:-8, 8:-8])


def test_pad():
    """Borders take at least a quarter of the height or the width, in one gray that is a little uneven."""
    squares = (np.indices((96, 96)) // 16).sum(axis=0) % 2
    for seed in range(20):
        padded = pad(squares.astype(np.float32), rng(seed))
        flat_rows, flat_columns = padded.std(axis=1) < 0.1, padded.std(axis=0) < 0.1
        assert max(flat_rows.sum(), flat_columns.sum()) >= 20
        assert min(np.sort(padded.std(axis=1))[8], np.sort(padded.std(axis=0))[8]) > 0.01
        assert 0 <= padded.min() <= padded.max() <= 1


def test_blur(film):
    """The texture goes, the brightness stays."""
    blurred = blur(film, rng())
    assert np.abs(np.diff(blurred[20:60, 20:60])).mean() < 0.5 * np.abs(np.diff(film[20:60, 20:60])).mean()
    assert blurred.mean() == pytest.approx(film.mean(), abs=0.01)


@pytest.mark.parametrize("change", [vary, *SPOILERS.values()], ids=lambda change: change.__name__)
def test_films_are_changed_alike_at_any_size(change):
    """The same generator makes the same picture of a film and of the film at half the size."""
    y, x = np.mgrid[:256, :256] / 255
    film = np.clip(0.9 - 0.5 * y - 0.3 * x + 0.1 * np.sin(9 * x) * np.sin(7 * y), 0, 1).astype(np.float32)
    for seed in range(12):
        large, small = (change(size, rng(seed)) for size in (film, resize(film, 128, 128)))
        apart = np.abs(ndimage.uniform_filter(resize(np.ascontiguousarray(large, np.float32), 128, 128) - small, 9))
        assert np.quantile(apart, 0.9) < 0.05


def test_sharpness_is_that_of_the_service(tmp_path):
    """Films are measured as the service measures them, also where the model's input is large."""
    random = np.random.default_rng(0)
    images, sharpness = [], []
    spec = make_spec(224, 224)
    for number, (rows, columns) in enumerate([(224, 224), (300, 500), (900, 800)]):
        pixels = ndimage.gaussian_filter(random.random((rows, columns)), 1) * 255
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        images.append(LabelledImage(path=path, label="normal", patient_id=str(number), source="kids"))
        sharpness.append(prepare(decode_file(path), spec).sharpness)
    workshop = _Workshop(ResNet("resnet34", 4).eval(), spec, decoding=DECODING, device=CPU, dtype=torch.float32, seed=0)
    films = workshop.load(images, lambda images: None)
    assert films.fine.shape == (3, 448, 448)
    assert [measure_sharpness(film) for film in films.working] == pytest.approx(sharpness, abs=1e-5)


def test_memory_that_is_needed(monkeypatch):
    """Pictures are made and forgotten: what is held at once is what is asked for before the training, or less."""
    monkeypatch.setattr(
        module, "run_batches", lambda forward, inputs, batch_size: (None, np.ones((len(inputs), 8640)), None)
    )
    monkeypatch.setattr(module, "_STEPS", 1)
    spec = make_spec(32, 32)
    workshop = _Workshop(ResNet("resnet34", 4).eval(), spec, decoding=DECODING, device=CPU, dtype=torch.float32, seed=0)
    fine, working = (np.full((40, side, side), 0.5, np.float32) for side in (64, 224))
    _fit_layer(workshop.make(_Films(fine=fine[:2], working=working[:2]), varied=True))  # what it imports stays
    tracemalloc.start()
    try:
        pictures = workshop.make(_Films(fine=fine, working=working), varied=True)
        made = tracemalloc.get_traced_memory()[1] + fine.nbytes + working.nbytes
        tracemalloc.reset_peak()
        _fit_layer(pictures)
        fitted = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(made, fitted) == pytest.approx(memory_needed(50, spec), rel=0.1)  # of 50, 40 are fitted to


def test_limits_are_chosen_on_other_patients(tmp_path):
    """A fifth of the groups is held out for the limits, with all films of its patients and all copies of them."""
    images = [
        LabelledImage(path=tmp_path / f"{n}.png", label="normal", patient_id=f"P{n // 2}", source="kids")
        for n in range(60)
    ]
    groups = np.arange(60) // 2
    groups[groups == 29] = 0  # the last patient's films are copies of the first one's
    fitted_to, limited_by = _hold_out(images, groups)
    assert [image.patient_id for image in limited_by[::2]] == ["P0", "P5", "P10", "P15", "P20", "P25", "P29"]
    assert not {image.patient_id for image in fitted_to} & {image.patient_id for image in limited_by}
    assert len(fitted_to) + len(limited_by) == 60
