"""When a recomputed answer agrees with the stored one, and where original and bundle are looked for."""

import hashlib
import os
import socket
from dataclasses import replace

import pytest
from bundle_factory import copy_bundle, write_facts

from xray_batch.bundle import Bundle
from xray_batch.errors import ConfigurationError, ReplayError
from xray_batch.pipeline.originals import find_original
from xray_batch.pipeline.replay import (
    BFLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    GPU_TOLERANCE,
    VALUES,
    Answer,
    Replayed,
    find_maker,
    tolerance,
)
from xray_batch.records import RESULT_COLUMNS, Computation, Outcome, ResultRecord, StoredResult
from xray_batch.settings import Settings

ALONE = Computation(device="cpu AVX2, 1 threads", precision="float32", libraries="torch 2.14.1", batch_images=1)
HALF = replace(ALONE, precision="bfloat16")
ON_GPU = replace(ALONE, device="cuda NVIDIA H100 80GB HBM3")
CONTENT = b"the original"
STORED = {
    "heat_in_thorax": 0.5,
    "member_probabilities": {"resnet34": 0.75, "resnet50": 0.5},
    "input_mean": 0.5,
    "input_std": 0.25,
}
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def record(**columns):
    """Return a row of the view `results` with nothing in it that a test does not say."""
    known = {"result_id": 7, "content_sha256": SHA256, "model_id": "test-cxr-1.2.3", "model_sha256": "0" * 64}
    return ResultRecord(**(dict.fromkeys(RESULT_COLUMNS) | known | columns))


def stored(**places):
    """Return a stored result whose content is at some places."""
    known = {"computation": ALONE, "filed_paths": (), "in_place_names": ()}
    return StoredResult(record=record(), **(known | places))


def answer(p_pneumonia=0.75, **facts):
    """Return an answer; all of its values are one number."""
    known = {
        "outcome": Outcome.PNEUMONIA,
        "reason_code": None,
        "warnings": "",
        "recorded": STORED,
        "values": dict.fromkeys(VALUES, p_pneumonia),
        "preprocess_sha256": "1" * 64,
        "computation": ALONE,
    }
    return Answer(**(known | facts))


def compare(then, now, allowed=FLOAT32_TOLERANCE):
    """Return what a replay says of two answers."""
    return Replayed(record=record(), then=then, now=now, tolerance=allowed)


@pytest.mark.parametrize(
    ("then", "now", "allowed"),
    [
        (ALONE, ALONE, 0.0),
        (replace(ALONE, batch_images=0), replace(ALONE, batch_images=0), 0.0),
        (replace(ALONE, batch_images=6), ALONE, FLOAT32_TOLERANCE),
        (replace(ALONE, libraries="torch 2.13.0"), ALONE, FLOAT32_TOLERANCE),
        (replace(ALONE, device="cpu AVX512, 1 threads"), ALONE, FLOAT32_TOLERANCE),
        (None, ALONE, BFLOAT16_TOLERANCE),
        (HALF, HALF, 0.0),
        (replace(HALF, batch_images=6), HALF, BFLOAT16_TOLERANCE),
        (replace(HALF, device="cpu AVX512 AVX512_BF16, 1 threads"), HALF, BFLOAT16_TOLERANCE),
        (HALF, ALONE, BFLOAT16_TOLERANCE),
        (ON_GPU, ALONE, GPU_TOLERANCE),
        (ALONE, ON_GPU, GPU_TOLERANCE),
        (ON_GPU, ON_GPU, GPU_TOLERANCE),
        (replace(ON_GPU, precision="bfloat16"), HALF, BFLOAT16_TOLERANCE),
    ],
)
def test_tolerance(then, now, allowed):
    """The last bit is asked for only where nothing differs and the image was alone both times."""
    assert tolerance(then, now) == allowed


def test_the_largest_difference_counts():
    """Each value is compared; up to the tolerance the answers agree, beyond it they do not."""
    then = answer()
    for name in VALUES:
        near, far = (answer(values=then.values | {name: 0.75 + change}) for change in (FLOAT32_TOLERANCE / 2, 1e-5))
        assert compare(then, near).difference == pytest.approx(FLOAT32_TOLERANCE / 2)
        assert compare(then, near).agrees
        assert not compare(then, near).is_bit_equal
        assert not compare(then, far).agrees


def test_bit_equal():
    """Without any difference an answer agrees at a tolerance of zero, and one of the last bit is a difference."""
    assert compare(answer(), answer(), 0.0).is_bit_equal
    assert not compare(answer(), answer(0.75 + 2**-53), 0.0).agrees


@pytest.mark.parametrize(
    "facts",
    [
        {"outcome": Outcome.INDETERMINATE},
        {"warnings": "suspect_polarity"},
        {"preprocess_sha256": "2" * 64},
        {"outcome": Outcome.NOT_ANALYSED, "reason_code": "truncated", "values": dict.fromkeys(VALUES)},
    ],
)
def test_other_ends_differ(facts):
    """Another outcome or warning, or other rules of preparation, is a difference even where no probability says so."""
    assert not compare(answer(), answer(**facts)).agrees
    assert not compare(answer(), answer(**facts)).is_bit_equal


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("heat_in_thorax", 0.25),
        ("member_probabilities", {"resnet34": 0.75, "resnet50": 0.5 + 2**-53}),
        ("input_mean", 0.5 + 2**-53),
        ("input_std", 0.25 + 2**-53),
    ],
)
def test_how_the_values_came_about(name, other):
    """Another heat, member or input is not the last bit; an answer from before it was stored has none to compare."""
    assert not compare(answer(), answer(recorded=STORED | {name: other})).is_bit_equal
    assert compare(answer(), answer(recorded=STORED | {name: other})).agrees
    assert compare(answer(recorded=STORED | {name: None}), answer()).is_bit_equal


