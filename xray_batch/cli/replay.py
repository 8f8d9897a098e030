"""`xray-batch replay`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch import DISCLAIMER
from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_settings, open_store
from xray_batch.cli.output import Format
from xray_batch.errors import ReasonCode
from xray_batch.export import json_line

if TYPE_CHECKING:
    from xray_batch.pipeline.replay import Answer, Replayed


def replay(
    result_id: Annotated[
        int, typer.Argument(help="Number of the row in the view `results`.", min=1, max=2**63 - 1, show_default=False)
    ],
    file: Annotated[
        Path | None, typer.Option(help="The original, where it is no longer where it was filed or classified.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="A table, or one JSON object.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Recompute one stored result from its original, and report the difference; nothing is stored.

    Exit code 0 when outcome, reason and warnings are the same and no probability differs by more than the
    stated tolerance.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)

    from xray_batch.errors import ReplayError
    from xray_batch.pipeline.replay import replay as recompute

    with open_store(settings, create=False) as store:
        stored = store.stored_result(result_id)
    if stored is None:
        message = f"there is no result {result_id}; `xray-batch results` lists those that there are"
        raise ReplayError(message)
    replayed = recompute(stored, settings, file)
    if form is Format.JSON:
        typer.echo(json_line(_facts(replayed)))
    else:
        _print(replayed)
    if not replayed.agrees:
        raise typer.Exit(1)


def _facts(replayed: "Replayed") -> dict[str, object]:
    """Return everything that is shown, as the JSON object has it; nothing of it is the patient's."""
    record = replayed.record
    return {
        "result_id": record.result_id,
        "agrees": replayed.agrees,
        "bit_equal": replayed.is_bit_equal,
        "difference": replayed.difference,
        "tolerance": replayed.tolerance,
        "model_id": record.model_id,
        "model_sha256": record.model_sha256,
        "content_sha256": record.content_sha256,
        "then": _answer_facts(replayed.then),
        "now": _answer_facts(replayed.now),
    }


def _answer_facts(answer: "Answer") -> dict[str, object]:
    computation = answer.computation
    return {
        "outcome": answer.outcome,
        "reason_code": answer.reason_code,
        **answer.values,
        **answer.recorded,
        "warnings": answer.warnings,
        "preprocess_sha256": answer.preprocess_sha256,
        "device": computation.device if computation else None,
        "precision": computation.precision if computation else None,
        "libraries": computation.libraries if computation else None,
        "batch_images": computation.batch_images if computation else None,
    }


def _print(replayed: "Replayed") -> None:
    """Print both answers side by side, and the sentence that is the result."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "then", "now", "same", caption=DISCLAIMER, caption_justify="left")
    table.columns[1].overflow = table.columns[2].overflow = "fold"
    then, now = _cells(replayed.then), _cells(replayed.now)
    for name in dict.fromkeys((*then, *now)):
        one, other = then.get(name), now.get(name)
        if one is not None or other is not None:
            same = "yes" if one == other else _difference(one, other)
            table.add_row(name, *(Text(_shown(each)) for each in (one, other)), same)
    Console().print(table)
    typer.echo(_sentence(replayed))


def _cells(answer: "Answer") -> dict[str, object]:
    """Return what is shown of an answer, with a line for each member."""
    facts = _answer_facts(answer)
    members = facts.pop("member_probabilities")
    alone = members if isinstance(members, dict) else {}
    return facts | {f"p_pneumonia, {name} alone": value for name, value in alone.items()}


def _shown(value: object) -> str:
    if value is None:
        return "not recorded"
    return f"{value:.9f}" if isinstance(value, float) else str(value)


def _difference(then: object, now: object) -> str:
    if isinstance(then, float) and isinstance(now, float):
        return f"{abs(then - now):.1e}"
    return "no"


def _sentence(replayed: "Replayed") -> str:
    """Say the result in one sentence."""
    subject = f"result {replayed.record.result_id} of {replayed.record.model_id}"
    if replayed.is_bit_equal:
        return f"{subject}: recomputed to the last bit"
    verdict = "agrees" if replayed.agrees else "DIFFERS"
    if replayed.difference is None:
        found = "there are not two probabilities to compare"
    else:
        found = f"the largest difference is {replayed.difference:.1e}, tolerated here is {replayed.tolerance:g}"
    why = "" if replayed.is_prepared_alike else "; this version prepares pictures by other rules (preprocess_sha256)"
    if ReasonCode.AGE_OUT_OF_RANGE in (replayed.then.reason_code, replayed.now.reason_code):
        why += "; whether an age is refused is the setting age_policy, which is not recorded"
    return f"{subject}: {verdict}; {found}{why}"
