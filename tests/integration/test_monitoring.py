"""Alert rules and dashboard speak of metrics and reasons that there are, and the rules do what they say."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from xray_batch.errors import ReasonCode
from xray_batch.service.metrics import Metrics

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "deploy" / "prometheus" / "xray-batch.rules.yml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "xray-batch.json"
RULE_TESTS = Path(__file__).parent / "prometheus_alerts.yml"


def metrics():
    """Return the names of all metrics, from the service's own exposition."""
    return set(re.findall(r"^# TYPE (\S+) ", Metrics().exposition().decode(), re.MULTILINE))


def used_in(expressions):
    """Return the metrics named in PromQL; the series of a histogram count as the histogram."""
    names = re.findall(r"\bxray_\w+", " ".join(expressions))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def rules():
    """Return the alert rules."""
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def dashboard_expressions():
    """Return every PromQL expression of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [variable["query"] for variable in dashboard["templating"]["list"]]
    return queries + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def promtool(*arguments):
    """Run Prometheus's own tool for rules, and return what it says."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool: install the Debian package `prometheus`")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_nothing_wrong():
    """Prometheus would load the rules."""
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


def test_rules_fire_when_they_should():
    """Each alert fires for what it is meant for, after its time, and a service that is well raises none."""
    promtool("test", "rules", RULE_TESTS)


def test_every_rule_has_a_test():
    """No rule is without a case in which it fires."""
    tests = RULE_TESTS.read_text(encoding="utf-8")
    assert not [rule["alert"] for rule in rules() if rule["alert"] not in tests]


def test_rules_name_metrics_that_there_are():
    """Every metric in a rule is one that the service offers."""
    assert used_in(rule["expr"] for rule in rules()) <= metrics()


def test_rules_name_reasons_that_there_are():
    """The reasons that the alert on damaged files counts are reason codes."""
    (named,) = re.findall(r'reason=~"([a-z_|]+)"', RULES.read_text(encoding="utf-8"))
    assert set(named.split("|")) <= {code.value for code in ReasonCode}


def test_the_dashboard_shows_every_metric_and_no_other():
    """Every metric that the service offers is on the dashboard, which names no other."""
    assert used_in(dashboard_expressions()) == metrics()


def test_an_alert_says_what_to_do():
    """Every alert has a severity, one sentence of what is the matter, and one of what to do; files that wait page."""
    by_name = {rule["alert"]: rule for rule in rules()}
    assert by_name["XrayBatchFilesWait"]["labels"]["severity"] == "page"
    for rule in by_name.values():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_dashboard_panels():
    """Panels have ids of their own and a description, and do not lie over each other."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
