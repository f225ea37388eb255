"""The monitor alone: when checks run, what they record, and what happens when they hang."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goblin_assistant.health.monitor import HealthMonitor, PeriodicJob
from goblin_assistant.health.services import CheckFailed, ServiceCheck
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers.base import ConnectionFailed
from tests.conftest import wait_until

Make = Callable[..., HealthMonitor]


@pytest.fixture
def make_monitor() -> Iterator[Make]:
    made: list[HealthMonitor] = []

    def make(
        checks: list[ServiceCheck], interval: float = 3600, timeout: float = 5, **more: Any
    ) -> HealthMonitor:
        monitor = HealthMonitor(checks, interval, timeout, **more)
        made.append(monitor)
        monitor.start()
        return monitor

    yield make
    for monitor in made:
        monitor.stop()


class Switch:
    """A check that passes or fails as the test says, and counts its runs."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.runs = 0

    def __call__(self, timeout: float) -> None:
        self.runs += 1
        if self.problem is not None:
            raise self.problem


def dependency(name: str, check: Callable[[float], None] | None) -> ServiceCheck:
    return ServiceCheck(name, "dependency", check)


def status(monitor: HealthMonitor, name: str) -> str:
    report = monitor.report(name)
    assert report is not None
    return str(report["status"])


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value("service_health_status", {"service_name": name})


def test_a_service_is_unknown_until_its_first_check_is_done(make_monitor: Make) -> None:
    release = threading.Event()
    monitor = make_monitor([dependency("t_slow", lambda _: assert_true(release.wait(30)))])
    assert status(monitor, "t_slow") == "unknown"
    assert monitor.snapshot()[0] == "unknown"
    assert gauge("t_slow") is None
    release.set()
    wait_until(lambda: status(monitor, "t_slow") == "healthy")
    assert monitor.snapshot()[0] == "healthy"
    assert gauge("t_slow") == 1


def assert_true(value: bool) -> None:
    assert value


def test_a_service_that_is_not_configured_is_disabled_and_exports_no_series(
    make_monitor: Make,
) -> None:
    switch = Switch()
    monitor = make_monitor([dependency("t_off", None), dependency("t_on", switch)])
    wait_until(lambda: status(monitor, "t_on") == "healthy")
    assert status(monitor, "t_off") == "disabled"
    assert gauge("t_off") is None
    assert monitor.snapshot()[0] == "healthy"


def test_a_failing_service_degrades_the_whole_and_an_absent_database_makes_it_unhealthy(
    make_monitor: Make,
) -> None:
    database, redis = Switch(), Switch(CheckFailed("connection failed"))
    monitor = make_monitor([dependency("database", database), dependency("t_redis", redis)])
    wait_until(lambda: monitor.snapshot()[0] == "degraded")
    assert monitor.ready() == (True, [])
    database.problem = CheckFailed("connection failed")
    monitor.check_now("database")
    wait_until(lambda: monitor.snapshot()[0] == "unhealthy")
    assert monitor.ready() == (False, ["database: connection failed"])


def test_a_hanging_check_times_out_alone_and_is_not_started_again(make_monitor: Make) -> None:
    release = threading.Event()
    runs: list[int] = []

    def hang(_: float) -> None:
        runs.append(1)
        release.wait(30)

    other = Switch()
    monitor = make_monitor(
        [dependency("t_hangs", hang), dependency("t_other", other)], interval=0.05, timeout=0.2
    )
    wait_until(lambda: status(monitor, "t_hangs") == "unhealthy")
    report = monitor.report("t_hangs")
    assert report is not None
    assert report["error"] == "no answer within 0.2 s"
    before = other.runs
    wait_until(lambda: other.runs >= before + 5)
    assert len(runs) == 1
    assert gauge("t_hangs") == 0
    release.set()
    wait_until(lambda: len(runs) > 1)  # free again: checked again


