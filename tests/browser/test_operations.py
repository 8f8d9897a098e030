"""The operations page in a real browser."""

import pytest
from playwright.sync_api import expect


def test_figures(visitor):
    """The account balances and says so, in words and figures; charts are drawn, and say what they show."""
    page = visitor.open("/operations")
    visitor.shoot("day")
    expect(page.locator("#account .badge")).to_have_text("balanced")
    figures = [int(text.replace(",", "")) for text in page.locator(".figures dd").all_inner_texts()]
    arrivals, results, not_analysed, duplicates, pending, lost = figures
    assert arrivals == results + not_analysed + duplicates + pending
    assert lost == 0
    charts = page.locator("svg.chart")
    assert charts.count() >= 2
    for chart in charts.all():
        assert chart.locator("title").text_content()
        assert chart.locator("rect, polyline, circle, text").count() > 3
    page.locator(".switch a", has_text="7 days").click()
    expect(page.locator(".switch a[aria-current]")).to_have_text("7 days")
    visitor.shoot("week")


def test_without_a_service(visitor):
    """Where no service runs the page says so, and shows what the database knows."""
    page = visitor.open("/operations")
    expect(page.locator("#service .badge")).to_have_text("does not run here")
    assert page.locator("a[href*='/refused?reason=lateral_view']").count() >= 1


def test_no_identifiers(visitor):
    """No patient and no file is named on the page."""
    text = visitor.open("/operations").content()
    assert not [secret for secret in ("DEMO-0", "MADE-UP", "A0000", "/films/", "hacked") if secret in text]


def test_phone(phone):
    """On a phone the page scrolls down and never sideways."""
    phone.open("/operations")
    phone.check_width()
    phone.shoot("phone")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_barriers(visit, find_barriers, theme):
    """The page, its tables unfolded, bars nobody."""
    visitor = visit(color_scheme=theme)
    page = visitor.open("/operations?range=7d")
    for summary in page.locator("summary").all():
        summary.click()
    visitor.shoot("page")
    assert find_barriers(page) == []
