"""Locust runs against a server whose answers are known."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from loadtest.verdict import TARGETS, Recorder, as_json, judge
from tests.conftest import ROOT, Serve, free_port, wait_until
from tests.support.loadtest_target import CUT, NULL


class Locust(Protocol):
    """`locust(url, *options)`: (exit code, output, verdict)."""

    def __call__(self, url: str, *options: str) -> tuple[int, str, dict[str, Any]]: ...


@pytest.fixture
def locust(tmp_path: Path) -> Locust:
    """Run Locust in its own process, because it patches the standard library."""

    def run(url: str, *options: str) -> tuple[int, str, dict[str, Any]]:
        verdict = tmp_path / "verdict.json"
        command = [
            sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), f"--host={url}",
            "--users", "20", "--spawn-rate", "100", "--run-time", "4s", "--headless",
            "--verdict-json", str(verdict), *options,
        ]  # fmt: skip
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return (
            done.returncode,
            done.stdout,
            json.loads(verdict.read_text()) if verdict.exists() else {},
        )

    return run


class Target(Protocol):
    """`target(**{path: [status, times]})`: its URL."""

    def __call__(self, rules: dict[str, list[int]] | None = None) -> str: ...


@pytest.fixture
def target() -> Iterator[Target]:
    """tests/support/loadtest_target.py in its own process."""
    processes = []

    def start(rules: dict[str, list[int]] | None = None) -> str:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "tests.support.loadtest_target",
            str(port),
            json.dumps(rules or {}),
        ]
        processes.append(subprocess.Popen(command, cwd=ROOT))
        wait_until(lambda: _listens(port), 20, "the target to listen")
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def rows(verdict: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The verdict's lines by title."""
    return {row["title"]: row for row in verdict["targets"]}


