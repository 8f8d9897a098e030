"""What a worker process gives up before it touches a file that may be hostile.

May import: the standard library alone.
"""

import os
import resource
from typing import Final

#: What a worker sends first, once it is ready for requests.
READY: Final = b"ready"

_CPU_SECONDS: Final = 30
_OPEN_FILES: Final = 32


def give_up_rights(address_space: int) -> None:
    """Give up what decoding does not need; called once everything is imported.

    Parameters
    ----------
    address_space
        Bytes.
    """
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def limit_cpu() -> None:
    """Let the next file use at most so many seconds; the kernel then ends the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + 1 + _CPU_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def silence() -> None:
    """Send what codecs print nowhere: it may quote the file."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
