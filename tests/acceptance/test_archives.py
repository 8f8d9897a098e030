"""Zip archives through the installed command: refused by default, unpacked on request."""

import random
import shutil
import time
from collections import Counter

import pytest
from dicom_factory import write_dicom
from engines import on_postgresql
from installed_command import files_below, make_films, run_command
from zip_factory import make_zip, zip_bytes

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"


@pytest.fixture
def export(tmp_path):
    """Make what a CD holds: an index, films in nested folders, text, an archive, and what a Mac adds."""
    films = make_films(tmp_path / "films", 3)
    index = write_dicom(tmp_path / "DICOMDIR", SOPClassUID=MEDIA_STORAGE_DIRECTORY)
    return {
        "DICOMDIR": index.read_bytes(),
        "DICOM/A/IM1": films[0].read_bytes(),
        "DICOM/B/IM1": films[1].read_bytes(),
        "../../LIES.TXT": b"no film",
        "more.zip": zip_bytes({"IM1": films[2].read_bytes()}),
        "__MACOSX/._IM1": b"a resource fork",
    }


#: What the files of the export come to, by their names.
REASONS = {
    "0001-DICOMDIR": "unsupported_sop_class",
    "0002-DICOM_A_IM1": None,
    "0003-DICOM_B_IM1": None,
    "0004-LIES.TXT": "unreadable_file",
    "0005-more.zip": "zip_archive",
}


def reasons_of(rows):
    """Return the reason code of each row by the name of its file."""
    return {str(row["source_name"]): row["reason_code"] for row in rows}


def process(tmp_path, *arguments):
    """Run `xray-batch process` and return its rows."""
    done = run_command("process", "--home", tmp_path / "home", "--format", "json", *arguments)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return done.rows


def status(tmp_path):
    """Return the account of the installation."""
    (facts,) = run_command("status", "--home", tmp_path / "home", "--format", "json").rows
    assert facts["balances"]
    return facts


def test_process_unpacks_on_request(export, tmp_path):
    """A row for each member and one for the archive, which stays as it was; nothing stays unpacked."""
    archive = make_zip(tmp_path / "study.zip", export)
    content = archive.read_bytes()
    rows = process(tmp_path, "--unpack-zip", archive)
    assert reasons_of(rows) == {str(archive): "zip_archive"} | {
        str(archive / name): reason for name, reason in REASONS.items()
    }
    assert "5 files" in next(row["reason"] for row in rows if row["source_name"] == str(archive))
    assert archive.read_bytes() == content
    assert files_below(tmp_path / "home" / "spool") == []
    facts = status(tmp_path)
    assert (facts["arrivals"], facts["results"], facts["rejected"]) == (6, 2, 4)


def test_a_second_run_completes_the_first(export, tmp_path):
    """Refused by default, whatever its name, with the setting that would have it unpacked; then unpacked all the same.

    An archive that has an answer may have members without one: after a kill.
    """
    archive = make_zip(tmp_path / "study.dcm", export)
    (refused,) = process(tmp_path, archive)
    first = process(tmp_path, "--unpack-zip", archive)
    second = process(tmp_path, "--unpack-zip", archive)
    assert refused["reason_code"] == "zip_archive"
    assert "unpack_zip" in refused["reason"]
    assert reasons_of(second) == reasons_of(first)
    facts = status(tmp_path)
    assert (facts["arrivals"], facts["results"], facts["rejected"], facts["duplicates"]) == (13, 2, 4, 7)


def test_a_bomb_among_archives(export, tmp_path):
    """It is refused as a whole, in one row; the others in its folder are unpacked."""
    folder = tmp_path / "archives"
    folder.mkdir()
    make_zip(folder / "bomb.zip", {"film": export["DICOM/A/IM1"], "bomb": bytes(50_000_000)})
    make_zip(folder / "study.zip", export)
    rows = process(tmp_path, "--unpack-zip", folder)
    assert len(rows) == 7
    assert reasons_of(rows)[str(folder / "bomb.zip")] == "too_large"


@on_postgresql
def test_watch_unpacks_on_request(watched, export, tmp_path):
    """Each member is filed away under its own row, the archive under its; a bomb and a film beside them too."""
    watched.start(XRAY_BATCH_UNPACK_ZIP="true")
    watched.wait_until_ready()
    (watched.inbox / "ward").mkdir()
    archive = make_zip(tmp_path / "study.zip", export)
    shutil.copy(archive, watched.inbox / "ward" / "study.zip")
    make_zip(watched.inbox / "bomb.zip", {"film": export["DICOM/A/IM1"], "bomb": bytes(50_000_000)})
    shutil.copy(make_films(tmp_path / "films", 3)[2], watched.inbox / "film.png")
    accounting = watched.wait_until_idle(8)
    assert (accounting.arrivals, accounting.results, accounting.rejected, accounting.lost) == (8, 3, 5, 0)
    members = {f"ward/study.zip.unpacked/{name}": reason for name, reason in REASONS.items()}
    assert reasons_of(watched.results()) == members | {
        "ward/study.zip": "zip_archive",
        "bomb.zip": "too_large",
        "film.png": None,
    }
    assert (watched.home / "rejected" / "ward" / "study.zip").read_bytes() == archive.read_bytes()
    assert files_below(watched.inbox) == []
    assert files_below(watched.home / "spool") == []
    assert watched.stop() == 0
    assert "Traceback" not in watched.log
    assert "DICOM_A" not in watched.log


@on_postgresql
def test_kill_9_among_archives_loses_and_doubles_nothing(watched, tmp_path):
    """After kills at random instants every member of every archive has one result."""
    films = make_films(tmp_path / "films", 16)
    for number in range(4):
        members = {path.name: path.read_bytes() for path in films[4 * number : 4 * number + 4]}
        make_zip(watched.inbox / f"{number}.zip", members)
    chance = random.Random(3)
    for number in range(2):
        process = watched.start(XRAY_BATCH_UNPACK_ZIP="true")
        watched.wait_until_ready(number + 1)
        time.sleep(chance.uniform(0.0, 1.5))
        process.kill()
        process.wait()
    watched.start(XRAY_BATCH_UNPACK_ZIP="true")
    watched.wait_until(lambda: len(watched.results()) == 20 and not files_below(watched.inbox))
    accounting = watched.wait_until_idle(20)
    assert (accounting.results, accounting.rejected, accounting.lost) == (16, 4, 0)
    assert accounting.balances
    assert set(Counter(row["content_sha256"] for row in watched.results()).values()) == {1}
    kept = files_below(watched.home / "processed") + files_below(watched.home / "duplicates")
    assert {path.read_bytes() for path in kept} == {path.read_bytes() for path in films}
    assert len(kept) + 4 == accounting.arrivals
    assert watched.stop() == 0
