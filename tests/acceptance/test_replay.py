"""`xray-batch replay`: a stored result is recomputed from its original and compared."""

import shutil
import sqlite3
import zipfile
from contextlib import closing

import pytest
from dicom_factory import write_dicom
from engines import on_postgresql
from installed_command import files_below, make_films, run_command

from xray_batch.bundle import PACKAGED_BUNDLES
from xray_batch.demo import sample_files

#: In the arithmetic that every CPU has: the tolerance of bfloat16 is wider.
ON_CPU = {"XRAY_BATCH_DEVICE": "cpu", "XRAY_BATCH_PRECISION": "float32"}


def process(home, *paths):
    """Classify files on the CPU and return their rows."""
    done = run_command("process", *paths, "--home", home, "--format", "json", **ON_CPU)
    assert done.code == 0, done.err
    return done.rows


def replay(home, row, *options):
    """Replay one row on the CPU and return the command's end."""
    return run_command("replay", str(row["result_id"]), "--home", home, *options, **ON_CPU)


def change(home, statement):
    """Change the embedded database behind the program's back."""
    with closing(sqlite3.connect(home / "results.sqlite3")) as connection, connection:
        connection.execute(statement)


@pytest.fixture(scope="module")
def _answered(tmp_path_factory):
    """Answer one film, once for all."""
    home = tmp_path_factory.mktemp("answered")
    return home, process(home, sample_files() / "06-16-bit.png")[0]


@pytest.fixture
def answered(_answered, tmp_path):
    """Return the row of a film, in a home folder of the test's own."""
    home, row = _answered
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    return row


def test_a_film_is_recomputed_to_the_last_bit(tmp_path):
    """A film that was alone in its batch has a difference of exactly zero, and that is what is asked of it."""
    (row,) = process(tmp_path, sample_files() / "05-dx-rle.dcm")
    before = (tmp_path / "results.sqlite3").read_bytes()
    done = replay(tmp_path, row, "--format", "json")
    assert done.code == 0, done.err
    (facts,) = done.rows
    assert (facts["difference"], facts["tolerance"]) == (0.0, 0.0)
    assert facts["agrees"]
    assert facts["bit_equal"]
    assert facts["now"] == facts["then"]
    assert facts["then"]["p_pneumonia"] == row["p_pneumonia"]
    assert facts["then"]["batch_images"] == 1
    assert facts["then"]["device"].startswith("cpu ")
    assert (tmp_path / "results.sqlite3").read_bytes() == before


def test_a_refused_file_is_refused_again(tmp_path):
    """A file that was not analysed gets the same reason code again; nothing of the patient is printed."""
    lateral = write_dicom(tmp_path / "Kowalska.dcm", ViewPosition="LL", PatientID="MRN-48151623")
    (row,) = process(tmp_path, lateral)
    done = replay(tmp_path, row)
    assert done.code == 0, done.err
    assert "lateral_view" in done.out
    assert f"result {row['result_id']} of {row['model_id']}: recomputed to the last bit" in done.out
    assert "Research use only" in done.out
    assert "Kowalska" not in done.out + done.err
    assert "MRN-48151623" not in done.out + done.err


def test_a_conflict_with_another_file_is_no_difference(tmp_path):
    """A file whose UID another one had first is flagged for that; alone, as in a replay, it has no conflict."""
    first, second = (write_dicom(tmp_path / f"{name}.dcm", ViewPosition="LL", PatientID=name) for name in "ab")
    (row,) = process(tmp_path, first)
    assert row["warnings"] == ""
    (row,) = process(tmp_path, second)
    assert row["warnings"] == "uid_conflict"
    assert replay(tmp_path, row).code == 0


def test_films_of_a_batch_agree(tmp_path):
    """Films that shared a batch are recomputed within the tolerance that is stated, the first and the last."""
    process(tmp_path, *make_films(tmp_path / "films", 24))
    with closing(sqlite3.connect(tmp_path / "results.sqlite3")) as database:
        shared = database.execute("SELECT result_id FROM result WHERE batch_images > 1 ORDER BY result_id").fetchall()
    assert len(shared) > 1  # how many come together is a matter of time; of 24 some do
    for (result_id,) in (shared[0], shared[-1]):
        done = replay(tmp_path, {"result_id": result_id}, "--format", "json")
        assert done.code == 0, done.out
        (facts,) = done.rows
        assert facts["difference"] <= facts["tolerance"] <= 1e-6
        assert facts["then"]["batch_images"] > 1


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ("p_viral = p_viral + 1e-5, p_normal = p_normal - 1e-5", "DIFFERS; the largest difference is 1.0e-05"),
        ("warnings = 'suspect_polarity'", "DIFFERS; the largest difference is 0.0e+00"),
    ],
)
def test_a_difference_is_exit_1(column, found, answered, tmp_path):
    """A stored probability or warning that is not what the model says is found, with exit code 1."""
    change(tmp_path, f"UPDATE result SET {column}")
    done = replay(tmp_path, answered)
    assert done.code == 1
    assert found in done.out


