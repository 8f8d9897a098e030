"""`xray-batch requeue`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Home, Since, Until, open_settings, open_store, parse_time
from xray_batch.cli.output import Format
from xray_batch.errors import ReasonCode
from xray_batch.records import Outcome

if TYPE_CHECKING:
    from xray_batch.pipeline.requeue import Requeued


def requeue(
    result_ids: Annotated[
        list[int] | None,
        typer.Argument(help="Numbers of rows in the view `results`.", min=1, max=2**63 - 1, show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every content, by its newest answer.")] = False,
    outcome: Annotated[Outcome | None, typer.Option(help="Only answers with this outcome.")] = None,
    reason_code: Annotated[ReasonCode | None, typer.Option(help="Only files not analysed for this reason.")] = None,
    model: Annotated[str | None, typer.Option(help="Only answers by this `model_id`.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, those answered first.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    form: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Have stored answers given again by the service, running or not, with its model and settings.

    Conditions are combined with AND; at least one is needed, or --all.  Without result ids only the newest
    answer of each content counts.  Exit code 1 when some of the selected ones cannot be queued.
    """
    conditions = (result_ids or None, outcome, reason_code, model, since, until)
    if everything is any(condition is not None for condition in conditions):
        raise typer.BadParameter("name result ids or conditions, or --all without any")
    settings = open_settings(home, config, database_url)

    from xray_batch.intake import Folders
    from xray_batch.pipeline.requeue import requeue as queue_again
    from xray_batch.store import AnswerSelection, Obstacle

    selection = AnswerSelection(
        result_ids=tuple(dict.fromkeys(result_ids)) if result_ids else None,
        since=parse_time(since, "--since"),
        until=parse_time(until, "--until"),
        outcome=outcome,
        reason_code=reason_code,
        model_id=model,
    )
    with open_store(settings, create=False) as store:
        report = queue_again(store, Folders(settings.home.absolute()), selection, limit=limit, dry_run=dry_run)
    _print(report, form, dry_run)
    if report.unknown or any(count for obstacle, count in report.obstacles.items() if obstacle != Obstacle.IN_WORK):
        raise typer.Exit(1)


def _print(report: "Requeued", form: Format, dry_run: bool) -> None:
    from xray_batch.store import Obstacle

    if form is Format.JSON:
        counts = {obstacle.value: report.obstacles[obstacle] for obstacle in Obstacle}
        typer.echo(json.dumps({"queued": report.queued, **counts, "unknown": report.unknown, "dry_run": dry_run}))
        return
    for count, text in report.in_words(dry_run=dry_run):
        typer.echo(f"{count:8}  {text}")
