"""Heat maps of stored results: whose they are, what they lie on, and when there is none."""

import errno
import hashlib
import subprocess
from unittest.mock import Mock

import numpy as np
import pytest
from bundle_factory import copy_bundle, read_facts, write_facts
from PIL import Image

from xray_batch.bundle import Bundle
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.pipeline import heat_maps as heat_maps_module
from xray_batch.pipeline.explain import Explainer
from xray_batch.pipeline.heat_maps import Heat, HeatMaps, NoHeat
from xray_batch.records import RESULT_COLUMNS, Outcome, ResultRecord, StoredResult
from xray_batch.settings import Settings
from xray_batch.standardize import find_content, prepare


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Write a film with wide black borders, off the middle."""
    path = tmp_path_factory.mktemp("film") / "film.png"
    picture = Image.new("L", (700, 550), 0)
    picture.paste(Image.open(sample_files() / "07-photo.jpeg").convert("L").resize((450, 400)), (200, 30))
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def trimming(bundle_folder, tmp_path_factory):
    """Return a bundle that cuts off borders."""
    folder = copy_bundle(bundle_folder, tmp_path_factory.mktemp("trimming") / "bundle")
    facts = read_facts(folder)
    facts["input"]["trim_borders"] = True
    write_facts(folder, facts)
    return Bundle(folder)


def stored(film, bundle, **columns):
    """Return a stored result of a film that a bundle has answered."""
    known = {
        "result_id": 7,
        "outcome": Outcome.NORMAL,
        "content_sha256": hashlib.sha256(film.read_bytes()).hexdigest(),
        "model_id": bundle.manifest.model_id,
        "model_sha256": bundle.sha256,
        "preprocess_sha256": "0" * 64,
    }
    record = ResultRecord(**(dict.fromkeys(RESULT_COLUMNS) | known | columns))
    return StoredResult(record=record, computation=None, filed_paths=(), in_place_names=())


def test_film_without_its_borders(film, trimming, tmp_path):
    """Of a bundle that cuts off borders the map is that of what is left, and says so; it is the one of `explain`."""
    settings = Settings(home=tmp_path, bundle=str(trimming.folder), device="cpu")
    made = HeatMaps(settings).explain(stored(film, trimming), [film])
    assert isinstance(made, Heat)
    assert made.is_trimmed
    image = decode_file(film)
    assert not find_content(image.pixels).is_whole
    explained = Explainer(trimming, settings).explain(prepare(image, trimming.manifest.input_spec))
    levels = np.frombuffer(made.levels, np.uint8).reshape(made.rows, made.columns)
    assert np.array_equal(levels, np.rint(255 * explained.explanation.heat_map.average))
    assert made.thorax_share == explained.explanation.heat_map.thorax_share


def test_kept(film, trimming, tmp_path, monkeypatch):
    """A map is made once, and again once the answer was given again."""
    heat_maps = HeatMaps(Settings(home=tmp_path, bundle=str(trimming.folder), device="cpu"))
    made = heat_maps.explain(stored(film, trimming), [film])
    assert heat_maps.explain(stored(film, trimming), []) is made
    assert isinstance(heat_maps.explain(stored(film, trimming, classified_at=1), []), NoHeat)


def test_one_at_a_time(film, trimming, tmp_path, monkeypatch):
    """While a map is made, whoever asks for another is told to come again."""
    monkeypatch.setattr(heat_maps_module, "PATIENCE_SECONDS", 0.1)
    heat_maps = HeatMaps(Settings(home=tmp_path, bundle=str(trimming.folder), device="cpu"))
    with heat_maps._lock:
        refused = heat_maps.explain(stored(film, trimming), [film])
    assert refused.is_passing
    assert "Try again" in refused.text


def test_only_the_recorded_bytes(film, trimming, tmp_path):
    """A file with other bytes is passed over, as is one that is gone; the next place is tried."""
    other = sample_files() / "06-16-bit.png"
    heat_maps = HeatMaps(Settings(home=tmp_path, bundle=str(trimming.folder), device="cpu"))
    result = stored(film, trimming)
    assert heat_maps.explain(result, [other, tmp_path / "gone"]) == NoHeat(text="The original is not here.")
    assert isinstance(heat_maps.explain(result, [other, film]), Heat)


def test_no_process_can_be_started(film, trimming, tmp_path, monkeypatch):
    """Where the system has no room for one more decode worker, asking again may help."""
    heat_maps = HeatMaps(Settings(home=tmp_path, bundle=str(trimming.folder), device="cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Mock(side_effect=BlockingIOError(errno.EAGAIN, "No room")))
        refused = heat_maps.explain(stored(film, trimming), [film])
    assert (refused.text, refused.is_passing) == ("The heat map could not be made: No room.", True)
    assert isinstance(heat_maps.explain(stored(film, trimming), [film]), Heat)


def test_refused_now(film, trimming, tmp_path):
    """A film that is refused by now has no map, and the sentence that may quote it comes by itself."""
    lateral = sample_files() / "08-lateral-view.dcm"
    heat_maps = HeatMaps(Settings(home=tmp_path, bundle=str(trimming.folder), device="cpu"))
    refused = heat_maps.explain(stored(lateral, trimming), [lateral])
    assert "cannot be prepared" in refused.text
    assert "View Position" in refused.reason
