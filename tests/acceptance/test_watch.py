"""The service: files in, rows out, through stops and crashes."""

import hashlib
import json
import shutil
import signal
import socket
from pathlib import Path

import pytest
from engines import on_postgresql, on_sqlite
from installed_command import files_below, make_bad_files, make_films, run_command

from xray_batch.database import write_transaction
from xray_batch.demo import sample_files
from xray_batch.revisions import open_database


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_become_rows_and_are_filed_away(watched, tmp_path):
    """Good, bad, repeated and nested files each end in their folder with their row; the queue goes on."""
    watched.start()
    watched.wait_until_ready()
    good = make_films(tmp_path / "films", 3)
    bad = make_bad_files(tmp_path / "bad")
    (watched.inbox / "ward" / "a").mkdir(parents=True)
    for path in bad:
        shutil.copy(path, watched.inbox / path.name)
    for path in good:
        shutil.copy(path, watched.inbox / "ward" / "a" / path.name)
    accounting = watched.wait_until_idle(len(good) + len(bad))
    shutil.copy(good[0], watched.inbox / "again.png")
    accounting = watched.wait_until_idle(len(good) + len(bad) + 1)

    assert (accounting.results, accounting.rejected, accounting.duplicates) == (len(good), len(bad), 1)
    assert accounting.balances
    reasons = {Path(str(row["source_name"])).name: row["reason_code"] for row in watched.results()}
    assert {path.name: reasons[path.name] for path in bad} == {path.name: reason for path, reason in bad.items()}
    for path, reason in bad.items():
        told = json.loads((watched.home / "rejected" / f"{path.name}.reason.json").read_text())
        assert told["reason_code"] == reason
        assert sha256(watched.home / "rejected" / path.name) == sha256(path)
    processed = [path.relative_to(watched.home / "processed") for path in files_below(watched.home / "processed")]
    assert [path.parts[3:] for path in processed] == [("ward", "a", path.name) for path in good]
    assert [path.name for path in files_below(watched.home / "duplicates")] == ["again.png"]
    assert watched.stop() == 0
    assert "Traceback" not in watched.log


@on_postgresql
def test_sigterm_drains(watched, tmp_path):
    """SIGTERM in the middle of a burst: exit 0, what is in hand is finished, the rest waits for the next start."""
    burst = make_films(tmp_path / "films", 40)
    watched.start(XRAY_BATCH_BATCH_SIZE="4")
    watched.wait_until_ready()
    for path in burst:
        shutil.copy(path, watched.inbox / path.name)
    watched.wait_until(lambda: bool(watched.results()))
    assert watched.stop() == 0
    stopped = watched.accounting()
    assert stopped.lost == 0
    watched.start()
    accounting = watched.wait_until_idle(len(burst))
    assert (accounting.results, accounting.lost) == (len(burst), 0)
    assert watched.stop() == 0


@on_sqlite
def test_a_terminal_that_is_closed_ends_it_likewise(watched):
    """SIGHUP is no violent end: systemd would not start the service again after it, and the log would say nothing."""
    process = watched.start("env", "--default-signal=HUP")  # whoever runs the tests may ignore it, as nohup(1) does
    watched.wait_until_ready()
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert '"event": "stopped"' in watched.log


@on_sqlite
def test_files_that_wait_at_the_start_are_found(watched, tmp_path):
    """What was dropped while no service ran, and what an earlier run left in the spool, is processed."""
    waiting, claimed = make_films(tmp_path / "films", 2)
    shutil.copy(waiting, watched.inbox / waiting.name)
    left = watched.home / "spool" / "6f1c2d3e-0000-4000-8000-000000000001"
    left.mkdir(parents=True)
    shutil.copy(claimed, left / claimed.name)
    watched.start()
    accounting = watched.wait_until_idle(2)
    assert (accounting.results, accounting.lost) == (2, 0)
    assert [path.name for path in files_below(watched.home / "processed")] == [waiting.name, claimed.name]


