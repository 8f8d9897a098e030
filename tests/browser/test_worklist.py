"""The worklist in a real browser."""

import datetime as dt
import re
import shutil

import pytest
from browser_home import MADE_UP, add_results
from playwright.sync_api import expect
from web_page import running_web

#: Of a browser that is told to show a page of 404 or the like.
FAILED = r"Failed to load resource"


def probabilities(visitor):
    """Return the probabilities of the rows that have one."""
    return [float(text.strip("<> ")) for text in visitor.column("P(pneumonia)") if text.strip()]


def test_outcome_tabs(visitor):
    """A tab shows results of its outcome alone, as many as it says; "All" shows all."""
    page = visitor.open("/worklist")
    visitor.shoot("all")
    outcomes = {
        "pneumonia": "Pneumonia",
        "indeterminate": "Indeterminate",
        "normal": "Normal",
        "not_analysed": "Not analysed",
    }
    numbers = {outcome: visitor.count(outcome) for outcome in outcomes}
    assert visitor.count() == sum(numbers.values())
    for outcome, words in outcomes.items():
        page.locator(f".tabs > a.{outcome}").click()
        expect(page.locator(f".tabs > a.{outcome}")).to_have_attribute("aria-current", "true")
        rows = visitor.column("Result")
        assert len(rows) == min(numbers[outcome], 50)
        assert {re.split(r"\n| result", text.strip())[0] for text in rows} == {words}
        visitor.shoot(outcome)
    page.get_by_role("link", name="All").click()
    expect(page).to_have_url(re.compile(r"/worklist$"))


def test_filter_by_text(visitor):
    """A part of a patient ID or of an accession number finds its films; the form keeps what was asked for."""
    page = visitor.open("/worklist")
    page.get_by_label("Patient ID or accession number").fill("demo-001")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".worklist tbody tr")).to_have_count(1)
    assert visitor.column("Patient ID") == ["DEMO-001"]
    expect(page.get_by_label("Patient ID or accession number")).to_have_value("demo-001")
    visitor.shoot("found")
    page.get_by_label("Patient ID or accession number").fill("nobody is called that")
    page.keyboard.press("Enter")
    expect(page.locator(".empty")).to_have_text("No results with this filter.")
    visitor.shoot("nothing")
    page.get_by_role("link", name="Clear").click()
    expect(page.locator(".worklist tbody tr")).to_have_count(50)


def test_filter_by_probability(visitor):
    """A range of probabilities leaves results within it alone, and tabs count those."""
    page = visitor.open("/worklist")
    page.get_by_label("At least").fill("0.4")
    page.get_by_label("At most").fill("0.5")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile("min=0.4"))
    found = probabilities(visitor)
    assert len(found) == visitor.count() >= MADE_UP // 10
    assert all(0.4 <= value <= 0.5 for value in found)
    visitor.shoot("range")


def test_filter_by_a_threshold(visitor):
    """A threshold, which has more than two digits, can be asked for."""
    page = visitor.open("/worklist?min=0.262")
    page.get_by_label("At most").fill("0.8635")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile(r"min=0\.262&max=0\.8635"))


def test_the_address_holds_everything(visitor, visit):
    """Reloaded, or opened by somebody else, an address shows the same filter, order and rows; back undoes a step."""
    page = visitor.open("/worklist")
    page.locator(".tabs > a.indeterminate").click()
    page.get_by_label("At least").fill("0.3")
    page.get_by_label("Reason").select_option("")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="P(pneumonia)").click()
    expect(page.locator('th[aria-sort="descending"]')).to_contain_text("P(pneumonia)")
    rows = visitor.column("Patient ID")
    page.reload()
    assert visitor.column("Patient ID") == rows
    colleague = visit()
    colleague.open(page.url)
    assert colleague.column("Patient ID") == rows
    expect(colleague.page.get_by_label("At least")).to_have_value("0.3")
    expect(colleague.page.locator(".tabs > a.indeterminate")).to_have_attribute("aria-current", "true")
    page.go_back()
    expect(page.locator("th[aria-sort]")).to_contain_text("Answered")


