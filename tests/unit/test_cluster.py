"""How work is shared out on a cluster, what becomes of it when workers are lost, and what is refused before.

A real cluster is in `tests/faults/test_cluster.py`.
"""

import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from xray_batch import __version__
from xray_batch.bundle import Bundle
from xray_batch.cli import app
from xray_batch.cluster import driver
from xray_batch.cluster.driver import (
    CPUS_PER_WORKER,
    FIRST_FILES,
    TASKS_IN_HAND,
    Listeners,
    Place,
    connected,
    places_of,
    process_on_cluster,
)
from xray_batch.cluster.worker import Done, Order, Worker
from xray_batch.errors import (
    BundleError,
    ClusterError,
    ConfigurationError,
    DatabaseUnavailableError,
    DecoderDiedError,
    DeviceUnusableError,
)
from xray_batch.pipeline.in_place import Summary
from xray_batch.records import Outcome
from xray_batch.settings import Settings


def node(alive=True, **resources):
    """Return a node as ray describes it."""
    return {"NodeID": "ab12", "NodeName": "box", "Alive": alive, "Resources": {"memory": 1e9} | resources}


class TestPlaces:
    """One worker for each GPU, or for each share of the CPUs."""

    @pytest.mark.parametrize(
        ("resources", "device", "expected"),
        [
            ({"CPU": 2.0}, "auto", [(2, 0)]),
            ({"CPU": 8.0}, "auto", [(8, 0)]),
            ({"CPU": 16.0}, "auto", [(8, 0), (8, 0)]),
            ({"CPU": 12.0}, "cpu", [(6, 0), (6, 0)]),
            ({"CPU": 32.0, "GPU": 2.0}, "auto", [(16, 1), (16, 1)]),
            ({"CPU": 16.0, "GPU": 1.0}, "cuda", [(16, 1)]),
            ({"CPU": 16.0, "GPU": 1.0}, "cpu", [(8, 0), (8, 0)]),
            ({"CPU": 16.0}, "cuda", []),
            ({}, "auto", []),
        ],
    )
    def test_shares(self, resources, device, expected):
        """No share is larger than its limit, none of two workers overlap, and no worker has two GPUs."""
        places = places_of(node(**resources), device)
        assert [(place.cpus, place.gpus) for place in places] == expected
        assert len(set(places)) == len(places)
        assert all(place.gpus or place.cpus <= CPUS_PER_WORKER for place in places)

    def test_of_a_dead_node(self):
        """There is nothing to share out."""
        assert places_of(node(alive=False, CPU=8.0), "auto") == []

    def test_names(self):
        """A place is known by its node and number."""
        assert places_of(node(CPU=1.0), "auto") == [Place(node_id="ab12", node="box", number=0, cpus=1, gpus=0)]


class TestRefusals:
    """What is said before anything is begun."""

    @pytest.fixture(autouse=True)
    def token_mode(self, monkeypatch):
        """Leave the environment as it was."""
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

    def test_sqlite(self, tmp_path):
        """One file cannot be shared by many machines: exit code 78, and what to name instead."""
        with pytest.raises(ConfigurationError, match=r"--ray needs PostgreSQL.*database_url_file"):
            CliRunner().invoke(
                app, ["process", "--home", str(tmp_path), "--ray", "auto", "x.dcm"], catch_exceptions=False
            )

    def test_without_ray(self, monkeypatch):
        """The sentence names the extra."""
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'xray-batch\[ray\]'"), connected("auto"):
            pass

    def test_without_token_authentication(self, monkeypatch):
        """A cluster that anybody can use is not used."""
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(ConfigurationError, match="RAY_AUTH_MODE=token"), connected("auto"):
            pass

    def test_nobody_listens(self):
        """It is said at once which cluster there is not."""
        pytest.importorskip("ray", reason="Ray is not installed: the extra `ray`")
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
            with pytest.raises(ClusterError, match=f"no Ray cluster at {address}"), connected(address):
                pass


class TestWorker:
    """What a node is asked before it has any work."""

    @pytest.mark.parametrize(
        ("mode", "changes", "complaint"),
        [
            ("", {}, "without token authentication"),
            ("disabled", {}, "without token authentication"),
            ("token", {"version": "0.0.1"}, "it has xray-batch .*, the driver 0.0.1"),
            ("token", {"model_sha256": "1" * 64}, "its bundle .* is not the driver's"),
        ],
    )
    def test_a_node_that_is_not_set_up_as_the_driver(self, mode, changes, complaint, bundle_folder, monkeypatch):
        """It says so, in a sentence that goes with its name."""
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        settings = Settings(bundle=str(bundle_folder), home=bundle_folder)
        order = Order(
            settings=settings, root=Path.cwd(), model_sha256=Bundle(bundle_folder).sha256, version=__version__
        )
        with pytest.raises(ConfigurationError, match=complaint):
            Worker().start(replace(order, **changes))


