"""Having stored answers given again, for users who may: asked once more before, and told what became of it after."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from xray_batch.errors import DatabaseReadOnlyError, DatabaseRefusedError, ReasonCode
from xray_batch.pipeline.requeue import Requeued
from xray_batch.pipeline.requeue import requeue as queue_again
from xray_batch.store import AnswerSelection, Obstacle
from xray_batch.web.site import path_here, read_form, render, site_of, user_of
from xray_batch.web.worklist import read_id, read_parameter

#: Where a user comes from who does not say.
_START: Final = "/refused"


def _ask(request: Request) -> Response:
    """Ask whether the answers that the URL names, by `result` or `reason`, should be given again."""
    _refuse_others(request)
    selection = _read_selection(request.query_params)
    store = site_of(request).store
    found = store.select_answers(selection)
    facts = {
        "result_id": selection.result_ids and selection.result_ids[0],
        "reason": selection.reason_code,
        "count": len(found),
        "back": path_here(request.query_params.get("back", _START)),
    }
    return render(request, "requeue.html.jinja", facts)


async def requeue(request: Request) -> Response:
    """Queue the answers that a form names, and go back to the page that the user came from; without a form, ask."""
    if request.method != "POST":
        return await run_in_threadpool(_ask, request)
    _refuse_others(request)
    form = {name: values[0] for name, values in (await read_form(request)).items()}
    selection = _read_selection(form)
    site, user = site_of(request), user_of(request).name
    try:
        report = await run_in_threadpool(queue_again, site.store, site.folders, selection, user=user)
    except (DatabaseReadOnlyError, DatabaseRefusedError) as error:
        text = (
            "This page may only read the database, so it cannot have answers given again: it takes the role of the "
            "service for that.  `xray-batch requeue` does the same from a shell."
        )
        raise HTTPException(HTTPStatus.FORBIDDEN, text) from error
    return RedirectResponse(_add_report(path_here(form.get("back", _START)), report), HTTPStatus.SEE_OTHER)


def _refuse_others(request: Request) -> None:
    if not user_of(request).may_requeue:
        text = "You may not have answers given again.  `web_requeue_users` says who may."
        raise HTTPException(HTTPStatus.FORBIDDEN, text)


def _read_selection(given: Mapping[str, str]) -> AnswerSelection:
    """Read one answer by its number, or those with a reason.

    Raises
    ------
    HTTPException
        400 if neither or both are named, or one is wrong.
    """
    result_id = read_parameter(given, "result", read_id, "the number of a result")
    reason = read_parameter(given, "reason", ReasonCode, "a reason code")
    if (result_id is None) is (reason is None):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "Name either a result or a reason.")
    return AnswerSelection(result_ids=None if result_id is None else (result_id,), reason_code=reason)


def _add_report(path: str, report: Requeued) -> str:
    """Write into an address what became of the contents; what it told of earlier ones is left out."""
    obstacles = {obstacle.value: report.obstacles[obstacle] for obstacle in Obstacle}
    counts = {"queued": report.queued, **obstacles, "unknown": report.unknown}
    address = urlsplit(path)
    kept = [(name, value) for name, value in parse_qsl(address.query) if name not in counts]
    told = [(name, str(count)) for name, count in counts.items() if name == "queued" or count]
    return address._replace(query=urlencode(kept + told)).geturl()


def read_report(request: Request) -> Requeued | None:
    """Return what :func:`_add_report` wrote into the address of a page; None where nothing was queued before it."""
    given = request.query_params

    def count(name: str) -> int:
        return read_parameter(given, name, int, "a number") or 0

    if "queued" not in given:
        return None
    report = Requeued(queued=count("queued"), unknown=count("unknown"))
    report.obstacles.update({obstacle: count(obstacle) for obstacle in Obstacle})
    return report
