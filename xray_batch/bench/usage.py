"""What a process and all that it started use, by proc(5)."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PROC: Final = Path("/proc")

#: Fields of /proc/PID/stat after the name, counted from 0.
_PARENT, _FIRST_TIME, _AFTER_TIMES = 1, 11, 15


def cpu_seconds(root: int) -> float:
    """Return the CPU time that a process and its descendants have used, those that have ended included."""
    ticks = sum(int(ticks) for fields in _tree(root).values() for ticks in fields[_FIRST_TIME:_AFTER_TIMES])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(root: int) -> int:
    """Return the memory of a process and its descendants together; a page that several share counts once."""
    return sum(_proportional_set_size(pid) for pid in _tree(root))


class MemoryPeak:
    """Looks at the memory of a process and its descendants while the block runs; `largest` is in bytes.

    Parameters
    ----------
    seconds
        Between two looks: a shorter peak may be missed.
    """

    def __init__(self, root: int, seconds: float = 0.2) -> None:
        self.largest = 0
        self._root = root
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory-peak")

    def __enter__(self) -> Self:
        """Start to look."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End looking."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.largest = max(self.largest, memory_bytes(self._root))
            if self._over.wait(self._seconds):
                return


def _tree(root: int) -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat after the name, of a process and its descendants."""
    everyone = dict(_processes())
    found: dict[int, list[str]] = {}
    todo = [root]
    while todo:
        pid = todo.pop()
        if pid in everyone:
            found[pid] = everyone[pid]
            todo += [child for child, fields in everyone.items() if int(fields[_PARENT]) == pid]
    return found


def _processes() -> Iterator[tuple[int, list[str]]]:
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended
                # The name, in brackets, may hold anything.
                yield (
                    int(folder.name),
                    (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split(),
                )


def _proportional_set_size(pid: int) -> int:
    """Return the memory of one process, shared pages divided among those that share them; 0 if it has ended."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
