"""The page of refused files, and having them processed again, from the real `xray-batch web`."""

import html
import re
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from store_records import make_analysed, make_arrival, make_model
from web_page import running_web

from xray_batch.database import make_engine
from xray_batch.errors import ReasonCode
from xray_batch.records import Rejection
from xray_batch.revisions import open_database, upgrade_database
from xray_batch.store import Store
from xray_batch.web.worklist import PAGE_ROWS

MODEL = make_model()

#: What a sender may write into a header, quoted by the stored reason.
HOSTILE = "Modality is '<script>alert(1)</script>' of ZZCANARY"

TOKENS = {name: f"{name}-{'0123456789abcdef' * 2}" for name in ("alice", "bob", "carol")}


def as_user(name):
    """Return the headers of a user: alice may requeue, bob may look, carol sees no identifiers."""
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def refusal(code, reason):
    """Return the answer of a refused film with an identity."""
    answer = Rejection(reason_code=code, reason=reason)
    return replace(make_analysed(patient_id="ZZPATIENT"), answer=answer, rendering=None)


def fill(url, home, refusals):
    """Let files be refused and filed; their originals lie in rejected/, but for those that are to be missing."""
    (home / "rejected").mkdir(exist_ok=True)
    with closing(Store(open_database(url))) as store:
        store.register_model(MODEL)
        for number, (code, reason, has_original) in enumerate(refusals):
            store.add_arrivals([make_arrival(f"{number}", source_name=f"ZZFILE{number}.dcm")], MODEL)
            (lease,) = store.lease(limit=1, lease_seconds=60)
            store.finish([(lease, refusal(code, reason))], MODEL)
            name = f"rejected/ZZFILE{number}.dcm"
            store.mark_filed({lease.held_by: name})
            if has_original:
                (home / name).write_text(f"{number}")


