"""The production server, in its own process, over real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT, Serve, Server, free_port, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.real_server import STREAM, start


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


def test_one_client_has_one_address_however_the_proxy_writes_it(serve: Serve) -> None:
    behind = serve(GOBLIN_TRUSTED_PROXY="127.0.0.1")
    for written in (
        "::ffff:198.51.100.1",
        "198.51.100.1:4711",
        "[::ffff:198.51.100.1]:4711",
        '"198.51.100.1:4711"',
        "203.0.113.7, ::FFFF:198.51.100.1",
    ):
        assert client_of(behind, **{"X-Forwarded-For": written}) == "198.51.100.1"
    for written in ("2001:db8::1", "[2001:DB8::1]", '"[2001:db8:0::1]:4711"', "2001:db8::1%eth0"):
        assert client_of(behind, **{"X-Forwarded-For": written}) == "2001:db8::1"


def test_what_several_proxies_write_is_read_and_never_refused(serve: Serve) -> None:
    behind = serve(GOBLIN_TRUSTED_PROXY="127.0.0.1", GOBLIN_TRUSTED_PROXY_COUNT="2")
    for written in (
        "203.0.113.7, 198.51.100.1, 10.0.0.1",
        "203.0.113.7,198.51.100.1:80, ,10.0.0.1",
        "198.51.100.1, 10.0.0.1,",
        '"[::ffff:c633:6401]:4711", _proxy',
        ", 0:0:0:0:0:FFFF:c633:6401, unknown",
    ):
        assert client_of(behind, **{"X-Forwarded-For": written}) == "198.51.100.1", written
    for written, safe in [
        ("https, http", True), ("HTTPS,https", True), ("http, https", False), ("wss", False),
        (",", False),
    ]:  # fmt: skip
        answer = requests.get(
            behind.url + "/health/live", headers={"X-Forwarded-Proto": written}, timeout=60
        )
        assert answer.status_code == 200, written
        assert ("Strict-Transport-Security" in answer.headers) is safe, written


def test_the_first_and_every_other_line_is_json_and_says_where_it_listens(serve: Serve) -> None:
    server = serve()
    requests.get(server.url + "/nowhere", timeout=60)
    assert server.stop() == 0
    started = server.log_lines("server_started")
    assert started[0]["url"] == server.url
    assert server.log_lines()[-1]["message"] == "server_stopped"
    assert b"Traceback" not in b"".join(server.errors)


def test_a_taken_port_is_reported(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = serve(wait=False, GOBLIN_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(20) == 1
        (line,) = wait_until(lambda: server.log_lines("cannot_start"))
    assert "in use" in line["error"]


def test_metrics_can_have_a_token(serve: Serve) -> None:
    server = serve(GOBLIN_METRICS_TOKEN="canary-metrics-token")
    refused = requests.get(server.url + "/metrics", timeout=60)
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
    assert requests.get(server.url + "/metrics", timeout=60).status_code == 404
    own = f"http://127.0.0.1:{port}"
    token = {"Authorization": "Bearer canary-metrics-token"}
    assert requests.get(own + "/metrics", timeout=60).status_code == 401
    assert "http_requests_total" in requests.get(own + "/metrics", headers=token, timeout=60).text
    assert requests.get(own + "/other", headers=token, timeout=60).status_code == 404
    assert requests.post(own + "/metrics", headers=token, timeout=60).status_code == 405
    assert server.stop() == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_pinned_process_has_all_its_threads_on_one_core(serve: Serve) -> None:
    core = min(os.sched_getaffinity(0))
    server = serve(GOBLIN_CPU=str(core))
    threads = list(Path(f"/proc/{server.process.pid}/task").iterdir())
    assert len(threads) > 10
    assert all(os.sched_getaffinity(int(thread.name)) == {core} for thread in threads)


def test_a_missing_core_is_reported(serve: Serve) -> None:
    server = serve(wait=False, GOBLIN_CPU="4000")
    assert server.process.wait(20) == 1
    assert wait_until(lambda: server.log_lines("cannot_start"))


def test_threads_are_counted(serve: Serve) -> None:
    server = serve(GOBLIN_THREADS="7")
    metrics = server.metrics()
    assert metrics["server_threads_max"] == 7
    assert 1 <= metrics["server_threads_busy"] <= 7


def test_a_client_that_reads_nothing_is_disconnected(
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
    wait_until(lambda: fake_upstream.open_connections == 0)


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
                assert session.get(url + "/health", timeout=60).status_code == 200
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
        assert requests.get(server.url + "/health", timeout=60).status_code == 200
    finally:
        for connection in connections:
            connection.close()


def test_concurrent_requests_are_counted_exactly(serve: Serve) -> None:
    server = serve()

    def work(_: int) -> None:
        with requests.Session() as session:
            for _ in range(25):
                session.get(server.url + "/health", timeout=60)
                session.get(server.url + "/nowhere", timeout=60)

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