class TestLocust:
    def test_a_failing_route_fails_the_run_and_is_named(
        self, locust: Locust, target: Target
    ) -> None:
        code, output, verdict = locust(target({"/health": [500, 10_000]}))
        assert code == 1
        assert verdict["passed"] is False
        assert "health_check" in verdict["notes"][0]
        assert output.rstrip().endswith("Verdict: FAIL")

    def test_an_answer_that_is_not_an_object_is_a_failure(
        self, locust: Locust, target: Target
    ) -> None:
        code, output, verdict = locust(target({"/health": [NULL, 10_000]}))
        assert code == 1
        assert rows(verdict)["Health checks"]["failed"] > 0
        assert "Traceback" not in output

    def test_a_stream_that_breaks_off_is_a_failure(self, locust: Locust, target: Target) -> None:
        code, output, verdict = locust(
            target({"/chat/completions": [CUT, 7]}), "--scenario", "stream"
        )
        assert code == 1
        assert rows(verdict)["First token"]["failed"] == 7
        assert rows(verdict)["First token"]["answers"] > 0
        assert "Traceback" not in output

    def test_limited_streams_are_counted_in_their_row(self, locust: Locust, target: Target) -> None:
        _, _, verdict = locust(target({"/chat/completions": [429, 5]}), "--scenario", "stream")
        assert rows(verdict)["First token"]["limited"] == 5

    def test_limited_answers_are_counted_apart_and_explained(
        self, locust: Locust, target: Target
    ) -> None:
        code, output, verdict = locust(
            target({"/health/all": [429, 10_000]}), "--scenario", "guide"
        )
        assert rows(verdict)["Health checks"]["limited"] > 0
        assert rows(verdict)["Health checks"]["failed"] == 0
        assert "health_all (429)" in output
        assert "RATELIMIT_ENABLED=false" in output
        assert code == (0 if verdict["passed"] else 1)

    def test_the_targets_scenario_checks_that_the_rates_are_reached(
        self, locust: Locust, target: Target
    ) -> None:
        code, _, verdict = locust(target(), "--scenario", "targets", "--multiple", "0.2")
        assert {title: row["rate_bound"] for title, row in rows(verdict).items()} == {
            "Health checks": 20.0,
            "Chat completions": 2.0,
            "Auth login": 4.0,
        }
        assert sum(row["failed"] for row in verdict["targets"]) == 0
        assert code == (0 if verdict["passed"] else 1)

    def test_closed_registration_ends_with_what_to_do(self, locust: Locust, target: Target) -> None:
        code, output, verdict = locust(target({"/auth/register": [403, 10_000]}))
        assert code == 1
        assert verdict["passed"] is False
        assert "GOBLIN_LOADTEST_EMAIL" in verdict["notes"][0]
        assert "GOBLIN_LOADTEST_EMAIL" in output
        assert "Traceback" not in output

    def test_a_missing_server_is_reported(self, locust: Locust) -> None:
        code, output, _ = locust(f"http://127.0.0.1:{free_port()}")
        assert code == 1
        assert "Is the server running?" in output

    @pytest.mark.parametrize("address", ["localhost:8001", "http://"])
    def test_an_invalid_address_is_reported(self, locust: Locust, address: str) -> None:
        code, output, _ = locust(address)
        assert code == 1
        assert "write it whole, as http://localhost:8001" in output

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--multiple", "0"), "is no number above 0"),
            (("--multiple", "nan"), "is no number above 0"),
            (("--verdict-json", "/nowhere/at/all.json"), "there is no such folder"),
        ],
    )
    def test_wrong_options_are_refused_at_once(
        self, locust: Locust, target: Target, options: tuple[str, ...], said: str
    ) -> None:
        code, output, _ = locust(target(), *options)
        assert code != 0
        assert said in output
        assert "Traceback" not in output

    def test_a_run_shorter_than_its_warm_up_says_so(self, locust: Locust, target: Target) -> None:
        code, output, verdict = locust(
            target(), "--scenario", "targets", "--multiple", "0.2", "--run-time", "1s"
        )
        assert code == 1
        assert "over before its warm-up" in output
        assert verdict["passed"] is False

    def test_a_password_without_an_address_is_refused(self, locust: Locust, target: Target) -> None:
        code, output, _ = locust(target(), "--account-password", "x")
        assert code == 1
        assert "go together" in output

    @pytest.mark.parametrize("scenario", ["guide", "targets"])
    def test_a_terminated_run_ends_with_its_verdict(
        self, target: Target, tmp_path: Path, scenario: str
    ) -> None:
        verdict = tmp_path / "verdict.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"),
             f"--host={target()}", "--headless", "--scenario", scenario,
             "--multiple", "0.2", "--users", "5", "--run-time", "60s",
             "--verdict-json", str(verdict)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = ""
        while "All users spawned" not in said:
            said += process.stdout.readline()
        process.terminate()
        rest, _ = process.communicate(timeout=30)
        assert rest.rstrip().splitlines()[-1].startswith("Verdict: ")
        assert verdict.exists()

    def test_workers_tell_their_master_why_they_cannot_begin(self, target: Target) -> None:
        url, port = target({"/auth/register": [403, 10_000]}), free_port()
        common = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(ROOT / "locustfile.py"),
            f"--host={url}",
        ]
        worker = subprocess.Popen(
            [*common, "--worker", "--master-port", str(port)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            done = subprocess.run(
                [*common, "--master", "--master-bind-port", str(port), "--expect-workers", "1",
                 "--headless", "--run-time", "30s"],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            )  # fmt: skip
        finally:
            worker.kill()
            worker.wait()
        assert done.returncode == 1
        assert "The load test did not begin: " in done.stdout
        assert "GOBLIN_LOADTEST_EMAIL" in done.stdout

    def test_setting_up_waits_for_a_rate_limit(self, locust: Locust, target: Target) -> None:
        _, output, verdict = locust(target({"/auth/register": [429, 1]}))
        assert "waiting 1 s before the load test can begin" in output
        assert verdict["targets"]

    def test_the_stream_scenario_measures_the_first_token(
        self, locust: Locust, target: Target
    ) -> None:
        code, _, verdict = locust(target(), "--scenario", "stream")
        assert code == 0
        assert rows(verdict)["First token"]["answers"] > 0
        assert rows(verdict)["First token"]["p95_ms"] is not None

    def test_the_report_begins_with_the_verdict(
        self, locust: Locust, target: Target, tmp_path: Path
    ) -> None:
        report = tmp_path / "report.html"
        locust(target(), "--html", str(report))
        assert "<h1>Verdict: " in report.read_text()

    def test_the_guides_command_works_against_the_product_with_its_default_limits(
        self, locust: Locust, serve: Serve
    ) -> None:
        server = serve(RATELIMIT_ENABLED="true")
        _, output, verdict = locust(server.url)
        assert not any("failed" in note for note in verdict["notes"]), output
        assert sum(row["failed"] for row in verdict["targets"]) == 0
        judged = set(as_json(judge(Recorder(), TARGETS, 1.0, check_rate=False)))
        assert set(verdict) == judged | {"finished_at", "host", "scenario", "multiple"}


def test_a_run_leaves_its_verdict_where_doctor_looks(target: Target, tmp_path: Path) -> None:
    from goblin_assistant.commands.doctor.context import LOAD_TEST, Context
    from goblin_assistant.commands.doctor.load_test import load_test
    from goblin_assistant.config import Config

    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), f"--host={target()}",
         "--headless", "--users", "20", "--spawn-rate", "100", "--run-time", "4s"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    path = tmp_path / LOAD_TEST
    config = Config.load({"env": "development", "instance_dir": tmp_path / "i"}, environ={})
    (found,) = load_test(Context(config, load_test=path))
    # The guide's mix does not check the rates: a pass is a warning.
    assert found.verdict == ("warning" if done.returncode == 0 else "failure"), found
    assert "guide against http://127.0.0.1" in found.message
