"""What a worker process may know of the environment."""

from collections.abc import Mapping
from typing import Final

#: Variables that a worker's interpreter needs; no other reaches it, secrets least of all.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "TMPDIR")


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose what a worker may know of the environment, and keep its libraries to one thread."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
