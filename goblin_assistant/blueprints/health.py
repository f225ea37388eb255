"""Health routes. They answer from the monitor's last results."""

from __future__ import annotations

from typing import Any

import orjson
from apiflask import APIBlueprint
from flask import Response

from goblin_assistant.errors import NotFound, Unavailable
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.health import (
    HealthAnswer,
    HealthReport,
    LiveAnswer,
    NamedServiceReport,
    ReadyAnswer,
    ServiceStatusAnswer,
)
from goblin_assistant.version import __version__
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("health", __name__, url_prefix="/health", tag="Health")

_OK = orjson.dumps({"status": "ok", "version": __version__})
_ALIVE = orjson.dumps({"status": "alive"})
_READY = orjson.dumps({"status": "ready"})


@bp.get("")
@describe("The process answers", answer=HealthAnswer)
def health() -> Response:
    """A constant answer, for load balancers."""
    return _json(_OK)


@bp.get("/live")
@describe("Liveness probe", answer=LiveAnswer)
def live() -> Response:
    """200 while the process can answer. Never limited."""
    return _json(_ALIVE)


@bp.get("/ready")
@describe("Readiness probe", answer=ReadyAnswer, errors=(503,))
def ready() -> Response:
    """200 when the instance can serve: its database is reachable and migrated, and it is not
    shutting down. Else 503 with `reasons`. Never limited."""
    able, reasons = runtime().monitor.ready()
    if not able:
        raise Unavailable(
            "not ready: " + "; ".join(reasons), extra={"status": "not_ready", "reasons": reasons}
        )
    return _json(_READY)


@bp.get("/all")
@describe("Every service", answer=HealthReport, errors=(503,))
def all_services() -> Response:
    """The last result of every service, and the instance's chat slots. 503 when the database is
    unhealthy. Other unhealthy services leave it at 200, with status `degraded`."""
    parts = runtime()
    status, services = parts.monitor.snapshot()
    slots = parts.chat.slots
    report = {
        "status": status,
        "services": services,
        "chat_slots": {"limit": slots.limit, "in_use": slots.in_use, "waiting": slots.waiting},
    }
    if status == "unhealthy":
        raise Unavailable("the database is unhealthy", extra=report)
    return _json(orjson.dumps(report))


@bp.get("/<service>")
@describe("One service", answer=NamedServiceReport, errors=(404,))
def service(service: str) -> Response:
    """The last result of one service. The answer is 200 whatever the result. `disabled` means not
    configured."""
    return _json(orjson.dumps({"service": service, **_report(service)}))


@bp.get("/<service>/status")
@describe("One service, in short", answer=ServiceStatusAnswer, errors=(404,))
def service_status(service: str) -> Response:
    """The status of one service."""
    return _json(orjson.dumps({"service": service, "status": _report(service)["status"]}))


def _report(service: str) -> dict[str, Any]:
    monitor = runtime().monitor
    report = monitor.report(service)
    if report is None:
        raise NotFound(f"there is no such service; there are: {', '.join(monitor.names())}")
    return report


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json")
