"""Streams of a real server, and chats that fill its slots."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.conftest import PASSWORD, Serve, Server, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.real_server import CHAT, STREAM, start
from tests.support.wire_bodies import openai_chat, openai_events


def chat_in_progress(server: Server) -> float:
    return sum(
        value
        for name, value in server.metrics().items()
        if name.startswith("http_requests_in_progress") and "/chat/completions" in name
    )


def test_a_stream_passes_through_as_it_comes(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    pieces = openai_events()
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse([pieces[0], SILENCE, *pieces[1:]]))
    headers = server.register()
    with requests.post(
        server.url + "/chat/completions", json=STREAM, headers=headers, stream=True, timeout=10
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        received = answer.iter_content(None)
        assert next(received).startswith(b"data: ")  # while the upstream is still silent
        assert chat_in_progress(server) == 1
        paths = [line["path"] for line in server.log_lines("request_completed")]
        assert "/chat/completions" not in paths
        time.sleep(1.2)  # for the log and the histogram
        fake_upstream.release()
        rest = b"".join(received)
    assert rest.endswith(b"data: [DONE]\n\n")
    line = server.wait_for_line("request_completed", path="/chat/completions")
    assert 1200 <= line["duration_ms"] < 6000
    assert "completed" not in line
    assert line["correlation_id"] == answer.headers["X-Correlation-ID"]
    metrics = server.metrics()
    assert chat_in_progress(server) == 0
    assert (
        metrics['http_request_duration_seconds_sum{endpoint="/chat/completions",method="POST"}']
        >= 1.2
    )


def test_a_client_that_cuts_its_stream_frees_everything(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse([openai_events()[0], SILENCE]))
    headers = server.register()
    answer = requests.post(
        server.url + "/chat/completions", json=STREAM, headers=headers, stream=True, timeout=10
    )
    next(answer.iter_content(None))
    answer.close()
    wait_until(
        lambda: fake_upstream.open_connections == 0, 2, "the upstream connection to be closed"
    )
    line = server.wait_for_line("request_completed", path="/chat/completions")
    assert line["completed"] is False
    wait_until(lambda: chat_in_progress(server) == 0)
    assert [completed for completed, _ in usage_rows(server)] == [0]


def usage_rows(server: Server) -> list[tuple[int, int]]:
    path = Path(f"/proc/{server.process.pid}/cwd").resolve() / "instance" / "goblin.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT completed, status_code FROM usage_records").fetchall()


def test_busy_chat_slots_leave_threads_for_everything_else(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    server = start(
        serve,
        fake_upstream,
        GOBLIN_THREADS="6",
        GOBLIN_CHAT_SLOTS="3",
        GOBLIN_CHAT_SLOT_WAIT_SECONDS="0.1",
    )
    fake_upstream.default = Reply([SILENCE, *Reply.json(200, openai_chat()).steps])
    headers = server.register()
    with ThreadPoolExecutor(3) as pool:
        chats = [
            pool.submit(
                requests.post,
                server.url + "/chat/completions",
                json=CHAT,
                headers=headers,
                timeout=60,
            )
            for _ in range(3)
        ]
        wait_until(lambda: len(fake_upstream.requests) == 3)
        assert requests.get(server.url + "/health", timeout=2).status_code == 200
        assert server.metrics()["chat_slots_in_use"] == 3
        login = requests.post(
            server.url + "/auth/login",
            json={"email": "ada@example.com", "password": PASSWORD},
            timeout=60,
        )
        assert login.status_code == 200
        fourth = requests.post(
            server.url + "/chat/completions", json=CHAT, headers=headers, timeout=5
        )
        assert fourth.status_code == 503
        assert fourth.json()["error"] == "overloaded"
        assert int(fourth.headers["Retry-After"]) >= 1
        fake_upstream.release()
        assert [chat.result().status_code for chat in chats] == [200, 200, 200]


def test_chats_that_find_no_place_to_wait_are_refused_and_leave_threads_for_everything_else(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    """16 threads: 13 slots, one place to wait, two threads in reserve."""
    server = start(serve, fake_upstream, GOBLIN_THREADS="16", GOBLIN_CHAT_SLOT_WAIT_SECONDS="60")
    fake_upstream.default = Reply([SILENCE, *Reply.json(200, openai_chat()).steps])
    headers = server.register()
    with ThreadPoolExecutor(40) as pool:
        chats = [
            pool.submit(
                requests.post,
                server.url + "/chat/completions",
                json=CHAT,
                headers=headers,
                timeout=60,
            )
            for _ in range(40)
        ]
        wait_until(lambda: sum(chat.done() for chat in chats) == 26, 30)
        refused = [chat.result() for chat in chats if chat.done()]
        assert {(one.status_code, one.json()["error"]) for one in refused} == {(503, "overloaded")}
        assert all(int(one.headers["Retry-After"]) >= 1 for one in refused)
        assert requests.get(server.url + "/health/live", timeout=60).status_code == 200
        metrics = server.metrics()
        assert (metrics["chat_slots_in_use"], metrics["chat_slots_waiting"]) == (13, 1)
        fake_upstream.release()
        assert sorted(chat.result().status_code for chat in chats) == [200] * 14 + [503] * 26
    assert server.metrics()["chat_slots_in_use"] == 0


def test_requests_behind_a_stream_are_answered_on_the_same_connection(
    serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse(openai_events()))
    token = server.register()["Authorization"].encode()
    body = json.dumps(STREAM).encode()
    chat = (
        b"POST /chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Authorization: %b\r\nContent-Length: %d\r\n\r\n%b" % (token, len(body), body)
    )
    live = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(chat + live + b"\r\n" + live + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"\r\nconnection:" not in head.lower()
    stream, end, behind = rest.partition(b"\r\n0\r\n\r\n")
    assert stream.endswith(b"data: [DONE]\n\n")
    assert end
    assert behind.count(b"HTTP/1.1 200") == 2


def test_an_old_client_gets_its_stream_to_the_connections_end(
    serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse(openai_events()))
    token = server.register()["Authorization"].encode()
    body = json.dumps(STREAM).encode()
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(
            b"POST /chat/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
            b"Connection: keep-alive\r\nAuthorization: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (token, len(body), body)
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b"chunked" not in answer.partition(b"\r\n\r\n")[0].lower()
