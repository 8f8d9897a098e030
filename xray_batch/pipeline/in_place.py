"""Classify files where they lie: the one-shot batch.

Nothing of a file is recorded before its answer is, and then all of it in one transaction: after a kill
the same command does what is left.
"""

import datetime as dt
import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from xray_batch.errors import DatabaseRefusedError
from xray_batch.intake import is_ignored, printable
from xray_batch.pipeline.engine import Job, Pipeline, give_up
from xray_batch.records import Arrival, Disposition, Finished, Outcome, ResultRecord
from xray_batch.store import Store

#: Files hashed, and looked up in the database, at a time.
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAnswer:
    """What one file came to."""

    path: Path
    result: ResultRecord
    duplicate: bool  #: the same bytes were answered before; `result` is that answer


@dataclass(slots=True, kw_only=True)
class Summary:
    """How many files a run saw, and what they came to."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    duplicates: int = 0  #: of the files counted in `outcomes`
    failed: dict[Path, str] = field(default_factory=dict)  #: no outcome, through no fault of the file; why

    @property
    def files(self) -> int:
        """Every file seen."""
        return sum(self.outcomes.values()) + len(self.failed)


@dataclass(frozen=True, slots=True)
class _Work:
    """One file on its way through the pipeline."""

    path: Path
    arrival: Arrival
    shape: tuple[int, ...]  #: of the file when it was hashed


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the named files, and those below the named folders in order of name.

    In folders, hidden and temporary files are passed over, as in the inbox; links to folders are not
    followed.  What does not exist, and a folder that cannot be read, is yielded too: it must be accounted for.
    """
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for what cannot be reached
            yield from _files_below(path)
        else:
            yield path


def _files_below(top: Path) -> Iterator[Path]:
    unreadable: list[Path] = []
    for folder, subfolders, names in os.walk(top, onerror=lambda error: unreadable.append(Path(error.filename))):
        subfolders[:] = sorted(name for name in subfolders if not is_ignored(name))
        yield from (Path(folder, name) for name in sorted(names) if not is_ignored(name))
    yield from unreadable


def process_in_place(
    files: Iterable[Path],
    pipeline: Pipeline,
    store: Store,
    *,
    max_attempts: int,
    on_answers: Callable[[Sequence[FileAnswer]], None],
    on_failure: Callable[[Path, str], None],
) -> Summary:
    """Classify files and record them; they are not moved or changed.

    A file whose bytes have an answer of this model is recorded as a duplicate of it.

    Parameters
    ----------
    on_answers, on_failure
        Told about files as they are done.

    Raises
    ------
    DatabaseUnavailableError
        If the database cannot be used; run again for what is left.
    """
    run = _Run(pipeline, store, max_attempts=max_attempts, on_answers=on_answers, on_failure=on_failure)
    store.register_model(pipeline.model)
    work: Iterable[_Work] = run.new_work(files)
    attempt = 1
    while work:
        work = run.round(work, attempt)
        attempt += 1
    return run.summary


class _Run:
    """The state of one :func:`process_in_place`."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        *,
        max_attempts: int,
        on_answers: Callable[[Sequence[FileAnswer]], None],
        on_failure: Callable[[Path, str], None],
    ) -> None:
        self.summary = Summary()
        self._pipeline = pipeline
        self._store = store
        self._max_attempts = max_attempts
        self._on_answers = on_answers
        self._on_failure = on_failure

    def new_work(self, files: Iterable[Path]) -> Iterator[_Work]:
        """Hash files as they are needed; those with an answer are recorded at once and not yielded."""
        iterator = iter(files)
        while chunk := list(islice(iterator, _CHUNK)):
            work = [item for path in chunk if (item := self._open(path)) is not None]
            known = self._store.known_answers([item.arrival.content_sha256 for item in work], self._pipeline.model)
            seen = [item for item in work if item.arrival.content_sha256 in known]
            if seen:
                self._store.record_duplicates([item.arrival for item in seen])
                self._report([(item, known[item.arrival.content_sha256], True) for item in seen])
            yield from (item for item in work if item.arrival.content_sha256 not in known)

    def round(self, work: Iterable[_Work], attempt: int) -> list[_Work]:
        """Answer `work`; return what ended abnormally and is worth another attempt."""
        again: list[_Work] = []
        jobs = (Job(path=item.path, context=item) for item in work)
        with closing(self._pipeline.run(jobs)) as groups:
            for group in groups:
                finished: list[tuple[_Work, Finished]] = []
                for answered in group:
                    item, result = answered.job.context, answered.result
                    if isinstance(result, Finished):
                        finished.append((item, result))
                    elif attempt < self._max_attempts:
                        again.append(item)
                    elif result.transient:
                        self._fail(item.path, f"not done for now ({result.error})")
                    else:
                        finished.append((item, give_up(result)))
                self._record(finished)
        return again

    def _open(self, path: Path) -> _Work | None:
        try:
            arrival, shape = _hash_file(path)
        except OSError as error:
            self._fail(path, error.strerror or type(error).__name__)
            return None
        return _Work(path, arrival, shape)

    def _record(self, finished: Sequence[tuple[_Work, Finished]]) -> None:
        unchanged = []
        for item, result in finished:
            if _shape_of(item.path) == item.shape:
                unchanged.append((item, result))
            else:
                self._fail(item.path, "the file changed while it was being read")
        if not unchanged:
            return
        model = self._pipeline.model
        try:
            dispositions = self._store.record_in_place([(item.arrival, result) for item, result in unchanged], model)
        except DatabaseRefusedError:
            if len(unchanged) == 1:
                self._fail(unchanged[0][0].path, "the database refused the answer")
            else:
                for item, result in unchanged:
                    self._record([(item, result)])
            return
        answers = self._store.known_answers([item.arrival.content_sha256 for item, _ in unchanged], model)
        self._report(
            [
                (
                    item,
                    answers[item.arrival.content_sha256],
                    dispositions[item.arrival.arrival_id] is Disposition.DUPLICATE,
                )
                for item, _ in unchanged
            ]
        )

    def _report(self, answers: Sequence[tuple[_Work, ResultRecord, bool]]) -> None:
        for _, result, duplicate in answers:
            self.summary.outcomes[result.outcome] += 1
            self.summary.duplicates += duplicate
        self._on_answers(
            [FileAnswer(path=item.path, result=result, duplicate=duplicate) for item, result, duplicate in answers]
        )

    def _fail(self, path: Path, why: str) -> None:
        self.summary.failed[path] = why
        self._on_failure(path, why)


def _hash_file(path: Path) -> tuple[Arrival, tuple[int, ...]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not block
    with open(descriptor, "rb") as file:  # noqa: PTH123 - opened by descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    arrival = Arrival(
        arrival_id=uuid.uuid4(),
        source_name=printable(os.fspath(path)),
        content_sha256=digest,
        size=status.st_size,
        received_at=dt.datetime.now(dt.UTC),
    )
    return arrival, _shape(status)


def _shape_of(path: Path) -> tuple[int, ...] | None:
    try:
        return _shape(path.stat())
    except OSError:
        return None


def _shape(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
