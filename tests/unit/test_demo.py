"""Where the demo puts its database."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from xray_batch.cli import app, process


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs the demo for a user, up to the work, and returns the settings and what it says."""
    given = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(
        process, "run_process", lambda named, settings, form: given.append(settings) or SimpleNamespace(failed=0)
    )

    def run_demo(*options):
        done = CliRunner().invoke(app, ["demo", *options])
        assert done.exit_code == 0, done.output
        return given[0], done.output

    return run_demo


def test_home_folder_of_the_user(run, tmp_path):
    """A home folder that is named with `~` holds the database, and is the one that is told."""
    settings, output = run("--home", "~/demo")
    database = tmp_path / "demo" / "results.sqlite3"
    assert settings.resolved_database_url == f"sqlite:///{database}"
    assert f"in {database}\n" in output


@pytest.mark.parametrize("setting", ["DATABASE_URL", "DATABASE_URL_FILE"])
def test_never_the_database_of_an_installation(run, setting, monkeypatch, tmp_path):
    """A database that is set for the installation is left alone; one that is named on the command line is used."""
    monkeypatch.setenv(f"XRAY_BATCH_{setting}", "sqlite:////srv/results.sqlite3")
    settings, _ = run("--home", str(tmp_path))
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/results.sqlite3"


def test_a_database_that_is_named(run, tmp_path):
    """It is used, and told of."""
    settings, output = run("--home", str(tmp_path), "--database-url", "sqlite:////srv/demo.sqlite3")
    assert settings.resolved_database_url == "sqlite:////srv/demo.sqlite3"
    assert "in the given database\n" in output
