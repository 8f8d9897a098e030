"""Without a token nothing is served; with one, a browser shows everything."""

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Error
from starlette.routing import Mount, Route
from web_page import running_web

from xray_batch import web as package
from xray_batch.settings import Settings
from xray_batch.web.access import AccessControl
from xray_batch.web.application import make_application

TOKEN = "correct-horse-battery-staple-0123"

#: As long a name as there may be, such as an identity provider makes, and a token.
LONG = ("0123456789abcdef" * 4, "wrong-horse-battery-staple-45678")


@pytest.fixture(scope="module")
def guarded(browser_home, tmp_path_factory):
    """Serve the home folder to whoever has a token."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"alice:{TOKEN}\n{':'.join(LONG)}\n", encoding="utf-8")
    with running_web(browser_home, folder / "log", XRAY_BATCH_WEB_TOKEN_FILE=str(tokens)) as page:
        yield page


def all_addresses():
    """Return an address of every route of the application, and of every file that it comes with."""
    application = make_application(None, AccessControl(Settings()))  # nobody asks it for a page
    for route in application.routes:
        if isinstance(route, Mount):
            yield from (f"{route.path}/{file.name}" for file in (Path(package.__file__).parent / "static").iterdir())
        elif isinstance(route, Route):
            values = {name: "csv" if name == "form" else "1" for name in route.param_convertors}
            yield route.path_format.format(**values)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {base64.b64encode(f'bob:{TOKEN}'.encode()).decode()}"},
        {"X-Remote-User": "alice"},
        {"Cookie": "user=alice; theme=dark", "X-Fragment": "results"},
    ],
)
def test_nothing_is_served_without_the_token(guarded, headers):
    """Every page, script, style and form, and what is none, answers 401 and not a byte more."""
    addresses = [*all_addresses(), "/nothing", "/static/", "/static/../web.py", "//worklist", "/worklist/"]
    assert {"/", "/worklist", "/export.csv", "/preferences", "/static/style.css"} <= set(addresses)
    for address in addresses:
        for answer in (guarded.get(address, headers=headers), guarded.post(address, headers=headers, theme="dark")):
            assert (answer.status, answer.body) == (401, b""), address
            assert "location" not in answer.headers


def test_a_browser_without_the_token(guarded, visit):
    """A browser asks for name and token, and shows nothing of the page to whoever has none, or a wrong one."""
    for credentials in (None, {"username": "alice", "password": "wrong"}):
        window = visit(guarded.url, **({"http_credentials": credentials} if credentials else {}))
        with pytest.raises(Error, match=r"net::ERR_(HTTP_RESPONSE_CODE_FAILURE|INVALID_AUTH_CREDENTIALS)"):
            window.page.goto("/worklist")
        window.page.wait_for_url("chrome-error://**")  # the browser's own page
        window.page.wait_for_load_state()
        assert "xray" not in window.page.content()
        window.expect_complaint("401")


def test_a_browser_with_the_token(guarded, visit):
    """With name and token the page is there with its style and script, and greets by the name."""
    window = visit(guarded.url, http_credentials={"username": "alice", "password": TOKEN})
    page = window.open("/worklist")
    assert page.locator(".user").inner_text() == "alice"
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.className") == "open"
    window.shoot("alice")


def test_a_long_name(guarded, visit):
    """However long the name of a user, no page is wider than a phone."""
    credentials = {"username": LONG[0], "password": LONG[1]}
    window = visit(guarded.url, http_credentials=credentials, viewport={"width": 390, "height": 844})
    for path in ("/worklist", "/refused", "/operations"):
        window.open(path)
        window.check_width()
