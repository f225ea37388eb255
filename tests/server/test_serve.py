"""The production server, in its own process, over real sockets."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import PASSWORD, ROOT, Serve, Server, free_port, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat, openai_events

CHAT: dict[str, Any] = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "user", "content": "Hello"}],
}
STREAM = {**CHAT, "stream": True}


def start(serve: Serve, upstream: FakeUpstream, **more: str) -> Server:
    """A server whose openai provider is the fake upstream, past its first health check.

    Replies that are scripted later are for chats.
    """
    upstream.default = Reply.raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
        b'Connection: close\r\n\r\n{"data": []}'
    )
    server = serve(
        True,
        OPENAI_API_KEY="sk-canary-provider-key",
        OPENAI_BASE_URL=upstream.url + "/v1",
        GOBLIN_RETRIES="0",
        GOBLIN_HEALTH_INTERVAL="3600",
        **more,
    )
    wait_until(
        lambda: upstream.requests and upstream.open_connections == 0,
        10,
        "the check of the provider",
    )
    upstream.requests.clear()
    return server


def events() -> list[bytes]:
    """A short stream, one event a piece."""
    return [
        event + b"\n\n" for event in b"".join(_as_bytes(openai_events())).split(b"\n\n") if event
    ]


def _as_bytes(pieces: Any) -> Iterator[bytes]:
    for piece in pieces if isinstance(pieces, list | tuple) else [pieces]:
        yield piece if isinstance(piece, bytes) else str(piece).encode()


def chat_in_progress(server: Server) -> float:
    return sum(
        value
        for name, value in server.metrics().items()
        if name.startswith("http_requests_in_progress") and "/chat/completions" in name
    )


def raw(server: Server, data: bytes, timeout: float = 10.0) -> bytes:
    """All bytes that the server answers until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# -- streams ----------------------------------------------------------------------------------