@on_sqlite
def test_systemd_is_told_once(watched, tmp_path):
    """READY=1 is sent once, when the model is loaded and the inbox scanned, and STOPPING=1 at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = tmp_path / "notify"
        systemd.bind(str(address))
        systemd.settimeout(240)
        watched.start(NOTIFY_SOCKET=str(address))
        assert systemd.recv(100) == b"READY=1"
        assert watched.stop() == 0
        assert systemd.recv(100) == b"STOPPING=1"
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


@on_postgresql
def test_the_watchdog_hears_of_the_loop_not_of_the_process(watched, tmp_path):
    """The service beats while it waits, for files or for an inbox that is away; not while its loop stands still."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = tmp_path / "notify"
        systemd.bind(str(address))
        systemd.settimeout(240)
        watched.start(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="800000", XRAY_BATCH_SCAN_SECONDS="3600")
        assert [systemd.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        watched.inbox.rename(watched.home / "away")
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        (watched.home / "away").rename(watched.inbox)
        engine = open_database(watched.database_url)
        with write_transaction(engine) as other:  # on SQLite nobody else may write
            if other.dialect.name == "postgresql":
                other.exec_driver_sql("LOCK TABLE model")
            (watched.inbox / "text.dcm").write_text("wakes the loop")
            systemd.settimeout(3)
            with pytest.raises(TimeoutError):
                while systemd.recv(100) == b"WATCHDOG=1":
                    pass
        engine.dispose()
        systemd.settimeout(240)
        assert systemd.recv(100) == b"WATCHDOG=1"
        assert watched.stop() == 0


@on_postgresql
def test_no_file_name_or_patient_in_the_log(watched):
    """The log of a run over files with names and patients holds neither."""
    watched.start()
    watched.wait_until_ready()
    for path in sorted(sample_files().iterdir()):
        shutil.copy(path, watched.inbox / f"ZZCANARY-{path.name}")
    watched.wait_until_idle(len(list(sample_files().iterdir())))
    assert watched.stop() == 0
    for marker in ("ZZCANARY", "DEMO-0", "Demo^", "A0000"):
        assert marker not in watched.log


@on_sqlite
def test_a_second_service_on_sqlite_is_refused(watched):
    """A SQLite database has one service: the second ends with exit code 78 and a sentence."""
    watched.start()
    watched.wait_until_ready()
    done = run_command("watch", "--home", watched.home, XRAY_BATCH_DATABASE_URL=watched.database_url)
    assert done.code == 78
    assert "another xray-batch service works in" in done.err
    assert "Traceback" not in done.err


@on_postgresql
def test_urgent_films_pass_those_that_wait(watched, tmp_path):
    """Dropped into the midst of a burst, they have their answers long before it is done, and the burst gets on."""
    films = make_films(tmp_path / "films", 130)
    (watched.inbox / "urgent").mkdir()
    watched.start(XRAY_BATCH_SETTLE_SECONDS="30", XRAY_BATCH_BATCH_SIZE="4")
    watched.wait_until_ready()
    for film in films[:120]:
        film.rename(watched.inbox / film.name)
    watched.wait_until(lambda: len(watched.results()) > 3)
    for film in films[120:]:
        film.rename(watched.inbox / "urgent" / film.name)
    watched.wait_until_idle(130)
    order = [str(row["source_name"]) for row in sorted(watched.results(), key=lambda row: int(str(row["result_id"])))]
    places = [place for place, name in enumerate(order) if name.startswith("urgent/")]
    assert len(places) == 10
    assert places[-1] < len(order) - 10
    first, last = places[0], places[-1]
    assert last - first >= 12, "routine films have turns of their own"
    assert watched.stop() == 0


@on_sqlite
def test_a_renamed_film_does_not_wait_and_one_written_in_place_does(watched, tmp_path):
    """With a settle time that outlasts the test, only the renamed one is answered, in whatever way it was renamed."""
    films = make_films(tmp_path / "films", 4)
    watched.start(XRAY_BATCH_SETTLE_SECONDS="600")
    watched.wait_until_ready()
    shutil.copy(films[0], watched.inbox / "written.png")
    films[1].rename(watched.inbox / "moved.png")
    for film, temporary in ((films[2], ".hidden"), (films[3], "film.part")):
        shutil.copy(film, watched.inbox / temporary)
        (watched.inbox / temporary).rename(watched.inbox / film.name)
    watched.wait_until(lambda: len(watched.results()) == 3)
    assert [path.name for path in files_below(watched.inbox)] == ["written.png"]
    assert watched.stop() == 0
