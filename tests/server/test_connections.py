"""Idle connections make room for new ones, and the end of the grace time logs no errors."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import pytest
import requests

from goblin_assistant.config import Config
from goblin_assistant.routing.slots import ChatSlots
from goblin_assistant.server import shutdown
from goblin_assistant.server.connections import OTHER_CONNECTIONS, ROOM, ConnectionBounds
from goblin_assistant.server.serve import Server as BoundedServer
from goblin_assistant.server.serve import settings
from goblin_assistant.threads.budget import ThreadBudget
from tests.conftest import ROOT, Serve, Server, free_port, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.real_server import STREAM, raw
from tests.support.wire_bodies import openai_events

HALF = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as opened:
        yield opened


class Limited(Protocol):
    """`limited(256, GOBLIN_THREADS="6")`: a server with this limit on open files."""

    def __call__(self, files: int, **env: str) -> Server: ...


@pytest.fixture
def limited(tmp_path: Path, stack: ExitStack) -> Limited:
    """A factory of servers under the shell's `ulimit -n`."""

    def start(files: int, **env: str) -> Server:
        port = free_port()
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "GOBLIN_ENV": "development",
            "GOBLIN_INSTANCE_DIR": str(tmp_path / "instance"),
            "GOBLIN_PORT": str(port),
            "RATELIMIT_ENABLED": "false",
            **env,
        }
        command = f"ulimit -n {files}; exec {sys.executable} -m goblin_assistant serve"
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        server = Server(process, port)
        wait_until(lambda: server.log_lines("server_started"), 20)
        return server

    return start


def connect(server: Server, stack: ExitStack, data: bytes = b"") -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
    connection.sendall(data)
    return connection


def test_a_thousand_half_sent_requests_leave_health_answering(
    serve: Serve, stack: ExitStack
) -> None:
    server = serve()
    for number in range(1000):
        connect(server, stack, HALF if number % 2 else b"GET /health/l")
    answers = [raw(server, LIVE).split()[1] for _ in range(50)]
    assert answers == [b"200"] * 50
    assert server.metrics()["server_connections"] >= 1000


def test_beyond_the_limit_those_who_wait_longest_are_closed_and_it_is_said(
    limited: Limited, stack: ExitStack
) -> None:
    server = limited(256)
    oldest = connect(server, stack, HALF)
    wait_until(lambda: server.metrics()["server_connections"] >= 2)
    for number in range(400):
        connect(server, stack, HALF if number % 2 else b"")
    assert raw(server, LIVE).split()[1] == b"200"
    assert oldest.recv(100) == b""
    metrics = server.metrics()
    assert metrics["server_connections_shed_total"] > 300
    assert metrics["server_connections"] <= 64
    line = server.wait_for_line("connections_shed")
    assert (line["level"], line["reason"]) == ("WARNING", "too many connections")
    # A line every ten seconds, not one for each connection.
    assert len(server.log_lines("connections_shed")) < 20
    assert len([line for line in server.log_lines() if line["level"] == "WARNING"]) < 40


def test_a_connection_with_a_request_at_work_is_never_shed(
    limited: Limited, stack: ExitStack
) -> None:
    server = limited(256)
    chat = {
        "model": "echo",
        "messages": [{"role": "user", "content": "word " * 3000}],
        "stream": True,
    }
    url = server.url + "/v1/chat/completions"
    with requests.post(
        url, json=chat, headers=server.register(), stream=True, timeout=30
    ) as answer:
        for _ in range(200):
            connect(server, stack)
        assert b"".join(answer.iter_content(None)).endswith(b"data: [DONE]\n\n")
    assert server.metrics()["server_connections_shed_total"] > 0


def test_at_the_limit_of_descriptors_health_still_answers(
    limited: Limited, stack: ExitStack
) -> None:
    server = limited(40, GOBLIN_THREADS="6")
    for _ in range(100):
        connect(server, stack, b"GET ")
    assert raw(server, LIVE, timeout=20).split()[1] == b"200"
    assert server.wait_for_line("connections_shed")


