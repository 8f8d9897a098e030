"""The one-shot command, the demo, and what they say of the pictures."""

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_factory import write_dicom
from installed_command import clean_environment, make_bad_files, make_films, run_command
from PIL import Image
from zip_factory import make_zip

from xray_batch.bundle import PACKAGED_BUNDLES
from xray_batch.demo import sample_files
from xray_batch.records import RESULT_COLUMNS


def probabilities(rows):
    """Return P(pneumonia) by the name of the file."""
    return {Path(row["source_name"]).name: row["p_pneumonia"] for row in rows}


def test_demo_works_offline_from_anywhere(tmp_path):
    """The demo classifies every packaged sample into a fresh database, and says where it is and what to try."""
    done = run_command("demo", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.code == 0, done.err
    (database,) = tmp_path.glob("xray-batch-demo-*/results.sqlite3")
    assert str(database) in done.out
    assert "Research use only" in done.out
    home = database.parent
    rows = run_command("results", "--home", home, "--format", "json").rows
    by_name = {Path(row["source_name"]).name[:2]: row for row in rows}
    assert sorted(by_name) == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]
    refused = {number: by_name[number]["reason_code"] for number in ("08", "09", "10")}
    assert refused == {"08": "lateral_view", "09": "unsupported_modality", "10": "unreadable_file"}
    assert all(by_name[f"{number:02}"]["outcome"] != "not_analysed" for number in range(1, 8))


def test_every_file_is_accounted_for(tmp_path):
    """Each file of a folder gets one row, bad ones their reason; originals are left as they were."""
    good = make_films(tmp_path / "archive", 2)
    bad = make_bad_files(tmp_path / "archive" / "bad")
    before = {path: path.read_bytes() for path in [*good, *bad]}
    done = run_command("process", "--home", tmp_path / "home", "--format", "json", tmp_path / "archive")
    assert done.code == 0, done.err
    assert {row["source_name"]: row["reason_code"] for row in done.rows} == {
        **{str(path): None for path in good},
        **{str(path): reason for path, reason in bad.items()},
    }
    assert {path: path.read_bytes() for path in before} == before
    assert "Traceback" not in done.err


def test_a_second_run_answers_from_the_database(tmp_path):
    """The same bytes are not classified twice: their arrivals are duplicates, the answers the stored ones."""
    make_films(tmp_path / "archive", 2)
    first = run_command("process", "--home", tmp_path / "home", "--format", "json", tmp_path / "archive")
    second = run_command("process", "--home", tmp_path / "home", "--format", "json", tmp_path / "archive")
    assert sorted(map(str, second.rows)) == sorted(map(str, first.rows))
    (facts,) = run_command("status", "--home", tmp_path / "home", "--format", "json").rows
    assert (facts["arrivals"], facts["results"], facts["duplicates"]) == (4, 2, 2)


def test_a_missing_file_is_a_problem_and_stops_nothing(tmp_path):
    """A path that cannot be read is named on stderr, exit code 1; the others are classified."""
    (film,) = make_films(tmp_path, 1)
    done = run_command("process", "--home", tmp_path / "home", "--format", "json", tmp_path / "absent.png", film)
    assert done.code == 1
    assert "absent.png: No such file or directory" in done.err
    assert [row["source_name"] for row in done.rows] == [str(film)]


