"""The services that an instance depends on, and what the last check of each has found."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from goblin_assistant.metrics import (
    service_health_check_duration_seconds,
    service_health_last_check_timestamp_seconds,
    service_health_status,
)
from goblin_assistant.providers.base import ProviderError
from goblin_assistant.schemas.base import rfc3339

logger = logging.getLogger("goblin_assistant.health")

Kind = Literal["dependency", "provider"]
Status = Literal["healthy", "unhealthy", "unknown", "disabled"]
Overall = Literal["healthy", "degraded", "unhealthy", "unknown"]

REQUIRED = "database"
"""The only service that nothing works without. Without a provider chats fall back; without Redis
limits count in memory."""


class CheckFailed(Exception):
    """What a check has found, in words that are safe to show: never an address."""


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """A service by name. `check(timeout)`, in seconds, raises when the service is not well.
    None: the service is not configured."""

    name: str
    kind: Kind
    check: Callable[[float], None] | None


@dataclass(slots=True)
class _Service:
    check: ServiceCheck
    status: Status
    checked_at: float | None = None  # time.time()
    changed_at: float | None = None
    latency_ms: float | None = None
    error: str | None = None


class Services:
    """The state of each service. Shared by the checks' threads and the routes."""

    def __init__(
        self, checks: Iterable[ServiceCheck], circuits: Callable[[], dict[str, str]] | None
    ) -> None:
        self._services = {
            check.name: _Service(check, "unknown" if check.check is not None else "disabled")
            for check in checks
        }
        self._circuits = circuits
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Every service, also those that are not configured."""
        return list(self._services)

    def checks(self) -> dict[str, Callable[[float], None]]:
        """The check of each service that is configured."""
        return {
            name: service.check.check
            for name, service in self._services.items()
            if service.check.check is not None
        }

    def state(self, name: str) -> tuple[Status, str | None] | None:
        """A service's status and error; None when there is no such service."""
        service = self._services.get(name)
        if service is None:
            return None
        with self._lock:
            return service.status, service.error

    def report(self, name: str) -> dict[str, Any] | None:
        """The last result of one service (schemas.health.ServiceReport); None when there is no such
        service."""
        service = self._services.get(name)
        if service is None:
            return None
        circuits = self._circuits_now() if service.check.kind == "provider" else {}
        with self._lock:
            return _report(service, circuits)

    def snapshot(self) -> tuple[Overall, dict[str, dict[str, Any]]]:
        """The state of the instance, and the report of each service."""
        circuits = self._circuits_now()
        with self._lock:
            reports = {name: _report(service, circuits) for name, service in self._services.items()}
        states = {name: report["status"] for name, report in reports.items()}
        if states.get(REQUIRED) == "unhealthy":
            return "unhealthy", reports
        if "unhealthy" in states.values():
            return "degraded", reports
        if "unknown" in states.values():
            return "unknown", reports
        return "healthy", reports

    def record(self, name: str, problem: str | None, elapsed_ms: float) -> None:
        """Keep what a check has found, export it, and log a change. `problem` None: all is well."""
        service = self._services[name]
        status: Status = "healthy" if problem is None else "unhealthy"
        now = time.time()
        with self._lock:
            before = service.status
            service.status, service.error = status, problem
            service.checked_at, service.latency_ms = now, round(elapsed_ms, 2)
            if status != before:
                service.changed_at = now
        service_health_status.labels(name).set(1 if problem is None else 0)
        service_health_last_check_timestamp_seconds.labels(name).set(now)
        service_health_check_duration_seconds.labels(name).set(elapsed_ms / 1000)
        if status == before:
            return
        extra = {"service": name, "kind": service.check.kind, "latency_ms": service.latency_ms}
        if problem is not None:
            logger.error("service_unhealthy", extra={**extra, "error": problem})
        elif before == "unhealthy":
            logger.info("service_recovered", extra=extra)

    def withdraw(self) -> None:
        """Remove the services' series, so that a process that goes on exports nothing stale."""
        for name, service in self._services.items():
            if service.checked_at is not None:
                service_health_status.remove(name)
                service_health_last_check_timestamp_seconds.remove(name)
                service_health_check_duration_seconds.remove(name)

    def _circuits_now(self) -> dict[str, str]:
        return self._circuits() if self._circuits is not None else {}


def describe(error: BaseException) -> str:
    """A failure without addresses, credentials or statements: our own texts, or else the class."""
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
    return None if seconds is None else rfc3339(round(seconds * 1000), "milliseconds")
