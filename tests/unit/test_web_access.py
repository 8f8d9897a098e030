"""Who is let in to the worklist page, as whom, and what a form may do."""

import asyncio
import base64
import http.cookies
from dataclasses import dataclass
from pathlib import Path

import pytest
from clock import Clock

from xray_batch.errors import ConfigurationError, DatabaseUnavailableError
from xray_batch.settings import Settings, load_settings
from xray_batch.web.access import AccessControl, read_tokens
from xray_batch.web.application import make_application
from xray_batch.web.site import StoreAtLast, make_templates

ALICE, BOB = "a" * 32, "b" * 40
HEADER = "X-Remote-User"

#: Behind a proxy of this machine, on a port.
PROXIED = {"web_user_header": HEADER, "web_proxies": "127.0.0.1"}


@pytest.fixture
def token_file(tmp_path):
    """Write tokens of two users."""
    return write_tokens(tmp_path, f"# changed in March\nalice:{ALICE}\n\nbob:{BOB}\n")


def write_tokens(folder: Path, text: str, mode: int = 0o640) -> Path:
    """Write a token file and return its path."""
    path = folder / "tokens"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def make_settings(**values: object) -> Settings:
    """Return settings of which nothing but these is given."""
    return load_settings(values, environment={})


def identify(settings: Settings, *headers: tuple[str, str], client: str | None = "127.0.0.1"):
    """Return whom the settings take a request for; without a client it came by the Unix socket."""
    given = headers or (("Host", "localhost:8080"),)
    return AccessControl(settings).identify(scope_of(given, client=client))


