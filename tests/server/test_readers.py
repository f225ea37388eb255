"""Clients that send requests and do not read hold no thread, and their answers are bounded."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from goblin_assistant.server.channel import Channel
from goblin_assistant.server.sockets import unacknowledged
from tests.conftest import Serve, Server, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.real_server import STREAM, raw, start

LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as opened:
        yield opened


def silent(server: Server, stack: ExitStack, data: bytes) -> socket.socket:
    """A connection with a small buffer that sends what is accepted of `data` and reads nothing."""
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.setblocking(False)
    connection.send(data)
    return connection


def taken_of(connection: socket.socket) -> int:
    """The bytes up to the end of the connection."""
    count = 0
    try:
        while piece := connection.recv(65536):
            count += len(piece)
    except ConnectionResetError:
        pass
    return count


def completed(server: Server, path: str) -> list[str]:
    """The paths, so far, of answers to paths with this prefix."""
    paths = [line["path"] for line in server.log_lines("request_completed")]
    return [found for found in paths if found.startswith(path)]


def test_clients_that_pipeline_and_read_nothing_hold_no_thread(
    serve: Serve, stack: ExitStack
) -> None:
    server = serve(GOBLIN_THREADS="8")
    for _ in range(20):
        silent(server, stack, DOCUMENT * 100)
    wait_until(lambda: len(completed(server, "/openapi.json")) >= 20, 30)
    assert raw(server, CLOSING).split()[1] == b"200"
    wait_until(lambda: server.metrics()["server_threads_busy"] == 1)
    # A client that has not read its first answer gets no second one.
    answered = len(completed(server, "/openapi.json"))
    assert raw(server, CLOSING).split()[1] == b"200"
    assert len(completed(server, "/openapi.json")) == answered < 20 * 100


def test_pipelined_requests_are_answered_in_order_once_the_client_reads(serve: Serve) -> None:
    server = serve(GOBLIN_THREADS="8", LOG_LEVEL="DEBUG")
    missing = b"GET /nothing%d HTTP/1.1\r\nHost: a\r\n\r\n"
    sent = b"".join(DOCUMENT + missing % number for number in range(20)) + CLOSING
    answer = raw(server, sent, timeout=30)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 404] * 20 + [200]
    # A line is logged after its answer's last byte, maybe while the next request is at work.
    identities = re.findall(r"(?i)\r\nx-correlation-id: ([^\r]+)", answer.decode())
    logged = [
        server.wait_for_line("request_completed", 30, correlation_id=identity)
        for identity in identities
    ]
    answered = [line["path"] for line in logged]
    assert answered[1::2] == [f"/nothing{number}" for number in range(20)]


@pytest.mark.parametrize("cut", [1, 20, 41, 42, 43, 70])
def test_a_second_request_arrives_whole_however_it_is_cut(serve: Serve, cut: int) -> None:
    server = serve()
    sent = LIVE + CLOSING
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(sent[:cut])
        connection.sendall(sent[cut:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200") == 2


def test_a_body_behind_another_request_arrives_whole(serve: Serve) -> None:
    server = serve()
    body = b'{"email": "a@example.com", "password": "' + b"x" * 30 + b'"' + b" " * 3000 + b"}"
    login = (
        b"POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    answer = raw(server, LIVE + login + body + CLOSING)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 401, 200]


def test_what_clients_have_not_taken_is_bounded_and_the_most_stalled_go_first(
    serve: Serve, stack: ExitStack
) -> None:
    server = serve(GOBLIN_THREADS="8", GOBLIN_MAX_UNSENT_BYTES=str(4 * 1024 * 1024))
    script = b"GET /docs/rapidoc.js HTTP/1.1\r\nHost: a\r\n\r\n"
    first = silent(server, stack, script)
    wait_until(lambda: server.metrics()["server_unsent_bytes"] > 0)
    for _ in range(10):
        silent(server, stack, script)
    line = server.wait_for_line("readers_cut")
    assert line["level"] == "WARNING"
    assert line["left"] <= 3.5 * 1024 * 1024 < line["unsent"]
    first.setblocking(True)
    assert taken_of(first) < 863_099
    # The sum is taken every 50 ms, so it may be above the bound for a moment.
    wait_until(lambda: server.metrics()["server_unsent_bytes"] <= 4 * 1024 * 1024)
    metrics = server.metrics()
    assert metrics['server_readers_cut_total{reason="memory"}'] >= line["count"]
    assert raw(server, CLOSING).split()[1] == b"200"


def test_a_stalled_stream_gives_its_slot_back_sooner_while_every_slot_is_taken(
    serve: Serve, fake_upstream: FakeUpstream, stack: ExitStack
) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 100_000 + b'"}}]}\n\n'
    server = start(serve, fake_upstream, GOBLIN_THREADS="8", GOBLIN_CHAT_SLOTS="1")
    fake_upstream.reply(Reply.sse([piece] * 100))
    authorization = server.register()["Authorization"]
    body = json.dumps(STREAM).encode()
    head = (
        f"POST /chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    silent(server, stack, head.encode() + body)
    line = server.wait_for_line("client_stalled", timeout=40)  # a minute with a slot to spare
    assert line["unsent"] > 0
    assert server.metrics()['server_readers_cut_total{reason="slots"}'] == 1


def test_a_client_that_is_too_slow_for_its_stream_keeps_no_slot_beyond_the_longest_chat(
    serve: Serve, fake_upstream: FakeUpstream, stack: ExitStack
) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 2_000_000 + b'"}}]}\n\n'
    server = start(serve, fake_upstream, GOBLIN_TIMEOUT_TOTAL="15")
    fake_upstream.reply(Reply.sse([piece] * 20))
    authorization = server.register()["Authorization"]
    body = json.dumps(STREAM).encode()
    head = (
        f"POST /chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    silent(server, stack, head.encode() + body)
    line = server.wait_for_line("client_too_slow", timeout=55)  # stalled after a minute
    assert line["unsent"] > 0
    assert server.metrics()['server_readers_cut_total{reason="time"}'] == 1


def test_a_client_that_takes_what_the_kernel_holds_is_not_stalled(stack: ExitStack) -> None:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    ours = stack.enter_context(listener.accept()[0])
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 65536)
    closed: list[bool] = []
    channel: Any = SimpleNamespace(
        total_outbufs_len=1, last_activity=1.0, seen_activity=(0.0, 0), stuck_since=0.0,
        socket=ours, discarding_until=0.0, request=None, requests=[1], behind=b"",
        handle_close=lambda: closed.append(True), silent=None,
    )  # fmt: skip

    def watch(now: float) -> bool:
        return Channel.watch(channel, now, send_timeout=10, receive_timeout=120)

    before = unacknowledged(ours)
    assert not watch(100.0)
    client.settimeout(30)
    while unacknowledged(ours) >= before:  # the kernel tells of room once there is enough of it
        assert client.recv(65536)
    assert not watch(115.0), "bytes were taken since"
    later = itertools.count(116, 20)

    def stalls(now: float) -> bool:
        watch(now)
        return watch(now + 14)

    wait_until(lambda: stalls(next(later)), 30, "nothing was taken since")
    assert closed


@pytest.mark.parametrize(
    ("arrived", "waited", "stalls"),
    [(0, 119, False), (0, 121, True), (10_000_000, 400, False), (10_000_000, 430, True)],
)
def test_who_sends_a_large_body_slowly_has_more_time_than_who_sends_nothing(
    arrived: int, waited: float, stalls: bool
) -> None:
    closed: list[bool] = []
    channel: Any = SimpleNamespace(
        total_outbufs_len=0, stuck_since=0.0, discarding_until=0.0, requests=[], behind=b"",
        request=SimpleNamespace(began=1000.0, body_bytes_received=arrived), silent=None,
        handle_close=lambda: closed.append(True),
    )  # fmt: skip
    assert Channel.watch(channel, 1000.0 + waited, 60, 120) is stalls
    assert closed == [True] * stalls
