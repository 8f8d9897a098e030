"""What the environment tells the processes that compute."""

from collections.abc import Mapping
from typing import Final

from xray_batch.resources import cpu_quota, usable_cores

#: Variables that a worker's interpreter needs; no other reaches it, secrets least of all.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "TMPDIR")

#: Memory that a worker keeps for the next film, see mallopt(3), in bytes: pictures of up to 2,800 x 2,800 pixels in
#: float32 come from the heap, of which so much stays.  By default each buffer is taken from the kernel and given back,
#: and every page of it zeroed anew: a twentieth of the time of a film.
_FROM_HEAP: Final = 32 << 20
_KEPT: Final = 128 << 20

#: Variables that OpenMP reads when torch is loaded: how threads wait for each other, and how many there are.
WAIT_POLICY: Final = "OMP_WAIT_POLICY"
_THREADS: Final = "OMP_NUM_THREADS"


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return how the networks' threads are to wait for each other: asleep, unless the environment says otherwise.

    They wait some hundred times a pass; to spin meanwhile takes the cores from the decode workers, who keep them
    waiting all the longer.
    """
    return {WAIT_POLICY: environment.get(WAIT_POLICY, "passive")}


def threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Return how many threads the networks get where a quota of CPU time says so, unless the environment does.

    Torch counts the cores of the affinity mask; more threads than the quota has cores are stopped in mid-pass.
    """
    return {} if cpu_quota() is None else {_THREADS: environment.get(_THREADS, str(usable_cores()))}


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose what a worker may know of the environment; keep its libraries to one thread, and its memory for reuse."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    return kept | {
        _THREADS: "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(_FROM_HEAP),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT),
    }
