"""The study page over HTTP, from the real `xray-batch web`: the film, its heat map, what is said and what is not."""

import base64
import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dicom_factory import write_dicom
from store_records import START, make_analysed, make_arrival, make_model, make_rejected, sha256_of
from web_page import running_web

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.decode import decode_file, open_source
from xray_batch.demo import sample_files
from xray_batch.heat_map import THORAX
from xray_batch.pipeline.engine import identify_model
from xray_batch.pipeline.explain import Explainer
from xray_batch.records import Outcome
from xray_batch.revisions import open_database, upgrade_database
from xray_batch.settings import Settings
from xray_batch.standardize import prepare
from xray_batch.store import Prunable, Store

HOSTILE = "</script><script>alert(1)</script>{{ 7 * 7 }}"
SECRETS = {
    "patient_id": HOSTILE,
    "accession_number": "ACC-90210",
    "study_instance_uid": "1.2.826.77001",
    "series_instance_uid": "1.2.826.77002",
    "sop_instance_uid": "1.2.826.77003",
}

#: Of a browser whose reader wants no identifiers on the screen.
HIDDEN = {"Cookie": "deidentified=1"}

BUNDLE = Bundle(PACKAGED_BUNDLES / "default")


def arrival_of(path, minute=0):
    """Return the arrival of a real file, classified where it lies."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(make_arrival(minute=minute, source_name=str(path)), content_sha256=sha256)


def answer_of(minute, **header):
    """Return an analysed answer with other facts in its header."""
    finished = make_analysed(minute=minute)
    return replace(finished, header=replace(finished.header, **header))


def file_away(store, model, home, name):
    """Have a film arrive in the inbox, be answered, and lie where the database says."""
    path = write_dicom(home / name, AccessionNumber=name)
    arrival = replace(arrival_of(path, minute=5), source_name=name)
    store.add_arrivals([arrival], model)
    (lease,) = store.lease(limit=1, lease_seconds=60)
    store.finish([(lease, make_analysed(minute=5, study_instance_uid=name, sop_instance_uid=name))], model)
    store.mark_filed({arrival.arrival_id: name})
    return arrival


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Serve a few answers of the packaged bundle, whose originals are real files, and one of an unknown bundle."""
    home = tmp_path_factory.mktemp("home")
    files = tmp_path_factory.mktemp("films-of-Zofia")
    film = shutil.copy(sample_files() / "02-cr-monochrome1-jpeg-lossless.dcm", files / "film.dcm")
    lateral = write_dicom(files / "lateral.dcm", ViewPosition="LL")
    text = files / "text.dcm"
    text.write_text("no image")
    gone, changed = (write_dicom(files / f"{name}.dcm", AccessionNumber=name) for name in ("gone", "changed"))
    url = f"sqlite:///{home / 'results.sqlite3'}"
    upgrade_database(url)
    model, other = identify_model(BUNDLE, Settings(home=home)), make_model()
    rejected = replace(make_rejected(f"It says {HOSTILE}."), classified_at=START)
    with closing(Store(open_database(url))) as store:
        store.register_model(model)
        store.register_model(other)
        secret_film = answer_of(9, **SECRETS)
        divided = replace(make_analysed(minute=8), header=replace(secret_film.header, sop_instance_uid="1.2.9"))
        divided_answer = replace(divided.answer, outcome=Outcome.INDETERMINATE, disagreement=0.9)
        answers = [
            (arrival_of(film, 9), secret_film),
            (arrival_of(lateral, 8), replace(divided, answer=divided_answer)),
            (arrival_of(text), rejected),
            (arrival_of(gone, 1), answer_of(1, study_instance_uid="1.1", sop_instance_uid="1.1.1")),
            (arrival_of(changed, 2), answer_of(2, study_instance_uid="1.2", sop_instance_uid="1.2.1")),
        ]
        store.record_in_place(answers, model)
        store.record_in_place([(arrival_of(film, 9), replace(secret_film, classified_at=START))], other)
        pruned = file_away(store, model, home, "pruned.dcm")
        file_away(store, model, home, "filed.dcm")
        facts = ("arrival_id", "source_name", "content_sha256", "received_at", "size")
        original = Prunable(**{name: getattr(pruned, name) for name in facts}, filed_path="pruned.dcm")
        assert store.begin_pruning([original])
        (home / "pruned.dcm").unlink()
        store.end_pruning([pruned.arrival_id])
        rows = list(store.results())
        names = {
            Path(str(row["source_name"])).stem: row["result_id"] for row in rows if row["model_id"] == model.model_id
        }
        (unknown,) = (row["result_id"] for row in rows if row["model_id"] == other.model_id)
    gone.unlink()
    changed.write_bytes(lateral.read_bytes())
    with running_web(home, home / "log") as page:
        for part in ("", "/image"):
            assert page.get(f"/results/{names['film']}{part}").status == 200
        yield SimpleNamespace(
            page=page,
            home=home,
            film=film,
            lateral=lateral,
            ids=names,
            unknown=unknown,
            model=model,
            other=other,
            maps=Path(f"/proc/{page.process.pid}/maps").read_text(),  # before any heat map
        )


