"""Alerts: unit-tested by promtool, evaluated by a real Prometheus, each with a runbook.

A broken rule must fail its unit tests. So each alert is tried in versions that never fire, that
lack one of their thresholds, and that do not wait: promtool has to reject every one.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from goblin_assistant.metrics import REGISTRY
from tests.conftest import ROOT, Serve, free_port, wait_until
from tests.support.services import find_binary

PROMETHEUS = ROOT / "ops" / "prometheus"
RULES = PROMETHEUS / "rules" / "goblin.rules.yml"
TESTS = PROMETHEUS / "tests" / "goblin_test.yml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
CASES: dict[str, Any] = yaml.safe_load(TESTS.read_text())
THRESHOLD = re.compile(r"\s(?:==|>=|<=|>|<)\s+\d+(?:\.\d+)?(?:\s*/\s*\d+)?")


def run_promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_binary("promtool"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def promtool(*arguments: str) -> str:
    done = run_promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def broken_rules() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(alert, what is broken, the fields of its rule that change); None removes a field."""
    for alert, rule in ALERTS.items():
        expression = rule["expr"]
        yield alert, "never fires", {"expr": f"({expression}) and on() absent(vector(1))"}
        for found in THRESHOLD.finditer(expression):
            without = expression[: found.start()] + expression[found.end() :]
            yield alert, f"without{found.group()}", {"expr": without}
        if "for" in rule:
            yield alert, "does not wait", {"for": None}


BROKEN = {f"{alert}: {what}": (alert, change) for alert, what, change in broken_rules()}


def concerns(case: dict[str, Any], alert: str) -> bool:
    """Whether a group of unit tests names the alert, or asks for all alerts that fire."""
    asked = [test["expr"] for test in case["promql_expr_test"]]
    return any(alert in text or 'alertname="' not in text for text in asked)


def try_rule(alert: str, change: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the unit tests that concern `alert` against its rule with `change`."""
    groups = copy.deepcopy(GROUPS)
    for rule in (rule for group in groups for rule in group["rules"]):
        if rule.get("alert") == alert:
            for field, value in change.items():
                rule[field] = value
                if value is None:
                    del rule[field]
    cases = [case for case in CASES["tests"] if concerns(case, alert)]
    (folder / "rules.yml").write_text(json.dumps({"groups": groups}))
    (folder / "tests.yml").write_text(
        json.dumps(CASES | {"rule_files": ["rules.yml"], "tests": cases})
    )
    return run_promtool("test", "rules", str(folder / "tests.yml"))


def test_configuration_and_rules_are_valid() -> None:
    assert "rule files found" in promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_the_alerts_fire_when_they_must_and_are_silent_when_they_must_not() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


@pytest.mark.parametrize("broken", BROKEN)
def test_the_unit_tests_reject_a_broken_rule(broken: str, tmp_path: Path) -> None:
    done = try_rule(*BROKEN[broken], tmp_path)
    assert done.returncode == 1
    assert "got:" in done.stderr  # an alert too many or too few, not a rule that cannot be read


def test_every_alert_but_the_watchdog_is_tried_without_its_threshold() -> None:
    tried = {alert for alert, what, _ in broken_rules() if what.startswith("without")}
    assert set(ALERTS) - tried == {"Watchdog"}  # it always fires


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_runbook(alert: str) -> None:
    page = (ROOT / "ops" / "runbooks" / f"{alert}.md").read_text()
    for heading in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
        assert f"## {heading}" in page


def test_every_alert_has_a_severity_a_summary_and_its_runbooks_address() -> None:
    for group in GROUPS:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("none", "warning", "critical")
                assert rule["annotations"]["summary"]
                assert rule["annotations"]["runbook_url"] == f"ops/runbooks/{rule['alert']}.md"


def test_every_metric_in_the_rules_is_exported() -> None:
    exported = {"up"}
    for metric in REGISTRY.collect():
        exported |= {
            metric.name,
            metric.name + "_total",
            metric.name + "_bucket",
            metric.name + "_count",
        }
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    named = set()
    for group in GROUPS:
        for rule in group["rules"]:
            expression = re.sub(
                r"\b(by|on|ignoring|without)\s*\([^)]*\)|\{[^}]*\}", " ", rule["expr"]
            )
            named |= set(re.findall(r"\b[a-z]\w*[_:][\w:]*\b(?!\s*\()", expression))
    assert len(named) > 15
    assert named - exported - recorded == set()


def test_a_real_prometheus_scrapes_an_instance_and_evaluates_the_rules(
    serve: Serve, tmp_path: Path
) -> None:
    binary = find_binary("prometheus")
    server = serve()
    port = free_port()
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["scrape_interval"] = "1s"
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
    path = tmp_path / "prometheus.yml"
    path.write_text(json.dumps(config))
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={path}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{port}/api/v1"

    def query(expression: str) -> list[Any]:
        try:
            answer = requests.get(url + "/query", params={"query": expression}, timeout=5).json()
        except requests.RequestException:
            return []
        result: list[Any] = answer["data"]["result"]
        return result

    try:
        wait_until(lambda: query('up{job="goblin-assistant"} == 1'), 30, "the scrape")
        wait_until(
            lambda: query('ALERTS{alertname="Watchdog",alertstate="firing"}'), 30, "the Watchdog"
        )
        wait_until(lambda: query("job_endpoint:http_requests:rate5m"), 30, "a recording")
        groups = requests.get(url + "/rules", timeout=5).json()["data"]["groups"]
        assert [
            rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"
        ] == []
        assert {
            rule["name"]
            for group in groups
            for rule in group["rules"]
            if rule["type"] == "alerting"
        } == set(ALERTS)
        firing = {row["metric"]["alertname"] for row in query('ALERTS{alertstate="firing"}')}
        assert firing == {"Watchdog"}
    finally:
        process.terminate()
        process.wait(15)
