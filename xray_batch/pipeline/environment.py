"""What a worker process may know of the environment."""

from collections.abc import Mapping
from typing import Final

#: Variables that a worker's interpreter needs; no other reaches it, secrets least of all.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "TMPDIR")

#: Memory that a worker keeps for the next film, see mallopt(3), in bytes: pictures of up to 2,800 x 2,800 pixels in
#: float32 come from the heap, of which so much stays.  By default each buffer is taken from the kernel and given back,
#: and every page of it zeroed anew: a twentieth of the time of a film.
_FROM_HEAP: Final = 32 << 20
_KEPT: Final = 128 << 20


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose what a worker may know of the environment; keep its libraries to one thread, and its memory for reuse."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(_FROM_HEAP),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT),
    }
