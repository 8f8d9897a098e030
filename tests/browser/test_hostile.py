"""What a hostile film says of itself is shown as text, on every page and in every export."""

import csv
import io
import json

import pytest
from browser_home import HOSTILE

from xray_batch.visible import visible

#: Pages that show results; those of single results are added to them.
PAGES = (
    "/worklist",
    "/worklist?outcome=not_analysed",
    "/worklist?order=least_suspicious",
    "/worklist?identifier=%3Cscript",
)

#: Elements that no template of ours has, and attributes that run something.
INJECTED = "img[src=x], b, i, svg[onload], [onerror], [onload], [onclick], script:not([src]), iframe, object, style"


@pytest.fixture(scope="module")
def hostile_rows(web):
    """Return the answers of the hostile films."""
    rows = [json.loads(line) for line in web.get("/export.json").text.splitlines()]
    found = {row["source_name"].rpartition("/films/")[2]: row for row in rows}
    assert set(HOSTILE) <= set(found)
    return {name: found[name] for name in HOSTILE}


@pytest.mark.parametrize("path", PAGES)
def test_lists_show_text(visitor, path):
    """Nothing that a header or a file name says becomes an element, an attribute, a script or a link."""
    page = visitor.open(path)
    page.mouse.move(600, 500)
    assert page.locator(INJECTED).count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    page.wait_for_timeout(200)  # what was injected would by now have run; the fixture asks whether it has
    visitor.shoot("list")


def test_texts_are_shown_as_they_are(visitor, hostile_rows):
    """A reader sees the very characters of a header, less those that only steer; file names have them written out."""
    page = visitor.open("/worklist")
    shown = {cell.strip() for cell in page.locator(".worklist td").all_text_contents()}
    for name, attributes in HOSTILE.items():
        row = hostile_rows[name]
        for keyword, column in (("PatientID", "patient_id"), ("AccessionNumber", "accession_number")):
            if keyword in attributes:
                assert row[column] == attributes[keyword].replace("\u202e", "")  # turns the reading direction
                assert row[column] in shown, row[column]
        assert visible(name) in shown


def test_what_was_looked_for_is_shown_as_text(visitor):
    """An address that somebody was sent holds no markup either: filters come back as text, wrong ones too."""
    for attack in ("%22%3E%3Cimg%20src%3Dx%20onerror%3D%22window.hacked%3D1%22%3E", "%27%3B%3C%2Fscript%3E"):
        for name in ("identifier", "modality", "view"):
            page = visitor.open(f"/worklist?{name}={attack}")
            assert page.locator(INJECTED).count() == 0
        for name in ("min", "since", "outcome", "order", "after", "reason"):
            assert visitor.page.goto(f"/worklist?{name}={attack}").status == 400
            visitor.expect_complaint("400")
            assert visitor.page.locator(INJECTED).count() == 0
    visitor.shoot("wrong-filter")


def test_exports(web, hostile_rows):
    """In CSV no cell is a formula; in JSON and CSV the texts come back whole."""
    answer = web.get("/export.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    by_name = {row["source_name"].rpartition("/films/")[2]: row for row in rows}
    for name in HOSTILE:
        assert by_name[name]["patient_id"].lstrip("'") == hostile_rows[name]["patient_id"]
    assert web.get("/export.json").headers["x-content-type-options"] == "nosniff"
    assert "attachment" in web.get("/export.json").headers["content-disposition"]
