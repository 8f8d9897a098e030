"""The worklist: which results, in which order, a page at a time.  The URL holds all of it."""

import datetime as dt
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import IO, Final, TypeVar
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from xray_batch.errors import ReasonCode
from xray_batch.export import Row, write_csv, write_json_lines, write_parquet
from xray_batch.records import Outcome, PageKey, ResultOrder, ResultPage, ResultQuery
from xray_batch.web.site import hides_identifiers, render, site_of
from xray_batch.web.words import TERMS, known_term

T = TypeVar("T")

PAGE_ROWS: Final = 50

#: Results of a filter that are counted; the README says how many.
_COUNTED: Final = 2000

#: Columns that say who the patient is, or when he was here (PS3.15 Annex E); `reason` may quote the file's header.
IDENTIFYING: Final = frozenset(
    {
        "source_name",
        "study_instance_uid",
        "series_instance_uid",
        "sop_instance_uid",
        "patient_id",
        "accession_number",
        "study_date",
        "reason",
    }
)

#: What the page offers; any other value may be asked for in the URL.
MODALITIES: Final = ("CR", "DX", "RG")
VIEW_POSITIONS: Final = ("AP", "PA")

#: Sent by our script, which puts the answer in the place of the list that is shown.
_FRAGMENT_HEADER: Final = "x-fragment"

_EXPORTS: Final = {
    "csv": ("text/csv; charset=utf-8", write_csv),
    "json": ("application/x-ndjson", write_json_lines),
}
_PARQUET: Final = "application/vnd.apache.parquet"

_CHUNK_BYTES: Final = 1 << 16


def worklist(request: Request) -> Response:
    """Show one page of results; to our script the list alone, or 304 if that is what it has."""
    query = read_query(request)
    page = find_page(request, query, most=_COUNTED)
    link = _linker(request)
    if page.previous is None and "before" in request.query_params:
        return RedirectResponse(link())  # turned back to the first page, which shows what comes in
    listed = render(
        request,
        "results.html.jinja",
        {
            "page": page,
            "counts": page.counts,
            "selected": query.outcome,
            "order": query.order,
            "orders": ResultOrder,
            "link": link,
            "here": {name: request.query_params.get(name) for name in ("after", "before")},
            "previous": page.previous and write_key(page.previous),
            "next": page.next and write_key(page.next),
            "is_filtered": any(value for name, value in _chosen(request).items() if name != "order"),
        },
    )
    tag = f'"{hashlib.sha256(listed.body).hexdigest()[:32]}"'
    if _FRAGMENT_HEADER in request.headers:
        listed.headers["ETag"] = tag
        is_known = request.headers.get("if-none-match") == tag
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag}) if is_known else listed
    facts = {
        "list": Markup(bytes(listed.body).decode()),
        "tag": tag,
        "is_first": not {"after", "before"} & request.query_params.keys(),
        "chosen": _chosen(request),
        "zone": dt.datetime.now(dt.UTC).astimezone().tzname(),
        "reasons": ReasonCode,
        "modalities": MODALITIES,
        "views": VIEW_POSITIONS,
    }
    return render(request, "worklist.html.jinja", facts)


def find_page(request: Request, query: ResultQuery, *, most: int | None = None) -> ResultPage:
    """Return the page of a list that the address asks for; `most` is that of :meth:`xray_batch.store.Store.page`."""
    after, before = (read_key(request, name, query.order) for name in ("after", "before"))
    return site_of(request).store.page(query, PAGE_ROWS, after=after, before=before, most=most)


def export(request: Request) -> Response:
    """Send all results of a filter as CSV, JSON lines or Parquet; without identifiers to whoever is shown none."""
    form = request.path_params["form"]
    if form not in (*_EXPORTS, "parquet"):
        raise HTTPException(HTTPStatus.NOT_FOUND, "Results are exported as csv, json or parquet.")
    site, query = site_of(request), read_query(request)
    rows: Iterable[Row] = site.store.results(query)
    if hides_identifiers(request):
        rows = _without_identifiers(rows)
    if not site.exporting.acquire(blocking=False):
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "Other exports are being made. Try again in a moment.")
    try:
        file = _written(rows, form)
    finally:
        site.exporting.release()
    return StreamingResponse(
        _chunks(file),
        media_type=_PARQUET if form == "parquet" else _EXPORTS[form][0],
        headers={"Content-Disposition": f'attachment; filename="xray-batch-results.{form}"'},
    )


