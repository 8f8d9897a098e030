"""What a running service says of itself over HTTP."""

import shutil

from engines import on_postgresql, on_sqlite
from health_client import UnixConnection
from health_client import get as get_from
from installed_command import make_bad_files, make_films
from prometheus_client.parser import text_string_to_metric_families


def get(watched, path):
    """Return status and text of an answer."""
    return get_from(UnixConnection(watched.home), path)


def figures(watched):
    """Return every sample by name and label values."""
    _, text = get(watched, "/metrics")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@on_sqlite
def test_figures_follow_the_files(watched, tmp_path):
    """Each kind of end is counted, and nothing in the figures names a file or a patient."""
    watched.start()
    watched.wait_until_ready()
    assert get(watched, "/livez")[0] == 200
    assert get(watched, "/readyz")[0] == 200
    film = make_films(tmp_path / "films", 1)[0]
    shutil.copy(film, watched.inbox / "ZZCANARY-film.png")
    (bad, reason), *_ = make_bad_files(tmp_path / "bad").items()
    shutil.copy(bad, watched.inbox / "ZZCANARY-bad")
    watched.wait_until_idle(2)
    shutil.copy(film, watched.inbox / "again.png")
    watched.wait_until_idle(3)
    (analysed,) = [row for row in watched.results() if row["outcome"] != "not_analysed"]
    watched.wait_until(lambda: figures(watched)["xray_oldest_unprocessed_seconds",] == 0)
    found = figures(watched)
    assert found["xray_queue_depth", "queued"] == 0
    assert found["xray_files_total", analysed["outcome"]] == 1
    assert found["xray_files_total", "not_analysed"] == 1
    assert found["xray_quarantined_total", reason] == 1
    assert found["xray_duplicates_total",] == 1
    assert found["xray_stage_seconds_count", "process"] == 2
    assert found["xray_watch_mode", "inotify"] == 1
    assert found["xray_db_up",] == found["xray_claiming",] == 1
    assert found["xray_breaker_open",] == found["xray_unbalanced_arrivals",] == 0
    assert found["xray_disk_free_bytes",] > 0
    assert found["xray_model_info", analysed["model_id"], analysed["model_sha256"]] == 1
    assert "ZZCANARY" not in get(watched, "/metrics")[1]
    assert watched.stop() == 0


@on_postgresql
def test_a_database_outage_is_no_reason_to_be_restarted(watched, postgresql_server, tmp_path):
    """While PostgreSQL lets nobody in, the service lives and is not ready; afterwards it goes on by itself."""
    name = watched.database_url.rpartition("/")[2]
    process = watched.start()
    watched.wait_until_ready()
    postgresql_server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    postgresql_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    shutil.copy(make_films(tmp_path / "films", 1)[0], watched.inbox / "film.png")
    watched.wait_until(lambda: get(watched, "/readyz")[0] == 503)
    assert "database: not usable" in get(watched, "/readyz")[1]
    assert get(watched, "/livez")[0] == 200
    assert figures(watched)["xray_db_up",] == 0
    waited = figures(watched)["xray_oldest_unprocessed_seconds",]
    assert figures(watched)["xray_oldest_unprocessed_seconds",] > waited > 0  # nobody had to ask the database
    postgresql_server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    watched.wait_until_idle(1)
    watched.wait_until(lambda: get(watched, "/readyz")[0] == 200)
    assert process.poll() is None
    assert watched.stop() == 0


@on_postgresql
def test_a_service_that_waits_for_its_database_says_so(watched, postgresql_server):
    """Started while PostgreSQL lets nobody in, the service answers from the first: it lives, and is not ready."""
    name = watched.database_url.rpartition("/")[2]
    postgresql_server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    watched.start()
    watched.wait_until(lambda: "waiting for the database" in watched.log)
    assert get(watched, "/livez")[0] == 200
    status, text = get(watched, "/readyz")
    assert status == 503
    assert {"database: not usable", "model: not usable"} <= set(text.splitlines())
    assert figures(watched)["xray_db_up",] == 0
    postgresql_server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    watched.wait_until(lambda: get(watched, "/readyz")[0] == 200)
    assert watched.stop() == 0
