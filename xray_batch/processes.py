"""Whether a process is still the one that was seen: its number alone may be another's by now."""

from pathlib import Path


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine did; None if there is no such process.

    Field 22 of `/proc/PID/stat`, see proc_pid_stat(5).
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(status.rpartition(b")")[2].split()[19])  # the second field, a name in brackets, may hold anything
