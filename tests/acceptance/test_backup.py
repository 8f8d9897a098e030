"""The README's commands for backup and restore, run on a real service with work in hand, on both databases."""

import os
import re
import shutil
import subprocess
import uuid
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from installed_command import WatchedFolder, files_below, make_bad_files, make_films
from store_records import make_model

from xray_batch.intake import Folders, SettleTracker, claim, claims_in_spool, hash_claimed, scan
from xray_batch.revisions import open_database
from xray_batch.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]

#: What the commands call by a name of the installation, and the test by another.
SHELL = """set -eu
sudo() { if [ "$1" = -u ]; then shift 2; fi; "$@"; }
chown() { :; }  # there is no user xray
chgrp() { :; }
"""


def commands(title, engine):
    """Return the README's command lines, block by block, without those of the other database."""
    section = (
        (REPOSITORY / "README.md").read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    )
    other = {"sqlite": "PostgreSQL", "postgresql": "SQLite"}[engine]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [[line for line in block.splitlines() if not line.endswith(f"# {other}")] for block in blocks]
    return [[re.sub(r" +#.*|^#.*", "", line) for line in block] for block in lines]


class Installation:
    """The home folder and the database of a service, on which the README's lines are run."""

    def __init__(self, service, backup):
        self.service = service
        self._url = sa.make_url(service.database_url)
        self._folders = {
            "/var/lib/xray-batch": service.home,
            "/etc/xray-batch": service.home.with_name(f"{service.home.name}-etc"),
            "/backup/xray-batch": backup,
        }
        for folder in (service.home, service.inbox, self._folders["/etc/xray-batch"]):  # as the script installs them
            folder.mkdir(parents=True, exist_ok=True)

    def run(self, lines, start):
        """Run each line as it stands; what is systemd's business is done by the test."""
        for line in lines:
            if line == "sudo systemctl stop xray-batch":
                assert self.service.stop() == 0
            elif line in ("sudo systemctl start xray-batch", "sudo systemctl enable --now xray-batch"):
                start()
            elif line != "sudo deploy/install.sh --no-start":
                self._run(line)

    def _run(self, line):
        command = line
        for theirs, ours in self._folders.items():
            command = command.replace(theirs, str(ours))
        environment = dict(os.environ)
        if self._url.get_backend_name() == "postgresql":
            command = re.sub(r"(?<= )xray(?= |$)", str(self._url.database), command)
            environment |= {"PGHOST": self._url.host, "PGPORT": str(self._url.port), "PGUSER": self._url.username}
        shell = ["sh", "-c", SHELL + command]
        done = subprocess.run(shell, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def leave_work_behind(service, films):
    """Leave three films in the states that are not finished, as a stop does: recorded, claimed, dropped."""
    folders = Folders(service.home)
    for film in films[:2]:
        shutil.copy(film, folders.inbox)
    no = lambda _descriptor: False  # noqa: E731
    tracker = SettleTracker(folders.inbox, 0, incomplete_seconds=0, ends_early=no, has_ended=no)
    service.wait_until(lambda: claim_all(tracker, folders) == 2)
    recorded = hash_claimed(next(claims_in_spool(folders)))
    with closing(Store(open_database(service.database_url))) as store:
        store.add_arrivals([recorded], make_model())
    shutil.copy(films[2], folders.inbox)


def claim_all(tracker, folders):
    """Claim what is complete, and count what is in the spool."""
    for file in tracker.complete(scan(folders.inbox).files):
        claim(file, folders)
    return len(list(claims_in_spool(folders)))


def answers(service):
    """Return what was answered, by content; without the numbers and times of rows."""
    return {row["content_sha256"]: (row["outcome"], row["reason_code"]) for row in service.results()}


@pytest.fixture
def original(watched):
    """Have the service keep its SQLite database where an installation has it, in the home folder."""
    if watched.database_url.startswith("sqlite"):
        watched.database_url = f"sqlite:///{watched.home / 'results.sqlite3'}"
    return watched


@pytest.fixture
def restored_url(database_url, tmp_path):
    """Name the database to restore into; a PostgreSQL one is made by the README's lines, and dropped in the end."""
    url = sa.make_url(database_url)
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored' / 'results.sqlite3'}"
        return
    name = f"restored_{uuid.uuid4().hex}"
    yield url.set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(host=url.host, port=url.port, user=url.username, dbname="postgres", autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def restored(tmp_path, restored_url):
    """Make a home folder to restore into; what still runs there in the end is killed."""
    service = WatchedFolder(tmp_path / "restored", restored_url)
    yield service
    for process in service.processes:
        process.kill()
        process.wait()


def test_backup_and_restore(original, restored, tmp_path):
    """A backup made with work in hand, restored elsewhere, gives every film the answer that it has in the original."""
    if original.database_url.startswith("sqlite") and shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3: install the Debian package `sqlite3`")
    films = make_films(tmp_path / "films", 6)
    bad = list(make_bad_files(tmp_path / "bad"))[:2]
    arrivals = len(films) + len(bad) + 1
    for number, path in enumerate([*films[:3], *bad, films[0]]):
        shutil.copy(path, original.inbox / f"{number}-{path.name}")
    original.start()
    original.wait_until_ready()
    original.wait_until_idle(arrivals - 3)

    def go_on():
        """Before the rest is copied, the original answers what was in hand, and what came later."""
        original.start()
        original.wait_until_idle(arrivals)

    engine = sa.make_url(original.database_url).get_backend_name()
    back_up, restore = commands("Backup and restore", engine)
    installation = Installation(original, tmp_path / "backup")
    stop = back_up.index("sudo systemctl stop xray-batch") + 1
    installation.run(back_up[:stop], go_on)
    leave_work_behind(original, films[3:])
    installation.run(back_up[stop:], go_on)
    assert original.stop() == 0

    copy = Installation(restored, tmp_path / "backup")
    copy.run(restore, restored.start)
    accounting = restored.wait_until_idle(arrivals)
    assert restored.stop() == 0
    assert accounting == original.accounting()
    assert (accounting.arrivals, accounting.lost, accounting.balances) == (arrivals, 0, True)
    assert len(answers(original)) == len(films) + len(bad)
    assert answers(restored) == answers(original)
    originals = {path.read_bytes() for path in files_below(original.home / "processed")}
    assert {path.read_bytes() for path in files_below(restored.home / "processed")} == originals
    assert not files_below(restored.home / "spool")
