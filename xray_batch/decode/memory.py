"""Memory for decoding in a process that does other work, too."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_memory(address_space: int) -> Iterator[None]:
    """Let decoding have as much memory as a decode worker has: an untrusted file may ask for all there is.

    Parameters
    ----------
    address_space
        Bytes, on top of what the process has already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limit = used + address_space
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
