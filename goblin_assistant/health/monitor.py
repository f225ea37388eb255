"""Named service checks, and the monitor that runs them and a few periodic chores.

Routes answer from the last result, so they are fast and cannot be used to hammer a dependency. Each check runs in a
thread of its own, so that one that hangs delays no other; a check that is still hanging is not started again. No
Flask in here.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from goblin_assistant.metrics import (
    service_health_last_check_timestamp_seconds,
    service_health_status,
)
from goblin_assistant.providers.base import ProviderError

logger = logging.getLogger("goblin_assistant.health")

Kind = Literal["dependency", "provider"]
Status = Literal["healthy", "unhealthy", "unknown", "disabled"]
Overall = Literal["healthy", "degraded", "unhealthy", "unknown"]

REQUIRED = "database"
"""The one service that nothing can be served without. Providers, Redis and Chroma are not: chats fall back, limits
count in memory."""


class CheckFailed(Exception):
    """A check's finding, in words that are safe to show: the kind of failure, never an address."""


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """A service by name. `check(timeout in seconds)` raises when it is not well; None: the service is not
    configured."""

    name: str
    kind: Kind
    check: Callable[[float], None] | None


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """A chore that the monitor runs every `interval_seconds`, for the first time one interval after the start."""

    name: str
    interval_seconds: float
    run: Callable[[], object]


@dataclass(slots=True)
class _Service:
    check: ServiceCheck
    status: Status
    checked_at: float | None = None  # time.time()
    changed_at: float | None = None
    latency_ms: float | None = None
    error: str | None = None


@dataclass(slots=True)
class _Run:
    """One run of a check or a job: at most one of a name at a time."""

    deadline: float  # monotonic; a job has none
    started: float
    overdue: bool = False


@dataclass(slots=True)
class _Schedule:
    due: dict[str, float] = field(default_factory=dict)  # monotonic
    running: dict[str, _Run] = field(default_factory=dict)