def test_an_answer_that_comes_after_the_timeout_counts_for_nothing(make_monitor: Make) -> None:
    release, done = threading.Event(), threading.Event()

    def late(_: float) -> None:
        release.wait(30)
        done.set()

    monitor = make_monitor([dependency("t_late", late)], timeout=0.05)
    wait_until(lambda: status(monitor, "t_late") == "unhealthy")
    release.set()
    assert done.wait(30)
    wait_until(lambda: "goblin-t_late" not in [thread.name for thread in threading.enumerate()])
    assert status(monitor, "t_late") == "unhealthy"


def test_changes_are_logged_once_each_way_and_carry_a_time(
    make_monitor: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("goblin_assistant"), "propagate", True)
    switch = Switch(CheckFailed("answered 500"))
    with caplog.at_level(logging.INFO, "goblin_assistant.health"):
        monitor = make_monitor([dependency("t_flaps", switch)], interval=0.02)
        wait_until(lambda: switch.runs > 4)
        first = monitor.report("t_flaps")
        switch.problem = None
        wait_until(lambda: status(monitor, "t_flaps") == "healthy")
        runs = switch.runs
        wait_until(lambda: switch.runs > runs + 3)
    events = [
        record.message for record in caplog.records if getattr(record, "service", "") == "t_flaps"
    ]
    assert events == ["service_unhealthy", "service_recovered"]
    last = monitor.report("t_flaps")
    assert first is not None
    assert last is not None
    assert first["last_change"] <= last["last_change"] <= last["last_check"]
    assert last["last_check"].endswith("Z")
    assert last["error"] is None


def test_an_error_text_is_a_kind_of_failure_and_never_an_address(make_monitor: Make) -> None:
    secret = "postgresql://goblin:CANARY@db/prod"
    monitor = make_monitor(
        [
            dependency("t_bug", Switch(RuntimeError(secret))),
            ServiceCheck("t_provider", "provider", Switch(ConnectionFailed("connection refused"))),
        ]
    )
    wait_until(
        lambda: monitor.snapshot()[0] == "degraded" and "unknown" not in str(monitor.snapshot())
    )
    services = monitor.snapshot()[1]
    assert services["t_bug"]["error"] == "RuntimeError"
    assert services["t_provider"]["error"] == "connection refused"
    assert "CANARY" not in str(services)


def test_stopping_withdraws_the_series() -> None:
    monitor = HealthMonitor([dependency("t_gone", Switch())], 3600, 5)
    monitor.start()
    wait_until(lambda: gauge("t_gone") == 1)
    took = "service_health_check_duration_seconds"
    assert (REGISTRY.get_sample_value(took, {"service_name": "t_gone"}) or 0) > 0
    monitor.stop()
    assert gauge("t_gone") is None
    assert REGISTRY.get_sample_value(took, {"service_name": "t_gone"}) is None
    assert (
        REGISTRY.get_sample_value(
            "service_health_last_check_timestamp_seconds", {"service_name": "t_gone"}
        )
        is None
    )


@pytest.mark.parametrize("work", ["check", "job"])
def test_stopping_waits_for_what_runs_so_that_the_caller_may_close_what_it_uses(work: str) -> None:
    began, ended = threading.Event(), threading.Event()

    def use_the_database(timeout: float = 0) -> None:
        began.set()
        # Ends after `stop` was called: by then the thread that starts checks has gone.
        wait_until(lambda: not threads_of_monitors() - before, timeout=30)
        ended.set()

    before = threads_of_monitors()
    monitor = HealthMonitor(
        [dependency("t_busy", use_the_database if work == "check" else Switch())],
        3600,
        30,
        jobs=[PeriodicJob("t_job", 0.001 if work == "job" else 3600, use_the_database)],
    )
    monitor.start()
    assert began.wait(30)
    monitor.stop()
    assert ended.is_set()


def threads_of_monitors() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "goblin-health"}


def test_a_monitor_starts_one_thread_however_often_it_is_told(make_monitor: Make) -> None:
    monitor = make_monitor([])
    before = [thread.name for thread in threading.enumerate()].count("goblin-health")
    monitor.start()
    monitor.start()
    assert [thread.name for thread in threading.enumerate()].count("goblin-health") == before


