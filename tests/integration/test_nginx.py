"""`deploy/nginx/xray-batch.conf` in a real nginx, before a real `xray-batch web` on its Unix socket.

Certificates are made by openssl.  Of the file only addresses, paths and the host's name are replaced.
"""

import http.client
import http.server
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from installed_command import PATIENCE_SECONDS
from postgresql_server import free_port
from web_page import Answer, running_web

from xray_batch.revisions import upgrade_database

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATION = REPOSITORY / "deploy" / "nginx" / "xray-batch.conf"


@pytest.fixture(scope="module")
def nginx_program():
    """Find nginx, which Debian keeps where users do not look."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("no nginx, or no openssl: install the Debian packages `nginx-light` and `openssl`")
    return program


@pytest.fixture(scope="module")
def certificates(tmp_path_factory, nginx_program):
    """Make an authority, and certificates: of the server, of users, and of a user whom another authority knows."""
    folder = tmp_path_factory.mktemp("certificates")
    for authority in ("users-ca", "other-ca"):
        openssl(folder, "req", "-x509", *NEW_KEY, "-keyout", f"{authority}.key", "-out", f"{authority}.pem",
                "-subj", f"/CN={authority}")  # fmt: skip
    for name, authority, subject in (
        ("server", "users-ca", "/CN=localhost"),
        ("alice", "users-ca", "/O=Hospital/CN=alice"),
        ("tricky", "users-ca", "/CN=tricky/O=x,CN=admin"),
        ("mallory", "other-ca", "/CN=alice"),
    ):
        openssl(folder, "req", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
                "-CAcreateserial", "-days", "2", "-out", f"{name}.pem")  # fmt: skip
    return folder


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(folder, *arguments):
    """Run openssl."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Proxy:
    """A running nginx."""

    port: int
    certificates: Path
    logs: Path

    def ask(self, path="/worklist", *, user=None, method="GET", body=None, headers=()):
        """Ask as a browser that has a user's certificate, or none; headers may repeat a name."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whose it is is not in question
        if user is not None:
            context.load_cert_chain(self.certificates / f"{user}.pem", self.certificates / f"{user}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(method, path)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    @property
    def log(self):
        """Everything that nginx logged."""
        return "".join(path.read_text(encoding="utf-8") for path in self.logs.glob("*.log"))


@contextmanager
def running_nginx(program, text, certificates, socket_path, folder):
    """Run nginx with the file of `deploy/`, on free ports of the loopback interface."""
    port, plain_port = free_port(), free_port()
    for pattern, replacement in (
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (r"listen 80;", f"listen 127.0.0.1:{plain_port};"),
        (r"listen \[::\]:\d+( ssl)?;", ""),
        (r"/var/lib/xray-batch/web\.sock", str(socket_path)),
        (r"/etc/nginx/xray-batch", str(certificates)),
        (r"/var/log/nginx", str(folder)),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    (folder / "site.conf").write_text(text, encoding="utf-8")
    bodies = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{name}_temp_path {folder}/{name};" for name in bodies)
    whole = f"pid {folder}/pid; user root; events {{}} http {{ {places} include {folder}/site.conf; }}"
    (folder / "nginx.conf").write_text(whole, encoding="utf-8")
    command = [program, "-e", f"{folder}/start.log", "-c", f"{folder}/nginx.conf", "-g", "daemon off;"]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=60)
    assert tested.returncode == 0, tested.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (folder / "pid").exists():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "start.log").read_text()
            time.sleep(0.05)
        yield Proxy(port, certificates, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def page_socket(tmp_path_factory):
    """Serve the worklist of an empty database at its Unix socket, to users whom a header names."""
    home = tmp_path_factory.mktemp("home")
    upgrade_database(f"sqlite:///{home / 'results.sqlite3'}")
    settings = {"XRAY_BATCH_WEB_ADDRESS": "unix", "XRAY_BATCH_WEB_USER_HEADER": "X-Remote-User"}
    with running_web(home, home.parent / f"{home.name}.log", **settings):
        yield home / "web.sock"


@pytest.fixture(scope="module")
def proxy(nginx_program, certificates, page_socket, tmp_path_factory):
    """Run nginx as the file stands: with client certificates."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    with running_nginx(nginx_program, text, certificates, page_socket, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def known_as(answer):
    """Return the user whom the page greets."""
    return re.findall(r'<span class="user"[^>]*>([^<]*)<', answer.text)


