"""SIGTERM: running requests finish, new ones are refused, and the exit code is 0."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from waitress import wasyncore

from goblin_assistant.config import Config
from goblin_assistant.server import shutdown
from tests.conftest import Serve, Server, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.real_server import CHAT, STREAM, start
from tests.support.wire_bodies import openai_chat, openai_events


def stream(server: Server, headers: dict[str, str]) -> bytes:
    with requests.post(
        server.url + "/chat/completions", json=STREAM, headers=headers, stream=True, timeout=60
    ) as answer:
        assert answer.status_code == 200
        return b"".join(answer.iter_content(None))


def chat(server: Server, headers: dict[str, str]) -> int:
    return requests.post(
        server.url + "/chat/completions", json=CHAT, headers=headers, timeout=60
    ).status_code


def refuses(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_running_requests_and_streams_finish_and_new_ones_are_refused(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    pieces = openai_events()
    whole = Reply([SILENCE, *Reply.json(200, openai_chat()).steps])
    server = start(serve, fake_upstream)
    headers = server.register()
    with ThreadPoolExecutor(15) as pool:
        fake_upstream.reply(*[whole] * 10)
        chats = [pool.submit(chat, server, headers) for _ in range(10)]
        wait_until(lambda: len(fake_upstream.requests) == 10)
        fake_upstream.reply(*[Reply.sse([pieces[0], SILENCE, *pieces[1:]])] * 5)
        streams = [pool.submit(stream, server, headers) for _ in range(5)]
        wait_until(lambda: len(fake_upstream.requests) == 15)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_for_line("draining")["requests"] == 15
        wait_until(lambda: refuses(server), 30, "the listener to be closed")
        assert server.process.poll() is None
        fake_upstream.release()
        assert [future.result() for future in chats] == [200] * 10
        assert all(future.result().endswith(b"data: [DONE]\n\n") for future in streams)
    assert server.wait(30) == 0
    completed = [
        line
        for line in server.log_lines("request_completed")
        if line["path"] == "/chat/completions"
    ]
    assert len(completed) == 15
    assert not any("completed" in line for line in completed)
    assert server.log_lines("requests_cut") == []
    assert server.log_lines()[-1]["message"] == "server_stopped"


def test_what_outlasts_the_grace_time_is_cut_and_named(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    server = start(serve, fake_upstream, GOBLIN_GRACE_SECONDS="0.5")
    fake_upstream.reply(Reply.sse([openai_events()[0], SILENCE]))
    headers = server.register()
    with requests.post(
        server.url + "/chat/completions", json=STREAM, headers=headers, stream=True, timeout=20
    ) as answer:
        received = answer.iter_content(None)
        next(received)
        assert server.stop() == 0
        with pytest.raises(requests.RequestException):
            list(received)
    (cut,) = server.log_lines("requests_cut")
    assert cut["count"] == 1
    assert cut["requests"] == ["POST /chat/completions"]
    line = server.log_lines("request_completed")[-1]
    assert line["completed"] is False
    assert line["correlation_id"] == answer.headers["X-Correlation-ID"]
    assert fake_upstream.open_connections == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(serve: Serve, sig: signal.Signals) -> None:
    server = serve()
    assert server.stop(sig, timeout=10) == 0
    assert server.log_lines("server_stopped")[0]["drain_seconds"] < 5


def test_a_second_signal_ends_the_process_at_once(
    serve: Serve,
    fake_upstream: FakeUpstream,
) -> None:
    server = start(serve, fake_upstream)
    fake_upstream.reply(Reply.sse([openai_events()[0], SILENCE]))
    headers = server.register()
    with requests.post(
        server.url + "/chat/completions", json=STREAM, headers=headers, stream=True, timeout=20
    ) as answer:
        next(answer.iter_content(None))
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("draining")
        assert server.stop(signal.SIGTERM, timeout=5) == 1
    assert server.log_lines("second_signal")


class IdleConnection:
    """A connection of a proxy, which sends a request whenever it may be closed."""

    requests: tuple[()] = ()

    def __init__(self) -> None:
        self.socket, self._proxy = socket.socketpair()
        self._busy = False
        self.sent = self.read = 0
        self.closed = False

    def busy(self) -> bool:
        return self._busy

    def turn(self) -> None:
        """Read what has come; it is answered within the turn after."""
        self._busy = self.sent > self.read
        if self._busy:
            self.read += len(self.socket.recv(100))

    def ask(self) -> None:
        self.sent += self._proxy.send(b"x")

    def handle_close(self) -> None:
        self.closed = True
        self.socket.close()
        self._proxy.close()


def test_a_request_that_has_arrived_on_an_idle_connection_is_served_before_it_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = SimpleNamespace(now=0.0, idle_since=0.0)
    monkeypatch.setattr(shutdown, "time", SimpleNamespace(monotonic=lambda: clock.now))
    connection = IdleConnection()

    class Channels(wasyncore.dispatcher):
        draining = False

        @property
        def active_channels(self) -> dict[int, IdleConnection]:
            return {} if connection.closed else {1: connection}

        def accept_waiting(self) -> None:
            """Nobody waits."""

    def turn(seconds: float) -> None:
        clock.now += seconds
        connection.turn()
        if connection.busy():
            clock.idle_since = clock.now
        elif connection.sent < 3 and clock.now - clock.idle_since >= shutdown.IDLE_SECONDS:
            connection.ask()  # between the loop's last look and the end of the wait

    listener: Any = Channels(map={})
    config = Config.load({"env": "development", "instance_dir": tmp_path}, environ={})
    shutdown.Shutdown([listener], config).drain(turn)
    assert connection.closed
    assert (connection.sent, connection.read) == (3, 3)


def test_readiness_turns_first_and_open_connections_are_told_to_close(serve: Serve) -> None:
    server = serve(GOBLIN_DRAIN_DELAY_SECONDS="3")
    with requests.Session() as session:
        before = session.get(server.url + "/health/ready", timeout=60)
        assert before.status_code == 200
        assert before.headers.get("Connection") != "close"
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("draining")
        # The listener is still open: a load balancer sees 503 before any connection is refused.
        assert requests.get(server.url + "/health/ready", timeout=60).status_code == 503
        assert requests.get(server.url + "/health/live", timeout=60).status_code == 200
        during = session.get(server.url + "/health", timeout=60)
        assert during.status_code == 200
        assert during.headers["Connection"] == "close"
    assert server.wait() == 0