def test_readiness_waits_for_the_migration_and_asks_no_more_once_it_is_done(
    make_monitor: Make,
) -> None:
    answers = iter(["not migrated", None, "never asked"])
    monitor = make_monitor(
        [dependency("database", Switch())], interval=0.02, schema_problem=lambda: next(answers)
    )
    wait_until(lambda: "not migrated" in str(monitor.ready()[1]) or monitor.ready()[0])
    wait_until(lambda: monitor.ready()[0])
    seen = Switch()
    monitor.check_now("database")
    assert monitor.ready() == (True, [])
    assert next(answers) == "never asked"  # so the third answer is still there
    assert seen.runs == 0


def test_draining_ends_readiness(make_monitor: Make) -> None:
    monitor = make_monitor([dependency("database", Switch())])
    wait_until(lambda: monitor.ready()[0])
    monitor.drain()
    assert monitor.draining
    assert monitor.ready() == (False, ["shutting down"])


def test_a_failing_job_is_logged_and_runs_again(
    make_monitor: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("goblin_assistant"), "propagate", True)
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise RuntimeError("boom")

    switch = Switch()
    with caplog.at_level(logging.ERROR, "goblin_assistant.health"):
        make_monitor(
            [dependency("t_beside", switch)], interval=0.02, jobs=[PeriodicJob("t_job", 0.02, fail)]
        )
        wait_until(lambda: len(runs) >= 3 and switch.runs >= 3)
    assert {
        record.message for record in caplog.records if getattr(record, "job", "") == "t_job"
    } == {"periodic_job_failed"}


def test_a_job_that_still_runs_is_not_started_twice(make_monitor: Make) -> None:
    release = threading.Event()
    runs: list[int] = []

    def slow() -> None:
        runs.append(1)
        release.wait(30)

    switch = Switch()
    make_monitor(
        [dependency("t_ticks", switch)], interval=0.02, jobs=[PeriodicJob("t_slow_job", 0.02, slow)]
    )
    wait_until(lambda: switch.runs > 6)
    assert len(runs) == 1
    release.set()


def test_a_providers_report_shows_its_circuit(make_monitor: Make) -> None:
    checks = [ServiceCheck("t_p", "provider", Switch()), dependency("t_d", Switch())]
    monitor = make_monitor(checks, circuits=lambda: {"t_p": "open"})
    wait_until(lambda: monitor.snapshot()[0] == "healthy")
    services = monitor.snapshot()[1]
    assert services["t_p"]["circuit"] == "open"
    assert "circuit" not in services["t_d"]
    report = monitor.report("t_p")
    assert report is not None
    assert report["circuit"] == "open"
    assert monitor.report("t_absent") is None


def test_readiness_outlives_the_database_only_with_good_tables_and_callers_to_serve(
    make_monitor: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("goblin_assistant"), "propagate", True)
    caplog.set_level(logging.INFO, "goblin_assistant.health")
    database, callers = Switch(), [True]
    monitor = make_monitor(
        [dependency("database", database)],
        schema_problem=lambda: None,
        serves_callers=lambda: callers[0],
    )
    wait_until(lambda: monitor.ready()[0])
    database.problem = CheckFailed("connection failed")
    monitor.check_now("database")
    wait_until(lambda: monitor.snapshot()[0] == "unhealthy")
    assert monitor.ready() == (True, [])
    callers[0] = False
    assert monitor.ready() == (False, ["database: connection failed"])
    monitor.check_now("database")
    wait_until(lambda: "not_ready" in caplog.messages)
    monitor.drain()
    said = [one for one in caplog.records if one.message in ("ready", "not_ready")]
    assert [(one.levelname, getattr(one, "reasons", [])) for one in said] == [
        ("INFO", []),
        ("WARNING", ["database: connection failed"]),
        ("INFO", ["shutting down", "database: connection failed"]),
    ]


def test_a_database_that_went_before_its_tables_were_seen_ends_readiness(
    make_monitor: Make,
) -> None:
    monitor = make_monitor(
        [dependency("database", Switch(CheckFailed("connection failed")))],
        schema_problem=lambda: None,
        serves_callers=lambda: True,
    )
    wait_until(lambda: monitor.snapshot()[0] == "unhealthy")
    assert monitor.ready() == (False, ["database: connection failed"])
