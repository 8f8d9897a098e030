import numpy as np
import pytest

from xray_batch.training.stress import CONTROLS, STRESS_SIDE, STRESSES


@pytest.fixture
def film():
    """Give noise of the size that stresses are made for."""
    return np.random.default_rng(3).uniform(0.1, 0.9, (STRESS_SIDE, STRESS_SIDE)).astype(np.float32)


@pytest.mark.parametrize("name", [*STRESSES, *CONTROLS])
def test_a_stress_gives_a_film_of_the_same_size_and_range_and_leaves_its_input(film, name):
    """Each change is a picture again, and only a copy is changed."""
    before = film.copy()

    changed = (STRESSES | CONTROLS)[name](film)

    assert changed.shape == film.shape
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.array_equal(film, before)
    assert name == "as they are" or not np.array_equal(changed, film)


@pytest.mark.parametrize("name", [*STRESSES, *CONTROLS])
def test_a_stress_is_the_same_each_time(film, name):
    """Two reports on one film agree, noise included."""
    change = (STRESSES | CONTROLS)[name]

    assert np.array_equal(change(film), change(film))


def test_borders_leave_the_middle_and_controls_take_it(film):
    """Stresses keep the lungs; controls keep the rest."""
    assert np.array_equal(STRESSES["black border, 20 px"](film)[20:-20, 20:-20], film[20:-20, 20:-20])
    assert not STRESSES["black border, 20 px"](film)[:20].any()
    assert not CONTROLS["border only, 20 px"](film)[20:-20, 20:-20].any()
    assert np.array_equal(CONTROLS["centre black, 144 px"](film)[:40], film[:40])
    assert not CONTROLS["centre black, 144 px"](film)[40:-40, 40:-40].any()
