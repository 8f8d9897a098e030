"""`xray-batch status`."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_settings, open_store
from xray_batch.cli.output import Format


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
    with open_store(settings, create=False) as store:
        accounting, queue = store.accounting(), store.queue_status()
    oldest = queue.oldest_received_at
    facts: dict[str, object] = {
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
        **service_state(settings.home),
    }
    if form is Format.JSON:
        typer.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            typer.echo(f"{name.replace('_', ' '):24}{'-' if value is None else value}")
    if not accounting.balances:
        raise typer.Exit(1)


def service_state(home: Path) -> dict[str, object]:
    """Return what a running service says of itself; all None when none runs in `home`."""
    from xray_batch.intake import Folders

    names = ("pid", "watch_mode", "device", "model_id", "scanned_at")
    try:
        state = json.loads(Folders(home).service_state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    if not Path(f"/proc/{state.get('pid', 0)}").exists():
        state = {}
    return {f"service_{name}": state.get(name) for name in names}
