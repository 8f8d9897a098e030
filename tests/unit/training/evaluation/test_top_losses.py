"""Pictures of the films that a model was most wrong about."""

import numpy as np
import pytest
import torch
from bundle_factory import copy_bundle, read_facts, write_facts
from installed_command import make_films
from made_up_predictions import members_of, predictions_of
from PIL import Image, ImageOps

from xray_batch.bundle import Bundle
from xray_batch.classify import Ensemble
from xray_batch.training.dataset import LabelledImage
from xray_batch.training.evaluation import top_losses
from xray_batch.training.evaluation.top_losses import draw_pictures


def draw(path, ensemble, address_space=2 << 30):
    """Draw a film that the members said something about."""
    image = LabelledImage(path=path, label="normal", patient_id="1", source="ward")
    (film,) = predictions_of([image], members_of([0.5])).films
    return draw_pictures(film, ensemble, None, address_space=address_space)


@pytest.fixture(scope="module")
def ensemble(bundle_folder, tmp_path_factory):
    """Load the small bundle on the CPU, made to cut borders off."""
    facts = read_facts(folder := copy_bundle(bundle_folder, tmp_path_factory.mktemp("bundle") / "trimming"))
    facts["input"]["trim_borders"] = True
    write_facts(folder, facts)
    return Ensemble(Bundle(folder), device=torch.device("cpu"), dtype=torch.float32, batch_size=1)


@pytest.fixture
def film(tmp_path):
    """Make one film of 128 x 128 pixels."""
    return make_films(tmp_path / "films", 1)[0]


def test_film_and_heat_show_the_same_part(ensemble, film, tmp_path):
    """A border that is cut off before the model sees a film is in neither picture."""
    framed = tmp_path / "framed.png"
    ImageOps.expand(Image.open(film), (40, 0), fill=0).save(framed)
    pictures, plain = draw(framed, ensemble), draw(film, ensemble)
    assert pictures.film.size == pictures.heat.size
    # The row or column next to a border is cut off, too.
    assert np.abs(np.subtract(pictures.film.size, plain.film.size)).max() < 15
    shown, expected = (
        np.asarray(each.film.convert("L").crop((0, 0, 360, 384)).resize((90, 96))).astype(int)
        for each in (pictures, plain)
    )
    assert np.abs(shown - expected).mean() < 12


def test_the_heat_picture_says_what_it_is(ensemble, film, monkeypatch):
    """Under the heat map stands that it is not where disease is; the film has the footnote of all drawings."""
    with_caption = draw(film, ensemble)
    assert np.asarray(with_caption.heat)[384:].min() < 150
    monkeypatch.setattr(top_losses, "CAPTION", " ")
    without = draw(film, ensemble)
    assert np.array_equal(np.asarray(without.heat)[:384], np.asarray(with_caption.heat)[:384])
    assert np.asarray(without.heat)[384:].min() == 255
    assert np.asarray(without.film)[384:].min() < 150


def test_captions_fit(ensemble, film, tmp_path):
    """Under a film of any width the whole text has room."""
    for size in ((500, 100), (128, 128), (100, 500)):
        Image.open(film).resize(size).save(tmp_path / "film.png")
        for picture in (lambda drawn: drawn.film, lambda drawn: drawn.heat):
            pixels = np.asarray(picture(draw(tmp_path / "film.png", ensemble)))
            caption = pixels[(pixels == 255).all(axis=(1, 2)).argmax() :]
            assert (caption[:, -2:] == 255).all()
            assert (caption[-2:] == 255).all()
            assert caption.min() < 150


def test_films_that_cannot_be_shown(ensemble, film, tmp_path, monkeypatch):
    """A file that is gone or takes too much memory, or that the networks have no numbers for, has no pictures."""
    assert draw(tmp_path / "gone.png", ensemble) is None
    huge = tmp_path / "huge.png"
    Image.new("L", (10_000, 10_000)).save(huge)
    assert draw(huge, ensemble, address_space=64 << 20) is None

    def fail(model_input):
        raise FloatingPointError

    monkeypatch.setattr(ensemble, "explain", fail)
    assert draw(film, ensemble) is None