def test_where_few_files_may_be_open_chats_leave_connections_for_health(
    limited: Limited, fake_upstream: FakeUpstream, stack: ExitStack
) -> None:
    stream = Reply.sse([*openai_events()[:1], SILENCE])
    fake_upstream.choose = lambda request: stream if request.method == "POST" else None
    server = limited(
        128,
        OPENAI_API_KEY="k",
        OPENAI_BASE_URL=fake_upstream.url,
        GOBLIN_CHAT_SLOT_WAIT_SECONDS="0",
    )
    slots = server.wait_for_line("few_open_files", level="WARNING")["chat_slots"]
    body = json.dumps(STREAM)
    chat = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Authorization: {server.register()['Authorization']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()

    def full() -> bool:
        for _ in range(10):
            with contextlib.suppress(ConnectionError):  # one that made room already
                connect(server, stack, chat)
        with contextlib.suppress(requests.ConnectionError):
            return server.metrics()["chat_slots_in_use"] == slots
        return False

    wait_until(full)
    full()
    assert raw(server, LIVE).split()[1] == b"200"
    metrics = server.metrics()
    assert metrics["chat_slots_max"] == metrics["chat_slots_in_use"] == slots


@pytest.mark.parametrize(
    ("threads", "files"),
    [(64, 40), (64, 64), (64, 256), (64, 323), (64, 324), (512, 1024), (1024, 2048), (2048, 4096)],
)
def test_chats_and_those_that_wait_fit_into_the_connections(threads: int, files: int) -> None:
    values = {"env": "development", "threads": threads}
    config = Config.load(values, environ={}, dotenv=Path("absent.env"))
    limit = settings(config, files)["connection_limit"]
    room = limit - max(2, limit // ROOM) - OTHER_CONNECTIONS
    budget = ThreadBudget(config.held_threads)
    slots = ChatSlots(config.slots, 0.5, config.most_chats_waiting, budget)
    server: Any = SimpleNamespace(
        _runtime=SimpleNamespace(chat=SimpleNamespace(slots=slots)), _config=config
    )
    BoundedServer._bound_chats(server, room + OTHER_CONNECTIONS, files)
    assert slots.limit + slots._most_waiting <= room
    assert slots.limit == config.slots or slots.limit >= room * 3 // 4


def test_the_newest_connections_are_not_closed_before_their_requests_can_come() -> None:
    now, closed = 1000.0, []

    def channel(age: float, requests: Sequence[Any] = ()) -> Any:
        return SimpleNamespace(
            requests=list(requests), total_outbufs_len=0,
            waiting_since=lambda _: now - age, handle_close=lambda: closed.append(age),
        )  # fmt: skip

    def make_room(*channels: Any) -> list[float]:
        closed.clear()
        listener: Any = SimpleNamespace(
            active_channels=dict(enumerate(channels)), paused_until=now + 1
        )
        config, slots = cast(Any, None), cast(Any, None)
        bounds = ConnectionBounds([listener], config, slots)
        bounds.make_room(now, 32, out_of_descriptors=True)
        assert bool(closed) is (listener.paused_until == 0.0)
        return list(closed)

    running = [channel(50.0, ["a chat"]) for _ in range(28)]
    assert make_room(*running, channel(0.1)) == []
    assert make_room(*running, channel(0.1), channel(0.2), channel(0.3)) == [0.3]
    assert make_room(*running, channel(0.1), channel(2.0)) == [2.0]
    assert make_room(*(channel(n / 1000) for n in range(100, 110))) == [0.109, 0.108]


class Vanishing(list[Any]):
    """A connection's requests, the last of which ends between two looks at the list."""

    def __bool__(self) -> bool:
        there = len(self) > 0
        self.clear()
        return there


def test_a_request_that_ends_while_the_server_cuts_does_not_stop_the_cutting() -> None:
    closed = []
    channels = [
        SimpleNamespace(
            requests=Vanishing([SimpleNamespace(command="POST", path="/x")]),
            handle_close=lambda number=number: closed.append(number),
        )
        for number in range(3)
    ]
    listener = SimpleNamespace(active_channels=dict(enumerate(channels)))
    shutdown.abort([listener])  # type: ignore[list-item]
    assert closed == [0, 1, 2]
