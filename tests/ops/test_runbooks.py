"""Every alert has its runbook and every runbook its alert; what both name exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT, Serve
from tests.support.alert_rules import (
    ALERTS,
    RECORDED,
    RULES,
    grouping_labels,
    names_and_labels,
)
from tests.support.runbooks import FOLDER, PAGES, blocks, site_block
from tests.support.services import find_binary

METRICS_PAGE = ROOT / "docs" / "metrics.md"
# Labels that Prometheus adds, and those that the recordings add.
ADDED = {"job", "instance", "le", "kind", "slo"}
# Metrics of others, and the words by which the runbooks' README names them.
OTHERS = {
    "up": "`up`",
    "ALERTS": "`up`",
    "probe_success": "`probe_*`",
    "probe_http_status_code": "`probe_*`",
    "probe_duration_seconds": "`probe_*`",
    "probe_ssl_earliest_cert_expiry": "`probe_*`",
}
DOCUMENTED = {
    name: set(re.findall(r"\w+", labels))
    for name, labels in re.findall(
        r"^\| `(\w+)` \| \w+ \| ([^|]*) \|", METRICS_PAGE.read_text(), re.M
    )
}


def asked(text: str) -> list[str]:
    """The PromQL expressions of a runbook."""
    return re.findall(r"\bask '([^']*)'", text)


def expressions() -> dict[str, list[str]]:
    found = {f"rule {rule.get('alert') or rule['record']}": [str(rule["expr"])] for rule in RULES}
    return found | {f"runbook {name}": asked(page.read_text()) for name, page in PAGES.items()}


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert set(PAGES) == set(ALERTS)


@pytest.mark.parametrize("name", PAGES)
def test_a_runbook_has_its_title_its_four_parts_and_the_common_block(name: str) -> None:
    page = PAGES[name]
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M
    )
    assert headings == [name, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert site_block(page) == site_block(FOLDER / "README.md")
    assert blocks(page)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_runbook_are_valid_bash_without_a_place_to_fill_in(name: str) -> None:
    page = PAGES[name]
    for block in blocks(page):
        script = site_block(page) + block.commands
        checked = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False, timeout=30
        )
        assert checked.returncode == 0, checked.stderr
        assert not re.search(r"<[a-z-]+>", block.commands)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_runbook_asks_prometheus_can_be_parsed(name: str, tmp_path: Path) -> None:
    rules = [{"record": f"a:{n}", "expr": text} for n, text in enumerate(asked_of(name))]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(
        [find_binary("promtool"), "check", "rules", str(tmp_path / "rules.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def asked_of(name: str) -> list[str]:
    return asked(PAGES[name].read_text())


def test_every_setting_that_a_runbook_names_exists() -> None:
    known = (ROOT / ".env.example").read_text()
    for name, page in PAGES.items():
        for setting in re.findall(r"\b(GOBLIN_[A-Z_]+|LOG_LEVEL)\b", page.read_text()):
            assert re.search(rf"^#? ?{setting}=", known, re.M), f"{name}: {setting}"


def test_every_log_line_that_a_runbook_looks_for_is_written_by_the_product() -> None:
    code = "".join(file.read_text() for file in (ROOT / "goblin_assistant").rglob("*.py"))
    for name, page in PAGES.items():
        for message in re.findall(r'\.message == "(\w+)"', page.read_text()):
            assert f'"{message}"' in code, f"{name}: {message}"


def test_every_metric_in_rules_and_runbooks_is_exported(serve: Serve) -> None:
    server = serve()
    exported = set(OTHERS) | RECORDED
    for family, kind in re.findall(
        r"^# TYPE (\S+) (\S+)$", requests.get(server.url + "/metrics", timeout=60).text, re.M
    ):
        exported |= {family}
        if kind == "histogram":
            exported |= {family + end for end in ("_bucket", "_count", "_sum")}
    for where, texts in expressions().items():
        for text in texts:
            for metric, _ in names_and_labels(text):
                assert metric in exported, f"{where}: {metric}"
    for name, page in PAGES.items():
        for pattern in re.findall(r"^metrics '?([^'\n]*)'?$", page.read_text(), re.M):
            assert [one for one in exported if re.match(pattern.split(".*")[0], one)], name


def test_every_label_in_rules_and_runbooks_is_one_of_its_metric() -> None:
    for where, texts in expressions().items():
        for text in texts:
            for metric, labels in names_and_labels(text):
                family = re.sub(r"_(bucket|count|sum)$", "", metric)
                if family in DOCUMENTED:
                    assert labels - ADDED <= DOCUMENTED[family], f"{where}: {metric} {labels}"
            names = [re.sub(r"_(bucket|count|sum)$", "", one) for one, _ in names_and_labels(text)]
            known = set().union(*(DOCUMENTED.get(one, set()) for one in names), ADDED)
            if not RECORDED & set(names):
                assert grouping_labels(text) <= known, f"{where}: {text}"


def test_metrics_of_others_are_named_where_the_runbooks_are_explained() -> None:
    readme = (FOLDER / "README.md").read_text()
    for word in OTHERS.values():
        assert word in readme


def test_the_page_on_objectives_names_every_recording_of_theirs() -> None:
    page = (ROOT / "docs" / "slo.md").read_text()
    named = set(re.findall(r"\bslo:[\w:]+\b", page))
    assert named == {name for name in RECORDED if name.startswith("slo:")}
    budgets = {rule["labels"]["slo"] for rule in RULES if rule.get("record") == "slo:events:rate5m"}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == budgets