def test_a_stream_passes_through_as_it_comes(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    pieces = events()
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
        assert server.log_lines("request_completed")[-1]["path"] != "/chat/completions"
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
    fake_upstream.reply(Reply.sse([events()[0], SILENCE]))
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
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT completed, status_code FROM usage_records").fetchall()


# -- saturation -------------------------------------------------------------------------------
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
            timeout=5,
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
        assert requests.get(server.url + "/health/live", timeout=5).status_code == 200
        metrics = server.metrics()
        assert (metrics["chat_slots_in_use"], metrics["chat_slots_waiting"]) == (13, 1)
        fake_upstream.release()
        assert sorted(chat.result().status_code for chat in chats) == [200] * 14 + [503] * 26
    assert server.metrics()["chat_slots_in_use"] == 0


# -- refusals of the server itself ------------------------------------------------------------
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


def test_what_is_refused_before_the_application_has_our_shape_id_log_and_metric(
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


# -- proxies ----------------------------------------------------------------------------------
def client_of(server: Server, **headers: str) -> str:
    identity = os.urandom(8).hex()
    requests.get(
        server.url + "/health", headers={"X-Correlation-ID": identity, **headers}, timeout=5
    )
    line = server.wait_for_line("request_completed", correlation_id=identity)
    return str(line["client"])


def test_forwarded_addresses_count_only_from_the_trusted_proxy(serve: Serve) -> None:
    behind = serve(GOBLIN_TRUSTED_PROXY="127.0.0.1")
    assert client_of(behind, **{"X-Forwarded-For": "203.0.113.7"}) == "203.0.113.7"
    # The client invented the first entry; the one proxy added the last.
    assert client_of(behind, **{"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}) == "203.0.113.7"
    # Without the setting, or from another address, the header is dropped.
    assert (
        client_of(serve(GOBLIN_TRUSTED_PROXY="10.1.1.1"), **{"X-Forwarded-For": "203.0.113.7"})
        == "127.0.0.1"
    )


# -- the process ------------------------------------------------------------------------------
def test_the_first_and_every_other_line_is_json_and_says_where_it_listens(serve: Serve) -> None:
    server = serve()
    requests.get(server.url + "/nowhere", timeout=5)
    assert server.stop() == 0
    started = server.log_lines("server_started")
    assert started[0]["url"] == server.url
    assert server.log_lines()[-1]["message"] == "server_stopped"
    assert b"Traceback" not in b"".join(server.errors)


def test_a_port_that_is_taken_is_said_so(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = serve(wait=False, GOBLIN_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(20) == 1
        (line,) = wait_until(lambda: server.log_lines("cannot_start"))
    assert "in use" in line["error"]


def test_metrics_can_have_a_token(serve: Serve) -> None:
    server = serve(GOBLIN_METRICS_TOKEN="canary-metrics-token")
    refused = requests.get(server.url + "/metrics", timeout=5)
    assert refused.status_code == 401
    assert refused.json()["error"] == "unauthorized"
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    wrong = requests.get(
        server.url + "/metrics", headers={"Authorization": "Bearer canary"}, timeout=5
    )
    assert wrong.status_code == 401
    right = requests.get(
        server.url + "/metrics", headers={"Authorization": "Bearer canary-metrics-token"}, timeout=5
    )
    assert right.status_code == 200
    server.stop()
    assert b"canary" not in b"".join(server.output)


def test_metrics_can_have_a_port_of_their_own(serve: Serve) -> None:
    port = free_port()
    server = serve(GOBLIN_METRICS_PORT=str(port), GOBLIN_METRICS_TOKEN="canary-metrics-token")
    assert requests.get(server.url + "/metrics", timeout=5).status_code == 404
    own = f"http://127.0.0.1:{port}"
    token = {"Authorization": "Bearer canary-metrics-token"}
    assert requests.get(own + "/metrics", timeout=5).status_code == 401
    assert "http_requests_total" in requests.get(own + "/metrics", headers=token, timeout=5).text
    assert requests.get(own + "/other", headers=token, timeout=5).status_code == 404
    assert requests.post(own + "/metrics", headers=token, timeout=5).status_code == 405
    assert server.stop() == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_pinned_process_has_all_its_threads_on_one_core(serve: Serve) -> None:
    core = min(os.sched_getaffinity(0))
    server = serve(GOBLIN_CPU=str(core))
    threads = list(Path(f"/proc/{server.process.pid}/task").iterdir())
    assert len(threads) > 10
    assert all(os.sched_getaffinity(int(thread.name)) == {core} for thread in threads)


def test_a_core_that_there_is_not_is_said_so(serve: Serve) -> None:
    server = serve(wait=False, GOBLIN_CPU="4000")
    assert server.process.wait(20) == 1
    assert wait_until(lambda: server.log_lines("cannot_start"))


def test_threads_are_counted(serve: Serve) -> None:
    server = serve(GOBLIN_THREADS="7")
    metrics = server.metrics()
    assert metrics["server_threads_max"] == 7
    assert 1 <= metrics["server_threads_busy"] <= 7


def test_a_client_that_takes_nothing_is_cut_off(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 100_000 + b'"}}]}\n\n'
    server = start(serve, fake_upstream, GOBLIN_SEND_TIMEOUT_SECONDS="1")
    fake_upstream.reply(Reply.sse([piece] * 400))
    authorization = server.register()["Authorization"]
    body = json.dumps(STREAM).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(
            f"POST /chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        server.wait_for_line("client_stalled", timeout=15)
        line = server.wait_for_line("request_completed", path="/chat/completions")
    assert line["completed"] is False
    wait_until(lambda: fake_upstream.open_connections == 0, 5)


def test_a_full_pipe_does_not_stop_the_server(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "goblin_assistant", "serve"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GOBLIN_ENV": "development",
            "GOBLIN_PORT": str(port), "RATELIMIT_ENABLED": "false",
        },
        stdout=writing,
    )  # fmt: skip
    os.close(writing)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url), 20)
        with requests.Session() as session:
            for _ in range(1500):  # the pipe holds 64 KiB, about 250 lines
                assert session.get(url + "/health", timeout=5).status_code == 200
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def _answers(url: str) -> bool:
    try:
        return requests.get(url + "/health/live", timeout=2).ok
    except requests.RequestException:
        return False


def test_many_connections_at_once_are_served(serve: Serve) -> None:
    """More connections than select() can watch."""
    server = serve()
    connections = []
    try:
        for _ in range(1200):
            connections.append(socket.create_connection(("127.0.0.1", server.port), 5))
        connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connections[-1].recv(100).startswith(b"HTTP/1.1 200")
        assert requests.get(server.url + "/health", timeout=5).status_code == 200
    finally:
        for connection in connections:
            connection.close()


def test_concurrent_requests_are_counted_exactly(serve: Serve) -> None:
    server = serve()

    def work(_: int) -> None:
        with requests.Session() as session:
            for _ in range(25):
                session.get(server.url + "/health", timeout=10)
                session.get(server.url + "/nowhere", timeout=10)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    metrics = server.metrics()
    assert metrics['http_requests_total{endpoint="/health",method="GET",status_code="200"}'] == 400
    assert (
        metrics['http_requests_total{endpoint="<unmatched>",method="GET",status_code="404"}'] == 400
    )
    assert (
        sum(v for k, v in metrics.items() if k.startswith("http_requests_in_progress")) == 1
    )  # this scrape
    assert len([t for t in threading.enumerate() if t.name.startswith("waitress")]) == 0
