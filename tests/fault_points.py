"""Numbered fault points: every call by which the product changes a disk or a database.

The loop of SQLite's own tests: a fault at the first point, then at the second, and so on until a run
meets none.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest

from xray_batch import store as store_module
from xray_batch.intake import disk

#: Everything by which the product changes a disk; pathlib calls these too.
CALLS: Final = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync", "chmod", "fchmod")

#: How a process ends that met its fault point: without any clean-up, as by kill -9.
KILLED: Final = 9


class FaultPoints:
    """Counts the points that are passed, and has the `number`-th fail.

    A write to the database has two points: before its commit, and between the commit and the word of it.

    Parameters
    ----------
    fail
        Called at the point, with "disk" or "database"; raises, or does not return.
    """

    def __init__(self, number: int, fail: Callable[[str], None]) -> None:
        self._number = number
        self._fail = fail
        self.passed = 0

    @property
    def was_met(self) -> bool:
        """Whether the run came as far as the point."""
        return self.passed >= self._number

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Count from now on, until the patch is undone."""
        for name in CALLS:
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(disk, "_renameat2", self._counted(disk._renameat2))
        real = store_module.write_transaction

        @contextmanager
        def write_transaction(engine: Any) -> Iterator[Any]:
            with real(engine) as connection:
                yield connection
                self._pass("database")
            self._pass("database")

        patch.setattr(store_module, "write_transaction", write_transaction)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._pass("disk")
            return function(*arguments, **options)

        return call

    def _pass(self, kind: str) -> None:
        self.passed += 1
        if self.passed == self._number:
            self._fail(kind)


def die_at(number: int, patch: pytest.MonkeyPatch, work: Callable[[], object]) -> bool:
    """Do some work in another process that ends at a fault point; tell whether it came so far."""
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            FaultPoints(number, lambda _kind: os._exit(KILLED)).install(patch)
            work()
            status = 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def without_renameat2(patch: pytest.MonkeyPatch) -> None:
    """Have the kernel or the file system not know how to rename without replacing, as NFS does."""

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    patch.setattr(disk, "_renameat2", refuse)