def test_a_damaged_bundle_leaves_no_row(tmp_path):
    """Found out when the networks are loaded, it is refused before anything is recorded of it, archives included."""
    bundle = shutil.copytree(PACKAGED_BUNDLES / "default", tmp_path / "bundle")
    weights = bundle / "resnet34.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    (film,) = make_films(tmp_path / "films", 1)
    make_zip(film.with_name("study.zip"), {"IM1": film.read_bytes()})
    options = ["--home", tmp_path / "home", "--bundle", bundle, "--unpack-zip"]
    done = run_command("process", *options, film.parent)
    assert (done.code, "has SHA-256" in done.err) == (78, True)
    with closing(sqlite3.connect(tmp_path / "home" / "results.sqlite3")) as database:
        for table in ("model", "content", "arrival", "result"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize("through", ["a file", "stdin"])
def test_a_list_of_files(through, tmp_path):
    """Files and folders may come from a list, beside those on the command line; relative to the working folder."""
    films = make_films(tmp_path / "films", 3)
    (tmp_path / "more").mkdir()
    films[2].rename(tmp_path / "more" / "film.png")
    (tmp_path / "list").write_text(f"films/{films[0].name}\n\nabsent.png\nmore\n")
    options = ["--home", tmp_path / "home", "--format", "json", films[1]]
    if through == "stdin":
        with (tmp_path / "list").open() as lines:
            done = run_command("process", *options, "--files-from", "-", cwd=tmp_path, stdin=lines)
    else:
        done = run_command("process", *options, "--files-from", "list", cwd=tmp_path)
    assert done.code == 1
    assert "absent.png: No such file or directory" in done.err
    answered = sorted(row["source_name"] for row in done.rows)
    assert answered == [str(films[1]), f"films/{films[0].name}", "more/film.png"]


def test_no_file_at_all_is_wrong_usage(tmp_path):
    """Neither a path nor a list, or a list that is not there: exit code 2 and what to do."""
    done = run_command("process", "--home", tmp_path)
    assert (done.code, "--files-from" in done.err) == (2, True)
    assert run_command("process", "--home", tmp_path, "--files-from", tmp_path / "absent").code == 2


def test_kill_9_leaves_the_rest_for_the_next_run(tmp_path):
    """After kill -9 in the middle, the same command completes the archive: one result per file."""
    make_films(tmp_path / "archive", 60)
    home = tmp_path / "home"
    command = [sys.executable, "-m", "xray_batch", "process", "--home", home, "--format", "json", tmp_path / "archive"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_environment())
    assert process.stdout is not None
    process.stdout.readline()  # the first answer is there: the run is in its middle
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert run_command("process", "--home", home, tmp_path / "archive").code == 0
    (facts,) = run_command("status", "--home", home, "--format", "json").rows
    assert (facts["results"], facts["rejected"], facts["pending"], facts["lost"]) == (60, 0, 0, 0)


def test_ctrl_c_does_not_wait_for_a_file_that_is_being_read(tmp_path):
    """It ends the command, however long a file it has in hand is."""
    path = tmp_path / "image of a disk"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with subprocess.Popen(
        [sys.executable, "-m", "xray_batch", "process", path, "--home", tmp_path / "home"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # where the tests' own is ignored
    ) as command:
        try:
            descriptors = Path(f"/proc/{command.pid}/fd")
            while not any(os.path.realpath(each) == str(path) for each in descriptors.iterdir()):
                assert command.poll() is None
                time.sleep(0.05)
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=60)
        finally:
            command.kill()
    assert command.returncode == 130
    assert b"Traceback" not in said


def test_polarity_and_encoding_do_not_change_the_answer(tmp_path):
    """A MONOCHROME1 film, its MONOCHROME2 twin and a 16-bit PNG of the same picture get the same probability."""
    film = Image.open(sample_files() / "07-photo.jpeg").convert("F").resize((300, 240), Image.Resampling.BILINEAR)
    picture = (np.asarray(film) * (4095 / 255)).round().astype(np.uint16)
    folder = tmp_path / "twins"
    folder.mkdir()
    write_dicom(folder / "mono2.dcm", picture)
    write_dicom(folder / "mono1.dcm", 4095 - picture, PhotometricInterpretation="MONOCHROME1")
    Image.fromarray((picture / 4095 * 65535).round().astype(np.uint16)).save(folder / "plain.png")
    done = run_command("process", "--home", tmp_path / "home", "--format", "json", folder)
    values = probabilities(done.rows)
    assert set(values) == {"mono2.dcm", "mono1.dcm", "plain.png"}
    assert abs(values["mono1.dcm"] - values["mono2.dcm"]) <= 1e-6
    assert abs(values["plain.png"] - values["mono2.dcm"]) <= 1e-3


def test_full_resolution_films_get_the_answer_of_their_small_copies(shared_data, tmp_path):
    """Each original-resolution film gets nearly the probability of its 224 x 224 training copy."""
    small = tmp_path / "small"
    small.mkdir()
    names = sorted(path.name for path in (shared_data / "fullres").glob("*.jpeg"))
    for name in names:
        shutil.copy(shared_data / "cxr" / "kermany" / name, small / name)
    done = run_command("process", "--home", tmp_path / "1", "--format", "json", shared_data / "fullres")
    copies = run_command("process", "--home", tmp_path / "2", "--format", "json", small)
    full, copied = probabilities(done.rows), probabilities(copies.rows)
    assert sorted(full) == sorted(copied) == names
    differences = [abs(full[name] - copied[name]) for name in names]
    assert sum(differences) / len(differences) <= 0.005, differences
    assert max(differences) <= 0.04, differences


def test_real_dicom_films_are_analysed_and_others_refused(shared_data, tmp_path):
    """Chest films get an answer; hands, hips, CT, reports and broken files a reason; nothing is left over."""
    done = run_command("process", "--home", tmp_path / "home", "--format", "json", shared_data / "dicom")
    assert done.code == 0, done.err
    analysed = {Path(row["source_name"]).parent.name for row in done.rows if row["outcome"] != "not_analysed"}
    refused = {Path(row["source_name"]).parent.name for row in done.rows if row["outcome"] == "not_analysed"}
    assert analysed == {"chest"}
    assert "chest" not in {Path(row["source_name"]).parent.name for row in done.rows if row["reason_code"]}
    assert {"reject", "broken"} <= refused
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Make a home folder with the results of two films and one refused file."""
    folder = tmp_path_factory.mktemp("results")
    make_films(folder / "films", 2)
    (folder / "films" / "=cmd.dcm").write_text("a name that a spreadsheet would run")
    assert (
        run_command(
            "process", "--home", folder / "home", "=cmd.dcm", "film-000.png", "film-001.png", cwd=folder / "films"
        ).code
        == 0
    )
    return folder / "home"


def test_results_as_json(archive):
    """JSON has one object per line, with the view's columns in order, newest first."""
    rows = run_command("results", "--home", archive, "--format", "json").rows
    assert len(rows) == 3
    assert all(tuple(row) == RESULT_COLUMNS for row in rows)
    assert [row["classified_at"] for row in rows] == sorted((row["classified_at"] for row in rows), reverse=True)


def test_results_as_csv_cannot_run_in_a_spreadsheet(archive):
    """CSV has the view's columns, an object as JSON text; a cell that begins like a formula is made text."""
    done = run_command("results", "--home", archive, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert tuple(rows[0]) == RESULT_COLUMNS
    refused = [row for row in rows if row["outcome"] == "not_analysed"]
    assert [(row["source_name"], row["member_probabilities"]) for row in refused] == [("'=cmd.dcm", "")]
    analysed = next(row for row in rows if row["outcome"] != "not_analysed")
    assert list(json.loads(analysed["member_probabilities"])) == ["resnet34", "resnet50"]


def test_results_as_parquet(archive, tmp_path):
    """Parquet has the view's columns with their types."""
    path = tmp_path / "results.parquet"
    assert run_command("results", "--home", archive, "--format", "parquet", "--output", path).code == 0
    table = pq.read_table(path)
    assert tuple(table.column_names) == RESULT_COLUMNS
    assert table.num_rows == 3
    assert table.schema.field("input_mean").type == "double"
    members = [json.loads(cell) for cell in table["member_probabilities"].to_pylist() if cell]
    assert [list(each) for each in members] == [["resnet34", "resnet50"]] * 2


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--outcome", "not_analysed"], 1),
        (["--limit", "2"], 2),
        (["--min-probability", "0"], 2),
        (["--since", "2100-01-01"], 0),
        (["--until", "2100-01-01"], 3),
        (["--patient", "nobody"], 0),
        (["--study", "1.2.3"], 0),
    ],
)
def test_results_are_filtered(archive, options, count):
    """Each filter of the contract leaves the rows that it should."""
    assert len(run_command("results", "--home", archive, "--format", "json", *options).rows) == count


@pytest.mark.parametrize(
    ("policy", "reason_code", "is_flagged"), [("flag", None, True), ("refuse", "age_out_of_range", False)]
)
def test_age_policy(policy, reason_code, is_flagged, tmp_path):
    """A patient of another age than the bundle's is flagged, or refused where the setting says so."""
    content = (sample_files() / "01-dx-12-bit.dcm").read_bytes()
    assert content.count(b"AS\x04\x00003Y") == 1
    film = tmp_path / "adult.dcm"
    film.write_bytes(content.replace(b"AS\x04\x00003Y", b"AS\x04\x00064Y"))
    done = run_command("process", "--home", tmp_path / "home", "--format", "json", film, XRAY_BATCH_AGE_POLICY=policy)
    (row,) = done.rows
    assert row["reason_code"] == reason_code
    assert ("age_out_of_range" in row["warnings"]) == is_flagged
    assert "64" not in (row["reason"] or "")
