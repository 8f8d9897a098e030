"""The driver of a run on a cluster: connects, shares the work out, and adds up what it came to.

The only module that imports ray.
"""

import os
import socket
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from xray_batch import __version__
from xray_batch.cluster.worker import AUTH_MODE, TOKEN, Done, Order, Task, Worker
from xray_batch.errors import (
    ClusterError,
    ConfigurationError,
    DatabaseUnavailableError,
    DeviceUnusableError,
    TransientError,
    XrayBatchError,
)
from xray_batch.pipeline.in_place import FileAnswer, Summary
from xray_batch.settings import DeviceName, Settings

#: A worker on a node without GPUs has no more CPUs than this: the networks gain little from more threads.
CPUS_PER_WORKER: Final = 8

#: How long a task is to take.  At its end some of the CPUs wait for the last film: shorter tasks waste more of them,
#: longer ones are told of less often, and more of them is done again when a worker dies.
TASK_SECONDS: Final = 20.0
#: Files of a worker's first tasks, before it is known how fast it is; and of any task.
FIRST_FILES: Final = 16
MOST_FILES: Final = 1024

#: Tasks that a worker has at most: the one that it works on, and the next.
TASKS_IN_HAND: Final = 2

#: Time between two looks at which nodes there are.
LOOK_SECONDS: Final = 2.0

#: The run is given up when no worker could be used for so long.
WAIT_SECONDS: Final = 300.0

