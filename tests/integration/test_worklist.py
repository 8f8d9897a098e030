"""The worklist over HTTP, from the real `xray-batch web`: what is listed, linked, exported and hidden."""

import csv
import html
import io
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from store_records import START, make_analysed, make_arrival, make_model, make_rejected
from web_page import running_web

from xray_batch.records import RESULT_COLUMNS, ImageHeader, Outcome, SourceFormat
from xray_batch.revisions import open_database, upgrade_database
from xray_batch.store import Store
from xray_batch.web.worklist import IDENTIFYING, PAGE_ROWS

MODEL = make_model()
ANALYSED = 2 * PAGE_ROWS + 5

#: A patient whose identifier looks like what a spreadsheet, a template or a browser would run.
HOSTILE = "=cmd|'/c calc'!A1<script>alert(1)</script>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """Serve 105 analysed films and a refused one; the last film's identifiers are hostile."""
    home = tmp_path_factory.mktemp("home")
    url = f"sqlite:///{home / 'results.sqlite3'}"
    upgrade_database(url)
    films = []
    for number in range(ANALYSED):
        p_normal = (number + 0.5) / ANALYSED
        outcome = Outcome.PNEUMONIA if p_normal < 0.25 else Outcome.NORMAL if p_normal > 0.75 else Outcome.INDETERMINATE
        patient_id = HOSTILE if number == ANALYSED - 1 else f"P{number:04}"
        analysed = make_analysed(p_normal=p_normal, outcome=outcome, patient_id=patient_id, minute=number)
        name = "far/away/turned\u202emcd.exe" if number == 42 else f"{patient_id}.dcm"
        films.append((make_arrival(f"{number}", source_name=name), analysed))
    header = ImageHeader(source_format=SourceFormat.DICOM, modality="P0001", view_position="lateral, P0001")
    refused = replace(make_rejected("a reason that names P0001"), classified_at=START, header=header)
    films.append((make_arrival("refused"), refused))
    with closing(Store(open_database(url))) as store:
        store.register_model(MODEL)
        store.record_in_place(films, MODEL)
    with running_web(home, home / "log") as page:
        yield page


#: Of a browser whose reader wants no identifiers on the screen.
HIDDEN = {"Cookie": "deidentified=1"}


