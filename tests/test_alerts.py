"""Alerts: unit-tested by promtool in scenarios, and evaluated by a real Prometheus.

A broken rule must fail its scenarios. So each alert is tried in versions that never fire, that
always fire, that lack one of their thresholds, and that do not wait: promtool has to reject all.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import Serve, free_port, wait_until
from tests.support.alert_rules import (
    ALERTS,
    GROUPS,
    PROMETHEUS,
    RULE_FILES,
    metrics_behind,
    promtool,
    recordings_behind,
    run_promtool,
)
from tests.support.services import find_binary

SCENARIOS: dict[Path, dict[str, Any]] = {
    file: yaml.safe_load(file.read_text()) for file in sorted(PROMETHEUS.glob("tests/*.yml"))
}
LONG = {"week", "budgets"}
"""Scenarios of hours and days, which no broken rule is tried with."""
NUMBER = r"\d+(?:\.\d+)?(?:\s*/\s*\d+)?"
THRESHOLD = re.compile(
    rf"\s(?:==|>=|<=|>|<)\s+(?:on \(slo\) group_left \(\) {NUMBER} \* slo:error_budget:ratio"
    rf"|{NUMBER})"
)


def broken_rules() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(alert, what is broken, the fields of its rule that change); None removes a field."""
    for alert, rule in ALERTS.items():
        expression = rule["expr"]
        yield alert, "never fires", {"expr": f"({expression}) and on() absent(vector(1))"}
        for place, found in enumerate(THRESHOLD.finditer(expression)):
            without = expression[: found.start()] + expression[found.end() :]
            yield alert, f"{place} without{found.group()}", {"expr": without}
        if "for" in rule:
            yield alert, "does not wait", {"for": None}


BROKEN = {f"{alert}: {what}": (alert, change) for alert, what, change in broken_rules()}


