"""`xray-batch doctor`: what it finds, on real folders, databases and services."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from installed_command import make_films, run_command

from xray_batch.cli.doctor import database, folders, machine, service
from xray_batch.cli.doctor.check import Level
from xray_batch.intake import Folders, InboxWatcher, WatchMode, disk
from xray_batch.intake import probe as probe_module
from xray_batch.pipeline.service_state import write_service_state
from xray_batch.revisions import upgrade_database
from xray_batch.settings import Settings


@pytest.fixture
def settings(tmp_path):
    """Make an installation with all its folders and its SQLite database."""
    home = tmp_path / "home"
    Folders(home).create()
    upgrade_database(f"sqlite:///{home / 'results.sqlite3'}")
    return Settings(home=home)


def test_a_running_service_is_healthy(watched, tmp_path):
    """Beside a working service every check but that of systemd is ok, as JSON too, and disturbs nothing."""
    watched.home.chmod(0o750)
    process = watched.start()
    watched.wait_until_ready()
    done = run_command(
        "doctor", "--home", watched.home, "--format", "json", XRAY_BATCH_DATABASE_URL=watched.database_url
    )
    assert done.code == 0, done.out
    found = {row["subject"]: row for row in done.rows}
    levels = {subject: row["level"] for subject, row in found.items() if subject not in ("systemd", "decoder")}
    assert set(levels.values()) == {"ok"}, done.out
    assert f"process {process.pid}," in found["service"]["text"]
    assert ("PostgreSQL 1" if "postgresql" in watched.database_url else "SQLite 3.") in found["database"]["text"]
    (film,) = make_films(tmp_path / "films", 1)
    film.rename(watched.inbox / film.name)
    assert watched.wait_until_idle(1).results == 1


def test_what_is_tried_leaves_nothing_behind(settings):
    """The files made to try the file system are gone, whatever was found."""
    for check in (folders.folders, folders.rename, folders.leases, machine.inotify):
        assert check(settings)[0] is Level.OK
    assert [path for path in settings.home.rglob("*") if path.is_file()] == [settings.home / "results.sqlite3"]


def test_a_missing_folder_is_a_note(settings):
    """The service makes it."""
    (settings.home / "spool").rmdir()
    level, text = folders.folders(settings)
    assert (level, "spool" in text) == (Level.NOTE, True)
    assert folders.rename(settings)[0] is Level.NOTE


def test_a_folder_that_a_running_service_misses_is_a_problem(settings):
    """It is made at a start alone: what is missing may be a mount that went away."""
    write_service_state(Folders(settings.home).service_state, watch_mode="polling")
    (settings.home / "spool").rmdir()
    level, text = folders.folders(settings)
    assert (level, "spool" in text) == (Level.PROBLEM, True)


def test_another_bundle_than_that_of_the_running_service_is_a_note(settings):
    """A bundle is read at a start alone: one that was configured, or put in its place, since then gives no answers."""
    state = Folders(settings.home).service_state
    write_service_state(state, watch_mode="inotify", model_id="older-1.0.0")
    level, text = service.service(settings)
    assert (level, "with older-1.0.0, and will with paediatric-cxr-" in text) == (Level.NOTE, True)
    assert service.service(settings.model_copy(update={"bundle": "absent"}))[0] is Level.OK


def test_folders_that_the_service_cannot_make_are_a_problem(settings, tmp_path):
    """Where the home folder, or one of those in it, is none, the service would not start."""
    home = tmp_path / "file"
    home.touch()
    level, text = folders.folders(Settings(home=home))
    assert (level, f"can make nothing in {home}" in text) == (Level.PROBLEM, True)
    spool = settings.home / "spool"
    spool.rmdir()
    spool.touch()
    assert folders.folders(settings) == (Level.PROBLEM, f"{spool} cannot be written: Not a directory")


def test_folders_on_several_file_systems_are_a_problem(settings, tmp_path):
    """A rename between them would fail."""
    other = Path("/dev/shm")
    if other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    (settings.home / "processed").rmdir()
    (settings.home / "processed").symlink_to(other)
    level, text = folders.folders(settings)
    assert (level, "several file systems" in text) == (Level.PROBLEM, True)


def test_a_network_file_system_is_a_note(settings, monkeypatch):
    """Files are found there by scans alone."""
    monkeypatch.setattr("xray_batch.mounts.is_network", lambda path: True)
    assert folders.folders(settings)[0] is Level.NOTE
    assert machine.inotify(settings)[0] is Level.NOTE
    level, text = database.database(settings)
    assert (level, "refused" in text) == (Level.PROBLEM, True)


def test_films_that_others_may_read_are_a_problem(settings, monkeypatch):
    """A folder is exposed when it and every folder above can be entered by others; results count too."""
    everything_above_is_open = stat.S_IFDIR | 0o755
    real = Path.stat

    def opened(path, **options):
        status = real(path, **options)
        return os.stat_result((everything_above_is_open, *status[1:])) if path in settings.home.parents else status

    settings.home.chmod(0o755)
    (settings.home / "rejected").chmod(0o755)
    assert folders.access(settings)[0] is Level.OK  # pytest's own folder is closed to others
    monkeypatch.setattr(Path, "stat", opened)
    level, text = folders.access(settings)
    assert (level, "rejected" in text, "processed" in text) == (Level.PROBLEM, True, False)
    (settings.home / "rejected").chmod(0o750)
    assert folders.access(settings)[0] is Level.OK


def test_a_file_system_without_leases_or_renameat2_is_a_note(settings, monkeypatch):
    """Everything works there, a little slower."""
    monkeypatch.setattr(probe_module, "writers_of", lambda descriptor: probe_module.Writers.UNKNOWN)
    monkeypatch.setattr(disk, "_libc_renameat2", lambda: disk._not_implemented)
    assert folders.leases(settings)[0] is Level.NOTE
    assert folders.rename(settings)[0] is Level.NOTE


@pytest.mark.parametrize("deaf", [True, False])
def test_an_inbox_without_events_is_a_problem(settings, monkeypatch, deaf):
    """Be it that no watch can be set, or that one is set and says nothing."""
    monkeypatch.setattr(probe_module, "EVENT_SECONDS", 0.1)
    monkeypatch.setattr(InboxWatcher, "_arm", lambda self: None)
    if deaf:
        monkeypatch.setattr(InboxWatcher, "mode", WatchMode.INOTIFY)
    level, text = machine.inotify(settings)
    assert (level, "sysctl" in text) == (Level.PROBLEM, True)


def test_low_limits_of_inotify_are_a_note(settings, monkeypatch, tmp_path):
    """The scan finds files all the same."""
    for name in ("max_user_watches", "max_user_instances"):
        (tmp_path / name).write_text("10\n")
    monkeypatch.setattr(machine, "_LIMITS", tmp_path)
    level, text = machine.inotify(settings)
    assert (level, "max_user_watches" in text) == (Level.NOTE, True)


def test_too_little_disk_is_a_problem(settings, monkeypatch):
    """Below the floor of the service, whatever the floor."""
    assert machine.disk(settings)[0] is Level.OK
    monkeypatch.setattr("xray_batch.pipeline.room._SHARE_AT_MOST", 1.0)
    level, text = machine.disk(Settings(home=settings.home, disk_floor_mb=1 << 30))
    assert (level, "nothing is taken in" in text) == (Level.PROBLEM, True)


def test_an_old_revision(settings, empty_postgresql_url):
    """SQLite is upgraded by the service, a note; PostgreSQL by its owner, a problem with the command to run."""
    (settings.home / "results.sqlite3").unlink()
    assert database.database(settings)[0] is Level.NOTE
    assert not (settings.home / "results.sqlite3").exists()
    level, text = database.database(Settings(home=settings.home, database_url=empty_postgresql_url))
    assert (level, "xray-batch db upgrade" in text) == (Level.PROBLEM, True)


def test_a_tally_that_is_not_what_there_is_is_a_problem(settings):
    """`doctor` counts the rows themselves: a tally that balances and is wrong is found where no service recounts."""
    with closing(sqlite3.connect(settings.home / "results.sqlite3")) as connection, connection:
        connection.execute("UPDATE tally SET arrivals = 5 WHERE standing = 'results'")
    level, text = database.database(settings)
    assert (level, "wrong by 5" in text) == (Level.PROBLEM, True)


def test_a_database_that_cannot_be_written_is_a_problem(postgresql_server, database_url, tmp_path):
    """A role without the privilege, or a server in recovery, is found without writing anything."""
    if database_url.startswith("sqlite"):
        pytest.skip("a file that root may not write is hard to make")
    name = database_url.rpartition("/")[2]
    postgresql_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    done = run_command("doctor", "--home", tmp_path, "--format", "json", XRAY_BATCH_DATABASE_URL=database_url)
    (found,) = [row for row in done.rows if row["subject"] == "database"]
    assert (done.code, found["level"]) == (1, "problem")


def test_a_database_that_is_down_is_a_problem_without_its_password(tmp_path):
    """And every other check is made all the same."""
    url = "postgresql://xray:ZZSECRET@127.0.0.1:1/xray"
    done = run_command("doctor", "--home", tmp_path, "--format", "json", XRAY_BATCH_DATABASE_URL=url)
    levels = {row["subject"]: row["level"] for row in done.rows}
    assert (done.code, levels["database"], levels["clock"], levels["bundle"]) == (1, "problem", "problem", "ok")
    assert "ZZSECRET" not in done.out + done.err


@pytest.mark.parametrize(
    ("shown", "level"),
    [
        ("LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nWatchdogUSec=2min", Level.OK),
        ("LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nWatchdogUSec=0", Level.NOTE),
        ("LoadState=loaded\nActiveState=failed\nUnitFileState=enabled\nWatchdogUSec=2min", Level.PROBLEM),
        ("LoadState=not-found\nActiveState=inactive\nUnitFileState=\nWatchdogUSec=infinity", Level.NOTE),
    ],
)
def test_what_systemd_says(settings, tmp_path, monkeypatch, shown, level):
    """A failed unit is a problem; one that is not there, or has no watchdog, is a note."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "_BOOTED", tmp_path)
    assert service.systemd(settings)[0] is level


def test_a_machine_without_systemd_is_a_note(settings, tmp_path, monkeypatch):
    """As in a container."""
    monkeypatch.setattr(service, "_BOOTED", tmp_path / "absent")
    assert service.systemd(settings)[0] is Level.NOTE
