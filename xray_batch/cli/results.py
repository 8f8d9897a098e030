"""`xray-batch results`."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, open_settings, open_store
from xray_batch.cli.output import ExportFormat, write_rows
from xray_batch.records import Outcome, ResultQuery


def results(
    outcome: Annotated[Outcome | None, typer.Option(help="Only this outcome.")] = None,
    since: Annotated[str | None, typer.Option(help="Classified at or after this ISO 8601 date or time.")] = None,
    until: Annotated[str | None, typer.Option(help="Classified before this ISO 8601 date or time.")] = None,
    patient: Annotated[str | None, typer.Option(help="Patient ID.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Probability of pneumonia at least this.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    form: Annotated[ExportFormat, typer.Option("--format", help="How to write the rows.")] = ExportFormat.TABLE,
    output: Annotated[Path | None, typer.Option(help="File to write; stdout if not given.")] = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Print results, newest first."""
    query = ResultQuery(
        outcome=outcome,
        since=_parse_time(since, "--since"),
        until=_parse_time(until, "--until"),
        patient_id=patient,
        study_instance_uid=study,
        min_probability=min_probability,
        limit=limit,
    )
    with open_store(open_settings(home, config, database_url), create=False) as store:
        write_rows(store.results(query), form, output)


def _parse_time(text: str | None, option: str) -> dt.datetime | None:
    """Read an ISO 8601 date or time; without a zone it is the machine's local time."""
    if text is None:
        return None
    try:
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except ValueError as error:
        message = f"{option} is {text!r}, expected a date or time such as 2026-03-31 or 2026-03-31T08:00+01:00"
        raise typer.BadParameter(message) from error
