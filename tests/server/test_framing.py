"""Requests that a proxy could read differently are refused and disconnected (RFC 9112)."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from waitress import wasyncore
from waitress.adjustments import Adjustments

from goblin_assistant.config import Config
from goblin_assistant.server.bodies import PendingBodies
from goblin_assistant.server.channel import Channel
from goblin_assistant.server.serve import settings
from goblin_assistant.web.body_limits import BodyLimits
from tests.conftest import Serve, wait_until
from tests.support.real_server import raw

POST = b"POST /auth/login HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /health/live HTTP/1.1\r\n"
BEHIND = b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Correlation-ID: smuggled\r\n\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    "a length of 5,000 digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "a length with a sign": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\nhello", 400),
    "a length with a blank inside": (POST + b"Content-Length: 1 0\r\n\r\nhello", 400),
    "a length in Arabic digits": (POST + "Content-Length: ٥\r\n\r\nhello".encode(), 400),
    "a length in hex": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\nhello", 400),
    "a list of lengths": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "two different lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "a length beside chunks": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BEHIND, 400,
    ),
    "chunks beside a length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + BEHIND, 400,
    ),
    "chunks in HTTP/1.0": (
        b"POST /auth/login HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BEHIND, 400,
    ),
    "chunked twice in one header": (
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + BEHIND, 400,
    ),
    "chunked in two headers": (
        POST
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + BEHIND,
        400,
    ),
    "an empty encoding": (POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n" + BEHIND, 400),
    "another encoding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "an encoding that is nearly chunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
    "a chunk size with a bare line feed": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\n\r\nhello\r\n0\r\n\r\n", 400,
    ),
    "a chunk size with a sign": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400,
    ),
    "an empty line for a chunk size": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400,
    ),
    "a chunk that is longer than its size": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", 400,
    ),
    "a chunk size without end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 10_000, 400,
    ),
    "a trailer without end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 20_000, 400,
    ),
    "two hosts": (GET + b"Host: a\r\nHost: b\r\n\r\n", 400),
    "the same host twice": (GET + b"Host: a\r\nHost: a\r\n\r\n", 400),
    "no host": (GET + b"\r\n", 400),
    "a host that is a path": (GET + b"Host: a/b\r\n\r\n", 400),
    "a host with a blank": (GET + b"Host: a b\r\n\r\n", 400),
    "a host with credentials": (GET + b"Host: me@a\r\n\r\n", 400),
    "HTTP/9.9": (b"GET /health/live HTTP/9.9\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": (b"GET /health/live HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/1.2": (b"GET /health/live HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "no version": (b"GET /health/live\r\nHost: a\r\n\r\n", 400),
    "a version with letters": (b"GET /health/live HTTP/x.y\r\nHost: a\r\n\r\n", 400),
    "another protocol": (b"GET /health/live RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "a folded header": (GET + b"Host: a\r\nX: 1\r\n 2\r\n\r\n", 400),
    "a header that begins with a blank": (GET + b" X: 1\r\nHost: a\r\n\r\n", 400),
    "a blank before the colon": (GET + b"Host : a\r\n\r\n", 400),
    "a bare line feed in the head": (GET + b"Host: a\nX: 1\r\n\r\n", 400),
    "a bare carriage return in the head": (GET + b"Host: a\rX: 1\r\n\r\n", 400),
    "NUL in a header": (GET + b"Host: a\r\nX: a\0b\r\n\r\n", 400),
    "NUL in a name": (GET + b"Host: a\r\nX\0: a\r\n\r\n", 400),
    "NUL in the target": (b"GET /health/live\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab in the target": (b"GET /health\t/live HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target with half an address": (b"GET http://[::1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a method in small letters": (b"get /health/live HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a method that is no token": (b"G(T /health/live HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "201 headers": (GET + b"Host: a\r\n" + b"X: 1\r\n" * 201 + b"\r\n", 431),
}  # fmt: skip


def test_an_ambiguous_request_is_refused_counted_and_its_connection_closed(serve: Serve) -> None:
    server = serve()
    for name, (request, status) in REFUSED.items():
        head, _, body = raw(server, request).partition(b"\r\n\r\n")
        assert head.split(b" ")[1:2] == [str(status).encode()], name
        assert b"\r\nConnection: close" in head, name
        identity = json.loads(body)["correlation_id"]
        server.wait_for_line("request_completed", status_code=status, correlation_id=identity)
    refused = [line for line in server.log_lines("request_completed") if line["status_code"] != 200]
    assert len(refused) == len(REFUSED)  # and nothing that was hidden behind one of them
    assert [line for line in server.log_lines() if line["level"] in ("ERROR", "CRITICAL")] == []
    counted = [
        value
        for name, value in server.metrics().items()
        if name.startswith("http_requests_total") and "unmatched" in name
    ]
    assert sum(counted) == len(REFUSED)


CLEAR = [
    GET + b"Host: [::1]:8000\r\nConnection: close\r\n\r\n",
    GET + b"Host: my_host.example:80\r\nConnection: close\r\n\r\n",
    GET + b"Host:\r\nConnection: close\r\n\r\n",
    b"GET /health/live HTTP/1.0\r\n\r\n",
    b"\r\n" + GET + b"Host: a\r\nConnection: close\r\n\r\n",
    b"GET http://a/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    GET + b"Host: a\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
    GET
    + b"Host: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    + b"2;a=b\r\n{}\r\n0\r\nX: 1\r\n\r\n",
    GET + b"Host: a\r\nContent-Length: 002\r\nConnection: close\r\n\r\n{}",
    GET + b"Host: a\r\n" + b"X: 1\r\n" * 150 + b"Connection: close\r\n\r\n",
]


def test_what_is_unusual_and_clear_is_served(serve: Serve) -> None:
    server = serve()
    for request in CLEAR:
        assert raw(server, request).split(b" ")[1] == b"200", request


def test_a_chunked_body_arrives_whole_however_it_is_cut(serve: Serve) -> None:
    server = serve()
    text = b" " * 3000 + json.dumps({"email": "a@example.com", "password": "wrong one"}).encode()
    parts = (text[:7], text[7:2000], text[2000:])
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = head + chunks + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        for _ in range(2):  # the connection stays, and what follows the body is the next request
            for start in range(0, len(wire), 611):
                connection.sendall(wire[start : start + 611])
            assert b" 401 " in connection.recv(65536).split(b"\r\n")[0]


@pytest.fixture
def refused() -> Iterator[tuple[Channel, socket.socket]]:
    """A connection whose refusal is not yet written, and its client."""
    config = Config.load({"env": "development"}, environ={})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), 10)
        ours, address = listening.accept()
    ours.setblocking(False)
    server = SimpleNamespace(
        active_channels={}, draining=False, adj=Adjustments(**settings(config)), add_task=None,
        application=None, effective_port=0, server_name="", body_limits=BodyLimits(1),
        bodies=PendingBodies(1), keep_alive_seconds=0.0,
    )  # fmt: skip
    channel = Channel(server, ours, address, server.adj, map={})
    channel.outbufs[-1].append(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    channel.total_outbufs_len = 28
    channel.linger = channel.close_when_flushed = True
    yield channel, client
    client.close()
    channel.handle_close()


@pytest.mark.parametrize("flags", [select.POLLOUT, select.POLLIN | select.POLLOUT | select.POLLHUP])
def test_a_reset_during_a_refusal_writes_no_error_line(
    refused: tuple[Channel, socket.socket], flags: int, caplog: pytest.LogCaptureFixture
) -> None:
    channel, client = refused
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # a reset
    wait_until(lambda: select.select([channel.socket], [], [], 0)[0])
    wasyncore.readwrite(channel, flags)
    assert channel.socket is None
    assert caplog.records == []


def test_a_refusal_that_is_written_waits_for_the_client_to_close(
    refused: tuple[Channel, socket.socket],
) -> None:
    channel, client = refused
    wasyncore.readwrite(channel, select.POLLOUT)
    assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert client.recv(100) == b""  # our half is closed
    assert channel.socket is not None
    client.close()
    wait_until(lambda: select.select([channel.socket], [], [], 0)[0])
    wasyncore.readwrite(channel, select.POLLIN)
    assert channel.socket is None


def test_urgent_data_writes_no_line(serve: Serve) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.send(b"!", socket.MSG_OOB)
        connection.sendall(GET + b"Host: a\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).split()[1] == b"200"
    assert server.stop() == 0
    assert [line for line in server.log_lines() if line["level"] == "WARNING"] == []