def events(site, path):
    """Return who was shown a film, in order."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with closing(sqlite3.connect(site.home / "results.sqlite3")) as connection:
        query = "SELECT detail FROM event WHERE kind = 'viewed' AND content_sha256 = ? ORDER BY event_id"
        return [detail for (detail,) in connection.execute(query, [sha256])]


def show(site, name, part="", headers=None):
    """Ask for the page of a result, or for a part of it."""
    return site.page.get(f"/results/{site.ids[name]}{part}", headers)


def test_starts_without_torch(site):
    """Neither serving nor showing pages and films loads torch, a decoder or another's code into the page's process."""
    for library in ("libtorch", "imagecodecs"):
        assert library not in site.maps


def test_answer(site):
    """The page says what was answered and on what it rests, by the bundle's own figures."""
    page = show(site, "film").text
    assert "Pneumonia: P(pneumonia) 0.750 is at or above the high threshold, 0.750." in page
    assert "normal below 0.250</text>" in page
    assert "pneumonia from 0.750</text>" in page
    assert f'limit of <span class="number">{BUNDLE.manifest.disagreement_limit:.3f}</span>' in page
    assert (
        f'<a href="/models/{site.model.model_sha256}">{site.model.model_id}</a>, version {BUNDLE.manifest.version}'
        in page
    )
    assert "Explicit VR Little Endian" in page
    headline, _, table = page.partition("<summary>All classes</summary>")
    assert "COVID-19" not in headline
    assert "COVID-19 pneumonia" in table


def test_divided_networks(site):
    """An answer that is indeterminate because the networks differ says so, although its mean is at a threshold."""
    assert "Indeterminate: the networks differ by 0.900, more than the" in show(site, "lateral").text


def test_hostile_text_is_text(site):
    """What a header says is shown as text, and no script stands in the page but our own file."""
    page = show(site, "film").text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page
    assert page.count("<script") == 1
    assert '<script type="module" src="/static/study.js"></script>' in page
    refused = show(site, "text").text
    assert refused.count("<script") == 1
    assert "It says &lt;/script&gt;" in refused


def test_identifiers(site):
    """Everything that tells who it is stands on the page, and nothing of it where identifiers are hidden."""
    shown, hidden = show(site, "film").text, show(site, "film", headers=HIDDEN).text
    for secret in (*SECRETS.values(), "2026-02-28", "films-of-Zofia"):
        escaped = secret.replace("<", "&lt;").replace(">", "&gt;")
        assert escaped in shown
        assert escaped not in hidden
        assert secret not in hidden
    assert "It says" not in show(site, "text", headers=HIDDEN).text
    assert show(site, "text", "/image", HIDDEN).text == (
        '{"reason":"The file cannot be shown as a picture.","is_passing":false}'
    )


def test_film(site):
    """The film comes as it is rendered for the model, to be kept by nobody, once an event says who is shown it."""
    before = events(site, site.film)
    answer = show(site, "film", "/image")
    assert events(site, site.film) == [*before, "local"]
    film = decode_file(site.film).pixels
    pixels = np.frombuffer(answer.body, "<u2").reshape(int(answer.headers["x-rows"]), int(answer.headers["x-columns"]))
    assert np.array_equal(pixels, np.rint(65535 * film))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.headers["x-content"].split()) == 4
    assert 'the film was shown to <span class="note">local</span>' in show(site, "film").text


def test_pages_of_others(site):
    """A web page of somebody else cannot have its reader written down as one who was shown a film."""
    before = events(site, site.film)
    assert show(site, "film", "/image", {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert events(site, site.film) == before
    assert show(site, "film", "/image", {"Sec-Fetch-Site": "same-origin"}).status == 200


def test_nothing_is_shown_to_who_asks_for_headers_alone(site):
    """A HEAD request shows nothing, and so is no event."""
    before = events(site, site.film)
    answer = site.page.head(f"/results/{site.ids['film']}/image")
    assert (answer.status, answer.body, events(site, site.film)) == (200, b"", before)


def test_refused_film(site):
    """A film that is not analysed is shown all the same; a file that is none says why in words, without an event."""
    answer = show(site, "lateral", "/image")
    assert np.array_equal(
        np.frombuffer(answer.body, "<u2"), np.rint(65535 * open_source(site.lateral).render().pixels).ravel()
    )
    answer = show(site, "text", "/image")
    assert answer.status == 404
    assert "neither DICOM nor PNG nor JPEG" in json.loads(answer.text)["reason"]
    assert answer.text.count("neither") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "not where it was filed or classified"),
        ("changed", "has other bytes now"),
        ("pruned", "removed by `prune`"),
    ],
)
def test_no_original(name, words, site):
    """Without the original there is neither film nor heat map, and both say why."""
    film, heat = show(site, name, "/image"), show(site, name, "/heat")
    assert (film.status, heat.status) == (404, 404)
    assert words in json.loads(film.text)["reason"]
    assert json.loads(heat.text)["reason"] == "The original is not here."


