"""Judge what pip-audit says of the installed packages: a known vulnerability fails, an unreachable source does not.

    python .ci/audit.py PIP_AUDIT SITE_PACKAGES

pip-audit ends well with "No known vulnerabilities found", where its source knows no package at all, as behind a mirror:
what counts is which packages were looked up, and when none was, this says that nothing was audited.

`audit-ignore.toml` beside this file lists the vulnerabilities that were looked at and accepted, each with its reason.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

IGNORED = Path(__file__).with_name("audit-ignore.toml")

#: Advisories of the package index first; the other database where that has none.
SOURCES = ("pypi", "osv")

SECONDS = 120


def main(pip_audit: str, site_packages: str) -> int:
    """Print the verdict; return 1 for a known vulnerability that nobody has accepted."""
    accepted = {entry["id"]: entry["reason"] for entry in tomllib.loads(IGNORED.read_text())["ignore"]}
    for source in SOURCES:
        packages = look_up(pip_audit, site_packages, source)
        audited = [package for package in packages if "skip_reason" not in package]
        if audited:
            break
    else:
        print("audit: NOT AUDITED: no source of advisories can be reached from here")
        return 0
    skipped = sorted(package["name"] for package in packages if "skip_reason" in package)
    print(f"audit: {len(audited)} packages looked up by {source}; not known there: {', '.join(skipped) or 'none'}")
    found = [(package, flaw) for package in audited for flaw in package["vulns"]]
    return judge(found, accepted)


def look_up(pip_audit: str, site_packages: str, source: str) -> list[dict]:
    """Return what pip-audit knows of each package; nothing where it cannot work."""
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "10", "--vulnerability-service", source]
    try:
        done = subprocess.run(
            [pip_audit, "--path", site_packages, *options], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        return json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return []


def judge(found: list[tuple[dict, dict]], accepted: dict[str, str]) -> int:
    """Print each vulnerability, and what the list accepts without need."""
    refused = 0
    seen = set()
    for package, flaw in found:
        names = {flaw["id"], *flaw.get("aliases", [])}
        what = f"{package['name']} {package['version']}: {' '.join(sorted(names))}"
        reasons = [accepted[name] for name in sorted(names & accepted.keys())]
        seen |= names
        if reasons:
            print(f"audit: accepted: {what}: {reasons[0]}")
        else:
            refused += 1
            print(
                f"audit: VULNERABLE: {what}; repaired in {', '.join(flaw.get('fix_versions', [])) or 'no version yet'}"
            )
    for name in sorted(accepted.keys() - seen):
        print(f"audit: {IGNORED.name} accepts {name}, which no installed package has")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