def test_a_certificate_lets_in(proxy):
    """Whoever has a certificate of the authority sees the page, under the certificate's name."""
    answer = proxy.ask(user="alice")
    assert (answer.status, known_as(answer)) == (200, ["alice"])
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("user", [None, "mallory"])
@pytest.mark.parametrize("path", ["/worklist", "/static/style.css", "/export.csv"])
def test_nobody_else(proxy, user, path):
    """Without a certificate, or with another authority's, nginx answers itself; nothing of the page is served."""
    answer = proxy.ask(path, user=user, headers=[("X-Remote-User", "alice")])
    assert answer.status == 400
    assert b"SSL certificate" in answer.body
    assert b"xray-batch" not in answer.body


@pytest.mark.parametrize("name", ["X-Remote-User", "x-remote-user", "X_Remote_User"])
def test_a_forged_header_is_replaced(proxy, name):
    """What a browser says of its user is not heard, however often it says so."""
    answer = proxy.ask(user="alice", headers=[(name, "admin"), (name, "root"), ("Authorization", "Bearer x")])
    assert (answer.status, known_as(answer)) == (200, ["alice"])


def test_a_name_is_not_read_out_of_another_field(proxy):
    """A subject whose organisation looks like a name gives nobody's rights, and 401 with nothing else."""
    answer = proxy.ask(user="tricky")
    assert (answer.status, answer.body) == (401, b"")


def test_what_was_looked_for_is_in_no_log(proxy):
    """Neither a query string nor a referrer is logged, also where the page is away or refuses."""
    secret = "PATIENT4711"
    for path in (f"/worklist?identifier={secret}", f"/worklist?min={secret}", f"/nothing?x={secret}"):
        proxy.ask(path, user="alice", headers=[("Referer", f"https://localhost/?{secret}")])
        proxy.ask(path)
    assert '"GET /worklist"' in proxy.log
    assert secret not in proxy.log


def test_preferences(proxy):
    """A form of the page is accepted through the proxy, and its cookies travel by TLS alone."""
    origin = f"https://127.0.0.1:{proxy.port}"
    of_a_form = [("Content-Type", "application/x-www-form-urlencoded"), ("Origin", origin)]
    answer = proxy.ask(
        "/preferences", user="alice", method="POST", body=b"theme=dark&back=/worklist", headers=of_a_form
    )
    assert (answer.status, answer.headers["location"]) == (303, "/worklist")
    cookie = answer.headers["set-cookie"].lower()
    assert all(flag in cookie for flag in ("secure", "httponly", "samesite=lax"))
    elsewhere = [of_a_form[0], ("Origin", "https://example.org")]
    assert proxy.ask("/preferences", user="alice", method="POST", body=b"theme=dark", headers=elsewhere).status == 403


def test_openid_connect(nginx_program, certificates, page_socket, tmp_path):
    """The file turns itself into one for oauth2-proxy: who has a session sees the page, others are asked to sign in."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    (sed,) = re.findall(r"sed -e 's/(.*)//' -e '/(.*)\$/d'", text)
    lines = [line.replace(sed[0], "") for line in text.splitlines() if not line.endswith(sed[1])]
    with ExitStack() as stack:
        port = stack.enter_context(running_oauth2_proxy())
        text = "\n".join(lines).replace("127.0.0.1:4180", f"127.0.0.1:{port}")
        proxy = stack.enter_context(running_nginx(nginx_program, text, certificates, page_socket, tmp_path))
        forged = [("X-Remote-User", "admin"), ("X-Auth-Request-Email", "admin")]
        answer = proxy.ask("/worklist?identifier=PATIENT4711", headers=forged)
        assert (answer.status, answer.body) == (200, b"sign in, then go on to /worklist")
        answer = proxy.ask(headers=[*forged, ("Cookie", "_oauth2_proxy=session")])
        assert (answer.status, known_as(answer)) == (200, ["alice@example.org"])
        assert proxy.ask("/oauth2/auth", headers=[("Cookie", "_oauth2_proxy=session")]).status == 404


@contextmanager
def running_oauth2_proxy():
    """Answer as oauth2-proxy does with --set-xauthrequest."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_known = "_oauth2_proxy=session" in self.headers.get("Cookie", "")
            body = b""
            if self.path != "/oauth2/auth":
                self.send_response(200)
                body = f"sign in, then go on to {self.headers['X-Auth-Request-Redirect']}".encode()
            else:
                self.send_response(202 if is_known else 401)
                if is_known:
                    self.send_header("X-Auth-Request-Email", "alice@example.org")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
