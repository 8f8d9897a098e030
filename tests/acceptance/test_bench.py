"""`xray-batch bench`, with films so small that it measures nothing but whether it works."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from bundle_factory import make_bundle
from installed_command import Finished, run_command
from PIL import Image

from xray_batch.bench.contender import CONTENDERS
from xray_batch.bench.end_to_end import MIX
from xray_batch.bench.films import encodings
from xray_batch.bench.measures import Ceiling, EndToEnd, ForwardTimes, Machine, StageTimes, WorklistTimes
from xray_batch.bench.worklist import REQUESTS

KINDS = {
    "machine": Machine,
    "stages": StageTimes,
    "forward": ForwardTimes,
    "ceiling": Ceiling,
    "end_to_end": EndToEnd,
    "worklist": WorklistTimes,
}
SMALL = ("--files", "10", "--repeats", "1", "--side", "128", "--device", "cpu", "--results", "700")


@dataclass(frozen=True)
class Bench:
    """One run, and what it left in its folder."""

    done: Finished
    rows: list[dict[str, Any]]
    figure: Path


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    """Run the benchmark once, with all that it can write."""
    folder = tmp_path_factory.mktemp("bench")
    bundle = make_bundle(tmp_path_factory.mktemp("bundle") / "small")
    done = run_command(
        *("bench", *SMALL, "--bundle", bundle, "--format", "json"),
        *("--figure", folder / "speed.png", "--home", folder / "home"),
        XRAY_BATCH_BATCH_SIZE="2",
        XRAY_BATCH_DECODE_WORKERS="1",
    )
    assert done.code == 0, done.err
    return Bench(done, [json.loads(line) for line in done.out.splitlines()], folder / "speed.png")


def of_kind(bench: Bench, kind: str) -> list[dict[str, Any]]:
    """Return the rows of one kind."""
    return [row for row in bench.rows if row["kind"] == kind]


def test_every_row_has_its_keys(bench):
    """The keys of a row are its kind's fields; the machine's has how much was measured, too."""
    for row in bench.rows:
        extent = {"side", "repeats", "mix"} if row["kind"] == "machine" else set()
        assert set(row) == {"kind"} | extent | {field.name for field in fields(KINDS[row["kind"]])}
    assert {row["kind"] for row in bench.rows} == set(KINDS)


def test_every_encoding_has_its_steps(bench):
    """Each encoding has the bytes of its files, its decoder, and a time for each step."""
    rows = of_kind(bench, "stages")
    assert [row["encoding"] for row in rows] == [encoding.name for encoding in encodings()]
    for row in rows:
        assert row["decoder"] != "none"
        assert row["file_bytes"] > 1000
        for step in ("read", "decode", "render", "resize"):
            assert 0 < row[step]["best_ms"] <= row[step]["median_ms"]


def test_both_precisions_are_compared(bench):
    """The ensemble is timed one by one and in batches, and bfloat16 says how far it is from float32."""
    rows = of_kind(bench, "forward")
    assert [(row["device"], row["precision"], row["batch_images"]) for row in rows] == [
        ("cpu", precision, images) for precision in ("float32", "bfloat16") for images in (1, 2)
    ]
    assert {row["drift_max"] for row in rows[:2]} == {0.0}
    assert all(0 < row["drift_mean"] <= row["drift_max"] < 0.2 for row in rows[2:])


def test_every_contender_answers_every_file(bench):
    """All three have an answer for each file of the mix; only the pipeline has a share of the ceiling."""
    rows = of_kind(bench, "end_to_end")
    assert [row["contender"] for row in rows] == list(CONTENDERS)
    assert {(row["files"], row["answers"]) for row in rows} == {(10, 10)}
    assert [row["share_of_ceiling"] is not None for row in rows] == [False, False, True]
    assert all(row["memory_bytes"] > 50e6 and row["cpu_seconds"] > 0 for row in rows)


def test_the_ceiling_is_the_sum_of_its_parts(bench):
    """The ceiling follows from the rows before it, by the shares of the mix."""
    (ceiling,) = of_kind(bench, "ceiling")
    by_name = {row["encoding"]: row["core_ms"] for row in of_kind(bench, "stages")}
    assert ceiling["preprocess_core_ms"] == pytest.approx(sum(by_name[name] * MIX[name] / 100 for name in MIX))
    core_ms = ceiling["preprocess_core_ms"] + ceiling["forward_core_ms"]
    assert ceiling["images_per_second"] == pytest.approx(1000 * ceiling["cores"] / core_ms)


def test_every_request_of_the_worklist_is_timed(bench):
    """Each request is timed on the database of as many results as were asked for."""
    rows = of_kind(bench, "worklist")
    assert [row["request"] for row in rows] == list(REQUESTS)
    assert {row["results"] for row in rows} == {700}
    assert all(row["server"]["best_ms"] > 0 for row in rows)


def test_the_figure_is_a_picture(bench):
    """The figure is a PNG large enough to be read, and not blank."""
    with Image.open(bench.figure) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_nothing_else_is_left(bench):
    """No home folder is made, and no film stays."""
    assert [path.name for path in bench.figure.parent.iterdir()] == ["speed.png"]


def test_a_figure_that_cannot_be_written_is_refused_first(tmp_path):
    """Wrong usage is told before anything is measured."""
    done = run_command("bench", "--figure", tmp_path / "no" / "speed.png", "--home", tmp_path / "home")
    assert done.code == 2
    assert "--figure is in a folder that is not there" in done.err