def test_an_answer_of_before_the_computation_was_recorded(answered, tmp_path):
    """Of an older answer, that device, libraries, members and input are not known is said; the rest is compared."""
    change(
        tmp_path,
        "UPDATE result SET device = NULL, precision = NULL, libraries = NULL, batch_images = NULL,"
        " member_probabilities = NULL, input_mean = NULL, input_std = NULL",
    )
    done = replay(tmp_path, answered)
    assert done.code == 0, done.out
    assert done.out.count("not recorded") == 8
    assert "recomputed to the last bit" in done.out
    (facts,) = replay(tmp_path, answered, "--format", "json").rows
    assert (facts["then"]["device"], facts["tolerance"]) == (None, 2e-2)


@on_postgresql
def test_filed_originals_are_found(watched):
    """What the service filed away is found in `processed/` and `rejected/`; once moved, --file names it."""
    watched.start(**ON_CPU)
    watched.wait_until_ready()
    shutil.copy(sample_files() / "07-photo.jpeg", watched.inbox / "film.jpeg")
    (watched.inbox / "text.dcm").write_text("no image")
    watched.wait_until_idle(2)
    watched.stop()
    url = {"XRAY_BATCH_DATABASE_URL": watched.database_url}
    rows = watched.results()
    for row in rows:
        done = run_command("replay", str(row["result_id"]), "--home", watched.home, **ON_CPU, **url)
        assert done.code == 0, done.err
    (film,) = [row for row in rows if row["outcome"] != "not_analysed"]
    (filed,) = files_below(watched.home / "processed")
    moved = watched.home / "elsewhere.jpeg"
    filed.rename(moved)
    arguments = ("replay", str(film["result_id"]), "--home", watched.home)
    gone = run_command(*arguments, **ON_CPU, **url)
    assert gone.code == 1
    assert "name it with --file" in gone.err
    assert "film.jpeg" not in gone.err
    assert run_command(*arguments, "--file", moved, **ON_CPU, **url).code == 0


def test_the_bundle_must_be_there(tmp_path):
    """A result of a bundle that is not here is exit code 78 with its name and hash; --bundle names its folder."""
    other = tmp_path / "other"
    shutil.copytree(PACKAGED_BUNDLES / "default", other)
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"id": "', '"id": "x-'), encoding="utf-8")
    done = run_command(
        "process", sample_files() / "06-16-bit.png", "--home", tmp_path, "--bundle", other, "--format", "json"
    )
    (row,) = done.rows
    absent = replay(tmp_path, row)
    assert absent.code == 78
    assert row["model_id"] in absent.err
    assert row["model_sha256"] in absent.err
    assert replay(tmp_path, row, "--bundle", other).code == 0


def test_an_archive_is_not_unpacked_again(tmp_path):
    """The result that unpacking an archive came to is not recomputed, and that is said."""
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("film.dcm", (sample_files() / "01-dx-12-bit.dcm").read_bytes())
    archive.write_bytes(archive.read_bytes()[:-200])
    done = run_command("process", archive, "--home", tmp_path, "--unpack-zip", "--format", "json")
    (row,) = [row for row in done.rows if row["reason_code"]]
    assert row["reason_code"] == "truncated"
    replayed = replay(tmp_path, row)
    assert replayed.code == 1
    assert "archives are not unpacked again" in replayed.err


@pytest.mark.parametrize("number", ["0", "99999999999999999999999"])
def test_a_number_that_no_row_can_have(number, tmp_path):
    """A number beyond those of rows is wrong usage, no traceback."""
    done = run_command("replay", number, "--home", tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("answered")
def test_an_unknown_result(tmp_path):
    """A number that no row has is one sentence and exit code 1."""
    done = run_command("replay", "99", "--home", tmp_path)
    assert done.code == 1
    assert done.err == "xray-batch: there is no result 99; `xray-batch results` lists those that there are\n"