_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one worker can be."""

    node_id: str
    node: str  #: its name for people
    number: int  #: of the place, on its node
    cpus: int
    gpus: int


def places_of(node: Mapping[str, Any], device: DeviceName) -> list[Place]:
    """Share out a node, as `ray.nodes()` describes it: a worker for each GPU, or for each share of its CPUs."""
    resources = node["Resources"] if node["Alive"] else {}
    cpus = int(resources.get("CPU", 0))
    gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
    count = gpus if gpus or device == "cuda" else -(-cpus // CPUS_PER_WORKER)
    return [
        Place(node_id=node["NodeID"], node=node["NodeName"], number=number, cpus=cpus // count, gpus=min(gpus, 1))
        for number in range(count)
    ]


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to a cluster, with its token; yield the module `ray`, and let `sys.stdout` be stderr meanwhile.

    Parameters
    ----------
    address
        `HOST:PORT` of the head node, for a driver on a node of the cluster; `ray://HOST:PORT` from elsewhere; `auto`
        for the cluster that this machine is a node of.

    Raises
    ------
    ConfigurationError
        If ray is not installed, or token authentication is off or has no token.
    ClusterError
        If there is no cluster, it does not take the token, or it is lost.
    """
    mode = os.environ.setdefault(AUTH_MODE, TOKEN)  # read when ray is imported
    if mode.lower() != TOKEN:
        raise ConfigurationError(
            f"{AUTH_MODE} is {mode!r}: whoever reaches such a cluster can run code on it and read the films; start "
            f"every node with {AUTH_MODE}={TOKEN}, and set it so here"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigurationError("--ray needs Ray: pip install 'xray-batch[ray]'") from error
    _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ray.exceptions.AuthenticationError as error:
        message = (
            "there is no token for the Ray cluster: RAY_AUTH_TOKEN_PATH names its file, or it is ~/.ray/auth_token"
        )
        raise ConfigurationError(message) from error
    except (ConnectionError, ImportError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        message = (
            f"the Ray cluster at {address} cannot be used ({_first_line(error)}); is it its token that is used here?"
        )
        raise ClusterError(message) from error
    try:
        with redirect_stdout(sys.stderr):  # there ray tells of nodes that died; stdout is for answers
            yield ray
    except ray.exceptions.RayError as error:
        message = f"the Ray cluster at {address} was lost ({_first_line(error)}); run again for what is left"
        raise ClusterError(message) from error
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Find out at once, and not after minutes, that nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"there is no Ray cluster at {address}: {error.strerror or error}") from error


def _is_of_one_node(error: XrayBatchError) -> bool:
    """Tell whether other nodes can do without the one that says so; set-up and database are those of all."""
    if isinstance(error, DatabaseUnavailableError):
        return False
    return isinstance(error, TransientError | DeviceUnusableError)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Who is told how a run gets on."""

    on_answers: Callable[[Sequence[FileAnswer]], None]
    on_failure: Callable[[Path, str], None]
    on_unpacked: Callable[[int], None]
    on_loss: Callable[[str, str], None]  #: name of the node, and why


def process_on_cluster(
    files: Iterable[Path], ray: ModuleType, settings: Settings, model_sha256: str, listeners: Listeners
) -> Summary:
    """Classify files on all nodes of a cluster and record them; they are not moved or changed.

    `files` is read only as far as the tasks in hand need.  Nodes that join are used; those that are lost are not
    missed.

    Parameters
    ----------
    ray
        From :func:`connected`.
    settings
        Those of every node, but for `decode_workers`, which is the CPUs of a worker unless it was set.  Paths in them,
        and `files`, mean the same on all nodes.

    Raises
    ------
    ConfigurationError, DatabaseUnavailableError
        What a node said that is not set up as this one, or cannot reach the database.
    ClusterError
        If there is no worker left; the message says why the last was lost.
    """
    order = Order(settings=settings, root=Path.cwd(), model_sha256=model_sha256, version=__version__)
    return _Run(ray, order, files, listeners).run()


@dataclass(slots=True, eq=False)
class _Member:
    """A worker, as the driver sees it."""

    place: Place
    actor: Any
    is_ready: bool = False
    tasks: dict[object, Task] = field(default_factory=dict)  #: by what stands for their end; in the order of the work
    files: int = FIRST_FILES  #: of its next task

    def learn(self, task: Task, seconds: float) -> None:
        """Fit the next task to how long this one took."""
        fitting = int(len(task.names) * TASK_SECONDS / max(seconds, 1e-3))
        self.files = max(FIRST_FILES, min(fitting, 2 * len(task.names), MOST_FILES))


class _Run:
    """The state of one :func:`process_on_cluster`."""

    def __init__(self, ray: ModuleType, order: Order, files: Iterable[Path], listeners: Listeners) -> None:
        self._ray = ray
        self._order = order
        self._files = iter(files)
        self._listeners = listeners
        self._summary = Summary()
        self._again: deque[Task] = deque()
        self._members: dict[Place, _Member] = {}
        self._awaited: dict[object, _Member] = {}
        self._losses: Counter[Place] = Counter()  #: in a row
        self._last_loss = "its nodes have no CPU or GPU free, or none at all"
        self._usable_at = time.monotonic()  #: when there last was a worker
        self._looked_at = float("-inf")

    def run(self) -> Summary:
        """Do all tasks."""
        while self._is_working or self._is_work_left():
            self._look()
            self._hand_out()
            self._wait()
        return self._summary

    @property
    def _is_working(self) -> bool:
        return any(member.tasks for member in self._members.values())

    def _is_work_left(self) -> bool:
        """Whether there is a task that nobody has; the next one is made where that is not known."""
        if not self._again:
            self._again.extend(self._new_task(FIRST_FILES))
        return bool(self._again)

    def _new_task(self, files: int) -> list[Task]:
        names = tuple(islice(self._files, files))
        return [Task(run_id=uuid.uuid4(), names=names)] if names else []

    def _next_task(self, member: _Member) -> Task | None:
        """Choose a task for a worker; not one that was lost on its node, where there is a worker on another."""
        nodes = {other.place.node_id for other in self._members.values() if other.is_ready}
        for task in self._again:
            if member.place.node_id not in task.lost_on or nodes <= set(task.lost_on):
                self._again.remove(task)
                return task
        return next(iter(self._new_task(member.files)), None)

    def _look(self) -> None:
        """See from time to time which nodes there are, and start a worker in every place that has none."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        places = {place for node in self._ray.nodes() for place in places_of(node, self._order.settings.device)}
        good = {place for place in places if self._losses[place] < self._order.settings.max_attempts}
        for place in sorted(good - self._members.keys(), key=lambda place: (place.node_id, place.number)):
            self._start(place)
        if any(member.is_ready for member in self._members.values()):
            self._usable_at = now
        elif (places and not good) or now - self._usable_at > WAIT_SECONDS:
            raise ClusterError(f"the cluster has no worker left: {self._last_loss}; run again for what is left")

    def _start(self, place: Place) -> None:
        settings = self._order.settings
        if "decode_workers" not in settings.model_fields_set:
            settings = settings.model_copy(update={"decode_workers": min(max(1, place.cpus), 256)})
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=place.node_id, soft=False)
        kind = self._ray.remote(Worker).options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=here,
        )
        member = _Member(place, kind.remote())
        self._members[place] = member
        self._awaited[member.actor.start.remote(replace(self._order, settings=settings))] = member

    def _hand_out(self) -> None:
        """Give every worker as much as it may have."""
        for member in self._members.values():
            while member.is_ready and len(member.tasks) < TASKS_IN_HAND:
                task = self._next_task(member)
                if task is None:
                    break
                end = member.actor.process.remote(task)
                member.tasks[end] = task
                self._awaited[end] = member

    def _wait(self) -> None:
        """Wait until something has ended, and see to it."""
        if not self._awaited:
            time.sleep(LOOK_SECONDS)
            return
        ended, _ = self._ray.wait(list(self._awaited), num_returns=1, timeout=LOOK_SECONDS)
        for end in ended:
            member = self._awaited.get(end)
            if member is not None:  # else it was lost a moment ago
                self._settle(end, member)

    def _settle(self, end: object, member: _Member) -> None:
        exceptions = self._ray.exceptions
        try:
            done = self._ray.get(end)
        except exceptions.RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, XrayBatchError):
                self._lose(member, type(cause).__name__)
            elif _is_of_one_node(cause):
                self._lose(member, str(cause))
            else:
                raise type(cause)(f"node {member.place.node}: {cause}") from None
            return
        except exceptions.RayError as error:
            self._lose(member, type(error).__name__)
            return
        del self._awaited[end]
        member.is_ready = True
        task = member.tasks.pop(end, None)
        if task is not None:
            self._losses[member.place] = 0
            member.learn(task, done.seconds)
            self._report(done)

    def _report(self, done: Done) -> None:
        self._summary.add(done.summary)
        self._listeners.on_unpacked(done.unpacked)
        self._listeners.on_answers(done.answers)
        for path, why in done.failures:
            self._listeners.on_failure(path, why)

    def _lose(self, member: _Member, why: str) -> None:
        """Do without a worker; only the task that it was at can have been too much for it."""
        self._last_loss = f"the last was lost on node {member.place.node} ({why})"
        self._listeners.on_loss(member.place.node, why)
        self._ray.kill(member.actor)  # may live, in a state that nobody knows
        self._losses[member.place] += 1
        del self._members[member.place]
        self._awaited = {end: other for end, other in self._awaited.items() if other is not member}
        for number, task in enumerate(member.tasks.values()):
            lost_on = (*task.lost_on, member.place.node_id) if number == 0 else task.lost_on
            if len(lost_on) < self._order.settings.max_attempts:
                self._again.append(replace(task, lost_on=lost_on))
                continue
            self._summary.failed += len(task.names)
            for name in task.names:
                self._listeners.on_failure(name, f"not done for now ({len(lost_on)} workers were lost with it)")
