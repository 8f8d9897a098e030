"""The operations page over HTTP, from the real `xray-batch web`, beside a real health endpoint and without one."""

import datetime as dt
import html
import json
import re
from contextlib import closing
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from store_records import make_analysed, make_arrival, make_model
from web_page import running_web

from xray_batch.bundle_folders import MANIFEST_NAME, PACKAGED_BUNDLES
from xray_batch.database import write_transaction
from xray_batch.errors import ReasonCode
from xray_batch.intake import Folders
from xray_batch.pipeline.service_state import write_service_state
from xray_batch.records import Outcome, Rejection
from xray_batch.revisions import open_database, upgrade_database
from xray_batch.service.health import HealthServer, Vitals
from xray_batch.store import Store

MODEL = make_model()

SECRETS = ("ZZPATIENT", "ZZFILE", "ZZREASON", "1.2.3.4.5", "A1")


def url_of(home):
    """Return the URL of the database in a home folder."""
    return f"sqlite:///{home / 'results.sqlite3'}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Home folder with three films and two refused files of the last hours, a duplicate and one that waits."""
    home = tmp_path_factory.mktemp("home")
    Folders(home).create()
    (home / "inbox" / "ZZFILE.dcm").touch()
    upgrade_database(url_of(home))
    now = dt.datetime.now(dt.UTC)
    refused = Rejection(reason_code=ReasonCode.LATERAL_VIEW, reason="ZZREASON")
    with closing(Store(open_database(url_of(home)))) as store:
        store.register_model(MODEL)
        for number in range(5):
            analysed = make_analysed(patient_id="ZZPATIENT", outcome=Outcome.NORMAL, p_normal=0.9)
            finished = replace(analysed, classified_at=now - dt.timedelta(hours=number), processing_seconds=0.25)
            if number > 2:
                finished = replace(finished, answer=refused, rendering=None)
            received = finished.classified_at - dt.timedelta(seconds=120)
            arrival = replace(make_arrival(f"{number}", source_name="ZZFILE.dcm"), received_at=received)
            store.record_in_place([(arrival, finished)], MODEL)
        store.add_arrivals([make_arrival("0"), make_arrival("waits")], MODEL)
    return home


@pytest.fixture(scope="module")
def web(home):
    """Serve it; nobody else runs yet."""
    with running_web(home, home / "log") as page:
        yield page


@pytest.fixture
def service(home):
    """Run a health endpoint, with the state file of this process, as a service would."""
    vitals = Vitals()
    vitals.metrics.files.labels("normal").inc(7)
    vitals.metrics.inbox.set(42)
    vitals.metrics.stages.labels("process").observe(0.5)
    vitals.metrics.stages.labels("process").observe(1.5)
    write_service_state(
        Folders(home).service_state,
        watch_mode="polling",
        watch_rearmed=0,
        canary_age_seconds=None,
        device="cuda:0",
        model_id="test-1.0.0",
        claiming=False,
        breaker_open=True,
    )
    with HealthServer("unix", home, vitals):
        yield vitals
    Folders(home).service_state.unlink()


def facts(text):
    """Return the terms of a page with their descriptions."""
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text)
    return {name: html.unescape(re.sub("<.*?>", "", value)) for name, value in pairs}


def test_the_account(web):
    """All six figures, and whether they balance, in words and not in colour alone."""
    text = web.get("/operations").text
    found = facts(text)
    names = ("Arrivals", "Results", "Not analysed", "Duplicates", "Pending", "Lost")
    account = re.findall(r"<dt>(\w[\w ]*)</dt><dd>([\d,]+)</dd>", text)[:6]
    assert account == list(zip(names, "732110", strict=True))
    assert '<span class="badge good">balanced</span>' in text
    assert found["Queued"] == "1"
    assert found["Files in the inbox"] == "1"
    assert found["Oldest without an answer"].endswith("days")


def test_an_account_that_does_not_balance(tmp_path):
    """It says so, in red, and what to do."""
    upgrade_database(url_of(tmp_path))
    engine = open_database(url_of(tmp_path))
    with closing(Store(engine)) as store:
        store.register_model(MODEL)
        store.record_in_place([(make_arrival(), make_analysed())], MODEL)
        with write_transaction(engine) as connection:
            connection.exec_driver_sql("UPDATE content SET state = 'queued'")
            connection.exec_driver_sql("DELETE FROM result")
            connection.exec_driver_sql("UPDATE content SET state = 'done'")
    with running_web(tmp_path, tmp_path / "log") as page:
        text = page.get("/operations").text
    assert '<span class="badge bad">not balanced</span>' in text
    assert "make a backup" in text
    assert 'class="bad"><dt>Lost</dt><dd>1</dd>' in text


def test_without_a_service(web):
    """It says that none runs and answers, in place of what only that could say."""
    text = web.get("/operations").text
    assert '<span class="badge bad">does not run here</span>' in text
    assert "No service answers where <code>health_address</code> says (unix)." in text
    assert "Device" not in facts(text)


def test_files_that_no_service_takes(tmp_path):
    """Where files wait in the inbox, or it cannot be read, and no service says more, none is not said to wait."""
    upgrade_database(url_of(tmp_path))
    with running_web(tmp_path, tmp_path / "log") as page:
        found = facts(page.get("/operations").text)
        assert (found["Files in the inbox"], found["Oldest without an answer"]) == (
            "cannot be read from here",
            "not known",
        )
        Folders(tmp_path).create()
        assert facts(page.get("/operations").text)["Oldest without an answer"] == "none waits"
        (tmp_path / "inbox" / "film.dcm").touch()
        found = facts(page.get("/operations").text)
    assert (found["Files in the inbox"], found["Oldest without an answer"]) == ("1", "not known")