@contextmanager
def serving(home, url, **variables):
    """Serve a home folder to three users."""
    tokens = home / "tokens"
    tokens.write_text("".join(f"{name}:{token}\n" for name, token in TOKENS.items()))
    tokens.chmod(0o600)
    variables |= {
        "XRAY_BATCH_DATABASE_URL": url,
        "XRAY_BATCH_WEB_TOKEN_FILE": str(tokens),
        "XRAY_BATCH_WEB_REQUEUE_USERS": "alice",
        "XRAY_BATCH_WEB_DEIDENTIFIED_USERS": "carol",
    }
    with running_web(home, home / "log", **variables) as page:
        yield page


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Home folder with 52 lateral views, three files without their originals, and a hostile one."""
    home = tmp_path_factory.mktemp("home")
    url = f"sqlite:///{home / 'results.sqlite3'}"
    upgrade_database(url)
    lateral = [(ReasonCode.LATERAL_VIEW, "View Position is 'LL'", True)] * (PAGE_ROWS + 2)
    missing = [(ReasonCode.TRUNCATED, "the file ends early", False)] * 2
    fill(url, home, [*lateral, *missing, (ReasonCode.UNSUPPORTED_MODALITY, HOSTILE, True)])
    return home


@pytest.fixture(scope="module")
def web(home):
    """Serve it."""
    with serving(home, f"sqlite:///{home / 'results.sqlite3'}") as page:
        yield page


def rows(answer):
    """Return the ids of the results that a page lists, in its order."""
    return [int(number) for number in re.findall(r'<tr data-result="(\d+)"', answer.text)]


def events(home, kind):
    """Return the details of one kind of event."""
    engine = make_engine(f"sqlite:///{home / 'results.sqlite3'}")
    with engine.connect() as connection:
        found = list(connection.scalars(sa.text("SELECT detail FROM event WHERE kind = :kind"), {"kind": kind}))
    engine.dispose()
    return found


class TestList:
    """What is listed."""

    def test_reasons_have_counts_and_words(self, web):
        """Each reason that occurs is a link with its count, the most frequent first, and says what it means."""
        text = web.get("/refused", as_user("bob")).text
        found = re.findall(r'href="/refused\?reason=(\w+)".*?class="number">(\d+)<', text, re.DOTALL)
        assert found == [("lateral_view", "52"), ("truncated", "2"), ("unsupported_modality", "1")]
        assert "the stated view is not PA or AP" in text
        assert "Modality is not CR, DX or RG" in text

    def test_pages_by_key(self, web):
        """Newest first, page after page and back, within the reason of the URL."""
        first = web.get("/refused", as_user("bob"), reason="lateral_view")
        (link,) = re.findall(r'rel="next" href="([^"]+)"', first.text)
        second = web.get(link.replace("&amp;", "&"), as_user("bob"))
        assert (len(rows(first)), len(rows(second))) == (PAGE_ROWS, 2)
        assert rows(first) + rows(second) == sorted(rows(first) + rows(second), reverse=True)
        (link,) = re.findall(r'rel="prev" href="([^"]+)"', second.text)
        assert rows(web.get(link.replace("&amp;", "&"), as_user("bob"))) == rows(first)

    def test_a_row_leads_to_its_study(self, web):
        """The study page shows the picture, where there is one, and leads on to other files of the list alone."""
        answer = web.get("/refused", as_user("bob"), reason="truncated")
        links = [html.unescape(link) for link in re.findall(r'class="open" href="(.*?)"', answer.text)]
        (one, other), query = rows(answer), "?outcome=not_analysed&reason=truncated"
        assert links == [f"/results/{one}{query}", f"/results/{other}{query}"]
        text = html.unescape(web.get(links[1], as_user("bob")).text)
        assert f'rel="prev" href="{links[0]}"' in text and 'rel="next"' not in text

    def test_a_hostile_reason_is_text(self, web):
        """The stored reason may quote the file: a browser shows it and runs nothing."""
        text = web.get("/refused", as_user("bob"), reason="unsupported_modality").text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text

    def test_identifiers_are_hidden(self, web):
        """Who may see none gets neither patient nor file nor the reason that may quote them."""
        shown, hidden = web.get("/refused", as_user("bob")).text, web.get("/refused", as_user("carol")).text
        for secret in ("ZZPATIENT", "ZZFILE", "ZZCANARY"):
            assert secret in shown
            assert secret not in hidden
        assert rows(web.get("/refused", as_user("carol"))) == rows(web.get("/refused", as_user("bob")))

    def test_no_such_reason(self, web):
        """400 with what is wrong; a reason that no file has is an empty list."""
        assert web.get("/refused", as_user("bob"), reason="ugly").status == 400
        empty = web.get("/refused", as_user("bob"), reason="color_image")
        assert (empty.status, rows(empty)) == (200, [])


class TestRequeue:
    """Having files processed again."""

    def test_only_for_users_who_may(self, web, home):
        """Others see no button, and get 403 for the question and for its answer; nothing is queued."""
        assert "/requeue?" in web.get("/refused", as_user("alice")).text
        assert "/requeue?" not in web.get("/refused", as_user("bob")).text
        assert web.get("/requeue", as_user("bob"), reason="truncated").status == 403
        assert web.post("/requeue", as_user("bob"), reason="truncated").status == 403
        assert "bob" not in events(home, "requested")

    def test_it_is_asked_once_more(self, web):
        """The button of a row, and that of a reason, lead to a question that says how many; no script is needed."""
        text = web.get("/refused", as_user("alice"), reason="truncated").text
        links = [link.replace("&amp;", "&") for link in re.findall(r'href="(/requeue\?[^"]+)"', text)]
        asked = web.get(links[0], as_user("alice")).text
        assert "Process 2 files again?" in asked
        assert 'name="reason" value="truncated"' in asked
        assert 'name="back" value="/refused?reason=truncated"' in asked
        assert "The audit trail names you, alice." in asked
        one = web.get(links[1], as_user("alice")).text
        assert re.search(r"Process the file of result \d+ again\?", one)

    def test_a_file_is_queued_and_the_audit_trail_says_by_whom(self, web, home):
        """Post/Redirect/Get: the page that it came from says what became of it, and the stored answer stays."""
        (result_id,) = rows(web.get("/refused", as_user("alice"), reason="unsupported_modality"))
        back = "/refused?reason=unsupported_modality"
        done = web.post("/requeue", as_user("alice"), result=str(result_id), back=back)
        assert (done.status, done.headers["location"]) == (303, f"{back}&queued=1")
        page = web.get(done.headers["location"], as_user("alice"))
        assert rows(page) == [result_id]
        assert re.search(r'role="status">.*1</span> queued<', page.text, re.DOTALL)
        assert events(home, "requested") == ["alice"]
        again = web.post("/requeue", as_user("alice"), result=str(result_id), back=done.headers["location"])
        assert again.headers["location"] == f"{back}&queued=0&in_work=1"

    def test_obstacles_are_told_with_what_to_do(self, web):
        """The words are those of `xray-batch requeue`."""
        done = web.post("/requeue", as_user("alice"), reason="truncated")
        assert done.headers["location"] == "/refused?queued=0&missing=2"
        text = web.get(done.headers["location"], as_user("alice")).text
        assert "2</span> not queued, missing: originals not where they were filed: put them back" in text

    @pytest.mark.parametrize(
        "fields",
        [{}, {"result": "0"}, {"result": "x"}, {"reason": "ugly"}, {"result": "1", "reason": "truncated"}],
        ids=str,
    )
    def test_what_is_no_selection_is_refused(self, web, fields):
        """400: a form of ours names one result or one reason, never all."""
        assert web.post("/requeue", as_user("alice"), **fields).status == 400
        assert web.get("/requeue", as_user("alice"), **fields).status == 400

    def test_another_method_is_told_which_there_are(self, web):
        """405 names those of the question and of the form (RFC 9110, section 15.5.6)."""
        refusal = web.put("/requeue", as_user("alice"))
        assert refusal.status == 405
        assert set(refusal.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}

    def test_the_way_back_stays_here(self, web):
        """A form cannot send a user to another site."""
        done = web.post("/requeue", as_user("alice"), result="999999", back="https://example.org//evil")
        assert done.headers["location"] == "/evil?queued=0&unknown=1"

    def test_a_report_that_somebody_wrote_by_hand(self, web):
        """400 for what is no number."""
        assert web.get("/refused", as_user("alice"), queued="<b>").status == 400


@pytest.mark.parametrize("how", ["role", "server"])
def test_a_database_that_may_only_be_read(empty_postgresql_url, postgresql_server, tmp_path, how):
    """403 and a page that says so, whether the role or the whole server refuses; the list is shown all the same."""
    upgrade_database(empty_postgresql_url)
    fill(empty_postgresql_url, tmp_path, [(ReasonCode.LATERAL_VIEW, "View Position is 'LL'", True)])
    engine = make_engine(empty_postgresql_url)
    url = empty_postgresql_url
    with engine.begin() as connection:
        if how == "server":
            name = connection.scalar(sa.text("SELECT current_database()"))
            connection.execute(sa.text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        else:
            connection.execute(sa.text("CREATE ROLE reads_only LOGIN"))
            connection.execute(sa.text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reads_only"))
            url = sa.make_url(url).set(username="reads_only").render_as_string(hide_password=False)
    engine.dispose()
    try:
        with serving(tmp_path, url) as page:
            assert len(rows(page.get("/refused", as_user("alice")))) == 1
            refused = page.post("/requeue", as_user("alice"), reason="lateral_view")
            assert refused.status == 403
            assert "may only read the database" in refused.text
            assert "Traceback" not in page.log
    finally:
        if how == "role":
            engine = make_engine(empty_postgresql_url)
            with engine.begin() as connection:
                connection.execute(sa.text("DROP OWNED BY reads_only"))
                connection.execute(sa.text("DROP ROLE reads_only"))
            engine.dispose()