def _written(rows: Iterable[Row], form: str) -> IO[bytes]:
    """Write a file that has no name: an error is known before the answer begins."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
    if form == "parquet":
        write_parquet(rows, file)
    else:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        _EXPORTS[form][1](rows, text)
        text.detach()
    file.seek(0)
    return file


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _without_identifiers(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        terms = {name: known_term(name, row[name]) for name in TERMS}
        yield {name: None if name in IDENTIFYING else value for name, value in row.items()} | terms


def read_query(request: Request) -> ResultQuery:
    """Read a filter from the URL; an empty parameter does not restrict.

    Raises
    ------
    HTTPException
        400 with the name of the first parameter that is wrong, and what is accepted.
    """
    given = request.query_params
    if given.get("identifier") and hides_identifiers(request):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "Patients cannot be looked for while identifiers are hidden.")
    return ResultQuery(
        outcome=read_parameter(given, "outcome", Outcome, f"one of {', '.join(Outcome)}"),
        since=read_parameter(given, "since", _read_day, "a date such as 2026-03-31"),
        until=read_parameter(given, "until", _read_day_after, "a date such as 2026-03-31"),
        identifier=read_parameter(given, "identifier", _read_text, "text"),
        modality=read_parameter(given, "modality", _read_text, "text"),
        view_position=read_parameter(given, "view", _read_text, "text"),
        reason_code=read_parameter(given, "reason", ReasonCode, "a reason code"),
        min_probability=read_parameter(given, "min", _read_share, "a number from 0 to 1"),
        max_probability=read_parameter(given, "max", _read_share, "a number from 0 to 1"),
        order=read_parameter(given, "order", ResultOrder, f"one of {', '.join(ResultOrder)}") or ResultOrder.NEWEST,
    )


def read_parameter(given: Mapping[str, str], name: str, read: Callable[[str], T], expected: str) -> T | None:
    """Read one parameter of the URL or field of a form; None where it is absent or blank.

    Raises
    ------
    HTTPException
        400 with its name, and what is accepted.
    """
    text = given.get(name)
    if not text or not text.strip():
        return None
    try:
        return read(text)
    except (ValueError, OverflowError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"{name} is {text[:100]!r}, expected {expected}.") from None


def _read_text(text: str) -> str:
    if "\x00" in text:  # PostgreSQL has no text with it
        raise ValueError
    return text.strip()


def _read_day(text: str) -> dt.datetime:
    """Return when a day begins, in the time zone of this machine."""
    return dt.datetime.combine(dt.date.fromisoformat(text), dt.time()).astimezone()


def _read_day_after(text: str) -> dt.datetime:
    """Return when a day ends."""
    return dt.datetime.combine(dt.date.fromisoformat(text) + dt.timedelta(days=1), dt.time()).astimezone()


def _read_share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def read_key(request: Request, name: str, order: ResultOrder) -> PageKey | None:
    """Read where a page of an order begins or ends: what :func:`write_key` wrote."""

    def read(text: str) -> PageKey:
        value, _, result_id = text.rpartition("~")
        by_time = order in (ResultOrder.NEWEST, ResultOrder.OLDEST)
        return PageKey(
            value=_read_moment(value) if by_time else float(value) if value else None, result_id=read_id(result_id)
        )

    return read_parameter(request.query_params, name, read, "what a link of this page says")


def read_id(text: str) -> int:
    """Read the id of a result, of those that a database can have."""
    value = int(text)
    if not 1 <= value < 1 << 63:
        raise ValueError
    return value


def _read_moment(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(dt.UTC)


def write_key(key: PageKey) -> str:
    """Write where a page begins or ends, for a link."""
    value = key.value.isoformat() if isinstance(key.value, dt.datetime) else key.value
    return f"{'' if value is None else value}~{key.result_id}"


def _chosen(request: Request) -> Mapping[str, str]:
    """Return what the filter's fields hold."""
    names = ("outcome", "since", "until", "identifier", "modality", "view", "reason", "min", "max", "order")
    return {name: request.query_params.get(name, "") for name in names}


def _linker(request: Request) -> Callable[..., str]:
    """Return a function that writes this page's address with some parameters changed; always from the first page on."""
    kept = {name: value for name, value in _chosen(request).items() if value}

    def link(path: str = "/worklist", **changed: str | None) -> str:
        parameters = {name: value for name, value in (kept | changed).items() if value}
        return f"{path}?{urlencode(parameters)}" if parameters else path

    return link
