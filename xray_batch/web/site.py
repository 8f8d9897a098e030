"""What all pages share: the database, the folders, the templates, and what a reader prefers."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from xray_batch import DISCLAIMER, __version__
from xray_batch.errors import DatabaseUnavailableError
from xray_batch.intake import Folders
from xray_batch.pipeline.heat_maps import HeatMaps
from xray_batch.pipeline.pictures import Pictures
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.settings import Settings
from xray_batch.store import Store
from xray_batch.web.access import User
from xray_batch.web.hours import KeptHours
from xray_batch.web.kept import Kept
from xray_batch.web.trends import Trends
from xray_batch.web.words import FILTERS

#: Exports that are written at a time: each may take a minute of one of the threads that all pages have.
_EXPORTS: Final = 4

#: So long a database that could not be opened is not tried again.
_DOWN_SECONDS: Final = 3.0

#: Trends are by the week, and take as long as the rest of their page.
_TRENDS_SECONDS: Final = 300.0

#: Cookies of a browser's preferences.
THEME_COOKIE: Final = "theme"
DEIDENTIFIED_COOKIE: Final = "deidentified"

#: What a theme may be; the first is the browser's own choice.
THEMES: Final = ("auto", "light", "dark")


class StoreAtLast:
    """Opens the database when it is first needed, and again until it is there: the page outlasts an outage."""

    def __init__(self, open_store: Callable[[], Store], clock: Callable[[], float] = time.monotonic) -> None:
        self._open_store = open_store
        self._clock = clock
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._down: tuple[float, str] | None = None  #: when, and why, it could not be opened

    def __call__(self) -> Store:
        """Return the store.

        Raises
        ------
        DatabaseUnavailableError
            If the database cannot be reached now, or could not a moment ago: a host that does not answer takes ten
            seconds to find out about, and not every request shall wait for that after the other.
        ConfigurationError
            If it is not at this version's revision, or not there.
        """
        with self._lock:
            if self._store is not None:
                return self._store
            if self._down is not None and self._clock() - self._down[0] < _DOWN_SECONDS:
                raise DatabaseUnavailableError(self._down[1])
            try:
                self._store = self._open_store()
            except DatabaseUnavailableError as error:
                self._down = (self._clock(), str(error))
                raise
            return self._store

    def try_now(self) -> None:
        """Find out about a wrong configuration at the start; a database that is down is waited for."""
        with suppress(DatabaseUnavailableError):
            self()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._store is not None:
                self._store.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a page works with."""

    settings: Settings
    folders: Folders
    open_store: StoreAtLast
    templates: Environment
    pictures: Pictures
    heat_maps: HeatMaps
    hours: KeptHours = field(default_factory=KeptHours)
    exporting: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_EXPORTS))
    trends: Kept[Trends | None] = field(default_factory=lambda: Kept(_TRENDS_SECONDS))

    @property
    def store(self) -> Store:
        """The database; see :meth:`StoreAtLast.__call__`."""
        return self.open_store()


@contextmanager
def open_site(settings: Settings, folders: Folders, open_store: Callable[[], Store]) -> Iterator[Site]:
    """Make what pages work with; decode workers and connections end with it.

    Raises
    ------
    ConfigurationError
        If the database is not at this version's revision, or not there; one that is down is waited for.
    """
    store = StoreAtLast(open_store)
    store.try_now()
    pictures = Pictures(WorkerLimits.from_settings(settings))
    try:
        yield Site(
            settings=settings,
            folders=folders,
            open_store=store,
            templates=make_templates(),
            pictures=pictures,
            heat_maps=HeatMaps(settings),
        )
    finally:
        pictures.close()
        store.close()


def make_templates() -> Environment:
    """Return the templates; what they are given is escaped, whoever it comes from."""
    templates = Environment(
        loader=PackageLoader("xray_batch.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= FILTERS
    return templates


def site_of(request: Request) -> Site:
    """Return what a request's page works with."""
    return cast(Site, request.app.state.site)


def user_of(request: Request) -> User:
    """Return who asks."""
    return cast(User, request.state.user)


def hides_identifiers(request: Request) -> bool:
    """Tell whether this reader is shown no identifiers: may see none, or wants none on the screen."""
    return not user_of(request).sees_identifiers or request.cookies.get(DEIDENTIFIED_COOKIE) == "1"


def theme_of(request: Request) -> str:
    """Return one of :data:`THEMES`."""
    theme = request.cookies.get(THEME_COOKIE, THEMES[0])
    return theme if theme in THEMES else THEMES[0]


def render(
    request: Request,
    template: str,
    facts: Mapping[str, object],
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Fill in a template, with `facts` and what every page has."""
    page = site_of(request).templates.get_template(template)
    text = page.render(
        **facts,
        path=request.url.path,
        query=request.url.query,
        user=user_of(request),
        deidentified=hides_identifiers(request),
        theme=theme_of(request),
        themes=THEMES,
        disclaimer=DISCLAIMER,
        version=__version__,
    )
    return HTMLResponse(text, status_code=status, headers=headers)


def path_here(address: str) -> str:
    """Return the path and query of an address, which then leads neither to another site nor to `//host`."""
    try:
        return "/" + urlsplit(address)._replace(scheme="", netloc="").geturl().lstrip("/\\")
    except ValueError:  # no address at all
        return "/"


async def read_form(request: Request) -> Mapping[str, list[str]]:
    """Return the fields of a form that our pages send."""
    return parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)
