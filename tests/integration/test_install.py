"""`deploy/install.sh` installs what the unit and the README speak of, changes nothing twice, and removes no data.

It installs into a root folder of its own, as for an image.  Python packages are left out: torch takes minutes.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL = REPOSITORY / "deploy" / "install.sh"

CONFIGURATION = "etc/xray-batch/xray-batch.toml"
UNIT = "etc/systemd/system/xray-batch.service"
GPU = "etc/systemd/system/xray-batch.service.d/gpu.conf"
WEB = "etc/systemd/system/xray-batch-web.service"
WEB_ENABLED = "etc/systemd/system/multi-user.target.wants/xray-batch-web.service"
ENABLED = "etc/systemd/system/multi-user.target.wants/xray-batch.service"
INBOX = "var/lib/xray-batch/inbox"


@pytest.fixture
def root(tmp_path):
    """Name the root folder to install into."""
    if os.getuid() != 0:
        pytest.skip("only root may make the folders of another user")
    for program in ("systemd-sysusers", "systemd-tmpfiles", "systemctl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: install the Debian package `systemd`")
    return tmp_path / "root"


def install(root, *options, package="--no-package", umask=0o022):
    """Run the script, as root would under some umask, and return what it says."""
    command = ["sh", INSTALL, "--root", root, package, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, umask=umask)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listing(root):
    """Describe every file and folder: mode, owner, content, time of change."""
    described = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        described[str(path.relative_to(root))] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            content,
            status.st_mtime_ns,
        )
    return described


def test_installs_what_the_unit_needs(root):
    """Unit, configuration and documentation are where the unit looks for them, and it starts at boot."""
    install(root)
    unit = (root / UNIT).read_text(encoding="utf-8")
    (program, configuration) = re.findall(r"^ExecStart=(\S+)/venv/bin/xray-batch watch --config (\S+)$", unit, re.M)[0]
    (documentation,) = re.findall(r"^Documentation=file:(\S+)$", unit, re.M)
    for path in (program, configuration, documentation):
        assert (root / path.lstrip("/")).exists(), path
    assert (root / ENABLED).is_symlink()


def test_the_inbox_is_there_before_the_service(root):
    """User, group and inbox are made, the latter with the group's write access that the unit could not give it."""
    install(root)
    passwd = (root / "etc/passwd").read_text(encoding="utf-8")
    uid, gid, _, home, shell = re.findall(r"^xray:x:(\d+):(\d+):([^:]*):([^:]*):(.*)$", passwd, re.M)[0]
    assert (home, shell) == ("/var/lib/xray-batch", "/usr/sbin/nologin")
    for path, mode in ((INBOX, 0o2770), ("var/lib/xray-batch", 0o750)):
        status = (root / path).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, int(uid), int(gid)), path


def test_twice_changes_nothing(root):
    """The second run leaves every file, mode, owner and time as it was, and says so."""
    install(root, "--gpu", "--web")
    before = listing(root)
    said = install(root, "--gpu", "--web")
    assert listing(root) == before
    assert "installed /" not in said


def test_a_careful_umask(root):
    """Root's umask does not keep the service from reading its program."""
    install(root, umask=0o077)
    assert stat.S_IMODE((root / "opt/xray-batch").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "opt/xray-batch/README.md").stat().st_mode) == 0o644


def test_the_operators_choices_stay(root):
    """A changed configuration, a changed mode of the inbox and films outlive an upgrade; the unit is renewed."""
    install(root)
    (root / CONFIGURATION).write_text("batch_size = 4\n", encoding="utf-8")
    (root / INBOX).chmod(0o2775)
    (root / INBOX / "film.dcm").write_bytes(b"film")
    (root / UNIT).write_text("of an older version", encoding="utf-8")
    assert "installed /etc/systemd/system/xray-batch.service" in install(root)
    assert (root / CONFIGURATION).read_text(encoding="utf-8") == "batch_size = 4\n"
    assert stat.S_IMODE((root / INBOX).stat().st_mode) == 0o2775
    assert (root / INBOX / "film.dcm").read_bytes() == b"film"
    assert "of an older version" not in (root / UNIT).read_text(encoding="utf-8")


def test_gpu(root):
    """The drop-in is installed when asked for, stays when nothing is said, and goes when asked for."""
    for options, there in (((), False), (("--gpu",), True), ((), True), (("--no-gpu",), False)):
        install(root, *options)
        assert (root / GPU).exists() is there, options


def test_worklist_page(root):
    """The page is there and starts at boot when asked for, stays when nothing is said, and goes when asked for."""
    for options, there in (((), False), (("--web",), True), ((), True), (("--no-web",), False)):
        install(root, *options)
        assert ((root / WEB).exists(), (root / WEB_ENABLED).is_symlink()) == (there, there), options
        assert (root / ENABLED).is_symlink()