def test_sorting(visitor):
    """A heading sorts, and turns the order round when it is used again."""
    page = visitor.open("/worklist?min=0&max=1")
    page.get_by_role("link", name="P(pneumonia)").click()
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    assert probabilities(visitor) == sorted(probabilities(visitor), reverse=True)
    visitor.shoot("most-suspicious")
    page.get_by_role("link", name="P(pneumonia)").click()
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    assert probabilities(visitor) == sorted(probabilities(visitor))
    page.get_by_role("link", name="Answered").click()
    times = [time.get_attribute("datetime") for time in page.locator(".worklist time").all()]
    assert times == sorted(times, reverse=True)


def test_paging(visitor):
    """Page by page every result is seen once, and the way back shows the same pages."""
    page = visitor.open("/worklist")
    total = visitor.count()
    pages = [row_ids(page)]
    while page.locator("[rel=next]").count():
        first = pages[-1][0]
        page.locator("[rel=next]").click()
        expect(page.locator(f'tr[data-result="{first}"]')).to_have_count(0)
        pages.append(row_ids(page))
    visitor.shoot("last-page")
    seen = [row for one in pages for row in one]
    assert len(seen) == len(set(seen)) == total
    assert len(pages) == -(-total // 50)
    page.locator("[rel=prev]").click()
    expect(page.locator(f'tr[data-result="{pages[-2][0]}"]')).to_have_count(1)
    assert row_ids(page) == pages[-2]


def row_ids(page):
    """Return the results of the page that is shown, in their order."""
    return page.locator("tr[data-result]").evaluate_all("rows => rows.map((row) => row.dataset.result)")


def test_keyboard_only(visitor):
    """J and k go through rows and Enter opens one, n and p turn pages, / looks for a patient."""
    page = visitor.open("/worklist")
    page.route("**/results/*", lambda route: route.fulfill(body="<p>a study", content_type="text/html"))
    first, second = row_ids(page)[:2]
    focused = "document.activeElement.closest('tr')?.dataset.result"
    for key, expected in (("j", first), ("j", second), ("k", first), ("ArrowDown", second)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected, key
    visitor.shoot("second-row-focused")
    page.keyboard.press("n")
    page.wait_for_url("**/worklist?after=*")
    assert first not in row_ids(page)
    page.keyboard.press("p")
    page.wait_for_url("**/worklist")
    assert row_ids(page)[0] == first
    page.keyboard.press("/")
    expect(page.get_by_label("Patient ID or accession number")).to_be_focused()
    page.keyboard.type("jknp DEMO-002")
    expect(page.get_by_label("Patient ID or accession number")).to_have_value("jknp DEMO-002")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert page.evaluate(focused) == first
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/results/{first}")


def test_everything_is_reached_with_tab(visitor):
    """The first stop jumps to the content; every control can be reached, and where one is can be seen."""
    page = visitor.open("/worklist")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    visitor.shoot("skip")
    missed = page.evaluate("""() => [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select')]
        .filter((control) => control.tabIndex < 0).map((control) => control.outerHTML)""")
    assert missed == []
    for _ in range(8):  # up to the dates, whose parts have a look of their own
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "[document.activeElement.outerHTML, getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert focused[1] == "solid", focused


def test_theme(visit):
    """Without a choice the theme is the browser's; a choice is kept for the next page and the next visit."""
    dark, light = visit(color_scheme="dark"), visit(color_scheme="light")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    colors = [window.open("/worklist").evaluate(background) for window in (dark, light)]
    assert colors[0] != colors[1]
    light.shoot("light")
    page = dark.page
    page.get_by_role("button", name="Theme: auto").click()
    page.get_by_role("button", name="Theme: light").wait_for()
    assert page.evaluate(background) == colors[1]
    dark.open("/worklist?outcome=normal")
    assert page.evaluate(background) == colors[1]
    page.get_by_role("button", name="Theme: light").click()
    page.get_by_role("button", name="Theme: dark").wait_for()
    assert page.evaluate(background) == colors[0]
    expect(page).to_have_url(re.compile(r"/worklist\?outcome=normal$"))


def test_phone(phone):
    """On a phone a page scrolls down and never sideways, and each row says what its figures are."""
    for path in ("/worklist", "/worklist?outcome=not_analysed", "/worklist?identifier=nobody"):
        phone.open(path)
        phone.check_width()
        phone.shoot("phone")
    page = phone.open("/worklist?identifier=DEMO-001")
    heading = page.locator('td[data-label="Patient ID"]').evaluate(
        "(cell) => getComputedStyle(cell, '::before').content"
    )
    assert heading == '"Patient ID"'


def test_sorting_on_a_phone(phone):
    """On a phone, too, a reader sees by what the list can be sorted, and sorts it."""
    page = phone.open("/worklist?min=0&max=1")
    for heading in page.locator("thead a").all():
        assert heading.evaluate(
            "(link) => { const { x, y } = link.getBoundingClientRect();"
            "return link.contains(document.elementFromPoint(x + 5, y + 5)); }"
        )
    page.locator("thead").get_by_role("link", name="P(pneumonia)").tap()
    expect(page).to_have_url(re.compile("order=most_suspicious"))
    phone.shoot("sorted")
    phone.check_width()


def test_live(visit, browser_home, tmp_path):
    """A result that comes in while somebody looks appears without a reload; focus and scrolling stay where they are."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(browser_home / "results.sqlite3", home)
    with running_web(home, tmp_path / "log") as web:
        visitor = visit(web.url)
        page = visitor.open("/worklist")
        page.evaluate("window.notReloaded = true")
        page.keyboard.press("j")
        focused, before = row_ids(page)[0], visitor.count()
        later = dt.datetime.now(dt.UTC)
        add_results(f"sqlite:///{home / 'results.sqlite3'}", 1, prefix="JUST-NOW", moment=later)
        expect(page.locator('td[data-label="Patient ID"]').first).to_have_text("JUST-NOW-000", timeout=60_000)
        assert visitor.count() == before + 1
        assert page.evaluate("window.notReloaded")
        assert page.evaluate("document.activeElement.closest('tr')?.dataset.result") == focused
        visitor.shoot("just-arrived")
        page.set_viewport_size({"width": 800, "height": 600})
        page.get_by_role("link", name="Next").focus()
        table = page.locator("#results .scroll")
        table.evaluate("(box) => { box.scrollLeft = 200; }")
        top = page.evaluate("window.scrollY")
        add_results(f"sqlite:///{home / 'results.sqlite3'}", 1, prefix="AND-NOW", moment=later)
        expect(page.locator('td[data-label="Patient ID"]', has_text="AND-NOW-000")).to_have_count(1, timeout=60_000)
        expect(page.get_by_role("link", name="Next")).to_be_focused()
        assert (table.evaluate("(box) => box.scrollLeft"), page.evaluate("window.scrollY")) == (200, top)
        visitor.leave()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_barriers(visit, find_barriers, theme):
    """The worklist, an empty one, one without identifiers, and a page that says what is wrong bar nobody."""
    visitor = visit(color_scheme=theme)
    for path in ("/worklist", "/worklist?outcome=not_analysed&order=oldest", "/worklist?identifier=nobody"):
        assert find_barriers(visitor.open(path)) == [], path
    for path, status in (("/worklist?min=2", 400), ("/nothing", 404)):
        answer = visitor.page.goto(path)
        assert answer.status == status
        visitor.expect_complaint(FAILED)
        assert find_barriers(visitor.page) == [], path
        visitor.shoot("wrong")
    page = visitor.open("/worklist")
    page.get_by_role("button", name="Hide identifiers").click()
    page.locator("[aria-pressed=true]").wait_for()
    assert find_barriers(page) == []
