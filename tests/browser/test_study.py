"""The study page in a real browser: the film, what is laid over it, and the keys."""

import json
import re

import pytest
from browser_home import HOSTILE
from playwright.sync_api import expect

from xray_batch.visible import visible

#: The first heat map loads the networks; the machine may be busy.
HEAT_MILLISECONDS = 60_000

#: Colours of the film as it is on the screen: a hundred of them, in a grid.
READ_PIXELS = """() => {
    const film = document.getElementById("film");
    const pixels = film.getContext("2d").getImageData(0, 0, film.width, film.height).data;
    const at = (x, y) => [0, 1, 2].map((channel) => pixels[4 * (y * film.width + x) + channel]);
    const steps = [...Array(10).keys()].map((step) => (step + 0.5) / 10);
    return steps.flatMap((y) => steps.map((x) => at(Math.floor(x * film.width), Math.floor(y * film.height))));
}"""


@pytest.fixture
def study(visitor):
    """Open a film of the samples with pneumonia from the worklist, and wait until it is drawn."""
    page = visitor.open("/worklist?identifier=DEMO-005")
    page.locator(".open").first.click()
    page.wait_for_url(re.compile(r"/results/\d+"))
    expect(page.locator(".viewer")).to_have_attribute("data-state", "shown", timeout=HEAT_MILLISECONDS)
    yield visitor
    # What Chromium says of the pixels being read is said of this test.
    visitor.complaints = [text for text in visitor.complaints if "willReadFrequently" not in text]


def settled_pixels(page):
    """Read the film once the frame that was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(READ_PIXELS)


def drag(page, right, down):
    """Drag with the mouse from the middle of the film."""
    box = page.locator("#film").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=4)
    page.mouse.up()


def test_the_film(study):
    """A film is drawn: grays of many kinds; dragging, inverting and zooming change it, and reset brings it back."""
    page = study.page
    first = settled_pixels(page)
    study.shoot("film")
    expect(page.locator(".members")).to_contain_text("resnet34")
    assert len({tuple(pixel) for pixel in first}) > 20
    assert all(max(pixel) == min(pixel) for pixel in first)
    drag(page, 120, 60)
    windowed = settled_pixels(page)
    assert windowed != first
    study.shoot("windowed")
    page.locator("#invert").click()
    inverted = settled_pixels(page)
    changed = [(old[0], new[0]) for old, new in zip(windowed, inverted, strict=True) if old != new]
    assert len(changed) > 20
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "true")
    study.shoot("inverted")
    page.locator("#zoom-in").click()
    page.locator("#zoom-in").click()
    assert settled_pixels(page) != inverted
    study.shoot("zoomed")
    page.locator("#tool-pan").click()
    before = settled_pixels(page)
    drag(page, -80, 40)
    assert settled_pixels(page) != before
    page.locator("#reset").click()
    assert settled_pixels(page) == first


def test_the_heat_map(study):
    """The heat map is laid over the film with its caption, as strongly as the slider says, and is taken off again."""
    page = study.page
    film = settled_pixels(page)
    page.locator("#heat").click()
    expect(page.locator("#heat")).to_have_attribute("aria-pressed", "true", timeout=HEAT_MILLISECONDS)
    caption = page.locator("#heat-caption")
    expect(caption).to_have_text("Where the networks are sensitive, not where disease is")
    with_heat = settled_pixels(page)
    assert any(max(pixel) - min(pixel) > 20 for pixel in with_heat)
    study.shoot("heat")
    page.locator("#opacity").fill("100")
    opaque = settled_pixels(page)
    assert opaque != with_heat
    study.shoot("opaque")
    page.locator("#opacity").fill("0")
    assert settled_pixels(page) == film
    page.locator("#heat").click()
    expect(caption).to_be_hidden()
    assert settled_pixels(page) == film


def test_keyboard_only(study):
    """Keys do what buttons do, and lead to the neighbours and back to the list."""
    page = study.page
    first = settled_pixels(page)
    for key in ("i", "+", "ArrowLeft"):
        before = settled_pixels(page)
        page.keyboard.press(key)
        assert settled_pixels(page) != before, key
    page.keyboard.press("r")
    assert settled_pixels(page) == first
    page.keyboard.press("h")
    expect(page.locator("#heat-caption")).to_be_visible(timeout=HEAT_MILLISECONDS)
    page.keyboard.press("u")
    page.wait_for_url("**/worklist**")
    page = study.open("/worklist?outcome=not_analysed")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/results/\d+"))


def test_a_look_is_recorded(study, web):
    """That somebody was shown the film is in its history at the next look."""
    study.page.reload()
    expect(study.page.locator(".history")).to_contain_text("local")


def test_what_has_no_film(visitor):
    """Where there is no film to show, the page says why in its place, and offers no heat map."""
    page = visitor.open("/worklist?identifier=MADE-UP-001")
    page.locator(".open").first.click()
    expect(page.locator("#placeholder")).to_contain_text("No film: ")
    expect(page.locator("#heat")).to_be_disabled()
    visitor.shoot("no-film")
    visitor.complaints = [text for text in visitor.complaints if "/image" not in text]


def test_hostile_films_are_text(visitor, web):
    """Pages of hostile films show what those say as text, and run nothing of it."""
    rows = [json.loads(line) for line in web.get("/export.json").text.splitlines()]
    ids = {row["source_name"].rpartition("/films/")[2]: row["result_id"] for row in rows}
    for name, attributes in HOSTILE.items():
        page = visitor.open(f"/results/{ids[name]}")
        expect(page.locator(".viewer")).to_have_attribute("data-state", re.compile("shown|absent"))
        assert page.locator("img, main b, main i, iframe, object, main script, [onerror], [onload]").count() == 0, name
        values = page.locator("dd").all_text_contents()
        assert attributes["PatientID"].replace("\u202e", "") in values
        assert any(visible(name) in value for value in values)
    visitor.shoot("hostile")
    visitor.complaints = [text for text in visitor.complaints if "/image" not in text]


def test_phone(phone):
    """On a phone the page of a study, and the model's card, scroll down and never sideways."""
    page = phone.open("/worklist?identifier=DEMO-001")
    page.goto(page.locator(".open").first.get_attribute("href"))
    expect(page.locator(".viewer")).to_have_attribute("data-state", "shown", timeout=HEAT_MILLISECONDS)
    phone.check_width()
    phone.shoot("phone")
    phone.open(page.locator('a[href^="/models/"]').first.get_attribute("href"))
    phone.check_width()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_barriers(visit, find_barriers, theme):
    """A study with its film and heat map, a file that was not analysed, and the model's card bar nobody."""
    visitor = visit(color_scheme=theme)
    page = visitor.open("/worklist?identifier=DEMO-001")
    page.goto(page.locator(".open").first.get_attribute("href"))
    expect(page.locator(".viewer")).to_have_attribute("data-state", "shown", timeout=HEAT_MILLISECONDS)
    page.locator("#heat").click()
    expect(page.locator("#heat-caption")).to_be_visible(timeout=HEAT_MILLISECONDS)
    visitor.shoot("study")
    assert find_barriers(page) == []
    page.goto(page.locator('a[href^="/models/"]').first.get_attribute("href"))
    assert find_barriers(page) == []
    visitor.shoot("model")
    page = visitor.open("/worklist?outcome=not_analysed")
    page.goto(page.locator(".open").first.get_attribute("href"))
    expect(page.locator(".viewer")).to_have_attribute("data-state", re.compile("shown|absent"))
    visitor.shoot("not-analysed")
    assert find_barriers(page) == []
    visitor.complaints = [text for text in visitor.complaints if "/image" not in text]
