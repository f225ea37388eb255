"""A provider that fails for a while is used again when it recovers. Many streams that fail at once
leak nothing."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.conftest import Serve, Server, wait_until
from tests.support.fake_upstream import CUT, RESET, SILENCE, FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat

MODELS = Reply.json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
DOWN = Reply.json(500, {"error": {"message": "down"}})
CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
FINE = Reply.sse([CHUNK, CHUNK, LAST])
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


SAFE = '[chains]\nsafe = ["a/m", "echo/echo"]\n'

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path) -> Start:
    """Starts a server whose provider `a` is the fake one, with a chain in which echo follows it."""

    def begin(**settings: str) -> Server:
        path = tmp_path / "goblin.toml"
        path.write_text(
            f'[providers.a]\nbase_url = "{fake_upstream.url}/v1"\nmodels = ["m"]\n{SAFE}'
        )
        return serve(GOBLIN_CONFIG_FILE=str(path), GOBLIN_HEALTH_INTERVAL="3600", **settings)

    return begin


def ask(
    server: Server, headers: dict[str, str], model: str, *, stream: bool = False, timeout: int = 20
) -> requests.Response:
    """Ask for a chat. The answer is whole, or with `stream` at its head."""
    return requests.post(
        server.url + "/chat/completions",
        json={**HELLO, "model": model, "stream": stream},
        headers=headers,
        timeout=timeout,
        stream=stream,
    )


def circuit(server: Server) -> float:
    return server.metrics()['provider_circuit_state{provider="a"}']


def test_a_chain_hides_an_outage_and_the_breaker_opens_and_closes(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = DOWN
    server = start(
        GOBLIN_BREAKER_MIN_CALLS="5",
        GOBLIN_BREAKER_OPEN_SECONDS="1",
    )
    headers = server.register()

    def provider() -> str:
        with ask(server, headers, "safe") as answer:
            assert answer.status_code == 200
            return answer.headers["X-Goblin-Provider"]

    assert {provider() for _ in range(12)} == {"echo"}
    assert circuit(server) in (1, 2), "open, or half open when its second is over"
    tried = sum(request.method == "POST" for request in fake_upstream.requests)
    assert tried <= 7, "an open breaker spares the provider (a trial may have gone through)"
    fake_upstream.default = Reply.json(200, openai_chat())
    wait_until(lambda: provider() == "a", 30, "the trial after the pause")
    server.wait_for_line("circuit_state_changed", from_state="half_open", to_state="closed")
    assert circuit(server) == 0
    changes = [
        (line["from_state"], line["to_state"]) for line in server.log_lines("circuit_state_changed")
    ]
    assert changes[0] == ("closed", "open")
    assert changes[-2:] == [("open", "half_open"), ("half_open", "closed")]
    assert requests.get(server.url + "/health/a", timeout=60).json()["circuit"] == "closed"


def test_without_a_chain_failures_turn_into_fast_refusals(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = DOWN
    server = start(
        GOBLIN_BREAKER_MIN_CALLS="5",
        GOBLIN_BREAKER_OPEN_SECONDS="60",
        GOBLIN_RETRIES="0",
    )
    headers = server.register()
    answers = [ask(server, headers, "a/m") for _ in range(8)]
    assert [answer.status_code for answer in answers] == [502] * 5 + [503] * 3
    refused = answers[-1]
    assert refused.json()["error"] == "provider_unavailable"
    assert 55 <= int(refused.headers["Retry-After"]) <= 60
    assert sum(request.method == "POST" for request in fake_upstream.requests) == 5


def test_streams_that_break_off_open_the_breaker(start: Start, fake_upstream: FakeUpstream) -> None:
    fake_upstream.default = MODELS
    server = start(
        GOBLIN_BREAKER_OPEN_SECONDS="60",
        GOBLIN_RETRIES="0",
    )
    headers = server.register()
    wait_until(lambda: fake_upstream.requests)
    broken = Reply.sse([CHUNK, CUT])
    fake_upstream.reply(*[broken, broken, FINE, broken, broken] * 4)
    statuses = []
    for _ in range(20):
        with ask(server, headers, "a/m", stream=True) as answer:
            statuses.append(answer.status_code)
            assert answer.content
    assert statuses == [200] * 10 + [503] * 10, "ten calls, eight of them broken, open it"
    assert circuit(server) == 2


def test_a_provider_that_hangs_is_seen_and_its_chain_moves_on(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = MODELS
    server = start(
        GOBLIN_BREAKER_MIN_CALLS="4",
        GOBLIN_BREAKER_OPEN_SECONDS="60",
        GOBLIN_BREAKER_SLOW_FIRST_TOKEN_SECONDS="0.5",
        GOBLIN_BREAKER_SLOW_ANSWER_SECONDS="1",
    )
    headers = server.register()
    wait_until(lambda: fake_upstream.requests)
    fake_upstream.default = Reply.raw(SILENCE)

    def hang(number: int) -> None:
        with contextlib.suppress(requests.RequestException):
            ask(server, headers, "a/m", stream=number % 2 == 0).close()

    clients = [threading.Thread(target=hang, args=(number,), daemon=True) for number in range(4)]
    for client in clients:
        client.start()
    wait_until(lambda: server.metrics()['provider_calls_in_flight{provider="a"}'] == 4)
    wait_until(lambda: circuit(server) == 2, 30, "the breaker to open while all four still hang")
    metrics = server.metrics()
    assert metrics['provider_calls_in_flight{provider="a"}'] == 4
    assert metrics['provider_oldest_call_age_seconds{provider="a"}'] >= 1
    assert metrics['provider_slow_calls_total{provider="a"}'] == 4
    assert metrics["deadlines_thread_up"] == 1
    assert requests.get(server.url + "/health/a", timeout=60).json()["circuit"] == "open"
    with ask(server, headers, "safe", stream=True) as answer:
        assert answer.headers["X-Goblin-Provider"] == "echo"
    with ask(server, headers, "a/m") as refused:
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_many_streams_with_random_faults_leak_nothing(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = MODELS
    server = start(
        GOBLIN_RETRIES="0",
        GOBLIN_THREADS="250",
        GOBLIN_CHAT_SLOTS="220",
        GOBLIN_BREAKER_MIN_CALLS="1000000",
        GOBLIN_TIMEOUT_IDLE="0.5",
        GOBLIN_TIMEOUT_FIRST_TOKEN="0.5",
    )
    headers = server.register()
    wait_until(lambda: fake_upstream.requests)
    faults = [
        FINE,
        FINE,
        DOWN,
        Reply.sse([CHUNK, CUT]),
        Reply.sse([CHUNK, RESET]),
        Reply.sse([CHUNK, SILENCE]),
        Reply.sse([SILENCE]),
        Reply.raw(RESET),
        Reply.sse([CHUNK, b"data: {not json", CUT]),
        Reply.plain(200, b"<html>", "text/html"),
    ]
    dice = random.Random(7)
    process = Path(f"/proc/{server.process.pid}")
    descriptors: list[int] = []
    threads: list[int] = []
    memory: list[int] = []

    def one(number: int) -> None:
        try:
            with ask(server, headers, "a/m", stream=True, timeout=30) as answer:
                if number % 7 == 0:
                    return  # the client is one of the faults
                for _ in answer.iter_content(None):
                    pass
        except requests.RequestException:
            pass  # a stream that broke off: the test is about what it leaves behind

    def settled() -> bool:
        metrics = server.metrics()
        return (
            metrics["chat_slots_in_use"] == 0
            and metrics['http_requests_in_progress{endpoint="/chat/completions",method="POST"}']
            == 0
            and fake_upstream.open_connections <= len(os.listdir(process / "fd"))
        )

    rounds, at_once = 10, 200
    for _ in range(rounds):
        fake_upstream.reply(*(dice.choice(faults) for _ in range(at_once)))
        clients = [threading.Thread(target=one, args=(number,)) for number in range(at_once)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        wait_until(settled, 15, "every slot and gauge to come back")
        descriptors.append(len(os.listdir(process / "fd")))
        threads.append(len(os.listdir(process / "task")))
        memory.append(resident_kib(process))
    # Pools fill in the first rounds; from then on nothing grows.
    assert max(descriptors[3:]) <= descriptors[2] + 60, descriptors
    assert threads[-1] <= threads[0] + 4, threads
    assert memory[-1] <= memory[2] * 1.15, memory
    metrics = server.metrics()
    assert metrics['stream_incomplete_total{reason="provider"}'] > 0
    assert metrics['stream_incomplete_total{reason="timeout"}'] > 0

    def told() -> int:
        return sum(
            line["message"] in ("chat_completed", "chat_failed") for line in server.log_lines()
        )

    wait_until(lambda: told() >= rounds * at_once, 30, "a line for each chat")
    assert told() == rounds * at_once


def resident_kib(process: Path) -> int:
    line = next(
        line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1])
