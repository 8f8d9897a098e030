"""A database that is down: the page says so, and is back by itself."""

from browser_home import add_results
from playwright.sync_api import expect
from postgresql_server import SERVER_OPTIONS, running_postgresql
from web_page import running_web

from xray_batch.revisions import upgrade_database


def test_database_down(visit, tmp_path):
    """Somebody who looks at the worklist is told within seconds, and sees it again soon after the database is back."""
    with running_postgresql(SERVER_OPTIONS) as server:
        server.execute("CREATE DATABASE xray")
        url = server.url_of("xray")
        upgrade_database(url)
        add_results(url, 3)
        with running_web(tmp_path / "home", tmp_path / "log", XRAY_BATCH_DATABASE_URL=url) as web:
            window = visit(web.url)
            page = window.open("/worklist")
            expect(page.locator("tr[data-result]")).to_have_count(3)
            server.crash()
            expect(page.locator("h1")).to_have_text("The database cannot be reached", timeout=60_000)
            window.shoot("down")
            window.expect_complaint("503")
            for path in ("/worklist", "/export.csv", "/export.parquet"):
                answer = web.get(path)
                assert (answer.status, answer.headers["retry-after"]) == (503, "10"), path
                assert str(server.port) not in answer.text and "postgres" not in answer.text
            server.start()
            expect(page.locator("tr[data-result]")).to_have_count(3, timeout=60_000)
            window.leave()
            window.complaints = [text for text in window.complaints if "503" not in text]