def test_the_page_needs_its_extra(root, tmp_path):
    """With `--web` the packages of the page are installed too, also at the upgrades after that."""
    called = tmp_path / "called"
    python = root / "opt/xray-batch/venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >>{called}\n', encoding="utf-8")
    python.chmod(0o755)
    for options in ([], ["--web"], []):
        install(root, *options, package="--no-start")
    asked = [line.split()[-1] for line in called.read_text(encoding="utf-8").splitlines() if " install " in line]
    assert asked == [str(REPOSITORY), f"{REPOSITORY}[web]", f"{REPOSITORY}[web]"]


def test_an_environment_that_was_not_finished(root, tmp_path):
    """What a Python without its package python3-venv left, an environment without pip, is made anew."""
    left = root / "opt/xray-batch/venv/bin/python"
    left.parent.mkdir(parents=True)
    left.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    left.chmod(0o755)
    called = tmp_path / "called"
    python = tmp_path / "python"
    made = f"printf '#!/bin/sh\\necho \"$@\" >>{called}\\n' >{left}"
    python.write_text(f'#!/bin/sh\ncase $3 in venv) echo "$@" >>{called}; {made};; esac\n', encoding="utf-8")
    python.chmod(0o755)
    install(root, "--python", python, package="--no-start")
    lines = called.read_text(encoding="utf-8").splitlines()
    assert [line.split()[2] for line in lines] == ["venv", "pip"]


def test_the_folder_that_it_is_called_from(root, tmp_path):
    """What others have put there, into /tmp for instance, is not run as root."""
    python = root / "opt/xray-batch/venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for name in ("pip", "venv"):
        (tmp_path / f"{name}.py").write_text("open('run_as_root', 'w').close()\n", encoding="utf-8")
    command = ["sh", INSTALL, "--root", root, "--no-start", "--wheel", "none.whl", "--python", "false"]
    environment = os.environ | {"PYTHONPATH": os.fspath(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0  # there is no such wheel
    assert not (tmp_path / "run_as_root").exists()


def test_no_start(root):
    """With `--no-start` the next boot does not start the service either, nor the page."""
    install(root, "--no-start", "--web")
    assert not (root / ENABLED).is_symlink()
    assert not (root / WEB_ENABLED).is_symlink()


def test_uninstall_keeps_what_is_yours(root):
    """The program and the unit go; films, results, configuration and what was put beside the program stay."""
    install(root, "--gpu", "--web")
    kept = [root / "var/lib/xray-batch" / name for name in ("results.sqlite3", "inbox/film.dcm", "processed/film.dcm")]
    kept += [root / CONFIGURATION, root / "opt/xray-batch/notes.txt"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    program = root / "opt/xray-batch/venv/bin/xray-batch"
    program.parent.mkdir(parents=True)
    program.touch()
    install(root, "--uninstall")
    assert all(path.exists() for path in kept)
    left = [path for path in (root / "etc").rglob("*xray-batch*") if path != (root / CONFIGURATION).parent]
    assert left == [root / CONFIGURATION]
    assert not (root / "opt/xray-batch/venv").exists()
    before = listing(root)
    install(root, "--uninstall")
    assert listing(root) == before


def test_wrong_usage(tmp_path):
    """An unknown option, and one without its value, is wrong usage; nothing is installed."""
    for options in (["--prefix", "/x"], ["--root"]):
        done = subprocess.run(["sh", INSTALL, *options], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 2, options
        assert options[0] in done.stderr


def test_a_python_that_the_service_cannot_see(root, tmp_path):
    """A Python in a home folder, which the unit hides from the service, is refused before anything is made of it."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase $3 in *base_prefix*) echo /home/me/.pyenv;; esac\n", encoding="utf-8")
    python.chmod(0o755)
    command = ["sh", INSTALL, "--root", root, "--python", python]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is in a home folder, which the service cannot see" in done.stderr
    assert not (root / "opt/xray-batch/venv").exists()


def test_shell_style():
    """The shell scripts pass shellcheck."""
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck: install the Debian package `shellcheck`")
    scripts = sorted((REPOSITORY / "deploy").rglob("*.sh"))
    assert INSTALL in scripts
    done = subprocess.run(
        [shellcheck, *scripts, REPOSITORY / ".ci" / "run"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert all("\nset -eu\n" in script.read_text(encoding="utf-8") for script in scripts)


def test_limits_of_inotify():
    """The sysctl file raises, and never lowers, what the kernel starts with."""
    text = (REPOSITORY / "deploy" / "sysctl.d" / "60-xray-batch.conf").read_text(encoding="utf-8")
    values = dict(re.findall(r"^fs\.inotify\.(\w+) = (\d+)$", text, re.M))
    kernel = {"max_user_watches": 1_048_576, "max_user_instances": 128, "max_queued_events": 16_384}
    assert {name: int(values[name]) >= least for name, least in kernel.items()} == dict.fromkeys(kernel, True)
