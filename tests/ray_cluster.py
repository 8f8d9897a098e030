"""A real Ray cluster for tests: nodes on the loopback interface that ask for a token."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from installed_command import PATIENCE_SECONDS, clean_environment
from postgresql_server import free_port

#: Of the head node: a node that does not answer for two seconds or so is dead, instead of fifteen.
SYSTEM = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}


@dataclass(slots=True)
class RayNode:
    """One node: a tree of processes."""

    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> list[int]:
        """Ids of all of its processes."""
        return [self.process.pid, *descendants(self.process.pid)]

    def command_lines(self) -> str:
        """Return what its processes are."""
        found = []
        for pid in self.pids:
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return "\n".join(found)

    def kill(self) -> None:
        """End all of its processes at once, as a power cut would."""
        pids = self.pids
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # or one would have time to see another die
        for pid in {*pids, *self.pids}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass(slots=True)
class RayCluster:
    """A cluster of the loopback interface."""

    folder: Path  #: short: there are sockets in it
    port: int
    nodes: dict[str, RayNode] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What `--ray` takes."""
        return f"127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """Environment of nodes and drivers."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # for a head that is gone, not sixty
            "RAY_memory_monitor_refresh_ms": "0",  # a machine that other tests fill is no fault of ours
            "OMP_NUM_THREADS": "1",
        }

    def add(self, name: str) -> RayNode:
        """Start a node of one CPU, and wait until it has joined; the first one is the head."""
        role = ["--address", self.address]
        if not self.nodes:
            role = ["--head", "--port", str(self.port), "--include-dashboard", "false"]
            role += ["--temp-dir", str(self.folder / "ray"), "--system-config", json.dumps(SYSTEM)]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
                    *("--node-ip-address", "127.0.0.1", "--node-name", name, "--num-cpus", "1", "--num-gpus", "0"),
                    *("--object-store-memory", "80000000", "--min-worker-port", "0", "--max-worker-port", "0"),
                    *("--dashboard-agent-listen-port", str(free_port()), *role),
                ],
                stdout=log,
                stderr=log,
                env=clean_environment(**self.variables),
            )
        node = self.nodes[name] = RayNode(process)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Ray runtime started" not in (self.folder / f"{name}.log").read_text():
            assert process.poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return node


@contextmanager
def running_ray(*names: str) -> Iterator[RayCluster]:
    """Run a cluster of one's own for a while."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'ray>=2.56', the extra `ray`")
    folder = Path(tempfile.mkdtemp(prefix="xb-ray-"))
    (folder / "token").write_text(os.urandom(32).hex())
    cluster = RayCluster(folder, free_port())
    try:
        for name in names:
            cluster.add(name)
        yield cluster
    finally:
        for node in cluster.nodes.values():
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes that a process has started, directly or not."""
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        with suppress(ValueError, OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]
