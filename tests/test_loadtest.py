"""The load test's verdict, and Locust runs against a server whose answers are known."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from loadtest.run import highest
from loadtest.schedule import place
from loadtest.verdict import TARGETS, Recorder, Tally, as_json, as_text, judge
from tests.conftest import ROOT, Serve, free_port, wait_until
from tests.support.loadtest_target import CUT, NULL


def recorded(**targets: list[float]) -> Recorder:
    """A recorder with successful answers of these milliseconds."""
    recorder = Recorder()
    for target, times in targets.items():
        for milliseconds in times:
            recorder.note(target, target, milliseconds, "ok")
    return recorder


def good(**others: list[float]) -> Recorder:
    """A recorder that meets every target's percentile."""
    return recorded(
        **{"health": [5.0] * 100, "chat": [400.0] * 100, "login": [60.0] * 100, **others}
    )


class TestPercentile:
    def test_is_the_smallest_time_that_covers_the_share(self) -> None:
        tally = recorded(health=[float(n) for n in range(1, 101)]).tallies["health"]
        assert tally.percentile(0.95) == 95.0
        assert tally.percentile(0.50) == 50.0

    def test_of_one_answer_is_that_answer(self) -> None:
        assert recorded(health=[7.3]).tallies["health"].percentile(0.95) == 7.3

    def test_of_nothing_is_none(self) -> None:
        assert Tally().percentile(0.95) is None

    def test_keeps_a_tenth_of_a_millisecond_where_locust_rounds_to_two_digits(self) -> None:
        assert recorded(login=[499.94]).tallies["login"].percentile(0.95) == 499.9


class TestVerdict:
    def test_passes_when_every_percentile_is_below_its_bound(self) -> None:
        verdict = judge(good(), TARGETS, 10.0, check_rate=False)
        assert verdict.passed
        assert verdict.exit_code == 0
        assert [row.result for row in verdict.rows] == ["pass", "pass", "pass"]

    def test_a_percentile_at_its_bound_is_a_miss(self) -> None:
        verdict = judge(good(health=[100.0] * 100), TARGETS, 10.0, check_rate=False)
        assert verdict.exit_code == 1
        assert verdict.rows[0].result == "MISSED"
        assert "p95 is 100.0 ms; it has to stay below 100 ms" in verdict.rows[0].why

    def test_five_slow_answers_in_a_hundred_do_not_miss_it_and_six_do(self) -> None:
        fine = judge(good(health=[5.0] * 95 + [900.0] * 5), TARGETS, 10.0, check_rate=False)
        slow = judge(good(health=[5.0] * 94 + [900.0] * 6), TARGETS, 10.0, check_rate=False)
        assert fine.passed
        assert not slow.passed

    def test_the_rate_counts_only_where_it_was_set_out_to_be_reached(self) -> None:
        assert judge(good(), TARGETS, 60.0, check_rate=False).passed
        verdict = judge(good(), TARGETS, 60.0, check_rate=True)
        assert [row.result for row in verdict.rows] == ["MISSED"] * 3

    def test_a_reached_rate_passes_and_its_multiple_does_not(self) -> None:
        recorder = good(health=[5.0] * 1000, login=[60.0] * 200)
        assert judge(recorder, TARGETS, 10.0, check_rate=True).passed
        assert not judge(recorder, TARGETS, 10.0, check_rate=True, multiple=2.0).passed

    def test_answers_of_429_are_no_failures_and_no_measurements(self) -> None:
        recorder = good()
        for _ in range(50):
            recorder.note("login", "login", 1.0, "limited")
        verdict = judge(recorder, TARGETS, 10.0, check_rate=False)
        assert verdict.passed
        assert (verdict.rows[2].measured, verdict.rows[2].limited) == (100, 50)
        assert verdict.rows[2].p50 == 60.0
        assert "RATELIMIT_ENABLED=false" in as_text(verdict)

    def test_only_429s_are_not_a_pass(self) -> None:
        recorder = recorded(health=[5.0], chat=[5.0])
        recorder.note("login", "login", 1.0, "limited")
        verdict = judge(recorder, TARGETS, 10.0, check_rate=False)
        assert verdict.rows[2].result == "NOT MEASURED"
        assert "every answer was a 429" in verdict.rows[2].why
        assert verdict.exit_code == 1

    def test_a_row_with_failures_does_not_pass(self) -> None:
        recorder = good()
        recorder.note("health", "health_check", 3.0, "failed")
        row = judge(recorder, TARGETS, 10.0, check_rate=False).rows[0]
        assert (row.result, row.why) == ("MISSED", "1 requests failed.")

    @pytest.mark.parametrize(("answers", "result"), [(198, "pass"), (197, "MISSED")])
    def test_a_rate_may_lack_the_requests_at_both_ends(self, answers: int, result: str) -> None:
        recorder = recorded(login=[60.0] * answers)
        assert judge(recorder, TARGETS[2:], 10.0, check_rate=True).rows[0].result == result

    def test_a_failed_request_without_a_target_fails_the_run(self) -> None:
        recorder = good()
        recorder.note(None, "get_settings", 3.0, "failed")
        verdict = judge(recorder, TARGETS, 10.0, check_rate=False)
        assert verdict.exit_code == 1
        assert verdict.notes[0] == "1 requests failed: get_settings 1."

    def test_what_workers_measured_adds_up(self) -> None:
        master, worker = Recorder(), good()
        worker.note("chat", "chat_completion", 1.0, "failed")
        message = json.loads(json.dumps(worker.take()))
        master.add(message)
        master.add(good().take())
        assert master.tallies["chat"].measured == 200
        assert master.failures == {"chat_completion": 1}
        assert not worker.tallies

    def test_the_text_shows_bounds_and_ends_with_the_verdict(self) -> None:
        text = as_text(judge(good(), TARGETS, 10.0, check_rate=True))
        assert ">= 100" in text
        assert "< 2000" in text
        assert text.endswith("Verdict: FAIL")


class TestSchedule:
    @pytest.mark.parametrize("users", [1, 6, 20, 30, 31])
    def test_places_are_spread_evenly(self, users: int) -> None:
        places = sorted(place(number) for number in range(users))
        assert all(abs(found - index / users) * users < 2.1 for index, found in enumerate(places))


class TestHighestMultiple:
    @pytest.mark.parametrize("limit", [1.0, 1.25, 1.5, 3.75, 7.0])
    def test_finds_the_last_step_that_holds(self, limit: float) -> None:
        assert highest(lambda multiple: multiple <= limit) == limit

    def test_is_zero_when_the_targets_do_not_hold(self) -> None:
        assert highest(lambda multiple: False) == 0.0

    def test_stops_somewhere(self) -> None:
        assert highest(lambda multiple: True, most=8.0) == 8.0


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

    def test_an_answer_that_is_no_object_is_a_failure(self, locust: Locust, target: Target) -> None:
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

    def test_a_server_that_is_not_there_is_said_so(self, locust: Locust) -> None:
        code, output, _ = locust(f"http://127.0.0.1:{free_port()}")
        assert code == 1
        assert "Is the server running?" in output

    @pytest.mark.parametrize("address", ["localhost:8001", "http://"])
    def test_an_address_that_is_none_is_said_so(self, locust: Locust, address: str) -> None:
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
        assert set(as_json(judge(good(), TARGETS, 1.0, check_rate=False))) == set(verdict)
