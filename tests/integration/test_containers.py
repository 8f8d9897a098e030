"""Dockerfile and compose file, which cannot be built here: what can be checked without a builder; scripts for real."""

import base64
import hashlib
import hmac
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
import yaml

from xray_batch import __version__
from xray_batch.settings import ENVIRONMENT_PREFIX, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]

TARGETS = ("cpu", "cuda")


def instructions():
    """Return the Dockerfile's instructions: stage, keyword and the rest, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    stage, found = None, []
    for line in filter(None, text.splitlines()):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            stage = rest.rpartition(" AS ")[2]
        found.append((stage, keyword, rest))
    return found


def settings_in(environment):
    """Return the names of the settings among variables of an environment."""
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in environment if name.startswith(ENVIRONMENT_PREFIX)
    }


class TestDockerfile:
    """The images: a CPU and a CUDA target."""

    def test_every_source_exists(self):
        """What is copied from the build's context is in the repository, and the ignore file lets it through."""
        allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        for _, keyword, rest in instructions():
            if keyword == "COPY" and "--from=" not in rest:
                *sources, _ = [word for word in rest.split() if not word.startswith("--")]
                for source in sources:
                    assert (REPOSITORY / source).exists(), source
                    assert any(
                        source == line[1:] or source.startswith(f"{line[1:]}/") for line in allowed if line[:1] == "!"
                    )

    def test_what_the_build_needs_is_copied(self):
        """Everything that the wheel is made of by pyproject.toml is in the stage that installs it."""
        copied = " ".join(rest for stage, keyword, rest in instructions() if (stage, keyword) == ("packages", "COPY"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "migrations", "xray_batch"):
            assert name in copied.split(), name

    def test_stages_are_those_that_are_named(self):
        """Each stage is built on, or copies from, a stage above it or a base image with an exact version."""
        stages = set()
        for stage, keyword, rest in instructions():
            if keyword == "FROM":
                base = rest.partition(" AS ")[0]
                assert base in stages or re.fullmatch(r"[\w./-]+:\d[\w.-]*", base), base
                stages.add(stage)
            for source in re.findall(r"--from=(\S+)", rest):
                assert source in stages, source
        assert set(TARGETS) <= stages

    @pytest.mark.parametrize("target", TARGETS)
    def test_ends_as_an_unprivileged_user(self, target):
        """The last word of a target is a user by number, who is not root."""
        _, keyword, rest = [found for found in instructions() if found[0] == target][-1]
        assert (keyword, rest) == ("USER", "10001:10001")

    def test_watches_its_health(self):
        """The targets share a check of their health, a program that is in the image."""
        (check,) = [rest for stage, keyword, rest in instructions() if (stage, keyword) == ("service", "HEALTHCHECK")]
        assert "/opt/xray-batch/healthcheck.py" in check
        assert [
            found
            for found in instructions()
            if found[1] == "COPY" and found[2].endswith("/opt/xray-batch/healthcheck.py")
        ]

    def test_no_secret_in_a_layer(self):
        """No argument and no variable takes a secret; pip's configuration is mounted for one command only."""
        found = instructions()
        assert not [rest for _, keyword, rest in found if keyword == "ARG"]
        assert not [rest for _, keyword, rest in found if re.search(r"PASSWORD|TOKEN|DATABASE_URL|://", rest)]
        (install,) = [rest for _, keyword, rest in found if keyword == "RUN" and "pip install" in rest]
        assert "--mount=type=secret,id=pip," in install


class TestCompose:
    """The compose file."""

    def test_images_have_versions(self):
        """Every image has an exact version, our own that of the package."""
        for name, service in SERVICES.items():
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", service["image"]), name
        assert SERVICES["xray-batch"]["image"] == f"xray-batch:{__version__}-cuda"

    def test_what_is_named_is_there(self):
        """Volumes, networks, secrets, mounted files and services that are named exist."""
        for name, service in SERVICES.items():
            assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys(), name
            assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
            assert service.get("depends_on", {}).keys() <= SERVICES.keys(), name
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                assert source in COMPOSE["volumes"] or (source.startswith("./") and (DEPLOY / source).is_file()), source

    def test_the_order(self):
        """The service comes after the grants, they after the migration, that after the database's health."""
        assert SERVICES["xray-batch"]["depends_on"] == {"grants": {"condition": "service_completed_successfully"}}
        assert SERVICES["grants"]["depends_on"] == {"migration": {"condition": "service_completed_successfully"}}
        assert SERVICES["migration"]["depends_on"] == {"database": {"condition": "service_healthy"}}
        assert "healthcheck" in SERVICES["database"]

    def test_each_knows_only_its_own_secrets(self):
        """The service knows its own role's URL, the migration the owner's; no variable holds a secret."""
        assert SERVICES["xray-batch"]["secrets"] == ["xray-url"]
        assert SERVICES["migration"]["secrets"] == ["xray_owner-url"]
        for service in SERVICES.values():
            for name, value in service.get("environment", {}).items():
                assert not re.search(r"PASSWORD$|DATABASE_URL$", name)
                assert "://" not in value

    def test_settings_that_there_are(self):
        """Variables of the service are settings."""
        for service in SERVICES.values():
            assert settings_in(service.get("environment", {})) <= set(Settings.model_fields)

    def test_the_service_can_do_little(self):
        """The service's container has no capabilities, a file system that it cannot change, and time to drain."""
        service = SERVICES["xray-batch"]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert "no-new-privileges:true" in service["security_opt"]
        assert int(service["stop_grace_period"].rstrip("s")) > Settings.model_fields["drain_seconds"].default
        assert COMPOSE["networks"]["database"]["internal"] is True


class TestSecrets:
    """The passwords of the compose file."""

    @pytest.fixture
    def secrets(self, tmp_path):
        """Make the secrets in a copy of `deploy/`."""
        shutil.copytree(DEPLOY / "container", tmp_path / "container")
        return tmp_path / "secrets"

    def make(self, secrets):
        """Run the script and return what it says."""
        script = secrets.parent / "container" / "make-secrets.sh"
        done = subprocess.run(["sh", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def test_made_once(self, secrets):
        """Exactly the compose file's secrets are made, nobody else can reach them, and the next run leaves them."""
        assert self.make(secrets) == ""
        made = {path.name: path.read_text(encoding="utf-8") for path in secrets.iterdir()}
        assert {f"secrets/{name}" for name in made} == {secret["file"] for secret in COMPOSE["secrets"].values()}
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
        assert made["xray-url"] == f"postgresql+psycopg://xray:{made['xray-password']}@database/xray\n"
        assert len(set(made.values())) == len(made)
        assert self.make(secrets) == ""
        assert {path.name: path.read_text(encoding="utf-8") for path in secrets.iterdir()} == made

    def test_roles_get_their_passwords(self, secrets, postgresql_server, empty_postgresql_url):
        """The script of the database's first start gives both roles the passwords of their URLs."""
        self.make(secrets)
        database = empty_postgresql_url.rpartition("/")[2]
        with psycopg.connect(empty_postgresql_url, autocommit=True) as connection:
            for role in ("xray_owner", "xray"):
                connection.execute(f"DO $$BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN END$$")
                connection.execute(f"ALTER ROLE {role} PASSWORD NULL")
            script = (DEPLOY / "container" / "passwords.sh").read_text(encoding="utf-8")
            script = script.replace("/run/secrets", str(secrets)).replace("--dbname xray", f"--dbname {database}")
            environment = os.environ | {"PGHOST": "127.0.0.1", "PGPORT": str(postgresql_server.port)}
            subprocess.run(["sh", "-c", script], check=True, env=environment, timeout=60)
            stored = dict(connection.execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'xray%'"))
            assert all(stored[role].startswith("SCRAM-SHA-256$") for role in ("xray_owner", "xray"))
            for role in ("xray_owner", "xray"):
                assert stored[role] == scram((secrets / f"{role}-password").read_text(encoding="utf-8"), stored[role])


def scram(password, like):
    """Return the SCRAM-SHA-256 verifier of a password with salt and iterations of another one (RFC 5803)."""
    iterations, salt = like.split("$")[1].split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    keys = ":".join(base64.b64encode(key).decode() for key in (stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${keys}"


class TestHealthcheck:
    """The check that the image runs."""

    def check(self, home):
        """Run it as Docker does, and return its exit code."""
        command = [sys.executable, DEPLOY / "container" / "healthcheck.py"]
        return subprocess.run(command, env={**os.environ, "XRAY_BATCH_HOME": str(home)}, timeout=60).returncode

    @pytest.mark.parametrize(("status", "code"), [(b"200 OK", 0), (b"503 Service Unavailable", 1), (b"", 1)])
    def test_what_the_service_says(self, tmp_path, status, code):
        """A service whose loop gets on is well; one that says otherwise, or nothing, is not."""
        asked = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "health.sock"))
            listener.listen(1)

            def answer():
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.0 " + status + b"\r\n\r\n" if status else b"")

            thread = threading.Thread(target=answer)
            thread.start()
            assert self.check(tmp_path) == code
            thread.join()
        assert asked[0].startswith(b"GET /livez HTTP/1.")

    def test_no_service(self, tmp_path):
        """Without a service there is no health."""
        assert self.check(tmp_path) == 1
