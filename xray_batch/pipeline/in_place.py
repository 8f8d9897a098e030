"""Classify files where they lie: the one-shot batch.

Nothing of a file is recorded before its answer is, and then all of it in one transaction: after a kill
the same command does what is left.  A run that is repeated under its own id, whoever repeats it, records nothing twice:
an arrival's id is made of the run's, the file's place among its files, and its bytes.

A zip archive is unpacked, where that is wanted, to a folder that goes with the last of its members.  It is
unpacked each time, whether or not it has an answer: after a kill its members may not have theirs.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from weakref import WeakSet

from xray_batch.decode import is_zip
from xray_batch.errors import DatabaseRefusedError
from xray_batch.intake import UnpackFolder
from xray_batch.pipeline.engine import ARCHIVE_SECONDS, TICK_SECONDS, Failure, Job, Pipeline, give_up, not_analysed
from xray_batch.pipeline.hashing import Hashed, Hashers, hash_file, shape_of
from xray_batch.pipeline.unpack import UnpackEnd, Unpacking
from xray_batch.records import Arrival, Disposition, Finished, Outcome, ResultRecord
from xray_batch.store import Store

_CHANGED: Final = "the file changed while it was being read"

#: Files looked up in the database at a time: few at first, for the workers wait for them, then twice as many each time.
_CHUNK: Final = 64
_FIRST_CHUNK: Final = 4

#: Files that the threads that hash are ahead of the look-up.
_HASHED_AHEAD: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAnswer:
    """What one file came to."""

    path: Path  #: of a member of an archive: that of the archive, and the member's
    result: ResultRecord
    duplicate: bool  #: the same bytes were answered before; `result` is that answer


@dataclass(slots=True, kw_only=True)
class Summary:
    """How many files a run saw, and what they came to."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    duplicates: int = 0  #: of the files counted in `outcomes`
    failed: int = 0  #: files without an outcome, through no fault of theirs

    @property
    def files(self) -> int:
        """Every file seen."""
        return sum(self.outcomes.values()) + self.failed

    def add(self, other: "Summary") -> None:
        """Take in what another part of the run saw."""
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        self.duplicates += other.duplicates
        self.failed += other.failed


@dataclass(frozen=True, slots=True)
class _Work:
    """One file on its way through the pipeline."""

    name: Path  #: as people know it
    path: Path  #: where it is
    arrival: Arrival
    shape: tuple[int, ...]  #: of the file when it was hashed
    finished: Finished | None = None  #: for an archive: known without a decoder
    folder: UnpackFolder | None = None  #: of a member of an archive; kept from being removed


