"""Whether a process is still the one that was seen: its number may be another's by now; and which is to end first."""

from contextlib import suppress
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


def end_first(pid: int) -> None:
    """Have the kernel end this process rather than a larger one when memory runs out, see proc_pid_oom_score_adj(5)."""
    with suppress(OSError):  # it has ended, or there is no proc file system to be written
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
