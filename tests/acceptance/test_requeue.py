"""`xray-batch requeue` and `prune` beside the real service, on both databases."""

import random
import shutil
import time
from collections import Counter

import pydicom
import pytest
import sqlalchemy as sa
import typer
from engines import on_postgresql, on_sqlite
from installed_command import files_below, make_bad_files, make_films, run_command
from zip_factory import make_zip

from xray_batch.cli.prune import _parse_duration
from xray_batch.database import make_engine, write_transaction
from xray_batch.demo import sample_files


def run(watched, *arguments):
    """Run a command on the installation."""
    return run_command(*arguments, "--home", watched.home, XRAY_BATCH_DATABASE_URL=watched.database_url)


def counts(watched, *arguments, code=0):
    """Run a command that counts, and return its counts."""
    done = run(watched, *arguments, "--format", "json")
    assert done.code == code, done.err
    (facts,) = done.rows
    return facts


def names(watched, folder):
    """Return the names of the files in one of the folders."""
    return [path.name for path in files_below(watched.home / folder)]


def kinds_of_events(watched):
    """Return how many events there are of each kind."""
    engine = make_engine(watched.database_url)
    with engine.connect() as connection:
        kinds = Counter(connection.scalars(sa.text("SELECT kind FROM event")))
    engine.dispose()
    return kinds


def make_film_of_an_adult(path):
    """Write a film that only `age_policy` may refuse."""
    dataset = pydicom.dcmread(sample_files() / "01-dx-12-bit.dcm")
    dataset.PatientAge = "080Y"
    dataset.save_as(path)
    return path


def test_a_rejected_file_becomes_a_result(watched, tmp_path):
    """The setting that refused it is changed, and it is requeued while the service runs: row and place are new."""
    watched.start(XRAY_BATCH_AGE_POLICY="refuse")
    make_film_of_an_adult(watched.inbox / "ZZCANARY.dcm")
    assert watched.wait_until_idle(1).rejected == 1
    watched.wait_until(lambda: names(watched, "rejected") == ["ZZCANARY.dcm", "ZZCANARY.dcm.reason.json"])
    (before,) = watched.results()
    assert before["reason_code"] == "age_out_of_range"
    assert watched.stop() == 0

    watched.start(XRAY_BATCH_AGE_POLICY="flag")
    watched.wait_until_ready(2)
    assert counts(watched, "requeue", "--reason-code", "lateral_view")["queued"] == 0
    dry = counts(watched, "requeue", "--reason-code", "age_out_of_range", "--dry-run")
    assert (dry["queued"], dry["dry_run"]) == (1, True)
    assert counts(watched, "requeue", "--reason-code", "age_out_of_range")["queued"] == 1
    watched.wait_until(lambda: not files_below(watched.home / "rejected"))
    watched.wait_until(lambda: names(watched, "processed") == ["ZZCANARY.dcm"])
    (row,) = watched.results()
    assert row["result_id"] == before["result_id"]
    assert row["outcome"] != "not_analysed"
    assert "age_out_of_range" in str(row["warnings"])
    assert watched.stop() == 0
    accounting = watched.accounting()
    assert (accounting.arrivals, accounting.results, accounting.balances) == (1, 1, True)
    assert "Traceback" not in watched.log
    assert "ZZCANARY" not in watched.log


@on_sqlite
def test_an_archive_is_unpacked_after_all(watched, tmp_path):
    """Refused by default when it arrived, requeued with `unpack_zip`: its members have rows beside the archive's."""
    films = make_films(tmp_path / "films", 2)
    make_zip(watched.inbox / "study.zip", {film.name: film.read_bytes() for film in films})
    watched.start()
    assert watched.wait_until_idle(1).rejected == 1
    assert watched.stop() == 0
    watched.start(XRAY_BATCH_UNPACK_ZIP="true")
    watched.wait_until_ready(2)
    (before,) = watched.results()
    assert (before["source_name"], before["reason_code"]) == ("study.zip", "zip_archive")
    assert counts(watched, "requeue", str(before["result_id"]))["queued"] == 1
    accounting = watched.wait_until_idle(3)
    assert (accounting.results, accounting.rejected, accounting.balances) == (2, 1, True)
    rows = {str(row["source_name"]): row for row in watched.results()}
    assert set(rows) == {"study.zip", *(f"study.zip.unpacked/{n:04}-{film.name}" for n, film in enumerate(films, 1))}
    assert rows["study.zip"]["result_id"] == before["result_id"]
    assert "2 files" in str(rows["study.zip"]["reason"])
    assert watched.stop() == 0
    assert "2 files" in (watched.home / "rejected" / "study.zip.reason.json").read_text()


