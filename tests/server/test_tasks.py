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
