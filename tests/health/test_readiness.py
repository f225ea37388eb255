"""Ready means: can serve chats. Real servers, with PostgreSQL stopped and with tables missing."""

from __future__ import annotations

from typing import Any

import requests

from tests.conftest import Serve, Server, wait_until
from tests.support.services import PostgresServer

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}

SECRET = "a secret of the tests, long enough for production"


def chat(server: Server, headers: dict[str, str]) -> int:
    return requests.post(
        server.url + "/chat/completions", json=CHAT, headers=headers, timeout=30
    ).status_code


def ready(server: Server) -> requests.Response:
    return requests.get(server.url + "/health/ready", timeout=60)


def test_without_the_database_an_instance_is_ready_while_it_serves_the_callers_that_it_knows(
    serve: Serve, own_postgres: PostgresServer
) -> None:
    settings: dict[str, Any] = {
        "DATABASE_URL": own_postgres.create_database(),
        "GOBLIN_HEALTH_INTERVAL": "0.1",
        "SECRET_KEY": SECRET,  # both accept the caller's token
    }
    busy, idle = serve(**settings), serve(**settings)
    caller = busy.register()
    assert chat(busy, caller) == 200
    wait_until(lambda: ready(idle).status_code == 200, 20)
    own_postgres.stop()
    for server in (busy, idle):
        server.wait_for_line("service_unhealthy", 20, service="database")
    assert chat(busy, caller) == 200
    assert ready(busy).status_code == 200
    assert busy.metrics()["app_ready"] == 1
    assert busy.log_lines("not_ready") == []
    assert chat(idle, caller) == 503
    assert ready(idle).json()["reasons"] == ["database: connection failed"]
    assert idle.metrics()["app_ready"] == 0
    line = idle.wait_for_line("not_ready", reasons=["database: connection failed"])
    assert line["level"] == "WARNING"
    own_postgres.start()
    wait_until(lambda: ready(idle).status_code == 200, 20)
    wait_until(lambda: len(idle.log_lines("ready")) == 2)
    assert idle.metrics()["app_ready"] == 1


def test_an_instance_without_tables_says_so_in_its_answer_its_metrics_and_its_log(
    serve: Serve,
) -> None:
    server = serve(
        GOBLIN_ENV="production",
        SECRET_KEY=SECRET,
        GOBLIN_HEALTH_INTERVAL="0.1",
    )
    reason = "not migrated to this version; run: goblin-assistant db upgrade"
    wait_until(lambda: ready(server).json().get("reasons") == [f"database: {reason}"])
    found = server.metrics()
    assert found["app_ready"] == 0
    assert found["database_schema_current"] == 0
    line = server.wait_for_line("schema_not_served")
    assert (line["reason"], line["found"]) == (reason, None)
    assert line["expected"]
    server.wait_for_line("not_ready", reasons=[f"database: {reason}"])
    assert len(server.log_lines("schema_not_served")) == 1


def test_a_migrated_instance_exports_that_it_is_ready_and_room_on_its_disk(serve: Serve) -> None:
    server = serve()
    wait_until(lambda: ready(server).status_code == 200)
    found = server.metrics()
    assert found["app_ready"] == 1
    assert found["app_draining"] == 0
    assert found["database_schema_current"] == 1
    assert 0 < found["instance_disk_free_bytes"] < found["instance_disk_size_bytes"]
    assert "backup_last_success_timestamp_seconds" not in found
