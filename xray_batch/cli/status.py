"""`xray-batch status`."""

import datetime as dt
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_settings, open_store
from xray_batch.cli.output import Format

if TYPE_CHECKING:
    from xray_batch.intake import Folders
    from xray_batch.store import Store

_RECENT: Final = dt.timedelta(hours=24)


def status(
    form: Annotated[Format, typer.Option("--format", help="How to write the facts.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Account for every file, and say how the service is.

    Exit code 1 when the account does not balance: arrivals = results + rejected + duplicates + pending.
    """
    settings = open_settings(home, config, database_url)

    from xray_batch.intake import Folders

    folders = Folders(settings.home.absolute())
    with open_store(settings, create=False) as store:
        facts = {**_account(store), **_waiting(folders), **_answers(store), **_database(store)}
    facts |= {"disk_free_bytes": _disk_free(settings.home), **_service(folders)}
    if form is Format.JSON:
        typer.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            if value is None and name.startswith("service_"):  # nobody to say it
                continue
            typer.echo(f"{name.replace('_', ' '):30}{_plain(value)}")
    if not facts["balances"]:
        raise typer.Exit(1)


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else value


def _account(store: "Store") -> dict[str, object]:
    """Return where every arrival is, and how much work waits in the database."""
    accounting, queue = store.accounting(), store.queue_status()
    oldest = queue.oldest_received_at
    return {
        "arrivals": accounting.arrivals,
        "results": accounting.results,
        "rejected": accounting.rejected,
        "duplicates": accounting.duplicates,
        "pending": accounting.pending,
        "lost": accounting.lost,
        "balances": accounting.balances,
        "queued": queue.queued,
        "leased": queue.leased,
        "oldest_pending_seconds": (dt.datetime.now(dt.UTC) - oldest).total_seconds() if oldest else None,
    }


def _waiting(folders: "Folders") -> dict[str, object]:
    """Count the files that are not done; None where a folder cannot be read."""
    from xray_batch.pipeline.waiting import count_waiting

    waiting = count_waiting(folders)
    return {"inbox_files": waiting.inbox, "inbox_left_alone": waiting.left_alone, "spool_files": waiting.spool}


def _disk_free(home: Path) -> int | None:
    """Return the room on the disk of the home folder; None where there is no such folder, as beside a PostgreSQL."""
    with suppress(OSError):
        return shutil.disk_usage(home).free
    return None


def _answers(store: "Store") -> dict[str, object]:
    """Count the results of the last day, and say when the last of all was given."""
    recent = store.recent_results(dt.datetime.now(dt.UTC) - _RECENT)
    counts = {f"{outcome}_24h": count for outcome, count in recent.outcomes.items()}
    return {"last_result_at": recent.last_at.isoformat(timespec="seconds") if recent.last_at else None, **counts}


def _database(store: "Store") -> dict[str, object]:
    engine = store.describe_engine()
    return {"database": f"{engine.name} {engine.version}", "database_revision": engine.revision}


def _service(folders: "Folders") -> dict[str, object]:
    """Return what a running service says of itself; all None when none runs in the home folder."""
    from xray_batch.pipeline.service_state import SERVICE_FACTS, read_service_state

    state = read_service_state(folders)
    said = {f"service_{name}": (state or {}).get(name) for name in SERVICE_FACTS}
    return {"service_running": state is not None, **said}