def test_refusals_agree_by_their_code():
    """Two refusals agree where their reason code is the same; there is no difference to measure."""
    refused = {"outcome": Outcome.NOT_ANALYSED, "values": dict.fromkeys(VALUES)}
    then = answer(reason_code="truncated", **refused)
    assert compare(then, then).is_bit_equal
    assert compare(then, then).difference is None
    assert not compare(then, answer(reason_code="lateral_view", **refused)).agrees


@pytest.mark.parametrize("name", ["film.dcm", "Mü\udcfcller.dcm"])
def test_original_that_was_filed(name, tmp_path):
    """The original is found below the home folder, also where its name is no text; other bytes are passed over."""
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed" / name).write_bytes(CONTENT)
    (tmp_path / "processed" / "other.dcm").write_bytes(b"other bytes")
    recorded = "processed/" + name.replace("Mü\udcfc", "Mü\\xfc")
    found = find_original(stored(filed_paths=("processed/other.dcm", "processed/gone.dcm", recorded)), tmp_path, None)
    assert found == tmp_path / "processed" / name


def test_original_that_stayed_in_place(tmp_path):
    """A file that was classified in place is found under the name that was given."""
    path = tmp_path / "film.png"
    path.write_bytes(CONTENT)
    assert find_original(stored(in_place_names=(str(path),)), tmp_path / "home", None) == path


def test_original_that_is_gone(tmp_path):
    """A missing or changed original is an error that asks for --file and names no file: names may be patients."""
    (tmp_path / "Kowalska.dcm").write_bytes(b"changed since")
    places = stored(filed_paths=("Kowalska.dcm",), in_place_names=("/nowhere/Kowalska.dcm",))
    with pytest.raises(ReplayError, match=rf"^the original of result 7 is not where .* --file .*{SHA256}\)$") as gone:
        find_original(places, tmp_path, None)
    assert "Kowalska" not in str(gone.value)


def test_places_that_cannot_be_read_are_passed_over(tmp_path):
    """A pipe or a socket at a recorded place neither ends the search nor keeps it waiting."""
    os.mkfifo(tmp_path / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.dcm"))
        writer = os.open(tmp_path / "pipe.dcm", os.O_RDWR)
        (tmp_path / "film.dcm").write_bytes(CONTENT)
        places = stored(filed_paths=("pipe.dcm", "s.dcm", "film.dcm"))
        assert find_original(places, tmp_path, None) == tmp_path / "film.dcm"
        os.close(writer)


@pytest.mark.parametrize(("content", "found"), [(b"other", r"has SHA-256 [0-9a-f]{64}"), (None, "cannot be read")])
def test_a_file_of_other_bytes(content, found, tmp_path):
    """A file given with --file must have the bytes of the result, whatever else is at the recorded places."""
    (tmp_path / "filed.dcm").write_bytes(CONTENT)
    given = tmp_path / "Kowalska.dcm"
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(ReplayError, match=f"^the file given with --file {found}; result 7 is of the bytes") as refused:
        find_original(stored(filed_paths=("filed.dcm",)), tmp_path, given)
    assert "Kowalska" not in str(refused.value)


def test_the_bundle_that_made_it_is_found_when_installed(bundle_folder, tmp_path):
    """Not the bundle in use but the one with the recorded manifest is taken; one that is broken is passed over."""
    other = copy_bundle(bundle_folder, tmp_path / "bundles" / "older")
    facts = (other / "manifest.json").read_text(encoding="utf-8").replace("1.2.3", "1.0.0")
    (other / "manifest.json").write_text(facts, encoding="utf-8")
    write_facts(copy_bundle(bundle_folder, tmp_path / "bundles" / "broken"), {})
    older = Bundle(other)
    settings = Settings(home=tmp_path, bundle=str(bundle_folder))
    assert find_maker(record(model_sha256=older.sha256), settings).folder == other
    configured = Bundle(bundle_folder)
    assert find_maker(record(model_sha256=configured.sha256), settings).folder == bundle_folder
    gone = Settings(home=tmp_path, bundle="gone")  # what is configured now has no part in what was answered then
    assert find_maker(record(model_sha256=older.sha256), gone).folder == other


def test_the_bundle_that_made_it_is_absent(bundle_folder, tmp_path):
    """Without the bundle the error says which one is needed, by name and hash, and that an operator must act."""
    with pytest.raises(ConfigurationError, match=r"^result 7 was made by test-cxr-1\.2\.3 \(manifest SHA-256 0{64}\)"):
        find_maker(record(), Settings(home=tmp_path, bundle=str(bundle_folder)))