class Table(HTMLParser):
    """The cells of a page's table, and its links."""

    def __init__(self, text):
        super().__init__()
        self.rows: list[dict[str, str]] = []
        self.links: dict[str, str] = {}
        self._cell = self._link = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Begin a row, a cell, or take note of a link."""
        found = dict(attributes)
        if tag == "tr" and "data-result" in found:
            self.rows.append({"id": found["data-result"]})
        if tag in ("td", "th") and "data-label" in found:
            self._cell = found["data-label"]
            self.rows[-1][self._cell] = ""
        if tag == "a" and "rel" in found:
            self.links[found["rel"]] = found["href"]

    def handle_endtag(self, tag):
        """End a cell."""
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        """Add to the text of the cell."""
        if self._cell:
            self.rows[-1][self._cell] = (self.rows[-1][self._cell] + " " + data.strip()).strip()


def test_newest_first(web):
    """Without a filter the newest results are listed, with what tells patients apart."""
    table = Table(web.get("/worklist").text)
    assert len(table.rows) == PAGE_ROWS
    assert table.rows[1]["Patient ID"] == f"P{ANALYSED - 2:04}"
    assert table.rows[1]["Result"].startswith("Normal")
    assert (table.rows[1]["Accession"], table.rows[1]["Modality"], table.rows[1]["View"]) == ("A1", "DX", "PA")


def test_most_suspicious_first(web):
    """By probability, the highest comes first, and what was not analysed last."""
    first = Table(web.get("/worklist", order="most_suspicious").text)
    assert [row["Patient ID"] for row in first.rows[:3]] == ["P0000", "P0001", "P0002"]
    last = Table(web.get("/worklist", order="least_suspicious", outcome="not_analysed").text)
    assert len(last.rows) == 1


def test_links_lead_through_all_pages_and_back(web):
    """Next and previous keep the filter, and every result is on one page."""
    page = web.get("/worklist", modality="DX", order="oldest")
    seen = []
    while True:
        table = Table(page.text)
        seen.append([row["id"] for row in table.rows])
        if "next" not in table.links:
            break
        assert "modality=DX" in table.links["next"] and "order=oldest" in table.links["next"]
        page = web.get(table.links["next"])
    assert [len(ids) for ids in seen] == [PAGE_ROWS, PAGE_ROWS, 5]
    assert len({result for ids in seen for result in ids}) == ANALYSED
    before = Table(web.get(table.links["prev"]).text)
    assert [row["id"] for row in before.rows] == seen[1]


def test_a_study_leads_back_to_its_page(web):
    """Who opens a film of the second page goes back to that page."""
    second = web.get(Table(web.get("/worklist", modality="DX").text).links["next"]).text
    study = html.unescape(re.findall(r'class="open" href="(.*?)"', second)[7])
    back = Table(web.get(study).text).links["up"]
    assert Table(web.get(back).text).rows == Table(second).rows


def test_the_way_back_ends_at_the_first_page(web):
    """Who turns back to where a list begins gets its first page, with its filter: only that one shows what comes in."""
    first = web.get("/worklist", modality="DX", order="oldest")
    second = Table(web.get(Table(first.text).links["next"]).text)
    answer = web.get(second.links["prev"])
    assert (answer.status, answer.headers["location"]) == (307, "/worklist?modality=DX&order=oldest")


def test_file_names(web):
    """Of a file the name is listed, without its folders; what would turn the direction of writing is written out."""
    answer = web.get("/worklist", identifier="P0042")
    (row,) = Table(answer.text).rows
    assert row["File"] == r"turned\u202emcd.exe"
    assert r'title="far/away/turned\u202emcd.exe"' in answer.text and "\u202e" not in answer.text


@pytest.mark.parametrize(
    ("parameters", "patients"),
    [
        ({"identifier": " p0007 ", "min": "0", "max": "1", "reason": " "}, ["P0007"]),
        ({"min": "0.99"}, ["P0000"]),
        ({"min": "0.985", "max": "0.99", "outcome": "pneumonia"}, ["P0001"]),
        ({"min": "0.985", "max": "0.99", "outcome": "normal"}, []),
        ({"since": "2026-03-01", "until": "2026-03-01", "identifier": "P0003"}, ["P0003"]),
        ({"until": "2020-01-01"}, []),
        ({"reason": "unreadable_file"}, [""]),
        ({"modality": "MG"}, []),
    ],
)
def test_filters(web, parameters, patients):
    """Each filter of the page restricts the list."""
    assert [row["Patient ID"] for row in Table(web.get("/worklist", **parameters).text).rows] == patients


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("outcome", "ill"),
        ("since", "yesterday"),
        ("until", "9999-12-31"),
        ("min", "nan"),
        ("max", "1.5"),
        ("order", "random"),
        ("reason", "<script>"),
        ("after", "tomorrow~1"),
        ("after", "2026-03-01T00:00:00~1"),
        ("after", "2026-03-01T00:00:00+00:00~99999999999999999999"),
        ("after", "0001-01-01T00:00:00+14:00~1"),
        ("before", "~x"),
        ("identifier", "P\x00"),
    ],
)
def test_wrong_parameters(web, parameter, value):
    """A parameter that is none is refused by a page that names it, and never a server error."""
    answer = web.get("/worklist", **{parameter: value})
    assert answer.status == 400
    assert f"{parameter} is " in answer.text and "expected" in answer.text
    assert "<script>" not in re.sub(r'<script type="module"[^>]*>', "", answer.text)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/refused?order=most_suspicious&after=0.5~3", 400),
        (f"/results/{'9' * 5000}", 404),
        ("/results/999999999999999999", 404),
        ("/results/-1", 404),
    ],
)
def test_crafted_addresses(web, path, status):
    """An address that no page of ours links to is refused, and never a server error."""
    assert web.get(path).status == status


def test_a_way_back_that_is_none(web):
    """A form that names no address leads to the start."""
    assert web.post("/preferences", theme="dark", back="//[").headers["location"] == "/"


def test_counts(web):
    """The tabs say how many results there are of each outcome."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", web.get("/worklist").text))
    assert f"All {ANALYSED + 1} Pneumonia 26 Normal 26 Indeterminate 53 Not analysed 1" in text


