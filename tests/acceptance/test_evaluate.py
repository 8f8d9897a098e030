"""What `xray-batch evaluate` writes, says, and refuses."""

import csv
import json
import os

import pytest
from installed_command import make_bad_files, make_films, run_command


def write_list(folder, rows):
    """Write labels.csv of (file, label) pairs, each of a patient of its own."""
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "label", "patient_id", "source"])
        writer.writerows([path, label, f"P{number}", "ward"] for number, (path, label) in enumerate(rows))


@pytest.fixture
def data(tmp_path):
    """Make a folder of labelled films, two of its files not to be analysed."""
    folder = tmp_path / "data"
    films = make_films(folder, 20)
    bad = list(make_bad_files(folder / "bad"))[:2]
    write_list(folder, [(path, ("normal", "pneumonia")[number % 2]) for number, path in enumerate([*films, *bad])])
    return folder


def test_a_report_from_labelled_files(data, tmp_path):
    """One command writes page, JSON, pictures and predictions; every listed file is accounted for."""
    out = tmp_path / "report"
    options = ["--home", tmp_path, "--stress-films", "1", "--top-losses", "1"]
    done = run_command("evaluate", "--data", data, "--out", out, *options)
    assert done.code == 0, done.err
    assert done.out.startswith("22 films, 2 not analysed; 20 measured")
    assert "Research use only" in done.out
    assert str(out / "report.html") in done.out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert sum(tally["films"] for tally in report["tallies"]) == 22
    assert sum(tally["outcomes"]["not_analysed"] for tally in report["tallies"]) == 2
    assert report["provenance"]["command"].startswith("xray-batch evaluate --data ")
    assert report["stress"]["films"] == 2
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        assert sum(row["outcome"] == "not_analysed" for row in csv.DictReader(lines)) == 2
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (out / "figures" / "roc.png").exists()

    again = tmp_path / "again"
    done = run_command("evaluate", "--predictions", out / "predictions.csv", "--out", again, *options)
    assert (done.code, "names no bundle" in done.err) == (0, False)
    remade = json.loads((again / "report.json").read_text(encoding="utf-8"))
    assert {key for key in report if remade[key] != report[key]} == {"provenance"}

    nameless = tmp_path / "nameless.csv"  # as those of a cross-validation are
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row | {"model_sha256": ""} for row in csv.DictReader(lines)]
    with nameless.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = run_command("evaluate", "--predictions", nameless, "--out", again, *options)
    assert f"{nameless} names no bundle: measured as if from {report['provenance']['model_id']}" in done.err


def test_films_that_are_set_aside(data, tmp_path):
    """Of a list with a side `test` that side alone is measured, and that is said."""
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    sides = ["split", *(["training", "test", "test", "test"] * len(lines))[: len(lines) - 1]]
    text = "\n".join(f"{line},{side}" for line, side in zip(lines, sides, strict=True))
    (data / "labels.csv").write_text(text, encoding="utf-8")
    options = ["--home", tmp_path, "--stress-films", "0", "--top-losses", "0"]
    done = run_command("evaluate", "--data", data, "--out", tmp_path / "report", *options)
    assert done.code == 0, done.err
    aside, listed = sides.count("test"), len(lines) - 1
    assert f"measured are the {aside} of {listed} films that the list sets aside as test" in done.err
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert sum(tally["films"] for tally in report["tallies"]) == aside


def test_nothing_that_can_be_analysed(tmp_path):
    """Without a single film there is no report: exit code 1, one sentence that names the first file and why."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_list(folder, [(path, "normal") for path in make_bad_files(folder / "bad")])
    done = run_command("evaluate", "--data", folder, "--out", tmp_path / "report", "--home", tmp_path)
    assert done.code == 1
    assert "films could be analysed; the first is" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_no_password_in_the_report(data, tmp_path):
    """The report tells how it was made, without the URL of the database, which may hold a password."""
    database = ["--database-url", "postgresql+psycopg://reader:hunter2@localhost/films"]
    options = ["--home", tmp_path, "--stress-films", "0", "--top-losses", "0", "--seed", "3", "--covid19"]
    done = run_command("evaluate", "--data", data, "--out", tmp_path / "report", *options, *database)
    assert done.code == 0, done.err
    for name in ("report.json", "report.html"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "hunter2" not in text
        assert "--covid19" in text
        assert "--stress-films 0 --top-losses 0 --seed 3" in text


@pytest.mark.parametrize("options", [[], ["--data", "a", "--predictions", "b"]])
def test_one_source_of_predictions(tmp_path, options):
    """Neither a list of labels nor predictions, or both, is wrong usage."""
    done = run_command("evaluate", *options, "--out", tmp_path / "report", "--home", tmp_path)
    assert done.code == 2
    assert "give either --data or --predictions" in done.err


def test_a_seed_that_is_none(tmp_path):
    """A negative seed is wrong usage, and said before any film is looked at."""
    done = run_command("evaluate", "--data", tmp_path / "absent", "--out", tmp_path / "report", "--seed", "-1")
    assert done.code == 2
    assert "--seed" in done.err


@pytest.mark.parametrize("out", ["taken", "taken/report", "half"])
def test_a_report_in_place_of_a_file(tmp_path, out):
    """A file where the folder is to be is wrong usage, and said before any film is looked at."""
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "figures").write_bytes(b"mine")
    # The list is not there: had it been read before, that would be the error.
    done = run_command("evaluate", "--data", tmp_path / "absent", "--out", tmp_path / out, "--home", tmp_path)
    assert done.code == 2
    assert "--out is to be a folder" in done.err
    assert (tmp_path / "taken").read_bytes() == b"mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours(data, tmp_path):
    """A folder without permission to write is wrong usage, and said before any film is looked at."""
    (tmp_path / "theirs").mkdir(mode=0o500)
    done = run_command("evaluate", "--data", data, "--out", tmp_path / "theirs" / "report", "--home", tmp_path)
    assert done.code == 2
    assert "no permission" in done.err


def test_a_list_that_is_not_there(tmp_path):
    """A missing list of labels is exit code 1 and one sentence."""
    done = run_command("evaluate", "--data", tmp_path / "absent", "--out", tmp_path / "report", "--home", tmp_path)
    assert done.code == 1
    assert "cannot read the list of labels" in done.err
    assert done.err.count("\n") == 1
