"""The page of files that were not analysed, in a real browser."""

import re
import shutil

import pytest
from playwright.sync_api import expect
from web_page import running_web


def test_by_reason(visitor):
    """Reasons are listed with their numbers and words; one of them shows its files, as its address says."""
    page = visitor.open("/refused")
    visitor.shoot("all")
    rows = page.locator("tr[data-result]").count()
    reasons = page.locator(".reasons nav li a")
    numbers = [int(text) for text in reasons.locator("> .number").all_inner_texts()]
    assert numbers[0] == sum(numbers[1:]) == rows
    page.locator('.reasons nav a[href*="reason=lateral_view"]').click()
    expect(page).to_have_url(re.compile("reason=lateral_view"))
    expect(page.locator("#listed")).to_have_text("Lateral view")
    badges = page.locator("tr[data-result] .badge").all_inner_texts()
    assert set(badges) == {"lateral view"}
    visitor.shoot("lateral")
    page.reload()
    assert page.locator("tr[data-result] .badge").all_inner_texts() == badges


def test_process_again(visit, browser_home, tmp_path):
    """Whoever may have answers given again is asked first, and is then told what came of it."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(browser_home / "results.sqlite3", home)
    with running_web(home, tmp_path / "log", XRAY_BATCH_WEB_REQUEUE_USERS="local") as web:
        visitor = visit(web.url)
        page = visitor.open("/refused?reason=lateral_view")
        page.locator(".again").first.click()
        expect(page.locator("h1")).to_contain_text("again?")
        visitor.shoot("asked")
        page.get_by_role("button", name="Process again").click()
        expect(page.locator(".report")).to_contain_text(re.compile(r"\d"))
        visitor.shoot("told")
        visitor.leave()


def test_who_may_not_requeue_has_no_button(visit, browser_home, tmp_path):
    """Others see no button, and are refused if they ask all the same."""
    with running_web(browser_home, tmp_path / "log") as web:
        visitor = visit(web.url)
        page = visitor.open("/refused")
        assert page.locator("a[href*=requeue]").count() == 0
        assert web.get("/requeue?reason=lateral_view").status == 403
        assert web.post("/requeue", reason="lateral_view").status == 403
        visitor.leave()


def test_hidden_identifiers(visitor):
    """Without identifiers the page says why, and of whom it does not."""
    page = visitor.open("/refused")
    assert "DEMO-008" in page.content()
    page.get_by_role("button", name="Hide identifiers").click()
    page.locator("[aria-pressed=true]").wait_for()
    for secret in ("DEMO-00", "A0000", "/films/", "08-lateral-view", "IMG SRC"):
        assert secret not in page.content(), secret


def test_hostile_files_are_text(visitor):
    """The reason quotes the file's header, and runs nothing of it."""
    page = visitor.open("/refused")
    assert page.locator("img, main b, iframe, main script").count() == 0
    expect(page.locator("tr[data-result]", has_text="<IMG SRC=X>").first).to_be_visible()


def test_phone(phone):
    """On a phone the page scrolls down and never sideways, and a reason has the width of its card."""
    page = phone.open("/refused")
    phone.check_width()
    phone.shoot("phone")
    reason, card = page.locator(".found").first.bounding_box(), page.locator("tr[data-result]").first.bounding_box()
    assert reason["width"] > 0.9 * card["width"]


@pytest.mark.parametrize("width", [720, 900, 1100])
def test_narrow_window(visit, width):
    """In a narrow window the list scrolls sideways in its own frame, and the page does not."""
    visitor = visit(viewport={"width": width, "height": 800})
    visitor.open("/refused")
    visitor.shoot("narrow")
    visitor.check_width()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_barriers(visit, find_barriers, theme):
    """The list, one reason of it, and the question before a file is processed again bar nobody."""
    visitor = visit(color_scheme=theme)
    for path in ("/refused", "/refused?reason=lateral_view", "/requeue?reason=lateral_view"):
        assert find_barriers(visitor.open(path)) == [], path
        visitor.shoot("page")