def test_filed_original(site):
    """An original in the home folder is found where the database says that it was filed."""
    assert show(site, "filed", "/image").status == 200


def test_no_event_no_film(site):
    """While the database refuses to write down who is shown a film, nobody is."""
    with closing(sqlite3.connect(site.home / "results.sqlite3", isolation_level=None)) as connection:
        connection.execute(
            "CREATE TRIGGER no_views BEFORE INSERT ON event WHEN NEW.kind = 'viewed' "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        try:
            answer = show(site, "film", "/image")
        finally:
            connection.execute("DROP TRIGGER no_views")
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/json"
    assert "written down first" in json.loads(answer.text)["reason"]
    assert show(site, "film", "/image").status == 200


def test_heat_map(site):
    """The heat map is the one that `xray-batch explain` draws, with its share in the middle of the film."""
    answer = show(site, "film", "/heat")
    assert answer.status == 200
    heat = json.loads(answer.text)
    explained = Explainer(BUNDLE, Settings(home=site.home)).explain(
        prepare(decode_file(site.film), BUNDLE.manifest.input_spec)
    )
    expected = explained.explanation.heat_map
    levels = np.frombuffer(base64.b64decode(heat["levels"]), np.uint8).reshape(heat["rows"], heat["columns"])
    assert levels.shape == expected.average.shape
    assert np.abs(levels / 255 - expected.average).max() < 0.01
    assert levels.max() == 255
    assert heat["heat_in_thorax"] == pytest.approx(expected.thorax_share, abs=1e-3)
    assert heat["even_share"] == THORAX.area
    assert heat["is_trimmed"] is BUNDLE.manifest.input_spec.trim_borders
    assert heat["colors"][0] == [0, 0, 4]


def test_no_heat_map(site):
    """The button is off, with the reason, for what no network saw and for answers of a bundle that is not here."""
    assert 'data-obstacle="No network saw the film."' in show(site, "text").text
    assert show(site, "text", "/heat").status == 404
    page = site.page.get(f"/results/{site.unknown}").text
    assert f'data-obstacle="The bundle {site.other.model_id}, which gave the answer, is not installed here."' in page
    answer = site.page.get(f"/results/{site.unknown}/heat")
    assert answer.status == 404
    assert "neither the configured bundle nor installed nor packaged" in json.loads(answer.text)["reason"]
    assert 'data-obstacle=""' in show(site, "film").text


def test_history_and_other_results(site):
    """The page tells what has happened to the file, and links what else was answered of it and of its study."""
    page = show(site, "filed").text
    told = [
        page.index(words)
        for words in ("a file with these bytes arrived", "taken to be", "</time> answered", "was filed away")
    ]
    assert told == sorted(told)
    assert 'arrived <span class="note">to be answered</span>' in page
    assert "<dt>Work</dt><dd>0.50\N{NO-BREAK SPACE}s</dd>" in page
    film = show(site, "film").text
    same_study, _, same_file = film.partition("Of the same file, by other models or rules")
    assert f'<a href="/results/{site.ids["lateral"]}">' in same_study.partition("Of the same study")[2]
    assert f'<a href="/results/{site.unknown}">' in same_file
    assert "Other results" not in show(site, "filed").text


def test_model_card(site):
    """A model's page has the card of the installed bundle, else the manifest that the database has kept."""
    card = site.page.get(f"/models/{site.model.model_sha256}")
    assert card.status == 200
    assert "Not for diagnosis, triage or rule-out" in card.text
    assert "<h3>Intended use</h3>" in card.text
    assert "<code>out_of_distribution</code>" in card.text
    manifest = site.page.get(f"/models/{site.other.model_sha256}").text
    assert "{&#34;version&#34;: &#34;1.0.0&#34;}" in manifest
    assert site.page.get("/models/" + sha256_of("none")).status == 404


@pytest.mark.parametrize("part", ["", "/image", "/heat"])
def test_no_such_result(part, site):
    """An id that no result has is 404, however large."""
    assert site.page.get(f"/results/999999{part}").status == 404
    assert site.page.get(f"/results/{10**30}{part}").status == 404
    assert site.page.get(f"/results/..%2f..%2fetc%2fpasswd{part}").status == 404


def test_neighbours(site):
    """Links lead to what comes before and behind in the list that the reader comes from, and back to it."""
    page = site.page.get(f"/results/{site.ids['film']}", outcome="pneumonia", order="oldest").text
    assert 'href="/worklist?outcome=pneumonia&amp;order=oldest"' in page
    assert f'rel="prev" href="/results/{site.ids["filed"]}?outcome=pneumonia&amp;order=oldest"' in page
    assert 'rel="next"' not in page
    hidden = site.page.get(f"/results/{site.ids['film']}", HIDDEN, identifier="ACC-90210")
    assert hidden.status == 200
    assert "ACC-90210" not in hidden.text.partition("<main")[2]


def test_no_patient_in_the_log(site):
    """The log has said nothing about patients or files all the while."""
    for secret in ("Zofia", "alert(1)", "ACC-90210", "77001"):
        assert secret not in site.page.log
