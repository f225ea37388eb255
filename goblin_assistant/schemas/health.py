"""Shapes of the health routes."""

from __future__ import annotations

from typing import Literal

from goblin_assistant.schemas.base import Strict

ServiceStatus = Literal["healthy", "unhealthy", "unknown", "disabled"]


class HealthAnswer(Strict):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ServiceReport(Strict):
    """The last check of one service. Times are RFC 3339 in UTC; null: never. Providers have
    `circuit`."""

    status: ServiceStatus
    kind: Literal["dependency", "provider"]
    latency_ms: float | None
    last_check: str | None
    last_change: str | None
    error: str | None
    circuit: Literal["closed", "half_open", "open"] | None = None


class NamedServiceReport(ServiceReport):
    """The same, with the service's name."""

    service: str


class ChatSlotsReport(Strict):
    """The chats of the instance that answers: at most `limit` run at once."""

    limit: int
    in_use: int
    waiting: int


class HealthReport(Strict):
    """All services. Degraded: something is unhealthy, but chats can be served. Unknown: before the
    first check."""

    status: Literal["healthy", "degraded", "unhealthy", "unknown"]
    services: dict[str, ServiceReport]
    chat_slots: ChatSlotsReport


class ServiceStatusAnswer(Strict):
    """The short answer about one service."""

    service: str
    status: ServiceStatus


class LiveAnswer(Strict):
    """The process is alive."""

    status: Literal["alive"]


class ReadyAnswer(Strict):
    """The instance may be sent requests."""

    status: Literal["ready"]
