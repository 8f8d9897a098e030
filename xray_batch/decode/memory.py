"""Memory for decoding in a process that does other work, too, and what a file comes to that takes more."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xray_batch.errors import ReasonCode, RejectedInputError
from xray_batch.records import Rejection


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


def rejection_of(error: RejectedInputError | MemoryError) -> Rejection:
    """Return what the service would refuse a file for whose decoding ended with this error."""
    if isinstance(error, RejectedInputError):
        return Rejection.of(error)
    return Rejection(reason_code=ReasonCode.TOO_LARGE, reason="Decoding the file takes too much memory.")