@on_postgresql
def test_kill_9_while_requeued_films_are_answered(watched, tmp_path):
    """Two requeues of everything, and three kills: every film has one row, lies where it lay, and is accounted for."""
    films = make_films(tmp_path / "films", 30)
    for film in films:
        shutil.copy(film, watched.inbox / film.name)
    process = watched.start()
    watched.wait_until_idle(len(films))
    before = {row["result_id"]: row["classified_at"] for row in watched.results()}
    chance = random.Random(5)
    for number in range(3):
        told = counts(watched, "requeue", "--all")
        assert told["queued"] + told["in_work"] == len(films)
        time.sleep(chance.uniform(0.0, 1.0))
        process.kill()
        process.wait()
        assert watched.accounting().balances
        process = watched.start()
        watched.wait_until_ready(number + 2)
    watched.wait_until_idle(len(films))
    assert watched.stop() == 0
    after = {row["result_id"]: row["classified_at"] for row in watched.results()}
    assert set(after) == set(before)
    assert all(after[result_id] > before[result_id] for result_id in before)
    assert names(watched, "processed") == [film.name for film in films]
    accounting = watched.accounting()
    assert (accounting.arrivals, accounting.results, accounting.lost) == (len(films), len(films), 0)


@on_postgresql
def test_what_cannot_be_requeued_is_told(watched, tmp_path):
    """By reason, with what to do, without a name; exit code 1."""
    films = make_films(tmp_path / "ZZCANARY", 2)
    assert run(watched, "process", films[0]).code == 0
    watched.start()
    shutil.copy(films[1], watched.inbox / "ZZCANARY.png")
    watched.wait_until_idle(2)
    assert watched.stop() == 0
    (path,) = files_below(watched.home / "processed")
    path.unlink()
    told = counts(watched, "requeue", "--all", code=1)
    assert (told["queued"], told["in_place"], told["missing"], told["unknown"]) == (0, 1, 1, 0)
    done = run(watched, "requeue", "--all")
    assert "drop them into the inbox" in done.out
    assert "ZZCANARY" not in done.out + done.err
    assert counts(watched, "requeue", "4711", code=1)["unknown"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["requeue"],
        ["requeue", "--all", "--outcome", "normal"],
        ["requeue", "--since", "soon"],
        ["prune"],
        ["prune", "--older-than", "0d"],
    ],
)
def test_wrong_usage(arguments, tmp_path):
    """Nothing is done unless it is said what to; exit code 2."""
    done = run_command(*arguments, "--home", tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize("text", ["90", "0d", "d", "-1d", "1.5d", "9999999d", "1y"])
def test_an_age_that_is_none(text):
    """What is not a number of hours, days or weeks, from one on, is no age to prune by."""
    with pytest.raises(typer.BadParameter):
        _parse_duration(text)


@on_postgresql
def test_prune_removes_old_originals(watched, tmp_path):
    """Beside the running service; what is young stays, rows stay, and the folders are clean."""
    films, bad = make_films(tmp_path / "films", 3), make_bad_files(tmp_path / "bad")
    watched.start()
    watched.wait_until_ready()
    for path in [*films, *bad]:
        shutil.copy(path, watched.inbox / path.name)
    watched.wait_until_idle(len(films) + len(bad))
    shutil.copy(films[0], watched.inbox / "again.png")
    watched.wait_until_idle(len(films) + len(bad) + 1)
    watched.wait_until(lambda: names(watched, "duplicates") == ["again.png"])
    rows = watched.results()
    assert counts(watched, "prune", "--older-than", "1h")["removed"] == 0
    engine = make_engine(watched.database_url)
    with write_transaction(engine) as connection:  # as if ten days ago, but for one film
        connection.execute(
            sa.text("UPDATE arrival SET filed_at = '2020-01-01 00:00:00.000000' WHERE source_name <> :young"),
            {"young": films[1].name},
        )
    engine.dispose()
    total = len(films) + len(bad)
    assert counts(watched, "prune", "--older-than", "2w", "--dry-run")["removed"] == total
    assert counts(watched, "prune", "--older-than", "2w", "--duplicates")["removed"] == 1
    assert counts(watched, "prune", "--older-than", "2w")["removed"] == total - 1
    assert names(watched, "processed") == [films[1].name]
    assert names(watched, "rejected") == names(watched, "duplicates") == []
    assert watched.results() == rows
    assert kinds_of_events(watched)["pruned"] == total
    assert counts(watched, "requeue", "--reason-code", "unreadable_file", code=1)["pruned"] == 1
    shutil.copy(bad_text := tmp_path / "bad" / "text.dcm", watched.inbox / bad_text.name)
    watched.wait_until(lambda: names(watched, "duplicates") == ["text.dcm"])
    assert counts(watched, "requeue", "--reason-code", "unreadable_file")["queued"] == 1
    watched.wait_until(lambda: kinds_of_events(watched)["finished"] == total + 1)
    assert watched.stop() == 0
    assert watched.accounting().balances


@on_sqlite
def test_prune_refuses_a_folder_that_is_no_home(watched):
    """Exit code 78: with the wrong home folder, files would seem to be missing."""
    done = run_command(
        "prune", "--older-than", "1d", "--home", watched.home / "x", XRAY_BATCH_DATABASE_URL=watched.database_url
    )
    assert done.code == 78
    assert "home folder" in done.err
