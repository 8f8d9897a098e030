"""Fixtures of the browser tests: Debian's Chromium, and a real `xray-batch web` with films that were really classified.

Where `XRAY_BATCH_SCREENSHOTS` names a folder, each step leaves a picture there for people to look at.
"""

import fcntl
import importlib.resources
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_home import FLAG, make_home
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright
from web_page import WebPage, running_web

SCREENSHOTS = os.environ.get("XRAY_BATCH_SCREENSHOTS")

#: Milliseconds; generous, since the machine may be busy.
PATIENCE = 60_000

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def browser_home(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Make the home folder once, whichever worker needs it first; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "browser-home"
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            make_home(home)
            (home / "complete").touch()
    return home


@pytest.fixture(scope="session")
def web(browser_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPage]:
    """Serve that home to everybody on this machine, who may requeue."""
    log = tmp_path_factory.mktemp("web") / "log"
    with running_web(browser_home, log, XRAY_BATCH_WEB_REQUEUE_USERS="*") as page:
        yield page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium; not for the whole session, since Playwright's event loop would be in the way of other tests'."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: install the Debian packages `chromium` and `fonts-dejavu-core`")
    options = ["--no-sandbox"] if os.getuid() == 0 else []  # which Chromium needs as root
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=options)
        yield chromium
        chromium.close()


class Visitor:
    """A browser window with nothing remembered, that notices whatever a page should not do."""

    def __init__(self, browser: Browser, url: str, name: str, **options: object) -> None:
        defaults = {"viewport": DESKTOP, "color_scheme": "dark", "locale": "en-GB", "timezone_id": "UTC"}
        self.context: BrowserContext = browser.new_context(**(defaults | {"base_url": url} | options))
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self._name = name
        self._step = 0
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("dialog", self._refuse)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _refuse(self, dialog: object) -> None:
        self.complaints.append("a dialog was opened")
        dialog.dismiss()  # type: ignore[attr-defined]

    def open(self, path: str) -> Page:
        """Go to a page of the site, which must be answered with 200."""
        answer = self.page.goto(path)
        assert answer is not None and answer.status == 200, path
        return self.page

    def leave(self) -> None:
        """Ask for nothing any more, before the server of this window alone ends."""
        self.page.goto("about:blank")

    def shoot(self, what: str) -> None:
        """Take a picture, for people."""
        self._step += 1
        if SCREENSHOTS:
            folder = Path(SCREENSHOTS)
            folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=folder / f"{self._name}-{self._step}-{what}.png", animations="disabled")

    def count(self, outcome: str = "") -> int:
        """Return the number that a tab of the worklist shows."""
        tab = self.page.locator(f".tabs > a.{outcome}" if outcome else ".tabs > a").first
        return int(tab.locator(".number").inner_text().replace(",", ""))

    def column(self, label: str) -> list[str]:
        """Return the texts of a column of the worklist."""
        return self.page.locator(f'.worklist [data-label="{label}"]').all_inner_texts()

    def check_width(self) -> None:
        """Check that the page, with its style sheets, scrolls down and never sideways."""
        self.page.wait_for_load_state()
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, self.page.url

    def expect_complaint(self, pattern: str) -> None:
        """Take a complaint, which this test is about, off the list."""
        assert any(re.search(pattern, text) for text in self.complaints), self.complaints
        self.complaints = [text for text in self.complaints if not re.search(pattern, text)]


@pytest.fixture
def visit(browser: Browser, web: WebPage, request: pytest.FixtureRequest) -> Iterator[object]:
    """Return a function that opens a window; at the end no window may have had anything to complain of."""
    visitors: list[Visitor] = []

    def open_window(url: str | None = None, **options: object) -> Visitor:
        where = f"{request.path.stem} {request.node.name}".replace("test_", "")
        name = re.sub(r"\W+", "-", where).strip("-")
        visitors.append(Visitor(browser, url or web.url, name, **options))
        return visitors[-1]

    yield open_window
    for visitor in visitors:
        flag = visitor.page.evaluate(f"() => {FLAG} ?? null")
        visitor.context.close()
        assert (visitor.complaints, flag) == ([], None)


@pytest.fixture
def visitor(visit) -> Visitor:
    """Open an ordinary window on a desktop, in a dark room."""
    return visit()


@pytest.fixture
def phone(visit) -> Visitor:
    """Open a window on a phone."""
    return visit(viewport=PHONE, is_mobile=True, has_touch=True)


@pytest.fixture(scope="session")
def find_barriers():
    """Return a function that looks for what bars people from a page, with axe-core: serious and critical ones."""
    script = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    run = "async () => (await axe.run({resultTypes: ['violations']})).violations"

    def find(page: Page) -> list[str]:
        page.evaluate(script)
        return [
            f"{found['id']}: {found['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for found in page.evaluate(run)
            for node in found["nodes"]
            if found["impact"] in ("serious", "critical")
        ]

    return find