def scope_of(headers, *, client="127.0.0.1", method="GET", path="/worklist"):
    """Return a request as an ASGI server hands it over."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 8080),
        "client": None if client is None else (client, 50000),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }


class TestSettings:
    """Which pages may not be served at all."""

    @pytest.mark.parametrize("address", ["0.0.0.0:8080", "192.0.2.7:80", "[::]:8080"])
    @pytest.mark.parametrize("given", [{}, {"web_user_header": HEADER}, {"web_proxies": "192.0.2.1"}])
    def test_an_open_page_is_refused(self, address, given):
        """Beyond loopback a page needs tokens, or a proxy that is named as well as its header."""
        with pytest.raises(ConfigurationError, match="set `web_"):
            AccessControl(make_settings(web_address=address, **given))

    def test_a_header_that_nobody_is_believed_with(self):
        """On a port a header is believed from listed proxies alone; without any the page would be for nobody."""
        with pytest.raises(ConfigurationError, match="`web_user_header` is believed over"):
            AccessControl(make_settings(web_user_header=HEADER))

    def test_a_wrong_page_is_no_matter_of_the_service(self):
        """What is wrong with the page alone is said by the page, and keeps no other command from its work."""
        assert make_settings(web_address="0.0.0.0:8080").decode_workers >= 1

    @pytest.mark.parametrize("address", ["unix", "127.0.0.1:8080", "127.0.0.2:1", "[::1]:8080"])
    def test_a_local_page_is_open(self, address):
        """On this machine alone it needs neither."""
        AccessControl(make_settings(web_address=address))

    def test_a_page_that_asks_may_be_reached(self, token_file):
        """With a token file, or with a header and its proxies, any address may be served."""
        address = "0.0.0.0:8080"
        AccessControl(make_settings(web_address=address, web_token_file=token_file))
        proxied = make_settings(web_address=address, web_user_header=HEADER, web_proxies="192.0.2.1,2001:db8::1")
        AccessControl(proxied)
        assert proxied.web_proxies == ("192.0.2.1", "2001:db8::1")

    @pytest.mark.parametrize("address", ["localhost:8080", "8080", "127.0.0.1", "127.0.0.1:0", "unix:/x", ""])
    def test_no_address(self, address):
        """Neither a name, which may come to mean another machine, nor half an address is one."""
        with pytest.raises(ConfigurationError, match="expected `unix`, or an IP address and a port"):
            make_settings(web_address=address)

    def test_proxies_are_addresses(self):
        """A proxy is an address, not a name that others may answer to."""
        with pytest.raises(ConfigurationError, match="web_proxies"):
            make_settings(web_proxies="proxy.example.org")


class TestTokenFile:
    """What a token file must be."""

    def test_reads_names_and_tokens(self, token_file):
        """Comments and empty lines say nothing; a token may hold colons."""
        assert read_tokens(token_file) == {"alice": ALICE, "bob": BOB}
        with_colon = write_tokens(token_file.parent, f"carol:{ALICE}:more\n")
        assert read_tokens(with_colon) == {"carol": f"{ALICE}:more"}

    @pytest.mark.parametrize("mode", [0o644, 0o604])
    def test_a_file_that_everybody_reads(self, tmp_path, mode):
        """A token that everybody on this machine can read is none."""
        path = write_tokens(tmp_path, f"alice:{ALICE}\n", mode)
        assert refusal(path) == f"the token file {path} can be read by everybody: chmod o-r"

    @pytest.mark.parametrize(
        "line",
        [
            f"alice:{ALICE[:-1]}",
            "alice",
            ALICE,
            f":{ALICE}",
            f"alice smith:{ALICE}",
            f"{'x' * 65}:{ALICE}",
            f"<b>:{ALICE}",
            f"bob:{ALICE}",
            f"alice:{BOB}",
        ],
    )
    def test_a_wrong_line(self, tmp_path, line):
        """A short token, a name that is none, and a name or token that stands there twice are refused by their line."""
        message = refusal(write_tokens(tmp_path, f"bob:{BOB}\n{line}\n"))
        assert message.startswith("line 2 of the token file ")
        assert ALICE[:-1] not in message and BOB not in message

    def test_no_tokens(self, tmp_path):
        """An empty file lets nobody in, so it is refused rather than served to nobody."""
        assert refusal(write_tokens(tmp_path, "# none yet\n")).endswith("has no line NAME:TOKEN")

    def test_no_text(self, tmp_path):
        """Bytes that are no text are refused, and not shown."""
        path = write_tokens(tmp_path, "")
        path.write_bytes(b"alice:\xff\xfe")
        assert refusal(path) == f"the token file {path} is not UTF-8 text"

    def test_no_file(self, tmp_path):
        """A file that cannot be read is no page without tokens."""
        message = refusal(tmp_path / "absent")
        assert message == f"the token file {tmp_path / 'absent'} cannot be read: No such file or directory"
        assert refusal(tmp_path).endswith("cannot be read: Is a directory")


def refusal(path: Path) -> str:
    """Return the sentence with which a token file is refused when the page starts."""
    with pytest.raises(ConfigurationError) as refused:
        AccessControl(make_settings(web_token_file=path))
    return str(refused.value)


class TestTokens:
    """Users of a token file."""

    @pytest.mark.parametrize(
        ("authorization", "name"),
        [
            (f"Bearer {ALICE}", "alice"),
            (f"bearer {BOB}", "bob"),
            (f"Basic {base64.b64encode(f'alice:{ALICE}'.encode()).decode()}", "alice"),
            (f"Basic {base64.b64encode(f'bob:{ALICE}'.encode()).decode()}", None),
            (f"Basic {base64.b64encode(f':{ALICE}'.encode()).decode()}", None),
            (f"Bearer {ALICE}x", None),
            (f"Bearer {ALICE[:-1]}", None),
            ("Bearer ", None),
            ("Bearer é", None),
            ("Basic !", None),
            ("Basic /w==", None),
            (f"Digest {ALICE}", None),
            (ALICE, None),
        ],
    )
    def test_token(self, token_file, authorization, name):
        """A token lets in its owner, as Bearer or with the owner's name as Basic; nothing else lets in anybody."""
        user = identify(make_settings(web_token_file=token_file), ("Authorization", authorization))
        assert (user and user.name) == name

    def test_without_a_token(self, token_file):
        """With a token file nobody is let in for being on this machine."""
        assert identify(make_settings(web_token_file=token_file)) is None
        assert identify(make_settings(web_token_file=token_file, web_address="unix"), client=None) is None


