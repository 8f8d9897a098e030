"""What runs on the nodes of a cluster; knows nothing of ray but whose environment it is in."""

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xray_batch import __version__
from xray_batch.bundle import find_bundle
from xray_batch.errors import ConfigurationError
from xray_batch.intake import Folders, remove_abandoned
from xray_batch.pipeline.engine import Pipeline
from xray_batch.pipeline.in_place import FileAnswer, Summary, process_in_place
from xray_batch.revisions import open_database
from xray_batch.settings import Settings
from xray_batch.store import Store

#: Variable of the environment that says whether ray asks for a token; and its only value that is taken here.
AUTH_MODE: Final = "RAY_AUTH_MODE"
TOKEN: Final = "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the workers of a run must know."""

    settings: Settings
    root: Path  #: folder that names are relative to
    model_sha256: str  #: of the bundle's manifest
    version: str  #: of this package


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Files that one worker classifies, one task after the other."""

    run_id: uuid.UUID  #: kept when the task is done again
    names: tuple[Path, ...]
    lost_on: tuple[str, ...] = ()  #: ids of the nodes of workers that were lost while they worked on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a task came to."""

    summary: Summary
    answers: Sequence[FileAnswer]
    failures: Sequence[tuple[Path, str]]
    unpacked: int  #: files found in archives
    seconds: float


class Worker:
    """A model and its decode workers, on one GPU or some of the CPUs of a node.  An actor."""

    _order: Order
    _store: Store
    _pipeline: Pipeline
    _unpack_in: Path | None

    def start(self, order: Order) -> None:
        """Load the model and open the database.

        Raises
        ------
        ConfigurationError
            If this node is not set up as that of the driver is.
        DatabaseUnavailableError
            If the database cannot be reached from here.
        """
        if os.environ.get(AUTH_MODE, "").lower() != TOKEN:
            raise ConfigurationError(
                f"it runs without token authentication, so that whoever reaches it can run code there; start every "
                f"node with {AUTH_MODE}={TOKEN}"
            )
        if order.version != __version__:
            raise ConfigurationError(f"it has xray-batch {__version__}, the driver {order.version}")
        settings = order.settings
        folders = Folders(settings.home)
        bundle = find_bundle(settings.bundle, folders.bundles)
        if bundle.sha256 != order.model_sha256:
            raise ConfigurationError(f"its bundle {settings.bundle} is not the driver's")
        self._unpack_in = folders.spool if settings.unpack_zip else None
        if self._unpack_in:
            remove_abandoned(self._unpack_in)
        self._order = order
        with ExitStack() as stack:  # they end with the process
            self._store = stack.enter_context(closing(Store(open_database(settings.resolved_database_url))))
            self._pipeline = stack.enter_context(Pipeline(bundle, settings))
            self._pipeline.load()  # a node that cannot is lost now, not with its first task
            stack.pop_all()

    def process(self, task: Task) -> Done:
        """Do one task; see :func:`process_in_place`."""
        start = time.perf_counter()
        answers: list[FileAnswer] = []
        failures: list[tuple[Path, str]] = []
        unpacked: list[int] = []
        summary = process_in_place(
            task.names,
            self._pipeline,
            self._store,
            max_attempts=self._order.settings.max_attempts,
            on_answers=answers.extend,
            on_failure=lambda path, why: failures.append((path, why)),
            unpack_in=self._unpack_in,
            on_unpacked=unpacked.append,
            run_id=task.run_id,
            root=self._order.root,
        )
        return Done(
            summary=summary,
            answers=answers,
            failures=failures,
            unpacked=sum(unpacked),
            seconds=time.perf_counter() - start,
        )
