"""Requests that the server refuses itself, and bodies that are too large."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message

import requests

from tests.conftest import Serve, Server
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


ORIGIN = "https://app.example.com"


def refused(server: Server, request_bytes: bytes, origin: str) -> Message:
    """The header block of the answer to a request with this Origin."""
    first, rest = request_bytes.split(b"\r\n", 1)
    answer = raw(server, b"\r\n".join([first, b"origin: " + origin.encode(), rest]))
    return message_from_bytes(answer.partition(b"\r\n")[2])


def test_a_script_of_a_configured_origin_may_read_a_refusal(serve: Serve) -> None:
    server = serve(CORS_ORIGINS=f"http://localhost:3000,{ORIGIN}")
    lines = b"".join(b"X-%d: y\r\n" % n for n in range(250))
    more = {
        "lines": b"GET /x HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n",
        "chunks": (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"zz\r\n"
        ),
        "anthropic": b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    }
    plain = {name: one[0] for name, one in REFUSALS.items() if name != "tls"}
    for name, request_bytes in {**plain, **more}.items():
        headers = refused(server, request_bytes, ORIGIN)
        assert headers.get_all("Access-Control-Allow-Origin") == [ORIGIN], name
        assert "Origin" in headers["Vary"], name
        exposed = headers["Access-Control-Expose-Headers"].split(", ")
        assert {"X-Correlation-ID", "Retry-After", "request-id"} <= set(exposed), name
        if name == "anthropic":
            assert headers["request-id"] == headers["X-Correlation-ID"]
        for other in ("https://evil.example", ORIGIN + ".evil.example", "null"):
            assert "Access-Control-Allow-Origin" not in refused(server, request_bytes, other), name


def test_an_origin_of_blanks_does_not_stop_the_server(serve: Serve) -> None:
    server = serve(CORS_ORIGINS=ORIGIN)
    start = b"GET /x HTTP/1.1\r\nHost: a\r\nOrigin:"
    for rest, status in ((b" " * 70_000, b" 431 "), (b" " * 60_000 + b"\n\r\n\r\n", b" 400 ")):
        assert status in raw(server, start + rest, 60).partition(b"\r\n")[0]
    padded = refused(server, REFUSALS["length"][0], f"  {ORIGIN}\t ")
    assert padded["Access-Control-Allow-Origin"] == ORIGIN


def test_a_head_that_is_cut_before_its_origin_is_refused_readably(serve: Serve) -> None:
    start = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Long: "

    def answer(origins: str, value: bytes = b"y" * 70_000) -> Message:
        server = serve(CORS_ORIGINS=origins)
        return message_from_bytes(raw(server, start + value).partition(b"\r\n")[2])

    # Nobody but a page of that origin can read the answer: browsers compare it.
    assert answer(ORIGIN)["Access-Control-Allow-Origin"] == ORIGIN
    assert answer(ORIGIN.replace("app", "App"))["Access-Control-Allow-Origin"] == ORIGIN
    assert answer("*")["Access-Control-Allow-Origin"] == "*"
    # With several the server would have to know which.
    assert "Access-Control-Allow-Origin" not in answer(f"{ORIGIN},https://two.example")
    # A whole head tells its origin, or has none.
    assert "Access-Control-Allow-Origin" not in answer(
        ORIGIN, b"y\r\n" + b"X: y\r\n" * 250 + b"\r\n"
    )


def test_any_origin_may_read_a_refusal_where_any_may_call(serve: Serve) -> None:
    headers = refused(serve(CORS_ORIGINS="*"), REFUSALS["length"][0], ORIGIN)
    assert headers.get_all("Access-Control-Allow-Origin") == ["*"]
    assert "Access-Control-Allow-Origin" not in message_from_bytes(
        raw(serve(CORS_ORIGINS=""), REFUSALS["length"][0]).partition(b"\r\n")[2]
    )


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
