"""The audit of dependencies in CI: a known vulnerability fails it, an unreachable source does not, and says so."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci"

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found"}
FLAWED = {
    "name": "flawed",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.1"], "description": "..."}],
}


@pytest.fixture
def audit(tmp_path):
    """Run the audit with a stand-in for pip-audit that says the same of every source; with what is accepted."""
    shutil.copy(CI / "audit.py", tmp_path)

    def run(*packages, output=None, accepted=""):
        answer = tmp_path / "answer"
        answer.write_text(json.dumps({"dependencies": packages}) if output is None else output, encoding="utf-8")
        program = tmp_path / "pip-audit"
        program.write_text(f"#!/bin/sh\ncat {answer}\nexit 1\n", encoding="utf-8")
        program.chmod(0o755)
        (tmp_path / "audit-ignore.toml").write_text(accepted or "ignore = []", encoding="utf-8")
        command = [sys.executable, tmp_path / "audit.py", program, tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    return run


def test_a_known_vulnerability_fails(audit):
    """A vulnerability that nobody has accepted is named, with the version that repairs it, and fails the audit."""
    code, said = audit(SOUND, FLAWED)
    assert code == 1
    assert "VULNERABLE: flawed 2.0: CVE-2026-1 PYSEC-2026-1; repaired in 2.1" in said


def test_an_accepted_one_does_not_fail(audit):
    """One that the reviewed list accepts, by any of its names, is told with the reason, and fails nothing."""
    code, said = audit(FLAWED, accepted='[[ignore]]\nid = "CVE-2026-1"\nreason = "Not used here."\n')
    assert code == 0
    assert "accepted: flawed 2.0: CVE-2026-1 PYSEC-2026-1: Not used here." in said


def test_a_list_that_accepts_too_much(audit):
    """An entry of the list that is no longer needed is named."""
    code, said = audit(SOUND, accepted='[[ignore]]\nid = "CVE-2025-9"\nreason = "Not used here."\n')
    assert code == 0
    assert "accepts CVE-2025-9, which no installed package has" in said


def test_what_is_not_known_is_told(audit):
    """Packages that the source does not know, such as our own, are named and fail nothing."""
    code, said = audit(SOUND, UNKNOWN)
    assert code == 0
    assert "1 packages looked up by pypi; not known there: unknown" in said


@pytest.mark.parametrize("output", ["", "no JSON", json.dumps({"dependencies": [UNKNOWN]}), "{}"])
def test_no_source(audit, output):
    """Where nothing could be looked up the audit says that it did not take place; a mirror's silence is no praise."""
    assert audit(output=output) == (0, "audit: NOT AUDITED: no source of advisories can be reached from here\n")


def test_the_list_is_reviewed():
    """Every entry of the real list has an id and a reason."""
    entries = tomllib.loads((CI / "audit-ignore.toml").read_text(encoding="utf-8"))["ignore"]
    assert all(entry["id"] and len(entry["reason"]) > 20 for entry in entries)
