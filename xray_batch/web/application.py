"""The pages, and what is the same for all of them."""

from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.convertors import Convertor, StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from xray_batch.errors import ConfigurationError, DatabaseUnavailableError
from xray_batch.logs import get_logger, own_frames
from xray_batch.web.access import AccessControl
from xray_batch.web.film import heat, image
from xray_batch.web.middleware import Admission, SecurityHeaders, restrain
from xray_batch.web.models import model_card
from xray_batch.web.operations import operations
from xray_batch.web.refused import refused
from xray_batch.web.requeue import requeue
from xray_batch.web.site import DEIDENTIFIED_COOKIE, THEME_COOKIE, THEMES, Site, path_here, read_form, render
from xray_batch.web.study import study
from xray_batch.web.worklist import export, worklist

_STATIC: Final = Path(__file__).with_name("static")

#: After so many seconds a page that says "down" looks again.
RETRY_SECONDS: Final = 10

#: A browser keeps its preferences for a year.
_PREFERENCE_SECONDS: Final = 365 * 24 * 3600


class _ResultId(Convertor[int]):
    """An id of at most 18 digits, which both databases know as a number; a longer one is no page."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        """Read the id."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Write the id."""
        return str(value)


class _Sha256(StringConvertor):
    """A hash as it is stored; anything else, such as what PostgreSQL has no text for, is no page."""

    regex = "[0-9a-f]{64}"


register_url_convertor("result_id", _ResultId())
register_url_convertor("sha256", _Sha256())


def make_application(site: Site, access: AccessControl) -> Starlette:
    """Return the ASGI application."""
    application = Starlette(
        routes=[
            Route("/", _start),
            Route("/worklist", worklist),
            Route("/export.{form:str}", export),
            Route("/results/{result_id:result_id}", study),
            Route("/results/{result_id:result_id}/image", image),
            Route("/results/{result_id:result_id}/heat", heat),
            Route("/models/{model_sha256:sha256}", model_card),
            Route("/refused", refused),
            Route("/requeue", requeue, methods=["GET", "POST"]),
            Route("/operations", operations),
            Route("/preferences", _set_preferences, methods=["POST"]),
            Mount("/static", _Static(directory=_STATIC)),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(Admission, access=access)],
        exception_handlers={
            HTTPException: _refuse,
            DatabaseUnavailableError: _say_down,
            ConfigurationError: _say_misconfigured,
            Exception: _say_failed,
        },
    )
    application.state.site = site
    return application


class _Static(StaticFiles):
    """Scripts and styles, which hold nothing about patients; looked after at each use, so an upgrade shows at once."""

    def file_response(self, *arguments: object, **named: object) -> Response:
        response = super().file_response(*arguments, **named)  # type: ignore[arg-type] # passed on as they come
        response.headers["Cache-Control"] = "no-cache"
        return response


def _start(request: Request) -> Response:
    return RedirectResponse("/worklist")


async def _set_preferences(request: Request) -> Response:
    """Keep how a reader wants pages to be, and go back to the one that he came from."""
    form = await read_form(request)
    back = path_here(form.get("back", ["/"])[0])
    if form.get("deidentified") == ["1"]:
        back = _without_identifier(back)
    response = RedirectResponse(back, HTTPStatus.SEE_OTHER)
    values = {THEME_COOKIE: form.get("theme", [""])[0], DEIDENTIFIED_COOKIE: form.get("deidentified", [""])[0]}
    allowed = {THEME_COOKIE: THEMES, DEIDENTIFIED_COOKIE: ("0", "1")}
    for name, value in values.items():
        if value in allowed[name]:
            # `Secure` is for whoever speaks TLS to add: the proxy, as the example for nginx does.  Not "strict":
            # whoever follows a link of another site, such as a mail on the web, wants identifiers hidden all the same.
            response.set_cookie(name, value, max_age=_PREFERENCE_SECONDS, httponly=True, samesite="lax")
    return response


def _without_identifier(address: str) -> str:
    """Return an address of ours that looks for no patient."""
    path, _, query = address.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query) if name != "identifier"]
    return f"{path}?{urlencode(kept)}" if kept else path


async def _refuse(request: Request, error: Exception) -> Response:
    """Say what is wrong with a request: no such page, a filter that is none."""
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    text = error.detail if isinstance(error, HTTPException) else ""
    answer = _problem(request, status, status.phrase, text)
    answer.headers.update(getattr(error, "headers", None) or {})  # such as `Allow`
    return answer


async def _say_down(request: Request, error: Exception) -> Response:
    """Say that the database is away, and look again; a form is not sent again by itself."""
    get_logger().warning("a page was asked for while the database is down")
    status, title = HTTPStatus.SERVICE_UNAVAILABLE, "The database cannot be reached"
    if request.method == "POST":
        text = "What you asked for was not done, or not all of it.  Ask for it again in a moment."
        return _problem(request, status, title, text)
    text = "Nothing is lost meanwhile: files wait in the inbox.  This page looks again by itself."
    return _problem(request, status, title, text, retry_seconds=RETRY_SECONDS)


async def _say_misconfigured(request: Request, error: Exception) -> Response:
    """Say what an operator has to put right."""
    return _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "This page is not set up rightly", str(error))


async def _say_failed(request: Request, error: Exception) -> Response:
    """Say that this is our fault; the log says which error and where, and nothing of what was asked for."""
    get_logger().error("a page failed", error=type(error).__name__, frames=own_frames(error))
    text = "The log of xray-batch web says where."
    answer = _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "This page failed", text)
    restrain(answer.headers)  # it is made outside of the middleware
    return answer


def _problem(
    request: Request, status: HTTPStatus, title: str, text: str, *, retry_seconds: int | None = None
) -> Response:
    headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}
    facts = {"title": title, "text": text, "retry": retry_seconds}
    return render(request, "problem.html.jinja", facts, status=status, headers=headers)