def process_in_place(
    files: Iterable[Path],
    pipeline: Pipeline,
    store: Store,
    *,
    max_attempts: int,
    on_answers: Callable[[Sequence[FileAnswer]], None],
    on_failure: Callable[[Path, str], None],
    unpack_in: Path | None = None,
    on_unpacked: Callable[[int], None] | None = None,
    run_id: uuid.UUID | None = None,
    root: Path = Path(),
) -> Summary:
    """Classify files and record them; they are not moved or changed.

    A file whose bytes have an answer of this model is recorded as a duplicate of it.

    Parameters
    ----------
    files
        Recorded under these names.
    on_answers, on_failure
        Told about files as they are done.
    unpack_in
        Folder in which zip archives are unpacked; None has them refused.
    on_unpacked
        Told how many more files there are.
    run_id
        The same for the same files in the same order, where a run is repeated that may have been broken off; a new
        one if None.
    root
        Folder that names which are no absolute paths are relative to; the working folder by default.

    Raises
    ------
    DatabaseUnavailableError
        If the database cannot be used; run again for what is left.
    """
    run = _Run(pipeline, store, max_attempts=max_attempts, on_answers=on_answers, on_failure=on_failure)
    with closing(run), closing(run.open(files, root, run_id or uuid.uuid4())) as opened:
        items = opened if unpack_in is None else run.unpacked(opened, unpack_in, on_unpacked)
        store.check_writable()  # before all the work
        work: Iterable[_Work] = run.new_work(items)
        attempt = 1
        while work:
            work = run.round(work, attempt)
            attempt += 1
        run.record_archives()
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
        self._is_registered = False  #: the model, in the database
        self._archives: list[tuple[_Work, Finished]] = []  #: to be recorded
        self._unpacked: WeakSet[UnpackFolder] = WeakSet()

    def close(self) -> None:
        """Remove the members of archives that something still holds."""
        for folder in self._unpacked:
            folder.remove()

    def open(self, files: Iterable[Path], root: Path, run_id: uuid.UUID) -> Generator[_Work]:
        """Hash files some way ahead, in threads; those that cannot be read have failed and are not yielded."""
        ahead: deque[tuple[Path, Path, Future[Hashed]]] = deque()
        hashers = Hashers()
        try:
            for number, name in enumerate(files):
                path = root / name
                ahead.append((name, path, hashers.submit(name, path, run_id, str(number))))
                while len(ahead) > _HASHED_AHEAD or (ahead and ahead[0][2].done()):
                    name, path, hashed = ahead.popleft()
                    yield from self._opened(name, path, hashed.result)
            for name, path, hashed in ahead:
                yield from self._opened(name, path, hashed.result)
        finally:
            hashers.close()

    def _opened(self, name: Path, path: Path, hashed: Callable[[], Hashed]) -> Iterator[_Work]:
        try:
            arrival, shape = hashed()
        except OSError as error:
            self._fail(name, error.strerror or type(error).__name__)
        except ValueError:  # Python does not even ask the system
            self._fail(name, "no file has such a name: there is a NUL byte in it")
        else:
            yield _Work(name, path, arrival, shape)

    def unpacked(
        self, items: Iterable[_Work], spool: Path, on_unpacked: Callable[[int], None] | None
    ) -> Iterator[_Work]:
        """Let the members of each zip archive follow it; only the archive itself has an answer already."""
        for item in items:
            if not is_zip(item.path):
                yield item
                continue
            end = self._unpack(item.path, spool)
            if end.rejection is not None:
                yield replace(item, finished=not_analysed(end.rejection, end.seconds))
            elif end.transient:
                self._fail(item.name, f"not unpacked for now ({end.failure})")
            else:
                yield replace(item, finished=give_up(Failure(error=end.failure or "unknown", transient=False)))
            if end.unpacked is None:
                continue
            self._unpacked.add(end.unpacked.folder)
            if on_unpacked is not None:
                on_unpacked(len(end.unpacked.files))
            for path in end.unpacked.files:
                name, family = item.name / path.name, item.arrival.arrival_id
                for member in self._opened(name, path, partial(hash_file, name, path, family, path.name)):
                    yield replace(member, folder=end.unpacked.folder)

    def _unpack(self, archive: Path, spool: Path) -> UnpackEnd:
        """Unpack an archive, several times if that ends abnormally."""
        end = Unpacking(archive, spool).run()
        for _ in range(1, self._max_attempts):
            if end.failure is None:
                break
            end = Unpacking(archive, spool).run()
        return end

    def new_work(self, items: Iterable[_Work]) -> Iterator[_Work]:
        """Yield what has no answer; what has one in the database is recorded at once."""
        iterator, size = iter(items), _FIRST_CHUNK
        while chunk := _take(iterator, size):
            size = min(2 * size, _CHUNK)
            known = self._store.known_answers([item.arrival.content_sha256 for item in chunk], self._pipeline.model)
            seen = [item for item in chunk if item.arrival.content_sha256 in known]
            if seen:
                self._report(seen, known, self._store.record_duplicates([item.arrival for item in seen]))
            new = [item for item in chunk if item.arrival.content_sha256 not in known]
            self._archives += [(item, item.finished) for item in new if item.finished is not None]
            yield from (item for item in new if item.finished is None)

    def record_archives(self) -> None:
        """Record archives with the next films, or at the end: of a damaged bundle, which is found out by then, none."""
        archives, self._archives = self._archives, []
        self._record(archives)

    def round(self, work: Iterable[_Work], attempt: int) -> list[_Work]:
        """Answer `work`; return what ended abnormally and is worth another attempt."""
        again: list[_Work] = []
        jobs = (Job(path=item.path, context=item) for item in work)
        with closing(self._pipeline.run(jobs, wait_seconds=ARCHIVE_SECONDS)) as groups:
            for group in groups:
                self.record_archives()
                finished: list[tuple[_Work, Finished]] = []
                for answered in group:
                    item, result = answered.job.context, answered.result
                    if answered.content_sha256 not in (None, item.arrival.content_sha256):
                        self._fail(item.name, _CHANGED)
                    elif isinstance(result, Finished):
                        finished.append((item, result))
                    elif attempt < self._max_attempts:
                        again.append(item)
                    elif result.transient:
                        self._fail(item.name, f"not done for now ({result.error})")
                    else:
                        finished.append((item, give_up(result)))
                self._record(finished)
        return again

    def _record(self, finished: Sequence[tuple[_Work, Finished]]) -> None:
        unchanged = []
        for item, result in finished:
            if shape_of(item.path) == item.shape:
                unchanged.append((item, result))
            else:
                self._fail(item.name, _CHANGED)
        if not unchanged:
            return
        model = self._pipeline.model
        if not self._is_registered:
            self._store.register_model(model)
            self._is_registered = True
        try:
            dispositions = self._store.record_in_place([(item.arrival, result) for item, result in unchanged], model)
        except DatabaseRefusedError:
            if len(unchanged) == 1:
                self._fail(unchanged[0][0].name, "the database refused the answer")
            else:
                for item, result in unchanged:
                    self._record([(item, result)])
            return
        answers = self._store.known_answers([item.arrival.content_sha256 for item, _ in unchanged], model)
        self._report([item for item, _ in unchanged], answers, dispositions)

    def _report(
        self,
        items: Sequence[_Work],
        answers: Mapping[str, ResultRecord],
        dispositions: Mapping[uuid.UUID, Disposition],
    ) -> None:
        reported = [
            FileAnswer(
                path=item.name,
                result=answers[item.arrival.content_sha256],
                duplicate=dispositions[item.arrival.arrival_id] is Disposition.DUPLICATE,
            )
            for item in items
        ]
        for answer in reported:
            self.summary.outcomes[answer.result.outcome] += 1
            self.summary.duplicates += answer.duplicate
        self._on_answers(reported)

    def _fail(self, path: Path, why: str) -> None:
        self.summary.failed += 1
        self._on_failure(path, why)


def _take(items: Iterator[_Work], most: int) -> list[_Work]:
    """Take the next few; where they come slowly, those of a second: somebody waits for them."""
    taken: list[_Work] = []
    until = time.monotonic() + TICK_SECONDS
    for item in islice(items, most):
        taken.append(item)
        if time.monotonic() > until:
            break
    return taken
