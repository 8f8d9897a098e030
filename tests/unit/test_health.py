"""The endpoint that tells how the service is, and what is to be read from it."""

import http.client
import socket
import stat
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from clock import Clock
from health_client import UnixConnection, get
from prometheus_client.parser import text_string_to_metric_families

from xray_batch.errors import ReasonCode
from xray_batch.logs import configure_logs
from xray_batch.records import Outcome
from xray_batch.service.health import LIVE_SECONDS, Health, HealthServer, Vitals


@pytest.fixture
def clock():
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
def health(clock):
    """Give the facts of a service that has just started."""
    return Health(clock)


@contextmanager
def served(address, home, health):
    """Answer at an address for a while."""
    configure_logs("info", "json")
    with HealthServer(address, home, Vitals(health)) as server:
        yield server


def test_live_is_who_beats(tmp_path, health, clock):
    """A loop that has not beaten for long is dead; a database that is down is no reason."""
    with served("unix", tmp_path, health):
        health.report(database=False)
        assert get(UnixConnection(tmp_path), "/livez")[0] == 200
        clock.now += LIVE_SECONDS
        assert get(UnixConnection(tmp_path), "/livez") == (503, "the loop has stopped\n")
        health.beat()
        assert get(UnixConnection(tmp_path), "/livez") == (200, "the loop gets on\n")


def test_ready_is_who_has_all_it_needs(tmp_path, health, clock):
    """Each thing that is missing is named; so is a loop that has stopped."""
    with served("unix", tmp_path, health):
        health.report(database=True, disk=True, inbox=True, model=True, decoders=True)
        assert get(UnixConnection(tmp_path), "/readyz")[0] == 200
        health.report(disk=False)
        status, text = get(UnixConnection(tmp_path), "/readyz")
        assert status == 503
        assert text.splitlines() == ["database: ok", "disk: not usable", "inbox: ok", "model: ok", "decoders: ok"]
        health.report(disk=True)
        clock.now += LIVE_SECONDS
        assert get(UnixConnection(tmp_path), "/readyz")[0] == 503


def test_series_are_there_from_the_start(tmp_path, health):
    """The first rejection of a kind is an increase from 0, not a series out of nowhere."""
    with served("unix", tmp_path, health):
        status, text = get(UnixConnection(tmp_path), "/metrics")
    assert status == 200
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    by_label = {sample.name: set() for sample in samples}
    for sample in samples:
        by_label[sample.name] |= set(sample.labels.values())
    assert by_label["xray_files_total"] == set(Outcome)
    assert by_label["xray_quarantined_total"] == set(ReasonCode)
    assert {sample.value for sample in samples if sample.name == "xray_files_total"} == {0.0}


def test_other_paths(tmp_path, health):
    """There is nothing else, and nothing to write to."""
    with served("unix", tmp_path, health):
        assert get(UnixConnection(tmp_path), "/")[0] == 404
        connection = UnixConnection(tmp_path)
        connection.request("POST", "/livez")
        assert connection.getresponse().status == 501


def test_who_only_holds_connections_takes_nothing_from_others(tmp_path, health):
    """Anybody on the machine may open them; threads and descriptors are for films, and the next one is answered."""
    with served("unix", tmp_path, health):
        before = threading.active_count()
        held = [UnixConnection(tmp_path) for _ in range(100)]
        for connection in held:
            connection.connect()
            connection.sock.sendall(b"GET /livez HTTP")  # no end of line
        assert get(UnixConnection(tmp_path), "/livez")[0] == 200
        assert threading.active_count() - before < 50
        assert held[0].sock.recv(1) == b""
        for connection in held:
            connection.close()


def test_the_socket_is_for_the_group_and_goes_with_the_service(tmp_path, health):
    """Nobody else reads how many films of which kind there were."""
    with served("unix", tmp_path, health):
        assert stat.S_IMODE((tmp_path / "health.sock").stat().st_mode) == 0o660
    assert not (tmp_path / "health.sock").exists()


def test_a_long_path(tmp_path, health):
    """A home folder deeper than a socket's path may be long."""
    home = tmp_path / ("deep" * 30)
    home.mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with served("unix", home, health):
        assert get(UnixConnection(home), "/livez")[0] == 200
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_socket_that_a_dead_service_left_is_replaced(tmp_path, health):
    """A kill leaves one behind."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "health.sock"))
    left.close()
    with served("unix", tmp_path, health):
        assert get(UnixConnection(tmp_path), "/livez")[0] == 200


def test_another_service_keeps_its_socket(tmp_path, health, capsys):
    """The second of two on one home folder says so, and does its work without."""
    with served("unix", tmp_path, health):
        with served("unix", tmp_path, health):
            assert '"why": "EADDRINUSE", "event": "no health endpoint"' in capsys.readouterr().err
        assert get(UnixConnection(tmp_path), "/livez")[0] == 200


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)])
def test_a_port(host, family, tmp_path, health):
    """On loopback, for Prometheus."""
    with socket.socket(family) as probe:
        try:
            probe.bind((host.strip("[]"), 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        port = probe.getsockname()[1]
    with served(f"{host}:{port}", tmp_path, health):
        assert get(http.client.HTTPConnection(host.strip("[]"), port, timeout=10), "/livez")[0] == 200
    assert list(tmp_path.iterdir()) == []


def test_off(tmp_path, health):
    """Nothing listens."""
    with served("off", tmp_path, health):
        assert list(tmp_path.iterdir()) == []
