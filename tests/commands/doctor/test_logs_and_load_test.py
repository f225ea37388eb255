"""Lines about the log and the load test."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.commands.doctor import load_test, logs
from tests.commands.doctor.conftest import MakeContext, only, verdict
from tests.conftest import Serve


def processes(folder: Path, *names: str) -> Path:
    """A /proc with these processes."""
    for number, name in enumerate(names, 1):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "comm").write_text(name + "\n")
    return folder


def test_aggregation_passes_when_a_shipper_runs(context: MakeContext, tmp_path: Path) -> None:
    proc = processes(tmp_path / "proc", "bash", "filebeat", "amazon-cloudwat")
    found = only(logs.aggregation(context(), proc))
    assert found.verdict == "ok"
    assert "amazon-cloudwat, filebeat" in found.message


def test_aggregation_fails_when_none_runs(context: MakeContext, tmp_path: Path) -> None:
    proc = processes(tmp_path / "proc", "bash", "python3")
    assert verdict(logs.aggregation(context(), proc)) == "warning"


def test_aggregation_passes_on_a_mark_that_is_in_the_servers_log(
    context: MakeContext, serve: Serve, tmp_path: Path
) -> None:
    server = serve(LOG_LEVEL="DEBUG")
    found = only(logs.aggregation(context(url=server.url), tmp_path))
    mark = found.message.rpartition(" ")[2]
    assert mark.startswith("doctor-")
    server.wait_for_line("request_completed", correlation_id=mark)


def written(folder: Path, days: float = 1.0, **values: Any) -> Path:
    """A verdict of the load test that is some days old."""
    path = folder / "verdict.json"
    finished = datetime.now(UTC) - timedelta(days=days)
    verdict = {
        "finished_at": finished.isoformat(timespec="seconds"),
        "host": "https://staging.goblin.dev",
        "scenario": "targets",
        "passed": True,
        "targets": [{"title": "Health checks", "result": "pass"}],
        **values,
    }
    path.write_text(json.dumps(verdict))
    return path


def test_load_test_passes_after_a_good_run(context: MakeContext, tmp_path: Path) -> None:
    assert verdict(load_test.load_test(context(load_test=written(tmp_path)))) == "ok"


def test_load_test_fails_when_a_target_was_missed(context: MakeContext, tmp_path: Path) -> None:
    missed = [{"title": "Auth login", "result": "MISSED"}]
    path = written(tmp_path, passed=False, targets=missed)
    found = only(load_test.load_test(context(load_test=path)))
    assert found.verdict == "failure"
    assert "Auth login" in found.message


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"days": 40.0}, "warning"), ({"scenario": "guide"}, "warning"), ({"host": None}, "ok")],
)
def test_load_test_fails_when_it_is_old_or_checked_no_rates(
    context: MakeContext, tmp_path: Path, values: dict[str, Any], expected: str
) -> None:
    path = written(tmp_path, **values)
    assert verdict(load_test.load_test(context(load_test=path))) == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"passed": true}'])
def test_load_test_fails_for_a_file_that_is_no_verdict(
    context: MakeContext, tmp_path: Path, text: str
) -> None:
    (tmp_path / "verdict.json").write_text(text)
    made = context(load_test=tmp_path / "verdict.json")
    assert verdict(load_test.load_test(made)) == "failure"
    assert verdict(load_test.load_test(context(load_test=tmp_path / "absent"))) == "warning"
