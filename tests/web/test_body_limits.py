"""Every route bounds its body before reading it, however its path is spelled."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from werkzeug.serving import make_server

from goblin_assistant.rate_limits.policy import PROVIDER_ROUTES
from goblin_assistant.web.body_limits import BodyLimits
from tests.conftest import MakeApp, Serve, Server, wait_until
from tests.support.real_server import raw

KIB = 1024
CHAT_BYTES = 20 * KIB * KIB


def filled(rule: str) -> str:
    """A path that the rule matches."""
    rule = re.sub(r"<int:\w+>", "1", rule)
    return rule.replace("<path:model_id>", "a/b").replace("<service>", "redis")


def expected(method: str, rule: str) -> int:
    """The limit that a route must have, by its purpose."""
    if rule in PROVIDER_ROUTES and method == "POST":
        return CHAT_BYTES
    if rule.startswith("/conversations/") and method == "PUT":
        return CHAT_BYTES
    if rule.startswith("/auth/") and not rule.startswith("/auth/keys"):
        return 16 * KIB
    return 64 * KIB


def test_every_route_has_the_limit_of_its_group_and_refuses_more(make_app: MakeApp) -> None:
    app = make_app(max_body_bytes=CHAT_BYTES)
    limits = BodyLimits(CHAT_BYTES)
    client = app.test_client()
    seen = set()
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            path = filled(rule.rule)
            limit = limits.of(method, path)
            assert limit == expected(method, rule.rule), f"{method} {rule.rule}"
            for spelling in (path, path + "/"):
                answer = client.open(
                    spelling, method=method, environ_overrides={"CONTENT_LENGTH": str(limit + 1)}
                )
                assert answer.status_code == 413, f"{method} {spelling}"
            seen.add(limit)
    assert seen == {16 * KIB, 64 * KIB, CHAT_BYTES}


def test_a_route_that_is_added_later_is_limited(app: Flask) -> None:
    @app.post("/brand/new")
    def brand_new() -> dict[str, int]:
        from flask import request

        return {"length": len(request.get_data())}

    client = app.test_client()
    assert client.post("/brand/new", data=b"x" * 64 * KIB).get_json() == {"length": 64 * KIB}
    assert client.post("/brand/new", data=b"x" * (64 * KIB + 1)).status_code == 413


def test_no_group_has_more_than_the_setting() -> None:
    limits = BodyLimits(1024)
    assert {limits.of("POST", path) for path in ("/auth/login", "/settings/", "/v1/messages")} == {
        1024
    }


@pytest.fixture
def development(make_app: MakeApp) -> Iterator[str]:
    """The URL of an application under werkzeug's server, as with `flask run`."""
    server = make_server("127.0.0.1", 0, make_app(), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_another_server_than_ours_is_held_to_the_limits_too(development: str) -> None:
    body = json.dumps({"email": "a@example.com", "password": "wrong password"}).encode()
    pieces = [body, b" " * 16 * KIB]
    for data, status in (
        (body, 401),
        (b"".join(pieces), 413),
        (iter([body]), 401),
        (iter(pieces), 413),
    ):
        answer = requests.post(
            development + "/auth/login",
            data=data,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.status_code == status


# -- the server -------------------------------------------------------------------------------
SPELLINGS = [
    "/auth/login",
    "/auth/login/",
    "//auth/login",
    "///auth/login",
    "/%61uth/login",
    "/auth%2flogin",
    "/auth%2Flogin",
    "/auth//login",
    "/auth/./login",
    "/x/../auth/login",
    "/AUTH/login",
    "/auth/login;a=b",
    "/auth/login?x=/v1/chat/completions",
    "http://a/auth/login",
    "http://a//auth/login",
    "*",
    "auth/login",
    "/v1/chat/completions/../../../auth/login",
    "/v1/chat/completions%00",
    "/v1/chat/completions/x",
]


def announced(target: str, length: int, extra: str = "", method: str = "POST") -> bytes:
    return (
        f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Origin: https://app.example.com\r\nContent-Length: {length}\r\n{extra}\r\n"
    ).encode()


def refusal(server: Server, request: bytes) -> tuple[dict[str, str], Any]:
    """The head and body of an answer to a request whose body was not sent. Then the connection
    ends."""
    head, _, body = raw(server, request).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return {"status": lines[0].split()[1], **fields}, json.loads(body)


def test_no_spelling_of_a_path_gets_around_its_limit(serve: Serve) -> None:
    server = serve()
    for target in SPELLINGS:
        head, _ = refusal(server, announced(target, 64 * KIB + 1))
        assert head["status"] == "413", target
        assert head["connection"] == "close", target
    for target in ("/auth/login", "//auth/login", "/%61uth/login", "http://a/auth/login/"):
        assert refusal(server, announced(target, 16 * KIB + 1))[0]["status"] == "413", target
    assert (
        refusal(server, announced("/v1/chat/completions", 64 * KIB + 1, method="GET"))[0]["status"]
        == "413"
    )


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/auth/login", lambda body: body["error"]),
        ("/v1/chat/completions", lambda body: body["error"]["code"]),
        ("/v1/messages", lambda body: body["error"]["code"]),
    ],
)
def test_a_413_has_its_routes_shape_cors_id_metric_and_line(
    serve: Serve, path: str, code: Any
) -> None:
    server = serve(CORS_ORIGINS="https://app.example.com")
    for extra in ("", "Expect: 100-continue\r\n"):
        head, body = refusal(server, announced(path, CHAT_BYTES + 1, extra))
        assert head["status"] == "413"  # not 100: the body is not wanted
        assert code(body) == "payload_too_large"
        assert head["access-control-allow-origin"] == "https://app.example.com"
        line = server.wait_for_line("request_completed", correlation_id=head["x-correlation-id"])
        assert (line["status_code"], line["path"]) == (413, path)
    counted = f'http_requests_total{{endpoint="{path}",method="POST",status_code="413"}}'
    assert server.metrics()[counted] == 2