class TestProxy:
    """Users whom a reverse proxy names."""

    NAMED = (HEADER, "alice")

    @pytest.mark.parametrize("client", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
    def test_trusted(self, client):
        """Listed proxies are believed, however a socket of both protocols writes their address."""
        settings = make_settings(web_user_header=HEADER, web_proxies="192.0.2.1,2001:db8::1")
        assert identify(settings, self.NAMED, client=client).name == "alice"

    @pytest.mark.parametrize("client", ["192.0.2.2", "10.0.0.1", "2001:db8::2", "127.0.0.1", "::1", None])
    def test_not_trusted(self, client):
        """Nobody else names users, whoever has an account on this machine included."""
        settings = make_settings(web_user_header=HEADER, web_proxies="192.0.2.1,2001:db8::1")
        assert identify(settings, self.NAMED, client=client) is None

    def test_socket(self):
        """Whoever may connect to the Unix socket is believed."""
        settings = make_settings(web_user_header=HEADER, web_address="unix")
        assert identify(settings, self.NAMED, client=None).name == "alice"

    @pytest.mark.parametrize("second", ["alice", "admin"])
    def test_twice(self, second):
        """A header that comes twice, one of them perhaps from the browser, names nobody."""
        settings = make_settings(**PROXIED)
        assert identify(settings, self.NAMED, (HEADER.lower(), second)) is None

    @pytest.mark.parametrize("name", ["", " ", "a b", "alice,admin", "<script>", "a" * 65, "a\x00b"])
    def test_no_name(self, name):
        """What cannot stand in the audit trail names nobody."""
        assert identify(make_settings(**PROXIED), (HEADER, name)) is None

    def test_header_that_is_not_configured(self):
        """Without the setting no header names anybody: the page of this machine is for `local`."""
        assert identify(make_settings(), ("Host", "localhost"), (HEADER, "admin")).name == "local"

    def test_without_the_header(self):
        """Where a proxy names the users, a request that names none is refused, on this machine too."""
        assert identify(make_settings(**PROXIED), ("Host", "localhost:8080")) is None


class TestLocal:
    """The page of one machine."""

    @pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "localhost"])
    def test_this_machine(self, host):
        """A browser that was told to open this machine is let in."""
        assert identify(make_settings(), ("Host", host)).name == "local"

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example:8080", "", "10.0.0.1"]
    )
    def test_dns_rebinding(self, host):
        """A web page whose own name was made to mean this machine reads nothing here."""
        assert identify(make_settings(), ("Host", host)) is None

    @pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
    @pytest.mark.parametrize("address", ["unix", "127.0.0.1:8080"])
    def test_a_proxy_that_nobody_has_told_of(self, address, name):
        """What a proxy passes on comes from another machine: not even over the socket is it for `local`."""
        settings = make_settings(web_address=address)
        client = None if address == "unix" else "127.0.0.1"
        assert identify(settings, ("Host", "localhost"), (name, "192.0.2.7"), client=client) is None
        assert identify(settings, ("Host", "xray.example.org"), client=client) is None
        assert identify(settings, ("Host", "localhost"), client=client).name == "local"


class TestUsersInLists:
    """What users may do and see."""

    @pytest.mark.parametrize(
        ("listed", "expected"), [("", False), ("alice", True), ("bob, alice", True), ("bob", False), ("*", True)]
    )
    def test_lists(self, listed, expected):
        """A user is in a list by name or by `*`; the lists are of those who requeue, and who see no identifiers."""
        settings = make_settings(**PROXIED, web_requeue_users=listed, web_deidentified_users=listed)
        user = identify(settings, (HEADER, "alice"))
        assert (user.may_requeue, not user.sees_identifiers) == (expected, expected)


