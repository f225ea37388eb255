"""The health routes: statuses, shapes, metrics."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.health.monitor import HealthMonitor
from goblin_assistant.health.services import CheckFailed
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.runtime import Runtime
from goblin_assistant.version import __version__
from tests.conftest import MakeApp, Serve, free_port, wait_until
from tests.support.services import Chroma, chroma  # noqa: F401 -- a fixture


def monitor_of(app: Flask) -> HealthMonitor:
    parts: Runtime = app.extensions["goblin"]
    return parts.monitor


def checked(client: FlaskClient) -> dict[str, Any]:
    """/health/all, after every service was checked."""

    def done() -> dict[str, Any] | None:
        body: dict[str, Any] = client.get("/health/all").get_json()
        return (
            body
            if "unknown" not in {service["status"] for service in body["services"].values()}
            else None
        )

    found: dict[str, Any] = wait_until(done)
    return found


def test_health_answers_ok_and_the_version(client: FlaskClient) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ok", "version": __version__}
    assert client.get("/health/").status_code == 200


def test_with_nothing_configured_all_is_healthy_and_the_rest_disabled(client: FlaskClient) -> None:
    body = checked(client)
    assert body["status"] == "healthy"
    services = body["services"]
    assert services["database"]["status"] == "healthy"
    assert services["echo"] == {
        **services["echo"],
        "status": "healthy",
        "kind": "provider",
        "circuit": "closed",
    }
    for name in ("redis", "chroma", "sandbox"):
        assert services[name]["status"] == "disabled"
        assert REGISTRY.get_sample_value("service_health_status", {"service_name": name}) is None
    assert REGISTRY.get_sample_value("service_health_status", {"service_name": "database"}) == 1
    assert REGISTRY.get_sample_value(
        "service_health_last_check_timestamp_seconds", {"service_name": "database"}
    )


def test_one_service_by_name_in_full_and_in_short(client: FlaskClient) -> None:
    checked(client)
    full = client.get("/health/database").get_json()
    assert full["service"] == "database"
    assert full["status"] == "healthy"
    assert full["error"] is None
    assert full["latency_ms"] >= 0
    assert client.get("/health/database/status").get_json() == {
        "service": "database",
        "status": "healthy",
    }
    assert client.get("/health/chroma").get_json()["status"] == "disabled"
    assert client.get("/health/chroma/status").get_json() == {
        "service": "chroma",
        "status": "disabled",
    }


@pytest.mark.parametrize(
    "path", ["/health/nothing", "/health/nothing/status", "/health/%00", "/health/databas%C3%A9"]
)
def test_an_unknown_service_is_a_404_that_lists_the_known_ones(
    client: FlaskClient, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.get_json()["error"] == "not_found"
    assert "database" in answer.get_json()["message"]


def test_a_dependency_that_is_down_degrades_and_does_not_make_unready(make_app: MakeApp) -> None:
    app = make_app(
        chroma_url=f"http://127.0.0.1:{free_port()}", sandbox_url=f"http://127.0.0.1:{free_port()}"
    )
    client = app.test_client()
    body = checked(client)
    assert body["status"] == "degraded"
    assert body["services"]["chroma"]["error"] == "connection failed"
    assert client.get("/health/all").status_code == 200
    assert client.get("/health/chroma").status_code == 200
    assert client.get("/health/sandbox/status").get_json() == {
        "service": "sandbox",
        "status": "unhealthy",
    }
    assert client.get("/health/ready").status_code == 200
    assert REGISTRY.get_sample_value("service_health_status", {"service_name": "sandbox"}) == 0


def test_the_chats_that_run_and_wait_are_shown(make_app: MakeApp) -> None:
    app = make_app(chat_slots=2, chats_waiting=1, chat_slot_wait_seconds=60.0)
    client = app.test_client()
    parts: Runtime = app.extensions["goblin"]
    slots = parts.chat.slots

    def shown() -> dict[str, int]:
        found: dict[str, int] = client.get("/health/all").get_json()["chat_slots"]
        return found

    assert shown() == {"limit": 2, "in_use": 0, "waiting": 0}
    for _ in range(2):
        slots.acquire()
    waiter = threading.Thread(target=slots.acquire)
    waiter.start()
    wait_until(lambda: shown() == {"limit": 2, "in_use": 2, "waiting": 1})
    slots.release()
    waiter.join(30)
    assert shown() == {"limit": 2, "in_use": 2, "waiting": 0}
    for _ in range(2):
        slots.release()
    assert shown() == {"limit": 2, "in_use": 0, "waiting": 0}


def test_without_the_database_all_and_ready_are_503_with_the_report_and_live_is_200(
    app: Flask,
) -> None:
    client = app.test_client()
    checked(client)
    monitor = monitor_of(app)

    def down(_: float) -> None:
        raise CheckFailed("connection failed")

    monitor._check_of["database"] = down
    monitor.check_now("database")
    answer = wait_until(lambda: (found := client.get("/health/all")).status_code == 503 and found)
    body = answer.get_json()
    assert body["status"] == "unhealthy"
    assert body["services"]["database"]["error"] == "connection failed"
    assert body["chat_slots"]["in_use"] == 0
    assert body["error"] == "unavailable"
    assert body["retry_after"] == int(answer.headers["Retry-After"])
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.get_json()["reasons"] == ["database: connection failed"]
    assert ready.headers["Retry-After"]
    assert client.get("/health/live").get_json() == {"status": "alive"}
    assert client.get("/health").status_code == 200


def test_a_draining_instance_is_alive_and_not_ready(app: Flask) -> None:
    client = app.test_client()
    wait_until(lambda: client.get("/health/ready").status_code == 200)
    monitor_of(app).drain()
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.get_json()["reasons"] == ["shutting down"]
    assert client.get("/health/live").status_code == 200


def test_probes_are_never_limited_and_the_other_routes_share_one_bucket(make_app: MakeApp) -> None:
    client = make_app(ratelimit_enabled=True, ratelimit_health="3 per minute").test_client()
    statuses = [
        client.get(path).status_code
        for path in ("/health", "/health/all", "/health/redis", "/health/redis/status")
    ]
    assert statuses == [200, 200, 200, 429]
    assert client.get("/health").get_json()["message"] == "Rate limit exceeded: 3 per 1 minute"
    assert {client.get("/health/live").status_code for _ in range(10)} == {200}
    assert {client.get("/health/ready").status_code for _ in range(10)} <= {200, 503}


def test_a_running_server_sees_chroma_go_and_come_back(
    serve: Serve,
    chroma: Chroma,  # noqa: F811
) -> None:
    import requests

    server = serve(CHROMA_URL=chroma.url, GOBLIN_HEALTH_INTERVAL="0.1", GOBLIN_HEALTH_TIMEOUT="1")

    def status() -> str:
        return str(requests.get(server.url + "/health/chroma/status", timeout=60).json()["status"])

    wait_until(lambda: status() == "healthy")
    chroma.stop()
    wait_until(lambda: status() == "unhealthy")
    assert server.metrics()['service_health_status{service_name="chroma"}'] == 0
    chroma.start()
    wait_until(lambda: status() == "healthy")
    assert server.metrics()['service_health_status{service_name="chroma"}'] == 1
    server.wait_for_line("service_recovered")
    assert len(server.log_lines("service_unhealthy")) == 1
    assert len(server.log_lines("service_recovered")) == 1
    assert 'service_health_status{service_name="sandbox"}' not in server.metrics()
