"""A response's way out: the header block, and what the socket takes at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from waitress.adjustments import Adjustments
from waitress.task import WSGITask

from goblin_assistant.server.channel import Channel
from goblin_assistant.server.loop import WatchedMap
from goblin_assistant.server.parser import RequestParser
from goblin_assistant.server.tasks import ApplicationTask
from goblin_assistant.web.body_limits import BodyLimits

HEADERS = [
    ("Content-Type", "application/json"),
    ("x-request-id", "a-b-c"),
    ("X-RateLimit-Limit", "30"),
    ("Content-Length", "2"),
]


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A connection of the server, and the client's end of it."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    adjustments = Adjustments(ident="goblin-assistant", log_socket_errors=False)
    watched = WatchedMap()
    listener = SimpleNamespace(
        active_channels={},
        add_task=None,
        adj=adjustments,
        application=None,
        bodies=None,
        body_limits=BodyLimits(1000),
        draining=False,
        effective_port=1,
        keep_alive_seconds=0.0,
        pull_trigger=lambda: None,
        server_name="here",
        watched=watched,
    )
    channel = Channel(listener, ours, ("127.0.0.1", 1), adjustments, map=watched)
    yield channel, theirs
    channel.handle_close()
    theirs.close()


def task_of(channel: Channel, kind: type[WSGITask]) -> Any:
    """A task that is about to write its response of two bytes."""
    request = RequestParser(channel.adj, channel=channel)
    request.received(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    task = kind(channel, request)
    task.start()
    task.complete = True
    task.status = "200 OK"
    task.response_headers = list(HEADERS)
    task.content_length = 2
    return task


def test_head_and_body_leave_in_one_write(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = pair
    task = task_of(channel, ApplicationTask)
    written: list[bytes] = []
    monkeypatch.setattr(channel, "write_soon", lambda data: written.append(data) or len(data))
    task.write(b"{}")
    assert len(written) == 1
    head, _, body = written[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"{}"
    assert task.content_bytes_written == 2


def test_the_header_block_says_what_waitress_says(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    mine = task_of(channel, ApplicationTask)
    theirs = task_of(channel, WSGITask)
    theirs.start_time = mine.start_time
    lines = mine.build_response_header().split(b"\r\n")
    assert sorted(lines) == sorted(theirs.build_response_header().split(b"\r\n"))


def test_bytes_beyond_what_the_socket_takes_wait_in_order(
    pair: tuple[Channel, socket.socket],
) -> None:
    channel, theirs = pair
    sent = bytes(range(256)) * 2048
    assert channel.write_soon(sent) == len(sent)
    assert 0 < channel.total_outbufs_len < len(sent)
    received = b""
    while len(received) < len(sent):
        received += theirs.recv(65536)
        channel.handle_write()
    assert received == sent
    assert channel.total_outbufs_len == 0


@pytest.mark.parametrize("fails", [True, False])
def test_what_the_main_loop_began_gets_no_second_header_block(
    pair: tuple[Channel, socket.socket], fails: bool
) -> None:
    channel, theirs = pair

    def application(_environ: Any, start_response: Any) -> Iterator[bytes]:
        silent = channel.keep_alive(b": wait\n\n", lambda: [("Content-Type", "text/event-stream")])
        silent.watch()
        if fails:
            raise RuntimeError("on purpose")
        start_response("200 OK", [])
        return iter([])

    channel.server.application = application
    request = RequestParser(channel.adj, channel=channel)
    request.received(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    channel.requests = [request]
    channel.service()
    assert channel.silent is None
    assert channel.close_when_flushed is fails
    while channel.total_outbufs_len:
        channel.handle_write()
    ours: Any = channel.socket
    ours.shutdown(socket.SHUT_WR)
    received = b""
    while piece := theirs.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"8\r\n: wait\n\n\r\n" + (b"" if fails else b"0\r\n\r\n")
