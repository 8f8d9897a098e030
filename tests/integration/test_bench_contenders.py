"""The contenders of a benchmark, in this process."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from xray_batch.bench.contender import CONTENDERS, OUTCOME, PIPELINE, TASK, Task, pipeline_loop, run_task
from xray_batch.bench.end_to_end import MIX, environment_of, measure_end_to_end
from xray_batch.bench.films import encodings, make_films, write_mix
from xray_batch.bench.measures import Ceiling
from xray_batch.bundle import find_bundle
from xray_batch.errors import BenchmarkError
from xray_batch.settings import DATABASE_NAME, Settings

CEILING = Ceiling(cores=1, preprocess_core_ms=1.0, forward_core_ms=1.0, images_per_second=500.0)


@pytest.fixture
def bundle(tmp_path):
    """Find the packaged bundle."""
    return find_bundle("default", tmp_path)


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Set one decode worker on the CPU; the home folder is there."""
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home", device="cpu", decode_workers=1, batch_size=4)


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Ten files of the mix."""
    shares = [(encoding, MIX[encoding.name]) for encoding in encodings() if encoding.name in MIX]
    (tmp_path / "mix").mkdir()
    return list(write_mix(tmp_path / "mix", make_films(128), shares, 10))


def test_the_pipeline_stores_one_row_per_file(bundle, settings, paths):
    """Each file of the mix has a result of its own in the database."""
    with pipeline_loop(bundle, settings) as classify:
        assert classify(paths[:2]) + classify(paths[2:]) == 10
    with closing(sqlite3.connect(settings.home / DATABASE_NAME)) as database:
        names = [name for (name,) in database.execute("SELECT source_name FROM results")]
    assert sorted(names) == sorted(map(str, paths))


def test_a_task_goes_to_another_process_as_json(bundle, settings, paths):
    """A task and its outcome are the same after a way through JSON; the clock starts after the warm-up."""
    task = Task(
        contender="naive loop",
        bundle=bundle.folder,
        settings=settings,
        warm_up=tuple(paths[:1]),
        files=tuple(paths[1:4]),
    )
    assert TASK.validate_json(TASK.dump_json(task)) == task
    outcome = run_task(task)
    assert (outcome.answers, outcome.precision) == (3, "float32")
    assert OUTCOME.validate_python(json.loads(OUTCOME.dump_json(outcome))) == outcome


def test_a_contender_that_fails_says_why(bundle, settings, tmp_path):
    """A file that the naive loop cannot read ends the benchmark, by the name of the contender and its last words."""
    path = tmp_path / "text.dcm"
    path.write_text("no film", encoding="ascii")
    with pytest.raises(BenchmarkError, match=r"'naive loop' ended with code 1: pydicom\.errors\.InvalidDicomError"):
        measure_end_to_end([path], [], bundle, settings, CEILING, rounds=1)


def test_the_pipeline_is_among_the_contenders():
    """The pipeline comes last, after what it is compared with."""
    assert list(CONTENDERS)[-1] == PIPELINE


def test_only_the_pipeline_has_its_way_to_wait(monkeypatch):
    """The other contenders run as torch does when nobody sets anything; all else is the same for all."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    pipeline, naive = environment_of(PIPELINE), environment_of("naive loop")
    assert pipeline.pop("OMP_WAIT_POLICY") == "passive"
    assert pipeline == naive