def test_what_the_service_says(web, service):
    """Facts of its state file, words for what needs somebody, and its own count of the inbox."""
    text = web.get("/operations").text
    found = facts(text)
    assert '<span class="badge good">runs</span>' in text
    assert (found["Device"], found["Model"], found["Learns of files by"]) == ("cuda:0", "test-1.0.0", "polling")
    assert found["Takes files in"].startswith("no:")
    assert found["Breaker"].startswith("open:")
    assert found["Files in the inbox"] == "42"


def test_the_live_figures_are_those_of_metrics(web, service):
    """Every metric with its help text; values in their units; a histogram by its count and mean."""
    text = web.get("/operations").text
    table = text[text.index('<table class="metrics">') :]
    for family in text_string_to_metric_families(service.metrics.exposition().decode()):
        assert f"<code>{family.name}{'_total' if family.type == 'counter' else ''}</code>" in table
        assert html.escape(family.documentation, quote=False) in html.unescape(table)
    assert re.search(r"outcome normal:</span> 7</li>\s*<li class=\"note\">others 0", table)
    assert "stage process:</span> 2 times, 1.0\N{NO-BREAK SPACE}s on average" in table
    assert "mode polling" not in table  # 0


def test_charts_have_a_title_and_a_table(web):
    """Each chart says in words what it shows, and the same values are in a table for the range of the URL."""
    for chosen, hours in (("24h", 24), ("7d", 168)):
        text = web.get("/operations", range=chosen).text
        assert len(re.findall(r'<svg class="chart" .*?role="img" aria-labelledby=', text)) == 3
        assert f"5 results in {hours} hours, at most 1 in one." in text
        assert "In min, for" in text
        rows = re.findall(r'<tr><th scope="row" class="number">(.*?)</th>(.*?)</tr>', text, re.DOTALL)
        assert len(rows) == 5
        assert re.findall(r">([^<>\n]+)</td>", rows[0][1]) == [
            *"0100",
            *["0.25\N{NO-BREAK SPACE}s"] * 2,
            *["2.0\N{NO-BREAK SPACE}min"] * 2,
        ]
    assert web.get("/operations", range="1y").status == 400


def test_refusals_lead_to_their_files(web):
    """By reason, of the range and of all time."""
    text = web.get("/operations").text
    (row,) = re.findall(r'href="/refused\?reason=lateral_view">lateral view</a>.*?</tr>', text, re.DOTALL)
    assert re.findall(r'class="number">(\d+)<', row) == ["2", "2"]


def test_24_hours_are_24_hours(tmp_path):
    """A file that was refused just within a day counts among the outcomes and among the reasons of that day."""
    upgrade_database(url_of(tmp_path))
    answer = Rejection(reason_code=ReasonCode.TRUNCATED, reason="cut")
    refused_at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=23, minutes=59)
    with closing(Store(open_database(url_of(tmp_path)))) as store:
        store.register_model(MODEL)
        refused = replace(make_analysed(), answer=answer, rendering=None, classified_at=refused_at)
        store.record_in_place([(make_arrival(), refused)], MODEL)
    with running_web(tmp_path, tmp_path / "log") as page:
        text = page.get("/operations").text
    assert "<dt>Not analysed</dt><dd>1</dd></div><div><dt>Last result</dt>" in re.sub(r">\s+<", "><", text)
    (row,) = re.findall(r'href="/refused\?reason=truncated">truncated</a>.*?</tr>', text, re.DOTALL)
    assert re.findall(r'class="number">(\d+)<', row) == ["1", "1"]


def test_nothing_about_patients(web, service):
    """No identifier, file name or stored reason, whoever looks."""
    text = web.get("/operations", range="7d").text
    assert not [secret for secret in SECRETS if secret in text]


def test_drift_against_the_reference_of_the_model_that_answered_last(tmp_path):
    """Each of the last weeks with enough results has an index, by the bins in the manifest that the database keeps."""
    manifest = (PACKAGED_BUNDLES / "default" / MANIFEST_NAME).read_text(encoding="utf-8")
    model = replace(make_model(), manifest=manifest)
    edges = json.loads(manifest)["drift_reference"]["p_pneumonia"]["edges"]
    now = dt.datetime.now(dt.UTC)
    upgrade_database(url_of(tmp_path))
    films = []
    for number in range(300):
        p_normal = 1 - edges[number % 9]
        finished = replace(make_analysed(p_normal=p_normal), classified_at=now - dt.timedelta(days=7))
        films.append((make_arrival(f"{number}"), finished))
    films.append((make_arrival("now"), replace(make_analysed(), classified_at=now)))
    with closing(Store(open_database(url_of(tmp_path)))) as store:
        store.register_model(model)
        store.record_in_place(films, model)
    with running_web(tmp_path, tmp_path / "log") as page:
        text = page.get("/operations").text
    section = text[text.index('id="drift"') : text.index('id="metrics"')]
    this_week, last_week, *_ = re.findall(r'<tr><th scope="row".*?</tr>', section, re.DOTALL)
    assert re.findall(r'class="number"[^>]*>([^<]+)<', this_week)[1:] == ["1", "too few", "too few", "too few"]
    _, analysed, index, *_ = re.findall(r'class="number"[^>]*>([^<]+)<', last_week)
    assert analysed == "300" and 0 < float(index.partition(" ")[0]) < 1
    assert "held out by patient, kermany" in section
