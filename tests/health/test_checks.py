"""Each kind of check against the real thing: up, down, hanging, up again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy import create_engine

from goblin_assistant.health.checks import (
    CHROMA_HEARTBEAT,
    RESERVED,
    SANDBOX_HEALTH,
    database_check,
    http_check,
    redis_check,
    service_name,
)
from goblin_assistant.health.services import CheckFailed
from tests.support.services import Chroma, PostgresServer, RedisServer, chroma

__all__ = ["chroma"]


def problem(check: Callable[[float], None], timeout: float = 2.0) -> str | None:
    """What the check finds."""
    try:
        check(timeout)
    except CheckFailed as error:
        return str(error)
    return None


@pytest.fixture
def sandbox() -> Iterator[tuple[str, dict[str, int]]]:
    """An HTTP server whose /health answers with a status of the test's choice."""
    answer = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = answer["status"] if self.path == "/health" else 404
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/health")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()
    thread.join()
    server.server_close()


def test_chroma_up_down_and_up_again(chroma: Chroma) -> None:
    check = http_check(chroma.url + CHROMA_HEARTBEAT)
    assert problem(check) is None
    chroma.stop()
    assert problem(check) == "connection failed"
    chroma.start()
    assert problem(check) is None


def test_the_sandbox_is_well_when_it_answers_2xx(sandbox: tuple[str, dict[str, int]]) -> None:
    url, answer = sandbox
    check = http_check(url + SANDBOX_HEALTH)
    for status, expected in (
        (200, None),
        (204, None),
        (302, "answered 302"),
        (404, "answered 404"),
        (503, "answered 503"),
        (200, None),
    ):
        answer["status"] = status
        assert problem(check) == expected


def test_a_server_that_accepts_and_stays_silent_is_timed_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://user:CANARY@127.0.0.1:{silent.getsockname()[1]}/health"
        found = problem(http_check(url), timeout=0.2)
    assert found == "no answer within 0.2 s"
    assert "CANARY" not in found


def test_a_name_that_does_not_resolve_is_a_failed_connection() -> None:
    assert problem(http_check("http://no-such-host.invalid/health")) == "connection failed"


def test_redis_up_hanging_down_and_up_again(redis_server: RedisServer) -> None:
    check = redis_check(redis_server.url)
    assert problem(check) is None
    redis_server.pause()
    assert problem(check, timeout=2.0) == "no answer within 2 s"
    redis_server.resume()
    assert problem(check) is None
    redis_server.stop()
    assert problem(check) == "connection failed"
    redis_server.start()
    assert problem(check) is None


def test_postgresql_down_and_up_again(own_postgres: PostgresServer) -> None:
    engine = create_engine(
        own_postgres.create_database().replace("postgresql://", "postgresql+psycopg://")
    )
    check = database_check(engine)
    assert problem(check) is None
    own_postgres.stop()
    assert problem(check) == "connection failed"
    own_postgres.start()
    assert problem(check) is None
    engine.dispose()


def test_a_database_that_cannot_be_opened_is_a_finding_without_its_path() -> None:
    engine = create_engine("sqlite:////nonexistent/CANARY/goblin.db")
    assert problem(database_check(engine)) == "connection failed"


def test_a_provider_with_a_name_that_is_taken_is_watched_under_another() -> None:
    assert service_name("openai") == "openai"
    assert {service_name(name) for name in RESERVED} == {f"provider-{name}" for name in RESERVED}
