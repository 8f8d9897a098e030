"""Files that were not analysed, by reason."""

from collections.abc import Callable
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from xray_batch.errors import ReasonCode
from xray_batch.records import Outcome, ResultQuery
from xray_batch.web.requeue import read_report
from xray_batch.web.site import render, site_of
from xray_batch.web.worklist import find_page, read_parameter, write_key


def refused(request: Request) -> Response:
    """Show how many files were refused for which reason, and one page of those of a reason, or of all."""
    store = site_of(request).store
    reason = read_parameter(request.query_params, "reason", ReasonCode, "a reason code")
    query = ResultQuery(outcome=Outcome.NOT_ANALYSED, reason_code=reason)
    page = find_page(request, query)
    facts = {
        "reason": reason,
        "counts": store.count_reasons(),
        "known_reasons": frozenset(ReasonCode),
        "page": page,
        "previous": page.previous and write_key(page.previous),
        "next": page.next and write_key(page.next),
        "link": _linker(reason),
        "list": urlencode({"outcome": query.outcome} | ({"reason": reason} if reason else {})),
        "report": read_report(request),
    }
    return render(request, "refused.html.jinja", facts)


def _linker(reason: ReasonCode | None) -> Callable[..., str]:
    """Return a function that writes this page's address: what else the address has, such as a report, is left out."""

    def link(**changed: str | None) -> str:
        parameters = {name: value for name, value in ({"reason": reason} | changed).items() if value}
        return f"/refused?{urlencode(parameters)}" if parameters else "/refused"

    return link
