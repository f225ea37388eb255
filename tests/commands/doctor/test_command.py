"""The command: what it prints, its exit code, and that no line goes untested."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from goblin_assistant.commands.doctor.checklist import SECTIONS
from goblin_assistant.commands.doctor.command import doctor
from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, run
from tests.commands.doctor.conftest import SECRET, MakeContext

HERE = Path(__file__).parent
GUIDE_ITEMS = (
    "Set `CORS_ORIGINS` to production domains",
    "Set `LOG_LEVEL=INFO` (or WARNING for production)",
    "Configure Prometheus scraping",
    "Set up Grafana dashboards",
    "Configure alerting rules",
    "Set up log aggregation",
    "Run load tests on staging",
    "Set up automated health checks",
    "Configure rate limit thresholds for your scale",
    "Monitor metrics for first 24 hours",
)


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`invoke("--json", CORS_ORIGINS=...)`: doctor in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, **env: str) -> Result:
        return CliRunner().invoke(doctor, arguments, env={"SECRET_KEY": SECRET, **env})

    return call


def test_the_guides_ten_items_are_there_by_their_words() -> None:
    numbered = {section.number: section.title for section in SECTIONS if section.number}
    assert numbered == dict(enumerate(GUIDE_ITEMS, 1))


CHECKS = [check for section in SECTIONS for check in (*section.checks, *section.from_outside)]


@pytest.mark.parametrize("how", ["passes", "fails"])
@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_every_check_has_a_test_where_it_passes_and_one_where_it_fails(name: str, how: str) -> None:
    text = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    assert re.search(rf"^def test_{name}_{how}_", text, re.M)


def test_every_item_has_a_line_and_a_failure_is_exit_code_1(invoke: Any) -> None:
    done = invoke("--json")
    body = json.loads(done.output)
    assert {found["item"] for found in body["findings"]} == {None, *range(1, 11)}
    assert (done.exit_code, body["ready"]) == (1, False), "its tables are not migrated"
    for found in body["findings"]:
        assert found["verdict"] in ("ok", "warning", "failure")
        assert bool(found["fix"]) == (found["verdict"] != "ok")


def test_warnings_alone_are_exit_code_0(invoke: Any, tmp_path: Path) -> None:
    from goblin_assistant.commands.database import db

    env = {"SECRET_KEY": SECRET}
    assert CliRunner().invoke(db, ["upgrade"], env=env).exit_code == 0
    done = invoke()
    assert "WARN" in done.output
    assert "FAIL" not in done.output
    assert done.exit_code == 0


def test_the_text_says_item_verdict_and_fix(invoke: Any) -> None:
    lines = invoke(CORS_ORIGINS="https://yourdomain.com").output.splitlines()
    assert lines[0] == f"1. {GUIDE_ITEMS[0]}"
    assert lines[1].startswith("FAIL  CORS_ORIGINS ")
    assert lines[2].strip() == "-> Set it to the addresses of your own pages, or to nothing."
    assert lines[-1].endswith("not ready for production")


def test_settings_that_are_not_valid_are_lines_too(invoke: Any) -> None:
    done = invoke("--json", LOG_LEVEL="LOUD", GOBLIN_THREADS="1")
    found = json.loads(done.output)["findings"]
    assert [one["subject"] for one in found] == ["configuration"] * 2
    assert done.exit_code == 1


def test_a_check_that_breaks_is_a_failure_and_no_traceback(context: MakeContext) -> None:
    def unlucky(_: Context) -> list[Finding]:
        raise ZeroDivisionError

    (found,) = run(unlucky, context())
    assert (found.verdict, found.subject) == ("failure", "unlucky")
    assert found.fix
