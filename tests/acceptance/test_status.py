"""`xray-batch status` beside a service, without one, and after one that died."""

import json
import os
import shutil
from contextlib import closing

import pytest
from engines import on_postgresql
from installed_command import make_bad_files, make_films, run_command
from store_records import make_analysed, make_arrival, make_model

from xray_batch.database import write_transaction
from xray_batch.intake import Folders
from xray_batch.pipeline.service_state import read_service_state, write_service_state
from xray_batch.revisions import head_revision, open_database
from xray_batch.store import Store

ACCOUNT = ("arrivals", "results", "rejected", "duplicates", "pending", "lost", "balances", "queued", "leased")


def status_of(watched, *options):
    """Run `xray-batch status` on a watched folder."""
    return run_command("status", "--home", watched.home, *options, XRAY_BATCH_DATABASE_URL=watched.database_url)


@on_postgresql
def test_beside_a_running_service(watched, tmp_path):
    """It tells the account, the answers of the day, what waits, the database, the disk, and the service."""
    for path in [*make_films(tmp_path / "films", 2), *make_bad_files(tmp_path / "bad")]:
        shutil.copy(path, watched.inbox / path.name)
    process = watched.start()
    watched.wait_until_idle(10)
    (watched.inbox / ".hidden").touch()
    done = status_of(watched, "--format", "json")
    (facts,) = done.rows
    assert done.code == 0
    assert [facts[name] for name in ACCOUNT] == [10, 2, 8, 0, 0, 0, True, 0, 0]
    assert facts["oldest_pending_seconds"] is None
    assert (facts["inbox_files"], facts["inbox_left_alone"], facts["spool_files"]) == (0, 1, 0)
    assert facts["not_analysed_24h"] == 8
    assert facts["pneumonia_24h"] + facts["normal_24h"] + facts["indeterminate_24h"] == 2
    assert facts["last_result_at"].endswith("+00:00")
    assert facts["database"].startswith("PostgreSQL 1" if "postgresql" in watched.database_url else "SQLite 3.")
    assert facts["database_revision"] == head_revision()
    assert facts["disk_free_bytes"] > 0
    assert (facts["service_running"], facts["service_pid"]) == (True, process.pid)
    assert (facts["service_watch_mode"], facts["service_device"]) == ("inotify", "cpu")
    assert facts["service_canary_age_seconds"] < 60
    assert (facts["service_claiming"], facts["service_breaker_open"]) == (True, False)
    table = status_of(watched)
    assert table.code == 0
    assert "service running" in table.out


def test_without_a_service(watched, tmp_path):
    """It says that none runs, leaves out what only that could say, and names no file, patient or password."""
    (watched.inbox / "ZZCANARY.dcm").write_text("waits")
    done = status_of(watched)
    lines = [line.split() for line in done.out.splitlines()]
    assert done.code == 0
    assert ["service", "running", "no"] in lines
    assert [line for line in lines if line[0] == "service"] == [["service", "running", "no"]]
    assert ["inbox", "files", "1"] in lines
    assert "ZZCANARY" not in done.out
    assert watched.database_url not in done.out


def test_an_account_that_does_not_balance(watched):
    """Exit code 1, and the number of lost arrivals; `not_analysed` and older results are told apart."""
    engine = open_database(watched.database_url)
    with closing(Store(engine)) as store:
        model = make_model()
        store.register_model(model)
        arrival = make_arrival()
        store.record_in_place([(arrival, make_analysed())], model)
        with write_transaction(engine) as connection:
            connection.exec_driver_sql("UPDATE content SET state = 'queued'")
            connection.exec_driver_sql("DELETE FROM result")
            connection.exec_driver_sql("UPDATE content SET state = 'done'")
    done = status_of(watched, "--format", "json")
    (facts,) = done.rows
    assert (done.code, facts["lost"], facts["balances"]) == (1, 1, False)


def test_a_process_that_only_has_the_number_of_a_dead_service_is_none(tmp_path):
    """After a crash and a reboot another process may have the service's number."""
    folders = Folders(tmp_path)
    write_service_state(folders.service_state, watch_mode="inotify")
    state = read_service_state(Folders(tmp_path))
    assert state is not None
    assert state["pid"] == os.getpid()
    folders.service_state.write_text(json.dumps(dict(state) | {"start_ticks": state["start_ticks"] - 1}))
    assert read_service_state(Folders(tmp_path)) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x", "start_ticks": null}'])
def test_a_broken_state_file_is_no_service(tmp_path, content):
    """A full disk may leave anything."""
    Folders(tmp_path).service_state.write_text(content)
    assert read_service_state(Folders(tmp_path)) is None
