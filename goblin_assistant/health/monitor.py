"""Runs the services' checks and a few periodic jobs in the background.

Routes answer from the last result: that is fast, and nobody can use them to hammer a dependency.
Each check runs in a thread of its own, so that one that hangs delays no other. A check that still
hangs is not started again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from goblin_assistant.health.readiness import Readiness
from goblin_assistant.health.services import (
    REQUIRED,
    Overall,
    ServiceCheck,
    Services,
    describe,
)

logger = logging.getLogger("goblin_assistant.health")

_STOP_SECONDS = 2.0
"""How long `stop` waits for checks and jobs that run."""


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """Work that the monitor does every `interval_seconds`, first one interval after the start."""

    name: str
    interval_seconds: float
    run: Callable[[], object]


@dataclass(slots=True)
class _Run:
    """One run of a check or a job. Each name has at most one at a time."""

    deadline: float  # monotonic; a job has none
    started: float
    overdue: bool = False


@dataclass(slots=True)
class _Schedule:
    due: dict[str, float] = field(default_factory=dict)  # monotonic
    running: dict[str, _Run] = field(default_factory=dict)


class HealthMonitor:
    """Runs the checks every `interval` seconds, each for at most `timeout` seconds.

    `circuits` gives the state of each provider's circuit breaker. `schema_problem` and
    `serves_callers` are Readiness's; the former is asked after the database's check.
    """

    def __init__(
        self,
        checks: Iterable[ServiceCheck],
        interval: float,
        timeout: float,
        jobs: Iterable[PeriodicJob] = (),
        *,
        circuits: Callable[[], dict[str, str]] | None = None,
        schema_problem: Callable[[], str | None] | None = None,
        serves_callers: Callable[[], bool] = lambda: False,
    ) -> None:
        self._services = Services(checks, circuits)
        self._check_of = self._services.checks()
        self._jobs = {job.name: job for job in jobs}
        self._interval = interval
        self._timeout = timeout
        self._readiness = Readiness(self._services, schema_problem, serves_callers)
        self.refusal: str | None = None
        """Why this version may not serve any request; None: it may. `schema_problem` sets it."""
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped = False
        self._checks = _Schedule()
        self._chores = _Schedule()

    # -- life -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the thread once, and again in a forked child."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid() or self._stopped:
                return
            self._pid = os.getpid()
            now = time.monotonic()
            self._checks = _Schedule(dict.fromkeys(self._check_of, now))
            self._chores = _Schedule(
                {name: now + job.interval_seconds for name, job in self._jobs.items()}
            )
            self._thread = threading.Thread(target=self._loop, name="goblin-health", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and remove the services' series: they would be stale.

        Waits for the checks and jobs that run, because the caller closes what they use: a database
        connection that comes back after its pool was closed stays open. One that hangs is left
        behind.
        """
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            thread.join(5.0)
            with self._wake:
                self._wake.wait_for(lambda: not self._in_progress(), _STOP_SECONDS)
        with self._lock:
            self._services.withdraw()

    def drain(self) -> None:
        """Report not ready from now on, because the instance is shutting down."""
        self._readiness.draining = True
        self._readiness.note()

    @property
    def draining(self) -> bool:
        """Whether `drain()` was called."""
        return self._readiness.draining

    def check_now(self, name: str) -> None:
        """Make a check due at once."""
        with self._wake:
            if name in self._checks.due:
                self._checks.due[name] = time.monotonic()
                self._wake.notify_all()

    # -- answers ----------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """Every service, also those that are not configured."""
        return self._services.names()

    def report(self, name: str) -> dict[str, Any] | None:
        """The last result of one service (schemas.health.ServiceReport); None when there is no such
        service."""
        return self._services.report(name)

    def snapshot(self) -> tuple[Overall, dict[str, dict[str, Any]]]:
        """The state of the instance, and the report of each service."""
        return self._services.snapshot()

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the instance can serve chats, and if not, the reasons."""
        reasons = self._readiness.reasons()
        return not reasons, reasons

    def _in_progress(self) -> bool:
        checks = any(not run.overdue for run in self._checks.running.values())
        return checks or bool(self._chores.running)

    # -- the thread -------------------------------------------------------------------------------
    def _loop(self) -> None:
        with self._wake:
            while not self._stopped:
                now = time.monotonic()
                self._start_due(now)
                self._end_overdue(now)
                self._wake.wait(max(0.0, self._next_event() - time.monotonic()))

    def _next_event(self) -> float:
        events = [time.monotonic() + 3600.0]
        events += self._checks.due.values()
        events += self._chores.due.values()
        events += [run.deadline for run in self._checks.running.values() if not run.overdue]
        return min(events)

    def _start_due(self, now: float) -> None:
        for name, due in list(self._checks.due.items()):
            if due <= now:
                self._checks.due[name] = now + self._interval
                if name not in self._checks.running:
                    self._spawn(self._checks, name, now, self._run_check)
        for name, due in list(self._chores.due.items()):
            if due <= now:
                self._chores.due[name] = now + self._jobs[name].interval_seconds
                if name not in self._chores.running:
                    self._spawn(self._chores, name, now, self._run_job)

    def _spawn(
        self, schedule: _Schedule, name: str, now: float, target: Callable[[str, _Run], None]
    ) -> None:
        # Not a pool: Python waits for a pool's threads at exit, even for one that hangs. A thread
        # costs 0.1 ms.
        run = _Run(deadline=now + self._timeout, started=now)
        schedule.running[name] = run
        try:
            threading.Thread(
                target=target, args=(name, run), name=f"goblin-{name}", daemon=True
            ).start()
        except RuntimeError:  # no thread is available; the next round tries again
            del schedule.running[name]
            logger.warning("health_thread_unavailable", extra={"service": name})

    def _end_overdue(self, now: float) -> None:
        for name, run in self._checks.running.items():
            if not run.overdue and run.deadline <= now:
                run.overdue = True
                self._services.record(
                    name, f"no answer within {self._timeout:g} s", (now - run.started) * 1000
                )
                self._readiness.note()

    def _run_check(self, name: str, run: _Run) -> None:
        problem = None
        try:
            self._check_of[name](self._timeout)
            if name == REQUIRED:
                self.check_schema()
        except Exception as error:
            problem = describe(error)
            logger.debug("service_check_failed", exc_info=True, extra={"service": name})
        elapsed = (time.monotonic() - run.started) * 1000
        with self._wake:
            self._checks.running.pop(name, None)
            if not run.overdue and not self._stopped:
                self._services.record(name, problem, elapsed)
                self._readiness.note()
            self._wake.notify_all()

    def check_schema(self) -> None:
        """Look at the tables, unless this version was found to serve with them."""
        self._readiness.check_schema()

    def _run_job(self, name: str, run: _Run) -> None:
        try:
            if self.refusal is None:  # jobs write to the tables
                self._jobs[name].run()
        except Exception:
            logger.exception("periodic_job_failed", extra={"job": name})
        with self._wake:
            self._chores.running.pop(name, None)
            self._wake.notify_all()
