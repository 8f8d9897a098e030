"""`xray-batch selftest`, on this installation and on installations with broken decoders."""

import os
from pathlib import Path

import pytest
from installed_command import Finished, run_command

from xray_batch import __version__
from xray_batch.golden.kit import read_kit

FILES = read_kit().files
FILMS = [golden for golden in FILES if golden.reason_code is None]


def run_with(folder: Path, change: str, *options: str) -> Finished:
    """Run the selftest on an installation whose imagecodecs is changed, in the decode workers too."""
    # Python runs a `sitecustomize` that it finds on its path before anything else.
    (folder / "sitecustomize.py").write_text(f"import imagecodecs\n{change}\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return run_command("selftest", "--no-model", "--home", folder / "home", *options, PYTHONPATH=path)


def test_it_proves_this_installation(tmp_path):
    """With the packaged bundle all films give the film's pixels and probability; nothing is written."""
    done = run_command("selftest", "--home", tmp_path / "home", "--format", "json")
    assert done.code == 0, done.out
    assert [row["file"] for row in done.rows] == [golden.file for golden in FILES]
    assert all(row["passed"] and row["problem"] is None for row in done.rows)
    films = [row for row in done.rows if row["reason_code"] is None]
    assert len(films) == len(FILMS)
    assert all(row["difference"] <= row["tolerance"] + 2**-23 for row in films)
    assert all(row["p_difference"] <= row["p_tolerance"] for row in films)
    assert not list(tmp_path.iterdir())


def test_the_table_ends_with_one_sentence(tmp_path):
    """Without the model there is a line per file, and a sentence that names the installation; exit code 0."""
    done = run_command("selftest", "--no-model", "--home", tmp_path / "home")
    lines = done.out.splitlines()
    assert sum("│ pass │" in line for line in lines) == len(FILES)
    assert lines[-1].startswith(f"all {len(FILES)} golden files pass on this installation: imagecodecs ")
    assert lines[-1].endswith(f", xray-batch {__version__}")
    assert done.code == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "right = imagecodecs.jpegls_decode\nimagecodecs.jpegls_decode = lambda data: right(data) ^ 1",
            "a pixel differs by 0.000",
        ),
        ("imagecodecs.JPEGLS.available = False", "was built without jpegls"),
        ("imagecodecs.jpegls_decode = lambda data: __import__('os').abort()", "decoding ended with DecoderDiedError"),
    ],
    ids=["wrong by one", "not there", "crashes"],
)
def test_a_broken_decoder_fails(change, problem, tmp_path):
    """A decoder that is wrong, absent or crashes fails its files and no other, by name, with exit code 1."""
    done = run_with(tmp_path, change)
    expected = [golden for golden in FILMS if "jpeg-ls" in golden.file]
    reports = [line for line in done.out.splitlines() if line.startswith("FAIL ")]
    assert [line.split()[1] for line in reports] == [golden.file for golden in expected]
    assert all(problem in line and "by imagecodecs jpegls" in line for line in reports)
    last = done.out.splitlines()[-1]
    assert last.startswith(f"{len(expected)} of {len(FILES)} golden files FAIL on this installation (imagecodecs ")
    assert all(golden.file in last for golden in expected)
    assert done.code == 1


def test_a_failure_in_json(tmp_path):
    """In JSON a failed file says so in its own line."""
    done = run_with(tmp_path, "imagecodecs.HTJ2K.available = False", "--format", "json")
    failed = [row for row in done.rows if not row["passed"]]
    assert [row["file"] for row in failed] == [golden.file for golden in FILES if "htj2k" in golden.file]
    assert all("was built without htj2k" in row["problem"] for row in failed)
    assert all("not in this build" in row["decoder"] for row in failed)
    assert done.code == 1