@dataclass(frozen=True)
class Sent:
    """An answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all_of(self, name):
        """Return every header of a name."""
        return [value for key, value in self.headers if key == name]


class SiteWithoutDatabase:
    """What pages work with while the database is down."""

    templates = make_templates()

    @property
    def store(self):
        """Fail as the store does."""
        raise DatabaseUnavailableError("down")


def ask(method, path, *headers, body=b"", settings=None):
    """Ask the application itself; it has no database."""
    settings = settings or make_settings()
    site = SiteWithoutDatabase()
    sent = []

    bodies = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if not bodies:
            await asyncio.Event().wait()  # whoever asks stays until the answer is there
        return bodies.pop()

    async def send(message):
        sent.append(message)

    hosted = headers if any(name == "Host" for name, _ in headers) else (("Host", "localhost:8080"), *headers)
    scope = scope_of((*hosted, ("Content-Length", str(len(body)))), method=method, path=path)
    asyncio.run(make_application(site, AccessControl(settings))(scope, receive, send))
    named = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return Sent(sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:]))


OURS = ("Sec-Fetch-Site", "same-origin")


class TestForms:
    """What a form may do: keep preferences, for pages of ours."""

    @pytest.mark.parametrize(
        "header",
        [
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Origin", "http://localhost:9090"),
        ],
    )
    def test_other_sites(self, header):
        """A form of another web page does nothing here, though a browser goes where it was sent."""
        answer = ask("POST", "/preferences", header, ("Sec-Fetch-Mode", "navigate"), body=b"theme=dark")
        assert (answer.status, answer.body, answer.all_of("set-cookie")) == (403, b"", [])

    @pytest.mark.parametrize("header", [OURS, ("Origin", "http://localhost:8080"), ("User-Agent", "curl/8.0")])
    def test_cookies(self, header):
        """A preference is kept in a cookie that no script reads, and that links of other sites carry, too."""
        answer = ask("POST", "/preferences", header, body=b"theme=dark&deidentified=1&back=/worklist%3Fmin%3D0.5")
        assert (answer.status, answer.all_of("location")) == (303, ["/worklist?min=0.5"])
        for text, name, value in zip(
            answer.all_of("set-cookie"), ("theme", "deidentified"), ("dark", "1"), strict=True
        ):
            (morsel,) = http.cookies.SimpleCookie(text).values()
            assert (morsel.key, morsel.value, morsel["httponly"], morsel["samesite"]) == (name, value, True, "lax")

    @pytest.mark.parametrize(
        "body", [b"theme=pink", b"deidentified=yes", b"other=1", b"theme=dark%0d%0aX:1", b"\xff\xfe"]
    )
    def test_what_is_no_preference(self, body):
        """Nothing but what the page offers goes into a cookie."""
        assert ask("POST", "/preferences", OURS, body=body).all_of("set-cookie") == []

    @pytest.mark.parametrize(
        "back",
        [
            "https://evil.example/x",
            "//evil.example/x",
            "///evil.example/x",
            "/\\evil.example/x",
            "\\\\evil.example/x",
            "/%5Cevil.example/x",
            "/\t/evil.example/x",
            "\t//evil.example/x",
            "javascript:alert(1)",
            "http:evil.example",
            "https:///evil.example/x",
        ],
    )
    def test_goes_back_to_a_page_of_ours(self, back):
        """The way back is a path here, whatever a form says."""
        body = b"back=" + "".join(f"%{byte:02x}" for byte in back.encode()).encode()
        (location,) = ask("POST", "/preferences", OURS, body=body).all_of("location")
        read_by_browser = location.replace("\t", "").replace("\n", "").replace("\\", "/")
        assert read_by_browser.startswith("/") and not read_by_browser.startswith("//"), location

    def test_too_large(self):
        """A body that no form of ours has is not read."""
        assert ask("POST", "/preferences", OURS, body=b"x" * 70_000).status == 413


@pytest.mark.parametrize(("method", "path", "allowed"), [("POST", "/worklist", "GET"), ("GET", "/preferences", "POST")])
def test_a_wrong_method(method, path, allowed):
    """Who uses a method that a page has not is told those that it has (RFC 9110, 15.5.6)."""
    answer = ask(method, path, OURS)
    (allow,) = answer.all_of("allow")
    assert answer.status == 405 and allowed in allow.split(", ")


def test_a_form_is_not_sent_again_by_itself():
    """Where the database is down a page looks again, but not at the address that a form was sent to."""
    settings = make_settings(web_requeue_users="*")
    page = ask("GET", "/worklist")
    assert (page.status, page.all_of("retry-after")) == (503, ["10"]) and b'http-equiv="refresh"' in page.body
    form = ask("POST", "/requeue", OURS, body=b"result=1", settings=settings)
    assert (form.status, form.all_of("retry-after")) == (503, []) and b"refresh" not in form.body
    assert b"was not done" in form.body


@pytest.mark.parametrize(
    ("mode", "site", "status"),
    [
        ("no-cors", "cross-site", 403),
        ("cors", "same-site", 403),
        ("navigate", "cross-site", 503),
        ("no-cors", "same-origin", 503),
        ("navigate", "none", 503),
    ],
)
def test_what_other_pages_load(mode, site, status):
    """Another web page may link to one of ours, and load nothing of it by itself: no export, no heat map."""
    headers = (("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode))
    assert ask("GET", "/export.csv", *headers).status == status


def test_a_body_of_unknown_length():
    """A body in chunks is not read, whatever length is said beside it."""
    assert ask("POST", "/preferences", OURS, ("Transfer-Encoding", "chunked"), body=b"theme=dark").status == 413


def test_a_database_that_is_down_is_not_tried_again_at_once():
    """Of many requests one finds out, and the others are told; some seconds later it is tried again."""
    clock, tries = Clock(), []

    def open_store():
        tries.append(clock.now)
        raise DatabaseUnavailableError("down")

    store = StoreAtLast(open_store, clock)
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError, match="down"):
            store()
    clock.now += 3
    with pytest.raises(DatabaseUnavailableError):
        store()
    assert len(tries) == 2


def test_every_answer_forbids_what_pages_do_not_need():
    """A page, a script, a refusal and an error alike carry the policy, and are kept by nobody."""
    for path, host, status in (
        ("/worklist", "localhost", 503),
        ("/nothing", "localhost", 404),
        ("/static/worklist.js", "localhost", 200),
        ("/worklist", "evil.example", 401),
    ):
        answer = ask("GET", path, ("Host", host))
        assert answer.status == status
        (policy,) = answer.all_of("content-security-policy")
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.all_of("x-content-type-options") == ["nosniff"]
        assert answer.all_of("referrer-policy") == ["no-referrer"]
        assert answer.all_of("cache-control") == ["no-cache" if status == 200 else "no-store"]


def test_who_is_not_known_gets_401_and_nothing_else(token_file):
    """Each address answers whoever has no token alike, whether there is a page or not."""
    settings = make_settings(web_token_file=token_file)
    for method, path in (
        ("GET", "/worklist"),
        ("GET", "/nothing"),
        ("GET", "/static/style.css"),
        ("POST", "/preferences"),
    ):
        for headers in ((), (("Authorization", f"Bearer {ALICE}x"),)):
            answer = ask(method, path, *headers, settings=settings)
            assert (answer.status, answer.body) == (401, b""), path
            assert answer.all_of("www-authenticate") == ['Basic realm="xray-batch", charset="UTF-8"']
    assert ask("GET", "/nothing", ("Authorization", f"Bearer {ALICE}"), settings=settings).status == 404