class HealthMonitor:
    """Runs the checks every `interval` seconds, each for at most `timeout` seconds, and remembers what they found.

    `circuits` gives the state of each provider's circuit breaker. `schema_problem` says why this version may
    not serve with the database's tables; it is asked after the database's check, until it has said None once: in a
    rolling upgrade the next version's migration must not take the instances of this one out of service.
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
    ) -> None:
        self._services = {
            c.name: _Service(c, "unknown" if c.check is not None else "disabled") for c in checks
        }
        self._jobs = {job.name: job for job in jobs}
        self._interval = interval
        self._timeout = timeout
        self._circuits = circuits
        self._ask_schema = schema_problem
        self._schema_problem: str | None = (
            None if schema_problem is None else "tables not looked at yet"
        )
        self._draining = False
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped = False
        self._checks = _Schedule()
        self._chores = _Schedule()

    # -- life -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the thread, once; again after a fork, which takes no thread along."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid() or self._stopped:
                return
            self._pid = os.getpid()
            now = time.monotonic()
            self._checks = _Schedule(
                {name: now for name, s in self._services.items() if s.check.check is not None}
            )
            self._chores = _Schedule(
                {name: now + job.interval_seconds for name, job in self._jobs.items()}
            )
            self._thread = threading.Thread(target=self._loop, name="goblin-health", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread and withdraw the services' series, so that a process that goes on exports nothing stale."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            thread.join(5.0)
        with self._lock:
            for name, service in self._services.items():
                if service.checked_at is not None:
                    _withdraw(name)

    def drain(self) -> None:
        """From now on not ready: the instance is being shut down."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether `drain()` was called."""
        return self._draining

    def check_now(self, name: str) -> None:
        """Make a check due at once."""
        with self._wake:
            if name in self._checks.due:
                self._checks.due[name] = time.monotonic()
                self._wake.notify_all()

    # -- answers ----------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """Every service, those that are not configured too."""
        return list(self._services)

    def report(self, name: str) -> dict[str, Any] | None:
        """The last result of one service (schemas.ServiceReport); None: there is no such service."""
        service = self._services.get(name)
        if service is None:
            return None
        circuits = (
            self._circuits()
            if self._circuits is not None and service.check.kind == "provider"
            else {}
        )
        with self._lock:
            return _report(service, circuits)

    def snapshot(self) -> tuple[Overall, dict[str, dict[str, Any]]]:
        """The state of the whole, and the report of each service."""
        circuits = self._circuits() if self._circuits is not None else {}
        with self._lock:
            services = {
                name: _report(service, circuits) for name, service in self._services.items()
            }
        states = {name: service["status"] for name, service in services.items()}
        if states.get(REQUIRED) == "unhealthy":
            return "unhealthy", services
        if "unhealthy" in states.values():
            return "degraded", services
        if "unknown" in states.values():
            return "unknown", services
        return "healthy", services

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the instance can serve, and if not, why."""
        reasons = []
        if self._draining:
            reasons.append("shutting down")
        required = self._services.get(REQUIRED)
        if required is not None:
            if required.status == "unhealthy":
                reasons.append(f"{REQUIRED}: {required.error}")
            elif required.status == "unknown":
                reasons.append(f"{REQUIRED}: not checked yet")
            elif self._schema_problem is not None:
                reasons.append(f"{REQUIRED}: {self._schema_problem}")
        return not reasons, reasons

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
        # A thread per run, 0.1 ms every 15 s, and not a pool: a pool's threads are waited for at exit, also those
        # that hang.
        run = _Run(deadline=now + self._timeout, started=now)
        schedule.running[name] = run
        try:
            threading.Thread(
                target=target, args=(name, run), name=f"goblin-{name}", daemon=True
            ).start()
        except RuntimeError:  # no more threads to be had: the next round may be luckier
            del schedule.running[name]
            logger.warning("health_thread_unavailable", extra={"service": name})

    def _end_overdue(self, now: float) -> None:
        for name, run in self._checks.running.items():
            if not run.overdue and run.deadline <= now:
                run.overdue = True
                self._record(
                    name, f"no answer within {self._timeout:g} s", (now - run.started) * 1000
                )

    def _run_check(self, name: str, run: _Run) -> None:
        check = self._services[name].check.check
        assert check is not None
        problem = None
        try:
            check(self._timeout)
            if (
                name == REQUIRED
                and self._schema_problem is not None
                and self._ask_schema is not None
            ):
                self._look_at_schema(self._ask_schema())
        except Exception as error:
            problem = describe(error)
            logger.debug("service_check_failed", exc_info=True, extra={"service": name})
        elapsed = (time.monotonic() - run.started) * 1000
        with self._wake:
            self._checks.running.pop(name, None)
            if not run.overdue and not self._stopped:
                self._record(name, problem, elapsed)
            self._wake.notify_all()

    def _look_at_schema(self, problem: str | None) -> None:
        if problem != self._schema_problem and problem is not None:
            logger.error("schema_not_served", extra={"reason": problem})
        self._schema_problem = problem

    def _run_job(self, name: str, run: _Run) -> None:
        try:
            self._jobs[name].run()
        except Exception:
            logger.exception("periodic_job_failed", extra={"job": name})
        with self._wake:
            self._chores.running.pop(name, None)

    def _record(self, name: str, problem: str | None, elapsed_ms: float) -> None:
        # With the lock held.
        service = self._services[name]
        status: Status = "healthy" if problem is None else "unhealthy"
        before = service.status
        now = time.time()
        service.status, service.error = status, problem
        service.checked_at, service.latency_ms = now, round(elapsed_ms, 2)
        service_health_status.labels(name).set(1 if problem is None else 0)
        service_health_last_check_timestamp_seconds.labels(name).set(now)
        if status != before:
            service.changed_at = now
            extra = {"service": name, "kind": service.check.kind, "latency_ms": service.latency_ms}
            if problem is not None:
                logger.error("service_unhealthy", extra={**extra, "error": problem})
            elif before == "unhealthy":
                logger.info("service_recovered", extra=extra)


def describe(error: BaseException) -> str:
    """A failure in words that hold no address, credential or statement: our own texts, or else the exception's
    class."""
    if isinstance(error, CheckFailed | ProviderError):
        return str(error)
    return type(error).__name__


def _report(service: _Service, circuits: dict[str, str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "status": service.status,
        "kind": service.check.kind,
        "latency_ms": service.latency_ms,
        "last_check": _rfc3339(service.checked_at),
        "last_change": _rfc3339(service.changed_at),
        "error": service.error,
    }
    if (circuit := circuits.get(service.check.name)) is not None:
        report["circuit"] = circuit
    return report


def _rfc3339(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _withdraw(name: str) -> None:
    for gauge in (service_health_status, service_health_last_check_timestamp_seconds):
        gauge.remove(name)