def expected(question: dict[str, Any]) -> set[str]:
    """The alerts that a question of a scenario expects to fire."""
    return {
        name
        for sample in question["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }


def asks_about(question: dict[str, Any], alert: str) -> bool:
    """Whether the answer to a question would show that `alert` fires."""
    if "ALERTS" not in question["expr"]:
        return False
    return not (named := re.findall(r'alertname="(\w+)"', question["expr"])) or alert in named


def fires(test: dict[str, Any], alert: str) -> bool:
    """Whether a test of a scenario expects the alert at any time."""
    return any(alert in expected(question) for question in test["promql_expr_test"])


def loads(file: Path, alert: str) -> bool:
    """Whether the rules that a file of scenarios loads hold the alert."""
    return any(
        f"alert: {alert}" in rules.read_text()
        for pattern in SCENARIOS[file]["rule_files"]
        for rules in file.parent.glob(pattern)
    )


def quiet_half(test: dict[str, Any], alert: str) -> dict[str, Any] | None:
    """A test's questions that expect the alert not to fire although its metrics are there."""
    wanted = metrics_behind(ALERTS[alert]["expr"]) - {"up"} or {"up", "vector"}
    present = {re.split(r"[{ ]", series["series"])[0] for series in test["input_series"]}
    questions = [
        question
        for question in test["promql_expr_test"]
        if asks_about(question, alert) and alert not in expected(question)
    ]
    if not questions or not wanted & present:
        return None
    return {**test, "promql_expr_test": questions, "alert_rule_test": []}


def part_about(test: dict[str, Any], alert: str) -> dict[str, Any]:
    """What a test asks about the alert, and expects of it where no other alert is loaded."""
    questions = []
    for question in test["promql_expr_test"]:
        if asks_about(question, alert):
            samples = question["exp_samples"]
            if expected(question):
                samples = [one for one in samples if f'alertname="{alert}"' in one["labels"]]
            questions.append(question | {"exp_samples": samples})
    checks = [one for one in test.get("alert_rule_test", []) if one["alertname"] == alert]
    return test | {"promql_expr_test": questions, "alert_rule_test": checks}


def try_rule(
    alert: str, change: dict[str, Any], tests: dict[Path, list[dict[str, Any]]], folder: Path
) -> str:
    """What promtool finds wrong first when `tests` run against the alert's rule with `change`.

    Only this alert and the recordings that it rests on are loaded: the others would take most of
    the time.
    """
    needed = recordings_behind(ALERTS[alert]["expr"]) | {alert}
    for file, cases in tests.items():
        names = []
        for pattern in SCENARIOS[file]["rule_files"]:
            for rules in sorted(file.parent.glob(pattern)):
                content = yaml.safe_load(rules.read_text())
                for group in content["groups"]:
                    group["rules"] = [
                        rule
                        for rule in group["rules"]
                        if (rule.get("record") or rule["alert"]) in needed
                    ]
                for rule in (rule for group in content["groups"] for rule in group["rules"]):
                    if "alert" in rule:
                        rule |= change
                        for field in [field for field, value in change.items() if value is None]:
                            del rule[field]
                (folder / rules.name).write_text(json.dumps(content))
                names.append(rules.name)
        about = [part_about(case, alert) for case in cases]
        case = SCENARIOS[file] | {"rule_files": names, "tests": about}
        (folder / file.name).write_text(json.dumps(case))
        done = run_promtool("test", "rules", str(folder / file.name))
        if done.returncode:
            return done.stderr
    return ""


def scenarios_about(alert: str) -> dict[Path, list[dict[str, Any]]]:
    """The tests of each file that asks about the alert; files in which it fires come first."""
    about = {
        file: scenario["tests"]
        for file, scenario in SCENARIOS.items()
        if file.stem not in LONG
        and loads(file, alert)
        and any(quiet_half(test, alert) for test in scenario["tests"])
    }
    firing = {
        file: scenario["tests"]
        for file, scenario in SCENARIOS.items()
        if file.stem not in LONG and any(fires(test, alert) for test in scenario["tests"])
    }
    return firing | about


def test_configuration_and_rules_are_valid() -> None:
    checked = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert f"{len(RULE_FILES)} rule files found" in checked


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_the_alerts_fire_when_they_must_and_are_silent_when_they_must_not(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(file))


@pytest.mark.parametrize("broken", BROKEN)
def test_the_scenarios_reject_a_broken_rule(broken: str, tmp_path: Path) -> None:
    alert, change = BROKEN[broken]
    # An alert too many or too few, not a rule that cannot be read.
    assert "got:" in try_rule(alert, change, scenarios_about(alert), tmp_path)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_the_scenarios_accept_each_rule_by_itself(alert: str, tmp_path: Path) -> None:
    # So that a broken rule is rejected for what is broken, not for what was left out.
    assert try_rule(alert, {}, scenarios_about(alert), tmp_path) == ""


@pytest.mark.parametrize("alert", sorted(set(ALERTS) - {"Watchdog"}))
def test_every_alert_has_a_scenario_that_must_not_fire_it(alert: str, tmp_path: Path) -> None:
    quiet: dict[Path, list[dict[str, Any]]] = {}
    for file, scenario in SCENARIOS.items():
        if file.stem not in LONG and loads(file, alert) and not quiet:
            halves = [quiet_half(test, alert) for test in scenario["tests"]]
            quiet |= {file: [half for half in halves if half]} if any(halves) else {}
    assert quiet, f"no scenario has the metrics of {alert} and expects silence"
    assert try_rule(alert, {}, quiet, tmp_path) == ""
    wait = {"for": None} if "for" in ALERTS[alert] else {}
    assert "got:" in try_rule(alert, {"expr": "vector(1)", **wait}, quiet, tmp_path)


def test_values_that_yaml_would_read_as_hexadecimal_are_quoted() -> None:
    for scenario in SCENARIOS.values():
        for series in (series for test in scenario["tests"] for series in test["input_series"]):
            assert not isinstance(series["values"], int), series["series"]


def test_every_alert_but_the_watchdog_is_tried_without_its_threshold() -> None:
    tried = {alert for alert, what, _ in broken_rules() if " without " in what}
    assert set(ALERTS) - tried == {"Watchdog"}  # it always fires


def test_the_guides_four_alerts_come_first_in_its_group() -> None:
    (group,) = [group for group in GROUPS if group["name"] == "goblin_assistant_alerts"]
    assert group["interval"] == "30s"
    guide = [
        ("HighErrorRate", "> 0.1", "5m", "warning"),
        ("SlowResponseTime", "> 2", "5m", "warning"),
        ("ServiceUnhealthy", "== 0", "2m", "critical"),
        ("HighChatCompletionErrors", "> 0.5", "5m", "warning"),
    ]
    for (alert, threshold, wait, severity), rule in zip(guide, group["rules"], strict=False):
        assert rule["alert"] == alert
        assert threshold in rule["expr"]
        assert rule["for"] == wait
        assert rule["labels"]["severity"] == severity


def test_every_alert_has_a_severity_a_summary_and_its_runbooks_address() -> None:
    for alert, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("none", "warning", "critical")
        assert rule["annotations"]["summary"]
        link = "{{ $externalLabels.runbook_base }}/" + alert + ".md"
        assert rule["annotations"]["runbook_url"] == link


def test_a_real_prometheus_scrapes_an_instance_with_a_token_and_evaluates_the_rules(
    serve: Serve, tmp_path: Path
) -> None:
    binary = find_binary("prometheus")
    server = serve(GOBLIN_METRICS_TOKEN="a-token-of-the-metrics")
    port = free_port()
    # As the comments of the file say, for a token.
    text = (PROMETHEUS / "prometheus.yml").read_text()
    text = text.replace("    # authorization:", "    authorization:")
    config = yaml.safe_load(text.replace("    #   credentials_file:", "      credentials_file:"))
    (tmp_path / "token").write_text("a-token-of-the-metrics")
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    rules_now = tmp_path / "now.rules.yml"
    rules_now.write_text(json.dumps({"groups": [group | {"interval": "1s"} for group in GROUPS]}))
    config["rule_files"] = [str(rules_now)]
    (job, _) = config["scrape_configs"]
    job["scrape_interval"] = "1s"
    job["authorization"]["credentials_file"] = str(tmp_path / "token")
    job["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
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
        wait_until(lambda: query('up{job="goblin-assistant"} == 1'), 60, "the scrape")
        wait_until(
            lambda: query('ALERTS{alertname="Watchdog",alertstate="firing"}'), 90, "the Watchdog"
        )
        groups = requests.get(url + "/rules", timeout=60).json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
        assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(ALERTS)
        firing = {row["metric"]["alertname"] for row in query('ALERTS{alertstate="firing"}')}
        assert firing == {"Watchdog"}
    finally:
        process.terminate()
        process.wait(15)
