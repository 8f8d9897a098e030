"""`xray-batch results`."""

from pathlib import Path
from typing import Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, Since, Until, open_settings, open_store, parse_time
from xray_batch.cli.output import ExportFormat, write_rows
from xray_batch.records import Outcome, ResultQuery


def results(
    outcome: Annotated[Outcome | None, typer.Option(help="Only this outcome.")] = None,
    since: Since = None,
    until: Until = None,
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
        since=parse_time(since, "--since"),
        until=parse_time(until, "--until"),
        patient_id=patient,
        study_instance_uid=study,
        min_probability=min_probability,
        limit=limit,
    )
    with open_store(open_settings(home, config, database_url), create=False) as store:
        write_rows(store.results(query), form, output)
