"""Configuration, migrations, doctor and bundles, from the command line."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import imagecodecs
import pytest
from installed_command import clean_environment, run_command
from store_records import make_arrival, make_model, make_rejected

import xray_batch
from xray_batch.bundle import PACKAGED_BUNDLES
from xray_batch.cli.doctor import CHECKS, examine
from xray_batch.cli.doctor.check import Level
from xray_batch.decode import transfer_syntaxes
from xray_batch.revisions import head_revision, open_database
from xray_batch.settings import Settings
from xray_batch.store import Store


@pytest.mark.parametrize(
    ("variables", "options", "sentence"),
    [
        ({"XRAY_BATCH_BATCH_SIZE": "many"}, [], "wrong setting 'batch_size' in the environment"),
        ({}, ["--database-url", "mysql://somewhere/x"], "expected sqlite or postgresql"),
        ({}, ["--database-url", "postgresql://x@127.0.0.1/x?ssl_mode=verify-full"], 'connection option "ssl_mode"'),
        ({}, ["--bundle", "absent"], "there is no model bundle 'absent'; there are: default"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_78(tmp_path, variables, options, sentence):
    """A configuration error ends with 78 and says what is wrong where, without a traceback."""
    done = run_command("watch", "--home", tmp_path / "home", *options, **variables)
    assert done.code == 78
    assert sentence in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("variables", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_threads_that_wait_leave_the_cores_to_others(variables, policy):
    """The threads of the networks sleep while they wait for each other, unless the user says how they are to wait."""
    done = run_command("bundle", "verify", "default", OMP_DISPLAY_ENV="true", **variables)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.err


def test_standard_streams_that_are_closed_end_nothing(tmp_path):
    """The command does its work, and no socket or file gets their numbers."""
    command = f"{sys.executable} -m xray_batch db upgrade --database-url sqlite:///{tmp_path}/x.sqlite3 <&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    listing = "import os, sys; from xray_batch.cli import _open_closed_streams; _open_closed_streams()"
    listing += "; print([os.readlink(f'/proc/self/fd/{number}') for number in (0, 2)], sys.stdin, sys.stderr)"
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "{listing}" <&- 2>&-'], capture_output=True, text=True)
    assert done.stdout.startswith("['/dev/null', '/dev/null'] <_io.TextIOWrapper"), done


def test_a_working_folder_that_was_removed_is_one_sentence(tmp_path):
    """No library says something else, and ends the process, because it cannot be asked for."""
    (tmp_path / "gone").mkdir()
    command = f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && {sys.executable} -m xray_batch bundle verify"
    package_folder = str(Path(xray_batch.__file__).parent.parent)
    environment = clean_environment(PYTHONPATH=package_folder)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "xray-batch: the working folder was removed; change to another one, with cd\n"


def test_too_little_address_space_is_one_sentence():
    """A library that cannot be loaded is named, with what may be the matter."""
    command = f"ulimit -v 1000000; {sys.executable} -m xray_batch bundle verify"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 78
    assert done.stderr.startswith("xray-batch: a library cannot be loaded: lib")
    assert done.stderr.count("\n") == 1


def test_a_home_folder_behind_an_equals_sign(tmp_path):
    """`~` there, which no shell expands, is the user's home folder; where there is no such user it stays."""
    config = run_command("bundle", "list", "--config=~/c.toml", HOME=str(tmp_path))
    assert f"the configuration file {tmp_path}/c.toml cannot be read" in config.err
    nobody = run_command("bundle", "list", "--home=~nobody-of-this-name/x")
    assert "no home folder is known for ~nobody-of-this-name" in nobody.err


def test_wrong_usage_is_exit_2(tmp_path):
    """An unknown option is wrong usage."""
    assert run_command("results", "--home", tmp_path, "--colour", "blue").code == 2


def test_a_time_beyond_the_calendar_is_wrong_usage(tmp_path):
    """In a zone west of Greenwich the last evening of the calendar is a time that UTC does not have."""
    done = run_command("results", "--home", tmp_path, "--until", "9999-12-31T23:59", TZ="America/New_York")
    assert done.code == 2
    assert "--until is '9999-12-31T23:59'" in done.err


@pytest.mark.parametrize("form", ["json", "csv", "table"])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_is_utf_8_in_any_locale(tmp_path, form, encoding):
    """What goes to a file or a program has every character of a name, whatever the locale can hold."""
    with closing(Store(open_database(f"sqlite:///{tmp_path / 'results.sqlite3'}"))) as store:
        store.register_model(make_model())
        store.record_in_place([(make_arrival(source_name="Grüße/胸部.dcm"), make_rejected())], make_model())
    done = run_command("results", "--home", tmp_path, "--format", form, PYTHONIOENCODING=encoding)
    assert done.code == 0, done.err
    assert "Grüße/胸部.dcm" in done.out


