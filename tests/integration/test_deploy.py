"""The systemd unit and its drop-ins do what the README promises, and systemd finds nothing wrong with them."""

import configparser
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from xray_batch.cli import EXIT_CONFIGURATION, app
from xray_batch.intake import Folders
from xray_batch.settings import ENVIRONMENT_PREFIX, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "xray-batch.service"
WEB_UNIT = DEPLOY / "xray-batch-web.service"
GPU = "xray-batch-gpu.conf"
CREDENTIAL = "xray-batch-credential.conf"
WEB_CREDENTIAL = "xray-batch-web-credential.conf"


def read_unit(path):
    """Read a unit file as an INI file; of a key that stands twice, as SystemCallFilter= must, the last is read."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), strict=False)
    parser.optionxform = str  # keys are case sensitive
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def unit():
    """Read the unit of the service."""
    return read_unit(UNIT)


@pytest.fixture(scope="module")
def web_unit():
    """Read the unit of the worklist page."""
    return read_unit(WEB_UNIT)


@pytest.fixture
def installed_unit(tmp_path):
    """Copy the unit of the service to where its drop-ins can stand beside it."""
    return copy_unit(UNIT, tmp_path)


def copy_unit(unit_path, folder):
    """Copy a unit; only its program is replaced by one that is here."""
    lines = unit_path.read_text(encoding="utf-8").splitlines(keepends=True)
    here = [f"ExecStart={shutil.which('true')}\n" if line.startswith("ExecStart=") else line for line in lines]
    copy = folder / unit_path.name
    copy.write_text("".join(here), encoding="utf-8")
    return copy


def add_drop_in(unit_copy, name):
    """Install a drop-in of `deploy/` beside the unit."""
    folder = unit_copy.with_name(f"{unit_copy.name}.d")
    folder.mkdir(exist_ok=True)
    shutil.copy(DEPLOY / name, folder)


def systemd_analyze(*arguments):
    """Run `systemd-analyze`, which needs no running systemd for what is asked of it here."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install the Debian package `systemd`")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    if "Failed to" in done.stderr and ".service" not in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("drop_ins", [[], [GPU], [CREDENTIAL], [GPU, CREDENTIAL]])
def test_systemd_finds_nothing_wrong(installed_unit, drop_ins):
    """`systemd-analyze verify` says nothing about the unit, alone and with its drop-ins."""
    for name in drop_ins:
        add_drop_in(installed_unit, name)
    check_verified(installed_unit)


