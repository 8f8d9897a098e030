"""Whoever wants or may see no identifiers is shown none: in no page, no attribute, no export."""

import io
import json

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect
from web_page import running_web

#: What identifies the samples, the made-up rows, and the folder that films lay in.
IDENTIFIERS = (
    "DEMO-0",
    "MADE-UP",
    "made-up",
    "A0000",
    "1.2.826.0.1.3680043",
    "/films/",
    "01-dx-12-bit",
    "2026-01-0",
    "hacked",
)


@pytest.fixture(scope="module")
def closed(browser_home, tmp_path_factory):
    """Serve the home folder to users who may see no identifiers."""
    with running_web(
        browser_home, tmp_path_factory.mktemp("closed") / "log", XRAY_BATCH_WEB_DEIDENTIFIED_USERS="*"
    ) as page:
        yield page


def identifiers_in(text):
    """Return the identifiers that a text holds."""
    return [found for found in IDENTIFIERS if found in text]


def test_hidden_on_wish(visitor):
    """A button takes identifiers off the page and out of exports, until it is used again."""
    page = visitor.open("/worklist")
    assert identifiers_in(page.content())
    page.get_by_role("button", name="Hide identifiers").click()
    button = page.get_by_role("button", name="Hide identifiers")
    expect(button).to_have_attribute("aria-pressed", "true")
    for path in ("/worklist", "/worklist?outcome=not_analysed", "/worklist?order=oldest"):
        assert identifiers_in(visitor.open(path).content()) == []
    visitor.shoot("hidden")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert identifiers_in(download.value.path().read_text(encoding="utf-8")) == []
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert identifiers_in(page.content())


def test_hidden_where_a_link_of_another_site_leads(visitor):
    """Who has hidden identifiers and follows a link, such as one in a mail on the web, is shown none."""
    page = visitor.open("/worklist")
    page.get_by_role("button", name="Hide identifiers").click()
    page.locator("[aria-pressed=true]").wait_for()
    link = f'<a href="{page.url}">worklist</a>'
    page.route("http://mail.example/", lambda route: route.fulfill(body=link, content_type="text/html"))
    page.goto("http://mail.example/")
    page.get_by_role("link", name="worklist").click()
    expect(page.locator("tr[data-result]").first).to_be_visible()
    assert identifiers_in(page.content()) == []


def test_a_user_who_may_not_see_them(closed, visit):
    """Such a user has no button for it, and nothing that he asks for shows an identifier."""
    window = visit(closed.url)
    page = window.open("/worklist")
    assert page.locator("[name=deidentified], [name=identifier]").count() == 0
    assert identifiers_in(page.content()) == []
    window.shoot("may-not")
    of_a_wish = {"Cookie": "deidentified=0"}
    for form in ("csv", "json"):
        assert identifiers_in(closed.get(f"/export.{form}", headers=of_a_wish).text) == []
    table = pq.read_table(io.BytesIO(closed.get("/export.parquet", headers=of_a_wish).body))
    assert table.num_rows == len(closed.get("/export.json").text.splitlines())
    assert identifiers_in(json.dumps(table.to_pylist(), default=str)) == []
    assert closed.get("/worklist?identifier=DEMO-001", headers=of_a_wish).status == 400
