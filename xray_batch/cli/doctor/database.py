"""Checks of the database."""

from typing import Final

from xray_batch.cli.doctor.check import Level
from xray_batch.settings import Settings

#: Clocks this far apart are worth a word; leases go by the database's clock alone.
_SKEW_SECONDS: Final = 2.0

#: This far apart, times in the results contradict each other.
_SKEW_SECONDS_AT_MOST: Final = 60.0


def database(settings: Settings) -> tuple[Level, str]:
    """Look whether the database is there, at the right revision, writable, and accounts for every file."""
    from contextlib import closing

    from xray_batch.database import make_engine, sqlite_path
    from xray_batch.mounts import is_network
    from xray_batch.revisions import current_revision, head_revision
    from xray_batch.store import Store

    url = settings.resolved_database_url
    path, head = sqlite_path(url), head_revision()
    if path is not None and is_network(path.absolute().parent):
        return Level.PROBLEM, "SQLite on a network file system is refused: use a local disk, or PostgreSQL"
    found = current_revision(url)
    if path is not None and (found is None or found < head):
        state = "there is no SQLite database yet" if found is None else f"SQLite is at revision {found}"
        return Level.NOTE, f"{state}: the next start of the service brings it to revision {head}"
    if found != head:
        cure = "run `xray-batch db upgrade`" if (found or "") < head else "run the version that upgraded it"
        return Level.PROBLEM, f"at revision {found or 'none'}, this version works with {head}: {cure}"
    with closing(Store(make_engine(url))) as store:
        engine, (accounting, tallied) = store.describe_engine(), store.recount()
        store.check_writable()
    if not accounting.balances:
        return Level.PROBLEM, f"the account does not balance: {accounting.lost} of {accounting.arrivals} files lost"
    if wrong := tallied.differs_by(accounting):
        return Level.PROBLEM, f"the tally that `status` reads is wrong by {wrong}: it was not restored with its rows"
    name = f"{engine.name} {engine.version}" + (f", journal {engine.journal_mode}" if engine.journal_mode else "")
    return Level.OK, f"{name}, revision {head}, writable; {accounting.arrivals} arrivals, all accounted for"


def clock(settings: Settings) -> tuple[Level, str]:
    """Compare the database's clock with this machine's."""
    import datetime as dt
    from contextlib import closing

    from xray_batch.database import make_engine, sqlite_path
    from xray_batch.store import Store

    url = settings.resolved_database_url
    if sqlite_path(url) is not None:
        return Level.OK, "SQLite goes by this machine's clock"
    with closing(Store(make_engine(url))) as store:
        store.now()  # connects, which takes its time
        before = dt.datetime.now(dt.UTC)
        there = store.now()
        here = before + (dt.datetime.now(dt.UTC) - before) / 2
    skew = abs((there - here).total_seconds())
    level = Level.OK if skew < _SKEW_SECONDS else Level.NOTE if skew < _SKEW_SECONDS_AT_MOST else Level.PROBLEM
    return level, f"the database's clock and this machine's are {skew:.1f} s apart"
