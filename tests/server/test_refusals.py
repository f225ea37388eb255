"""Requests that the server refuses itself, and bodies that are too large."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import requests

from tests.conftest import Serve
from tests.support.real_server import raw

REFUSALS: dict[str, tuple[bytes, int, str]] = {
    "header": (b"GET / HTTP/1.1\r\nBad header\r\n\r\n", 400, "invalid_request"),
    "method": (
        b"brew /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 400, "invalid_request",
    ),
    "tls": (b"\x16\x03\x01 tls\r\n\r\n", 400, "invalid_request"),
    "headers": (
        b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431,
        "request_header_fields_too_large",
    ),
    "length": (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "invalid_request"),
    "size": (
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413,
        "payload_too_large",
    ),
    "encoding": (
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented",
    ),
}  # fmt: skip


def test_refusals_before_the_application_have_our_shape_id_log_and_metric(
    serve: Serve,
) -> None:
    server = serve()
    for name, (request_bytes, status, code) in REFUSALS.items():
        head, _, body = raw(server, request_bytes).partition(b"\r\n\r\n")
        assert f" {status} " in head.split(b"\r\n")[0].decode(), name
        answer = json.loads(body)
        assert answer["error"] == code, name
        assert f"X-Correlation-Id: {answer['correlation_id']}".encode() in head
        assert head.lower().count(b"connection:") == head.count(b"Connection: close") == 1
        server.wait_for_line(
            "request_completed", status_code=status, correlation_id=answer["correlation_id"]
        )
    counted = {
        name: value
        for name, value in server.metrics().items()
        if name.startswith("http_requests_total") and "unmatched" in name and value
    }
    assert sum(counted.values()) == len(REFUSALS)
    assert {name.rpartition('status_code="')[2][:3] for name in counted} == {
        "400",
        "413",
        "431",
        "501",
    }


def test_a_client_that_sends_too_much_reads_its_413(serve: Serve) -> None:
    server = serve(GOBLIN_MAX_BODY_BYTES=str(1024 * 1024))
    headers = server.register()
    for mebibytes in (1.5, 30):  # refused by the application, and by the server
        body = b" " * int(mebibytes * 2**20)
        answer = requests.post(
            server.url + "/v1/chat/completions", data=body, headers=headers, timeout=30
        )
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "payload_too_large"
    # This client reads only after sending everything. A server that had closed would reset it.
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    assert b"payload_too_large" in raw(server, head.encode() + body)


def test_a_body_in_chunks_is_bounded_too(serve: Serve) -> None:
    server = serve(GOBLIN_MAX_BODY_BYTES="4096")

    def pieces() -> Iterator[bytes]:
        for _ in range(400):
            yield b" " * 8192

    answer = requests.post(
        server.url + "/chat/completions", data=pieces(), headers=server.register(), timeout=30
    )
    assert answer.status_code == 413


def test_expect_continue_is_answered(serve: Serve) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(
            b"POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.split()[1] in (b"400", b"422")