def test_postgresql_is_migrated_only_when_asked(empty_postgresql_url, tmp_path):
    """An empty PostgreSQL database is refused with the command to run; after it, the service's check passes."""
    options = ["--home", tmp_path / "home"]
    url = {"XRAY_BATCH_DATABASE_URL": empty_postgresql_url}
    refused = run_command("watch", *options, **url)
    assert refused.code == 78
    assert "xray-batch db upgrade" in refused.err
    assert run_command("db", "current", *options, **url).out.strip() == "none"
    assert run_command("db", "upgrade", *options, **url).code == 0
    assert run_command("db", "check", *options, **url).code == 0
    assert run_command("db", "current", *options, **url).out.strip() == head_revision()


def test_an_unknown_revision_is_refused(empty_postgresql_url, tmp_path, postgresql_server):
    """A database of a newer version is left alone: exit 78 and a sentence."""
    url = {"XRAY_BATCH_DATABASE_URL": empty_postgresql_url}
    run_command("db", "upgrade", "--home", tmp_path, **url)
    import psycopg

    with psycopg.connect(empty_postgresql_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    done = run_command("watch", "--home", tmp_path / "home", **url)
    assert done.code == 78
    assert "9999, which this version does not know" in done.err


def test_doctor_finds_a_healthy_installation(tmp_path):
    """Every check and every transfer syntax has one line, exit code 0 where all is well, and nothing is made."""
    done = run_command("doctor", "--home", tmp_path / "home")
    assert not (tmp_path / "home").exists()
    subjects = [line.split()[1] for line in done.out.splitlines()]
    syntaxes = transfer_syntaxes()
    assert subjects == [*CHECKS, *["decoder"] * len(syntaxes)]
    assert all(f"{syntax.name} ({syntax.uid}): {syntax.decoder}" in done.out for syntax in syntaxes)
    assert done.code == 0, done.out


def test_doctor_finds_a_missing_decoder(tmp_path, monkeypatch):
    """A decoder that imagecodecs was built without is a problem, on the line of its transfer syntax."""
    monkeypatch.setattr(imagecodecs.HTJ2K, "available", False)
    found = [check for check in examine(Settings(home=tmp_path)) if check.level is Level.PROBLEM]
    assert len(found) == 3
    assert all("High-Throughput" in check.text and "not in this build" in check.text for check in found)


def test_doctor_finds_a_changed_bundle(tmp_path):
    """A changed byte in the weights is a problem: its line says which file, exit code 1."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGED_BUNDLES / "default", copy)
    weights = copy / "resnet34.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = run_command("doctor", "--home", tmp_path / "home", "--bundle", f"{copy}/")
    assert done.code == 1
    assert "resnet34.safetensors has SHA-256" in done.out


def test_a_command_ends_without_a_last_look():
    """The garbage collector does not go through the objects of all libraries at the end of a command."""
    seen = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() == 0))"
    program = f"{seen}; from xray_batch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


@pytest.mark.parametrize("name", ["gate.safetensors", "training_images.safetensors"])
def test_verify_finds_a_changed_file(name, tmp_path):
    """A changed byte in the gate's file, or in that of the training images' hashes, is found, too."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGED_BUNDLES / "default", copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = run_command("bundle", "verify", f"{copy}/", "--home", tmp_path)
    assert done.code == 78
    assert f"{name} has SHA-256" in done.err


def test_verify_finds_a_bundle_for_another_version(tmp_path):
    """A bundle that no command would take is not called complete."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGED_BUNDLES / "default", copy, ignore=shutil.ignore_patterns("manifest.json"))
    manifest = json.loads((PACKAGED_BUNDLES / "default" / "manifest.json").read_text())
    manifest["input"]["rendering_version"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = run_command("bundle", "verify", f"{copy}/", "--home", tmp_path)
    assert done.code == 78
    assert "this version of xray-batch renders version" in done.err


def test_bundle_commands(tmp_path):
    """`list` marks the bundle in use, `show` prints its card, `verify` checks it."""
    assert run_command("bundle", "list", "--home", tmp_path).out.startswith("* default")
    assert "## Intended use" in run_command("bundle", "show", "--home", tmp_path).out
    assert "complete and unchanged" in run_command("bundle", "verify", "--home", tmp_path).out


def test_one_bundle_is_in_use(tmp_path):
    """An installed bundle goes before a packaged one of its name, and one named by its path is listed once."""
    installed = tmp_path / "bundles" / "default"
    shutil.copytree(PACKAGED_BUNDLES / "default", installed)
    for variables in ({}, {"XRAY_BATCH_BUNDLE": f"{installed}/"}):
        lines = run_command("bundle", "list", "--home", tmp_path, **variables).out.splitlines()
        assert len(lines) == 2
        (used,) = (line for line in lines if line.startswith("*"))
        assert used.endswith(f" {installed}")


def test_an_incomplete_bundle_is_refused_with_the_fact_named(tmp_path):
    """A manifest without its mean is refused: nothing falls back to a constant."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGED_BUNDLES / "default", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["input"]["mean"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = run_command("bundle", "verify", f"{copy}/", "--home", tmp_path)
    assert done.code == 78
    assert "input.mean: Field required" in done.err