def test_list_for_the_script(web):
    """Our script gets the list alone, and 304 while it is the same."""
    whole = web.get("/worklist")
    (tag,) = re.findall(r'data-tag="([^"]+)"', whole.text.replace("&#34;", "'"))
    part = web.get("/worklist", {"X-Fragment": "results"})
    assert part.headers["etag"].strip('"') == tag.strip("'")
    assert "<html" not in part.text and part.text in whole.text
    again = web.get("/worklist", {"X-Fragment": "results", "If-None-Match": part.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


class TestExport:
    """The current filter as a file."""

    def test_csv(self, web):
        """CSV has all columns and rows of the filter, in its order, and no cell that a spreadsheet runs."""
        answer = web.get("/export.csv", min="0.5", order="least_suspicious")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert answer.headers["content-disposition"] == 'attachment; filename="xray-batch-results.csv"'
        assert tuple(rows[0]) == RESULT_COLUMNS
        probabilities = [float(row["p_pneumonia"]) for row in rows]
        assert len(rows) == 53 and probabilities == sorted(probabilities)
        (hostile,) = csv.DictReader(io.StringIO(web.get("/export.csv", identifier="script").text))
        assert hostile["patient_id"] == f"'{HOSTILE}"

    def test_json_lines(self, web):
        """JSON lines have the columns as keys."""
        (row,) = map(json.loads, web.get("/export.json", identifier="P0005").text.splitlines())
        assert tuple(row) == RESULT_COLUMNS and row["patient_id"] == "P0005"

    def test_parquet(self, web):
        """Parquet has typed columns."""
        table = pq.read_table(io.BytesIO(web.get("/export.parquet").body))
        assert (table.num_rows, tuple(table.column_names)) == (ANALYSED + 1, RESULT_COLUMNS)

    def test_another_form(self, web):
        """There is no other form."""
        assert web.get("/export.xml").status == 404


class TestHiddenIdentifiers:
    """Pages and exports for who is shown no identifiers."""

    def test_page(self, web):
        """Neither the list nor anything else on the page says who a patient is."""
        text = web.get("/worklist", HIDDEN).text
        assert len(Table(text).rows) == PAGE_ROWS
        assert not re.search(r"P\d{4}|A1\b|2026-02-28|\.dcm|script>alert", text)

    @pytest.mark.parametrize("form", ["csv", "json"])
    def test_export(self, web, form):
        """Nor does an export; what is no identifier stays."""
        text = web.get(f"/export.{form}", HIDDEN).text
        assert not re.search(r"P\d{4}|1\.2\.3\.4|2026-02-28|\.dcm", text)
        assert "p_pneumonia" in text and text.count("\n") >= ANALYSED
        assert "DX" in text and "PA" in text

    def test_words_of_a_header(self, web):
        """Modality and view are shown where they are the standard's; what else a header says there may be a name."""
        (shown,) = Table(web.get("/worklist", outcome="not_analysed").text).rows
        assert (shown["Modality"], shown["View"]) == ("P0001", "lateral, P0001")
        (hidden,) = Table(web.get("/worklist", HIDDEN, outcome="not_analysed").text).rows
        assert (hidden["Modality"], hidden["View"]) == ("", "")
        assert "P0001" not in web.get(f"/results/{hidden['id']}", HIDDEN).text
        film = Table(web.get("/worklist", HIDDEN, outcome="normal").text).rows[0]
        assert (film["Modality"], film["View"]) == ("DX", "PA")
        assert ">DX<" in web.get(f"/results/{film['id']}", HIDDEN).text

    def test_which_columns(self):
        """What stays says nothing of patient or study; a column that is new must be put on one side or the other."""
        assert set(RESULT_COLUMNS) - IDENTIFYING == {
            *("result_id", "outcome", "reason_code", "p_pneumonia", "p_normal", "p_bacterial", "p_viral", "p_covid19"),
            *("threshold_low", "threshold_high", "disagreement", "warnings", "model_id", "model_sha256"),
            *("preprocess_sha256", "content_sha256", "format", "transfer_syntax_uid", "modality", "view_position"),
            *("received_at", "classified_at", "processing_seconds", "heat_in_thorax", "member_probabilities"),
            *("input_mean", "input_std"),
        }

    def test_on_the_way(self, web):
        """Who hides identifiers while he looks for a patient comes back to a list without that filter."""
        answer = web.post("/preferences", deidentified="1", back="/worklist?outcome=normal&identifier=P0001")
        assert (answer.status, answer.headers["location"]) == (303, "/worklist?outcome=normal")

    def test_looking_for_a_patient(self, web):
        """Who is shown no identifier cannot find out either whether a patient is there."""
        assert web.get("/worklist", HIDDEN, identifier="P0001").status == 400
        assert 'name="identifier"' not in web.get("/worklist", HIDDEN).text


def test_log_names_no_patient(web):
    """Nothing that was asked for is in the log."""
    web.get("/worklist", identifier="P0042")
    assert "P0042" not in web.log and "identifier" not in web.log


def test_days_are_those_of_the_server(tmp_path):
    """The filter says whose days it goes by: what was answered at 08:00 UTC was so a day earlier in Honolulu."""
    url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    upgrade_database(url)
    with running_web(tmp_path, tmp_path / "log", TZ="HST10") as page:
        assert "No results." in page.get("/worklist", order="oldest").text
        with closing(Store(open_database(url))) as store:
            store.register_model(MODEL)
            store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        answer = page.get("/worklist", since="2026-02-28", until="2026-02-28")
        assert len(Table(answer.text).rows) == 1 and "<legend>Answered (HST)</legend>" in answer.text
        assert "No results with this filter." in page.get("/worklist", since="2026-03-01").text


def test_a_page_that_fails(tmp_path):
    """An error of ours is a page, as restrained as any other; the log says where, and nothing of patients."""
    url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    upgrade_database(url)
    with closing(Store(open_database(url))) as store:
        store.register_model(MODEL)
        store.record_in_place([(make_arrival(), make_analysed())], MODEL)
    with closing(sqlite3.connect(tmp_path / "results.sqlite3")) as connection:
        connection.execute("UPDATE result SET classified_at = 'P0042, no time'")
        connection.commit()
    with running_web(tmp_path, tmp_path / "log") as page:
        answer = page.get("/worklist", identifier="P1")
    assert answer.status == 500 and "This page failed" in answer.text and "P0042" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert '"a page failed"' in page.log and "pages.py" in page.log
    assert "P0042" not in page.log and "P1" not in page.log and "Traceback" not in page.log