def check_verified(unit_copy):
    """Let systemd read a unit, and have nothing to say."""
    done = systemd_analyze("verify", "--man=no", unit_copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("drop_ins", [[], [GPU], [CREDENTIAL]])
def test_exposure(installed_unit, drop_ins):
    """`systemd-analyze security` rates the unit 1.5 of 10 or better, with a GPU too."""
    for name in drop_ins:
        add_drop_in(installed_unit, name)
    check_exposure(installed_unit)


def check_exposure(unit_copy):
    """Let systemd rate a unit: 1.5 or better."""
    done = systemd_analyze("security", "--offline=true", "--threshold=15", "--no-pager", unit_copy)
    (level,) = re.findall(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert float(level) <= 1.5, done.stdout
    assert done.returncode == 0


def test_systemd_waits_until_the_service_says_it_is_ready(unit):
    """The service tells systemd when it is ready, and systemd waits for that long enough to load the model."""
    assert unit["Service"]["Type"] == "notify"
    assert int(unit["Service"]["TimeoutStartSec"]) >= 120


def test_a_loop_that_hangs_is_ended(unit):
    """Systemd ends a service that does not beat for longer than decoding one file may take."""
    assert int(unit["Service"]["WatchdogSec"]) > Settings.model_fields["decode_seconds"].default


def test_restarts(unit):
    """A crash starts the service again, for ever; a configuration error does not."""
    assert unit["Service"]["Restart"] == "on-failure"
    assert int(unit["Service"]["RestartPreventExitStatus"]) == EXIT_CONFIGURATION
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_stop_leaves_time_to_drain(unit):
    """Only the main process is told to stop, and it has longer than it takes to finish the work in hand."""
    assert unit["Service"]["KillMode"] == "mixed"
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings.model_fields["drain_seconds"].default


def test_runs_as_a_user_of_its_own_with_a_private_home(unit):
    """The service is the user `xray`, its home is a state folder that others cannot read, and new files neither."""
    service = unit["Service"]
    assert (service["User"], service["Group"]) == ("xray", "xray")
    assert service["Environment"] == f"{ENVIRONMENT_PREFIX}HOME=/var/lib/{service['StateDirectory']}"
    assert (service["StateDirectoryMode"], service["UMask"]) == ("0750", "0027")


def test_cannot_do_what_it_does_not_need(unit):
    """The unit takes away privileges, and write access outside of the home folder."""
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID", "RestrictNamespaces"):
        assert service[name] == "yes", name
    assert (service["IPAddressDeny"], service["IPAddressAllow"]) == ("any", "localhost")
    assert service["NoExecPaths"] == service["Environment"].partition("HOME=")[2]
    # oneDNN, which computes for torch, writes machine code at run time.
    assert "MemoryDenyWriteExecute" not in service


def test_the_credential_is_the_setting(unit):
    """The drop-in hands over the file in the variable of `database_url_file`."""
    lines = (DEPLOY / CREDENTIAL).read_text(encoding="utf-8").splitlines()
    assert "database_url_file" in Settings.model_fields
    assert f"Environment={ENVIRONMENT_PREFIX}DATABASE_URL_FILE=%d/database-url" in lines
    assert "LoadCredential=database-url:/etc/xray-batch/database-url" in lines


class TestWorklistPage:
    """The unit of `xray-batch web`."""

    @pytest.mark.parametrize("drop_ins", [[], [WEB_CREDENTIAL]])
    def test_systemd_finds_nothing_wrong(self, drop_ins, tmp_path):
        """`systemd-analyze` has nothing to say about it, and rates it 1.5 of 10 or better, as the service."""
        unit_copy = copy_unit(WEB_UNIT, tmp_path)
        for name in drop_ins:
            add_drop_in(unit_copy, name)
        check_verified(unit_copy)
        check_exposure(unit_copy)

    def test_is_as_closed_as_the_service(self, unit, web_unit):
        """User, rights and sockets are those of the service, to the letter."""
        same = set(unit["Service"]) - {"ExecStart", "Environment", "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec"}
        same -= {"StateDirectory", "StateDirectoryMode", "RemoveIPC"}  # the service's alone to make and to remove
        assert {name: web_unit["Service"][name] for name in same} == {name: unit["Service"][name] for name in same}

    def test_starts_what_there_is(self, unit, web_unit):
        """It runs `xray-batch web` by the service's configuration, waits until it listens, and after the service."""
        assert web_unit["Service"]["ExecStart"] == unit["Service"]["ExecStart"].replace(" watch ", " web ")
        assert "web" in get_command(app).commands
        assert web_unit["Service"]["Type"] == "notify"
        assert UNIT.name in web_unit["Unit"]["After"].split()
        lines = WEB_UNIT.read_text(encoding="utf-8").splitlines()
        assert f"Environment={unit['Service']['Environment']}" in lines

    def test_writes_no_original(self, web_unit):
        """Of the home folder it may write what lies in it, but none of the folders with films or bundles."""
        home = Path("/var/lib/xray-batch")
        assert web_unit["Service"]["ReadWritePaths"] == str(home)
        lines = WEB_UNIT.read_text(encoding="utf-8").splitlines()
        paths = [path for line in lines if line.startswith("ReadOnlyPaths=") for path in line.split("=")[1].split()]
        folders = Folders(home)
        originals = (folders.inbox, folders.spool, folders.processed, folders.rejected, folders.duplicates)
        assert sorted(paths) == sorted(f"-{folder}" for folder in (*originals, folders.bundles))

    def test_the_credential_is_the_setting(self):
        """The drop-in hands over a file of its own: the page's role may do less than the service's."""
        lines = (DEPLOY / WEB_CREDENTIAL).read_text(encoding="utf-8").splitlines()
        assert f"Environment={ENVIRONMENT_PREFIX}DATABASE_URL_FILE=%d/database-url" in lines
        assert "LoadCredential=database-url:/etc/xray-batch/web-database-url" in lines


class TestRay:
    """The cluster file of `deploy/ray/`."""

    CLUSTER = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text(encoding="utf-8"))
    STARTS = ("head_start_ray_commands", "worker_start_ray_commands")

    def test_ray_would_take_it(self):
        """It is what the schema of Ray's cluster launcher asks for."""
        ray = importlib.util.find_spec("ray")
        if ray is None or ray.origin is None:
            pytest.skip("Ray is not installed: the extra `ray`")
        schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.validate(self.CLUSTER, schema)

    @pytest.mark.parametrize("role", STARTS)
    def test_every_node_asks_for_the_token(self, role):
        """No node is started without token authentication, and none reports on its use to anybody."""
        (start,) = [command for command in self.CLUSTER[role] if " start" in command]
        assert start.startswith("RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ")
        assert "~/.ray/auth_token" in self.CLUSTER["file_mounts"]

    def test_nobody_else_reaches_the_dashboard(self):
        """It stays on loopback, and no service listens on all addresses."""
        (start,) = [command for command in self.CLUSTER["head_start_ray_commands"] if " start" in command]
        assert "--dashboard-host=127.0.0.1" in start
        assert "0.0.0.0" not in start

    def test_the_head_listens_where_the_others_look_for_it(self):
        """The address stands in two places, and is the same."""
        (start,) = [command for command in self.CLUSTER["head_start_ray_commands"] if " start" in command]
        assert f"--node-ip-address={self.CLUSTER['provider']['head_ip']}" in start
        workers = len(self.CLUSTER["provider"]["worker_ips"])
        (kind,) = self.CLUSTER["available_node_types"].values()
        assert workers == self.CLUSTER["max_workers"] == kind["min_workers"] == kind["max_workers"]

    def test_its_page_names_commands_that_exist(self):
        """Every option of `xray-batch` on the page is one."""
        page = (DEPLOY / "ray" / "README.md").read_text(encoding="utf-8")
        process = get_command(app).commands["process"]
        options = {option for parameter in process.params for option in parameter.opts}
        used = [
            set(re.findall(r"--[a-z-]+", line)) for line in page.splitlines() if line.startswith("xray-batch process")
        ]
        assert len(used) == 2
        assert all(names <= options for names in used)