class RayError(Exception):
    """What stands for the loss of a worker."""


class RayTaskError(RayError):
    """What stands for an error of a worker's own."""

    def __init__(self, cause):
        super().__init__("a traceback")
        self.cause = cause


class PlayedRay:
    """The part of ray's interface that the driver uses, played in this process; `play` says what a task comes to."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: node_id)
    )

    def __init__(self, nodes, play):
        self._nodes = nodes
        self._play = play
        self._ends = {}
        self._numbers = count()
        self.started = Counter()  #: workers, by node
        self.orders = []
        self.killed = []
        self.most_waiting = 0

    def nodes(self):
        """Tell which nodes there are."""
        return [node(CPU=7.0) | {"NodeID": name, "NodeName": name} for name in self._nodes]

    def remote(self, _kind):
        """Make actors."""

        def options(*, scheduling_strategy, **_others):
            return SimpleNamespace(remote=lambda: self._actor(scheduling_strategy))  # that is the node's name here

        return SimpleNamespace(options=options)

    def _actor(self, name):
        self.started[name] += 1
        process = SimpleNamespace(remote=lambda task: self._end(lambda: self._play(name, task)))
        return SimpleNamespace(start=SimpleNamespace(remote=lambda order: self._start(name, order)), process=process)

    def _start(self, name, order):
        self.orders.append(order)
        return self._end(lambda: self._play(name, None))

    def _end(self, play):
        end = next(self._numbers)
        self._ends[end] = play
        return end

    def wait(self, ends, *, num_returns, timeout):
        """Let the oldest be ready."""
        assert (num_returns, timeout) == (1, driver.LOOK_SECONDS)
        self.most_waiting = max(self.most_waiting, len(ends))
        return ends[:1], ends[1:]

    def get(self, end):
        """Tell what came of it."""
        return self._ends.pop(end)()

    def kill(self, actor):
        """Take note of who is ended."""
        self.killed.append(actor)


def done(task):
    """Say that all files of a task are normal."""
    if task is None:
        return None
    summary = Summary()
    summary.outcomes[Outcome.NORMAL] = len(task.names)
    return Done(summary=summary, answers=(), failures=(), unpacked=0, seconds=20.0)


class TestRun:
    """What the driver does with tasks and workers."""

    FILES = tuple(Path(f"{number}.dcm") for number in range(5 * FIRST_FILES))

    @pytest.fixture(autouse=True)
    def no_waiting(self, monkeypatch):
        """Look for nodes all the time."""
        monkeypatch.setattr(driver, "LOOK_SECONDS", 0.0)

    def run(self, ray, files=FILES):
        """Classify files; return the summary, what failed and which nodes lost workers."""
        failed, lost = {}, Counter()
        listeners = Listeners(
            on_answers=lambda _: None,
            on_failure=failed.__setitem__,
            on_unpacked=lambda _: None,
            on_loss=lambda node, _why: lost.update([node]),
        )
        summary = process_on_cluster(files, ray, Settings(max_attempts=2), "0" * 64, listeners)
        return summary, failed, lost

    def test_all_is_done(self):
        """Every file is in the summary once, and nobody had more in hand than he may, nor decoders than CPUs."""
        ray = PlayedRay(["a", "b"], lambda _node, task: done(task))
        summary, failed, lost = self.run(ray)
        assert (summary.files, failed, lost) == (len(self.FILES), {}, Counter())
        assert ray.most_waiting <= 2 * TASKS_IN_HAND
        assert [order.settings.decode_workers for order in ray.orders] == [7, 7]

    def test_nothing_to_do(self):
        """Without a file nobody is started."""
        ray = PlayedRay(["a"], lambda _node, task: done(task))
        assert self.run(ray, ())[0].files == 0
        assert not ray.started

    def test_files_are_asked_for_as_they_are_needed(self):
        """When the first answer comes, only the files of the tasks in hand have been asked for."""
        asked = []
        seen = []

        def files():
            for path in self.FILES * 100:
                asked.append(path)
                yield path

        def play(_node, task):
            seen.append(len(asked))
            return done(task)

        self.run(PlayedRay(["a"], play), files())
        assert seen[1] <= (TASKS_IN_HAND + 1) * FIRST_FILES  # the first was the start of the worker

    def test_a_lost_task_is_done_again(self):
        """A worker that is lost once, with two tasks, costs nothing but the time."""
        losses = iter([True])

        def play(_node, task):
            if task is not None and next(losses, False):
                raise RayError
            return done(task)

        ray = PlayedRay(["a"], play)
        summary, failed, lost = self.run(ray)
        assert (summary.files, summary.failed, failed, lost) == (len(self.FILES), 0, {}, Counter(a=1))
        assert len(ray.killed) == 1  # it may live, and have the CPUs of the next

    def test_a_task_that_is_too_much_for_every_worker_fails_alone(self):
        """After `max_attempts` workers its files have failed; those that waited behind it are done."""
        bad = self.FILES[3]

        def play(_node, task):
            if task is not None and bad in task.names:
                raise RayError
            return done(task)

        summary, failed, lost = self.run(PlayedRay(["a", "b"], play))
        assert set(failed) == set(self.FILES[:FIRST_FILES])
        assert (summary.files, summary.failed, lost.total()) == (len(self.FILES), FIRST_FILES, 2)

    def test_a_broken_place_is_not_used_for_ever(self):
        """A node on which every task ends with an error is left alone after `max_attempts` of them; nothing fails."""

        def play(node, task):
            if node == "broken" and task is not None:
                raise RayTaskError(RuntimeError("CUDA error"))
            return done(task)

        ray = PlayedRay(["broken", "sound"], play)
        summary, failed, lost = self.run(ray)
        assert (summary.files, failed) == (len(self.FILES), {})
        assert ray.started["broken"] == lost["broken"] <= 2

    def test_a_place_that_works_in_between_is_used_for_ever(self):
        """Losses count in a row: over days even a sound node loses a worker now and then."""
        begun = count()

        def play(_node, task):
            if task is not None and next(begun) % 3 == 2:
                raise RayError
            return done(task)

        summary, failed, lost = self.run(PlayedRay(["a"], play), self.FILES * 2)
        assert (summary.files, failed) == (2 * len(self.FILES), {})
        assert lost["a"] > 2

    @pytest.mark.parametrize("when", ["at the start", "at work"])
    @pytest.mark.parametrize(
        "error",
        [
            DecoderDiedError("a decode worker did not start: [Errno 12]"),
            DeviceUnusableError("the model cannot be put on device 'cuda': CUDA out of memory; try 'cpu'"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_sick_node_does_not_end_the_run(self, error, when):
        """What only one node lacks is the loss of its worker: the others do all."""

        def play(node, task):
            if node == "sick" and (task is None) == (when == "at the start"):
                raise RayTaskError(error)
            return done(task)

        summary, failed, lost = self.run(PlayedRay(["sick", "sound"], play))
        assert (summary.files, summary.failed, failed) == (len(self.FILES), 0, {})
        assert set(lost) == {"sick"}

    def test_all_nodes_are_sick(self):
        """The run ends and says what the last one lacked."""

        def play(_node, _task):
            raise RayTaskError(DecoderDiedError("a decode worker did not start"))

        with pytest.raises(ClusterError, match=r"no worker left.*node a \(a decode worker did not start\)"):
            self.run(PlayedRay(["a"], play))

    def test_a_database_that_is_down_ends_the_run(self):
        """It is that of all nodes."""

        def play(_node, task):
            if task is not None:
                raise RayTaskError(DatabaseUnavailableError("the database cannot be reached"))

        with pytest.raises(DatabaseUnavailableError, match="node a: the database cannot be reached"):
            self.run(PlayedRay(["a"], play))

    def test_no_place_for_a_worker(self, monkeypatch):
        """A cluster whose nodes have nothing free is not waited for without end."""
        monkeypatch.setattr(driver, "WAIT_SECONDS", 0.0)
        with pytest.raises(ClusterError, match="no worker left: its nodes have no CPU or GPU free"):
            self.run(PlayedRay([], lambda _node, task: done(task)))

    def test_no_worker_left(self):
        """When nothing works anywhere, the run ends and says what happened last."""

        def play(_node, _task):
            raise RayError

        with pytest.raises(ClusterError, match=r"no worker left.*node a \(RayError\)"):
            self.run(PlayedRay(["a"], play))

    def test_what_a_node_complains_of_ends_the_run(self):
        """A node that is not set up as the driver's is named, and the error is the one of one machine."""

        def play(_node, _task):
            raise RayTaskError(BundleError("there is no model bundle 'x'"))

        with pytest.raises(BundleError, match="node a: there is no model bundle 'x'"):
            self.run(PlayedRay(["a"], play))


SPY = """
import os, sys

class Spy:
    def find_spec(self, name, *_others):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            raise SystemExit

sys.meta_path.insert(0, Spy())
import xray_batch.cluster.worker
import xray_batch.classify
"""


@pytest.mark.parametrize(("said", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_that_wait_leave_the_cores_to_the_decoders(said, expected):
    """The networks' threads sleep on a node, too, unless its environment says otherwise: before torch is loaded."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | said
    done = subprocess.run([sys.executable, "-c", SPY], env=variables, capture_output=True, text=True, check=False)
    assert done.stdout == f"{expected}\n", done.stderr