def test_a_chunked_body_is_cut_at_its_routes_limit(serve: Serve) -> None:
    server = serve()
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        while sent < 50 * KIB * KIB:
            sent += 4096
            yield b" " * 4096

    answer = requests.post(server.url + "/auth/login", data=pieces(), timeout=30)
    assert answer.status_code == 413
    # The size that a chunk announces is enough: its data need not arrive.
    head = b"POST /auth/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(server, head + b"4001\r\n").split()[1] == b"413"
    assert raw(server, head + b"FFFFFFFFFFFFFFF\r\n").split()[1] == b"413"
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(head + b"4000\r\n" + b" " * 0x4000 + b"\r\n0\r\n\r\n")
        assert connection.recv(65536).split()[1] == b"400"  # the body was read, and is not JSON


def test_a_body_at_the_limit_is_read(serve: Serve) -> None:
    server = serve()
    body = json.dumps({"email": "nobody@example.com", "password": "wrong password"}).encode()
    for size, status in ((16 * KIB, 401), (16 * KIB + 1, 413)):
        answer = requests.post(
            server.url + "/auth/login",
            data=body.ljust(size),
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.status_code == status


def test_what_follows_a_refused_body_on_its_connection_is_never_a_request(serve: Serve) -> None:
    server = serve()
    hidden = b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Correlation-ID: hidden\r\n\r\n"
    answer = raw(server, announced("/auth/login", 10**6) + hidden * 20)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert server.stop() == 0
    lines = server.log_lines("request_completed")
    assert not any(line["correlation_id"] == "hidden" for line in lines)


# -- all bodies together ----------------------------------------------------------------------
def body_bytes(server: Server) -> float:
    return server.metrics()["server_request_body_bytes"]


def temporary_files(server: Server) -> int:
    """Deleted files that the process holds open."""
    folder = Path(f"/proc/{server.process.pid}/fd")
    links = []
    for link in folder.iterdir():
        try:
            links.append(link.readlink())
        except FileNotFoundError:
            continue
    return sum("(deleted)" in str(link) for link in links)


def half_sent(server: Server, size: int, announce: int = CHAT_BYTES) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), 10)
    connection.sendall(announced("/v1/chat/completions", announce) + b" " * size)
    return connection


def test_a_half_sent_body_is_freed_when_its_client_closes(serve: Serve) -> None:
    server = serve()
    connections = [half_sent(server, 2_000_000) for _ in range(5)]
    wait_until(lambda: body_bytes(server) == 10_000_000)
    assert temporary_files(server) == 5
    for connection in connections:
        connection.close()
    wait_until(lambda: body_bytes(server) == 0)
    assert temporary_files(server) == 0


def test_a_whole_body_is_counted_until_its_answer_and_freed_then(serve: Serve) -> None:
    server = serve()
    with half_sent(server, 600_000, announce=1_200_000) as connection:
        wait_until(lambda: body_bytes(server) == 600_000)
        connection.sendall(b" " * 600_000)
        assert connection.recv(65536).split()[1] == b"401"
        wait_until(lambda: body_bytes(server) == 0)
        assert temporary_files(server) == 0
        # The connection stays.
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536).split()[1] == b"200"


def test_beyond_the_bound_the_oldest_half_sent_requests_make_way(serve: Serve) -> None:
    bound = 8_000_000
    server = serve(
        GOBLIN_MAX_BODY_BYTES=str(2_000_000),
        GOBLIN_MAX_PENDING_BODY_BYTES=str(bound),
        CORS_ORIGINS="https://app.example.com",
    )
    headers = server.register()
    stalled = [half_sent(server, 1_000_000, announce=1_500_000) for _ in range(7)]
    wait_until(lambda: body_bytes(server) == 7_000_000)
    chat = {"model": "echo", "messages": [{"role": "user", "content": "x" * 1_500_000}]}
    answer = requests.post(
        server.url + "/v1/chat/completions", json=chat, headers=headers, timeout=30
    )
    assert answer.status_code == 200
    first = stalled[0].recv(65536)
    assert first.split()[1] == b"503"
    assert b"\r\nRetry-After: " in first
    assert b"\r\nConnection: close\r\n" in first
    assert b'"overloaded"' in first
    assert b"\r\nAccess-Control-Allow-Origin: https://app.example.com\r\n" in first
    assert body_bytes(server) <= bound
    stalled[-1].sendall(b" " * 500_000)  # the newest connection may continue
    assert stalled[-1].recv(65536).split()[1] == b"401"
    for connection in stalled:
        connection.close()
    wait_until(lambda: body_bytes(server) == 0)
    line = server.wait_for_line("request_completed", status_code=503)
    assert line["error_type"] == "OverloadedHere"
