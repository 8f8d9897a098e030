"""Alert rules and dashboard speak of metrics and reasons that there are, and the rules do what they say."""

import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from xray_batch.errors import ReasonCode
from xray_batch.service.health import HealthServer, Vitals
from xray_batch.service.metrics import Metrics

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "deploy" / "prometheus" / "xray-batch.rules.yml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "xray-batch.json"
#: Generous: the machine may be busy.
PATIENCE_SECONDS = 60

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


def panels():
    """Return the panels of the dashboard."""
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def free_port():
    """Return a port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def prometheus(folder, target):
    """Run a real Prometheus that scrapes `target` four times a second; yield a function that evaluates PromQL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus: install the Debian package `prometheus`")
    job = {"job_name": "xray-batch", "static_configs": [{"targets": [target]}]}
    timing = {"scrape_interval": "250ms", "scrape_timeout": "250ms"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"global": timing, "scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *options, f"--web.listen-address={address}"], stdout=log, stderr=log, cwd=folder
        )

    def evaluate(expression):
        url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return [(each["metric"], float(each["value"][1])) for each in json.load(answer)["data"]["result"]]

    try:
        yield evaluate
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def wait_for(evaluate, expression):
    """Evaluate an expression until there is something; an empty list if there never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    found = []
    while not found and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, urllib.error.URLError):  # Prometheus is starting
            found = evaluate(expression)
        time.sleep(0 if found else 0.1)
    return found


def in_dashboard(expression):
    """Fill in the variables of the dashboard as Grafana does."""
    return expression.replace("$job", "xray-batch").replace("$instance", ".+").replace("$__rate_interval", "5s")


def test_a_real_prometheus_has_something_for_every_panel(tmp_path):
    """A service that has just begun to work fills each panel; the figures of the moment are gone when it is."""
    address = f"127.0.0.1:{free_port()}"
    vitals = Vitals()
    metrics = vitals.metrics
    with prometheus(tmp_path, address) as evaluate:
        with HealthServer(address, tmp_path, vitals):
            assert wait_for(evaluate, "xray_files_total")
            # Counters that move after they were first seen, as Prometheus needs it.
            for count in (metrics.duplicates, metrics.expired, metrics.rearmed, metrics.retries.labels("counted")):
                count.inc()
            metrics.rejected.labels(ReasonCode.LATERAL_VIEW).inc()
            metrics.files.labels("not_analysed").inc()
            metrics.files.labels("normal").inc(3)
            metrics.watch_mode.labels("inotify").set(1)
            metrics.model.labels("test-1.0.0", "0" * 64).set(1)
            metrics.database.set(1)
            metrics.stages.labels("process").observe(0.3)
            assert wait_for(evaluate, "xray_db_up == 1")
            assert wait_for(evaluate, 'increase(xray_quarantined_total{reason="lateral_view"}[1h]) > 0')
            found = {
                (panel["title"], target["legendFormat"]): evaluate(in_dashboard(target["expr"]))
                for panel in panels()
                for target in panel["targets"]
            }
        assert not [name for name, values in found.items() if not values]
        assert not [name for name, values in found.items() if any(math.isinf(value) for _, value in values)]
        assert found["Service", ""] == [({}, 1.0)]
        assert found["Not analysed in 24 hours", ""][0][1] == pytest.approx(0.25)
        assert [labels["mode"] for labels, _ in found["Watches the inbox by", "{{mode}}"]] == ["inotify"]
        assert wait_for(evaluate, "up == 0")
        now = [panel for panel in panels() if panel["targets"][0].get("instant")]
        gone = [panel["title"] for panel in now if not evaluate(in_dashboard(panel["targets"][0]["expr"]))]
        assert {"Oldest unanswered", "Database", "Takes files in", "Model"} <= set(gone)


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


def test_figures_of_the_moment_keep_no_old_value():
    """A single figure is asked for as of now, and says so where nobody tells it: a dead service is never green."""
    figures = [panel for panel in panels() if panel["type"] == "stat"]
    assert all(target["instant"] for panel in figures for target in panel["targets"])
    assert all(panel["fieldConfig"]["defaults"]["noValue"] for panel in figures)


def test_every_metric_has_a_help_text():
    """Somebody who reads `/metrics` needs no other page."""
    texts = re.findall(r"^# HELP (\S+) (.*)$", Metrics().exposition().decode(), re.MULTILINE)
    assert {name for name, _ in texts} == metrics()
    assert all(len(text.split()) >= 4 for _, text in texts)


def test_dashboard_panels():
    """Panels have ids of their own and a description, and do not lie over each other."""
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert all(panel["title"] and panel["description"] for panel in panels())
    taken = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
