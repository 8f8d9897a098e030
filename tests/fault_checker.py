"""The one judge of all faults: every file that was dropped is accounted for, once, byte for byte."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from fault_drops import MARKER, Burst
from installed_command import files_below

from xray_batch.records import Accounting
from xray_batch.revisions import check_database, open_database
from xray_batch.store import Store

#: What may follow what in the work on one content; its duplicates come and go meanwhile.
NEXT = {
    None: {"leased"},
    "leased": {"leased", "finished", "released", "retried", "changed"},
    "released": {"leased"},
    "retried": {"leased"},
    "changed": {"leased"},
    "finished": {"uid_conflict"},
    "uid_conflict": set(),
}


def check(burst: Burst, database_url: str, logs: Iterable[str] = ()) -> None:
    """Hold what is there against what was dropped, once the service is idle or stopped.

    Raises
    ------
    AssertionError
        If a file is lost, doubled, misfiled or changed, the database is damaged, or a patient's name is in a log.
    """
    check_database(database_url)
    _check_indexes(database_url)
    with closing(Store(open_database(database_url))) as store:
        accounting, rows = store.accounting(), list(store.results())
    assert accounting == expected(burst)
    answered = Counter((row["content_sha256"], row["model_sha256"], row["preprocess_sha256"]) for row in rows)
    assert set(answered.values()) <= {1}
    assert {row["content_sha256"]: row["outcome"] == "not_analysed" for row in rows} == {
        sha256: sha256 in burst.bad for sha256 in burst.dropped
    }
    _check_folders(burst)
    _check_rows(burst, database_url)
    for log in logs:
        assert MARKER not in log


def _check_indexes(database_url: str) -> None:
    """PostgreSQL's own check finds every row in every index, in order; that of SQLite is part of `check_database`."""
    engine = open_database(database_url)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS amcheck"))
            checked = connection.execute(
                sa.text(
                    "SELECT relname, bt_index_check(pg_class.oid, heapallindexed => true) FROM pg_class"
                    " JOIN pg_am ON pg_am.oid = relam WHERE amname = 'btree' AND relkind = 'i'"
                    " AND relnamespace = 'public'::regnamespace"
                )
            ).all()
            assert checked
    engine.dispose()


def expected(burst: Burst) -> Accounting:
    """Return the account of a burst that has come to its end."""
    total, distinct = burst.dropped.total(), len(burst.dropped)
    return Accounting(
        arrivals=total,
        results=distinct - len(burst.bad),
        rejected=len(burst.bad),
        duplicates=total - distinct,
        pending=0,
        lost=0,
    )


def _check_folders(burst: Burst) -> None:
    """Every file lies where its end says, with its bytes; nothing is left on the way."""
    assert files_below(burst.home / "inbox") == []
    assert files_below(burst.home / "spool") == []
    rejected = [path for path in files_below(burst.home / "rejected") if not path.name.endswith(".reason.json")]
    assert len(files_below(burst.home / "rejected")) == 2 * len(rejected)
    first = Counter(map(sha256_of, [*files_below(burst.home / "processed"), *rejected]))
    assert first == Counter(set(burst.dropped))
    again = Counter(map(sha256_of, files_below(burst.home / "duplicates")))
    assert first + again == burst.dropped


def _check_rows(burst: Burst, database_url: str) -> None:
    """Every arrival has a place of its own, and the audit trail tells a possible story of it and of every content."""
    engine = open_database(database_url)
    with engine.connect() as connection:
        arrivals = connection.execute(sa.text("SELECT content_sha256, filed_path FROM arrival")).all()
        events = connection.execute(
            sa.text("SELECT kind, arrival_id, content_sha256 FROM event ORDER BY event_id")
        ).all()
    engine.dispose()
    places = [path for _, path in arrivals]
    assert len(set(places)) == len(places)
    told = Counter(kind for kind, *_ in events)
    assert told["arrived"] == told["filed"] == len(arrivals)
    assert told["finished"] == len(burst.dropped)
    lives: defaultdict[str, list[str]] = defaultdict(list)
    works: defaultdict[str, list[str]] = defaultdict(list)
    for kind, arrival_id, content in events:
        lives[arrival_id].append(kind)
        if kind not in ("arrived", "filed"):
            works[content].append(kind)
    assert {(life[0], life[-1]) for life in lives.values()} == {("arrived", "filed")}
    for work in works.values():
        for before, after in zip([None, *work], work, strict=False):
            assert after in NEXT[before], work


def sha256_of(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
