"""A stream whose provider is silent sends comments, before its first event and after it."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
import requests

from goblin_assistant.server.keep_alive import SilentStream
from tests.conftest import Serve, Server, serving, wait_until
from tests.support.fake_upstream import CUT, RESET, FakeUpstream, Gate, Reply, Request, Step
from tests.support.real_server import STREAM, start
from tests.support.response_bodies import response_events
from tests.support.wire_bodies import openai_events

COMMENT = b": keepalive\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
MESSAGES = {**STREAM, "max_tokens": 100}
RESPONSE = {"model": STREAM["model"], "input": "Hello", "stream": True}
PAGE = "https://page.example"
USUAL = b"".join(piece for piece in openai_events() if b'"usage":{' not in piece)
"""What a client gets that did not ask for usage."""


@dataclass
class Parts:
    """A server that keeps streams alive soon, its provider, the chain's other one, a caller."""

    server: Server
    upstream: FakeUpstream
    other: FakeUpstream
    headers: dict[str, str]

    def silent(self, *steps: Step) -> Gate:
        """Script an answer that waits for the gate."""
        gate = Gate()
        self.upstream.reply(Reply.sse([gate, *(steps or openai_events())]))
        return gate

    @contextmanager
    def stream(
        self, path: str = "/v1/chat/completions", key: str | None = None, **more: Any
    ) -> Iterator[tuple[requests.Response, Iterator[bytes]]]:
        """A streamed answer and its pieces; the first one has not been read."""
        with requests.post(
            self.server.url + path,
            json={**(RESPONSE if path == "/v1/responses" else MESSAGES), **more},
            headers={**self.headers, "Origin": PAGE, "Idempotency-Key": key},
            stream=True,
            timeout=60,
        ) as answer:
            yield answer, answer.iter_content(None)

    def line(self, event: str, answer: requests.Response) -> dict[str, Any]:
        """The log line of a request."""
        identity = answer.headers["X-Correlation-ID"]
        return self.server.wait_for_line(event, correlation_id=identity)

    def recorded_status(self, answer: requests.Response) -> int:
        """The status in a chat's usage record."""
        home = Path(f"/proc/{self.server.process.pid}/cwd").resolve()

        def find() -> list[tuple[int]]:
            with closing(sqlite3.connect(home / "instance" / "goblin.db")) as connection:
                return connection.execute(
                    "SELECT status_code FROM usage_records WHERE correlation_id = ?",
                    (answer.headers["X-Correlation-ID"],),
                ).fetchall()

        ((status,),) = wait_until(find)
        return int(status)

    def request(self, version: str) -> bytes:
        """A chat as it is written on the wire."""
        body = json.dumps(STREAM)
        return (
            f"POST /v1/chat/completions HTTP/{version}\r\nHost: a\r\n"
            f"Authorization: {self.headers['Authorization']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def refusal(status: int, code: str | None = None) -> Reply:
    return Reply.json(status, {"error": {"message": "no", "code": code}})


def until_comments(connection: socket.socket, count: int) -> bytes:
    """What is received until so many comments are there."""
    seen = b""
    while seen.count(COMMENT) < count:
        piece = connection.recv(65536)
        assert piece, f"closed after {seen!r}"
        seen += piece
    return seen


def until_closed(connection: socket.socket) -> bytes:
    """What is received until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("keep_alive")
    upstream, other = FakeUpstream(), FakeUpstream()
    other.default = Reply.sse(openai_events())
    path = folder / "goblin.toml"
    path.write_text(
        '[chains]\nboth = ["openai/gpt-4o", "other/m"]\n'
        f'[providers.other]\nbase_url = "{other.url}/v1"\nmodels = ["m"]\n'
    )
    try:
        with serving(folder) as serve:
            server = start(
                serve,
                upstream,
                GOBLIN_CONFIG_FILE=str(path),
                GOBLIN_STREAM_KEEPALIVE_SECONDS="0.2",
                GOBLIN_BREAKER_MIN_CALLS="100000",
                CORS_ORIGINS=PAGE,
            )
            yield Parts(server, upstream, other, server.register())
    finally:
        upstream.close()
        other.close()


def test_a_comment_comes_before_the_first_event(parts: Parts) -> None:
    gate = parts.silent()
    with parts.stream() as (answer, received):
        assert next(received).startswith(COMMENT)
        gate.opened.set()
        rest = b"".join(received)
    assert answer.status_code == 200
    assert rest.replace(COMMENT, b"") == USUAL
    line = parts.line("request_completed", answer)
    assert line["status_code"] == 200
    assert "completed" not in line
    assert parts.line("chat_completed", answer)


def test_a_comment_comes_while_the_provider_has_not_sent_its_headers(parts: Parts) -> None:
    gate = Gate()
    parts.upstream.reply(Reply([gate, *Reply.sse(openai_events()).steps]))
    with parts.stream() as (_, received):
        assert next(received).startswith(COMMENT)
        gate.opened.set()
        assert b"".join(received).replace(COMMENT, b"") == USUAL


def test_a_comment_comes_between_two_events(parts: Parts) -> None:
    first, *others = openai_events()
    gate = Gate()
    parts.upstream.reply(Reply.sse([first, gate, *others]))
    with parts.stream() as (_, received):
        seen = b""
        while first + COMMENT not in seen:
            seen += next(received)
        gate.opened.set()
        seen += b"".join(received)
    assert seen.replace(COMMENT, b"") == USUAL


def test_anthropics_dialect_has_pings(parts: Parts) -> None:
    gate = parts.silent()
    with parts.stream("/v1/messages") as (answer, received):
        assert next(received).startswith(PING)
        gate.opened.set()
        rest = b"".join(received).replace(PING, b"")
    assert rest.startswith(b"event: message_start\n")
    assert rest.rstrip().endswith(b'data: {"type":"message_stop"}')
    assert answer.headers["request-id"] == answer.headers["X-Correlation-ID"]


def test_the_sdks_take_no_notice_of_them(parts: Parts) -> None:
    address, token = parts.server.url, parts.headers["Authorization"].removeprefix("Bearer ")
    model, messages = "openai/gpt-4o", [{"role": "user", "content": "Hello"}]
    gate = parts.silent()
    with openai.OpenAI(base_url=address + "/v1", api_key=token, max_retries=0) as client:
        chunks: Any = client.chat.completions.create(
            model=model,
            messages=messages,
            stream=True,  # type: ignore[arg-type]
        )
        gate.opened.set()  # the call returned with the headers, so with a comment
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        gate = parts.silent(*response_events())
        events: Any = client.responses.create(model=model, input="Hello", stream=True)
        gate.opened.set()
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert said == "".join(deltas) == "Hello there, goblin."
    gate = parts.silent()
    with (
        anthropic.Anthropic(base_url=address, auth_token=token, max_retries=0) as other,
        other.messages.stream(
            model=model,
            max_tokens=100,
            messages=messages,  # type: ignore[arg-type]
        ) as stream,
    ):
        gate.opened.set()
        assert stream.get_final_text() == said


def test_headers_are_those_of_any_stream(parts: Parts) -> None:
    gate = parts.silent()
    parts.upstream.reply(Reply.sse(openai_events()))
    with parts.stream("/v1/messages") as (early, received):
        assert next(received).startswith(PING)
        gate.opened.set()
        b"".join(received)
    with parts.stream("/v1/messages") as (usual, received):
        b"".join(received)
    if "X-Goblin-Provider" in usual.headers:  # a slow machine may be late for this one too
        of_the_answer = {"X-Goblin-Provider", "X-Goblin-Attempts", "Server-Timing"}
        assert set(usual.headers) - set(early.headers) == of_the_answer
    varying = {"x-correlation-id", "x-request-id", "request-id", "date"}
    for name, value in early.headers.items():
        assert name.lower() in varying or usual.headers[name] == value, name
    assert early.headers["Access-Control-Allow-Origin"] == PAGE
    assert early.headers["X-Content-Type-Options"] == "nosniff"


def test_the_next_target_of_a_chain_answers_after_a_comment(parts: Parts) -> None:
    gate = parts.silent(CUT)
    with parts.stream(model="both") as (answer, received):
        assert next(received).startswith(COMMENT)
        gate.opened.set()
        rest = b"".join(received)
    assert rest.replace(COMMENT, b"") == USUAL
    assert parts.line("chat_completed", answer)["fallback"] is True


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_an_error_after_a_comment_is_an_event_of_the_stream(parts: Parts, path: str) -> None:
    incomplete = 'stream_incomplete_total{reason="provider"}'
    before = parts.server.metrics()[incomplete]
    gate = Gate()
    busy = Reply.json(503, {"error": {"message": "busy"}}, {"Retry-After": "7"})
    parts.upstream.reply(Reply([gate, *busy.steps]))
    with parts.stream(path) as (answer, received):
        assert next(received).startswith(PING if path.endswith("messages") else COMMENT)
        gate.opened.set()
        rest = b"".join(received)
    assert answer.status_code == 200
    assert b"[DONE]" not in rest
    error = json.loads(rest.strip().split(b"data: ")[-1])["error"]
    if path.endswith("messages"):
        assert b"event: error\n" in rest
        assert error["type"] == "overloaded_error"
    else:
        assert (error["code"], error["source"]) == ("provider_overloaded", "provider")
    line = parts.line("request_completed", answer)
    assert (line["status_code"], line["completed"]) == (200, False)
    assert parts.line("chat_failed", answer)["error_type"] == "provider_overloaded"
    assert parts.recorded_status(answer) == 200
    assert parts.server.metrics()[incomplete] == before + 1
    wait_until(lambda: parts.server.metrics()["chat_slots_in_use"] == 0)


FAILURES = {
    "limited": (refusal(429), "provider_rate_limited", "overloaded_error"),
    "key": (refusal(401), "provider_authentication_failed", "api_error"),
    "credit": (refusal(402), "provider_rate_limited", "overloaded_error"),
    "missing": (refusal(404), "model_not_found", "not_found_error"),
    "redirect": (refusal(302), "provider_bad_response", "api_error"),
    "method": (refusal(405), "provider_bad_response", "api_error"),
    "late": (refusal(504), "provider_timeout", "timeout_error"),
    "overflow": (
        refusal(400, "context_length_exceeded"), "context_length_exceeded", "invalid_request_error"
    ),
    "filtered": (refusal(400, "content_filter"), "content_filtered", "invalid_request_error"),
    "reset": (Reply.raw(RESET), "provider_connection_failed", "api_error"),
    "malformed": (Reply.plain(200, b'{"id"'), "provider_bad_response", "api_error"),
    "empty": (Reply.sse([]), "provider_bad_response", "api_error"),
    "cut": (Reply.sse([b"data: {", CUT]), "provider_bad_response", "api_error"),
}  # fmt: skip
"""Replies, our code, Anthropic's type."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_each_failure_after_a_comment_is_told_as_what_it_is(parts: Parts, path: str) -> None:
    gate, begun = Gate(), threading.Barrier(len(FAILURES), timeout=60)

    def choose(request: Request) -> Reply | None:
        found = re.search(rb"cause: (\w+)", request.body)
        if found is None:
            return None
        reply = FAILURES[found[1].decode()][0]
        return Reply([gate, *reply.steps], keep_alive=reply.keep_alive)

    def told_of(cause: str) -> None:
        text = f"cause: {cause}"
        asked = {"input": text} if path.endswith("responses") else {"messages": said(text)}
        with parts.stream(path, **asked) as (answer, received):
            assert next(received).startswith(PING if path.endswith("messages") else COMMENT)
            begun.wait()
            gate.opened.set()
            last = b"".join(received).strip().split(b"data: ")[-1]
        error = json.loads(last)["error"]
        _, code, kind = FAILURES[cause]
        assert error["code"] == code, cause
        assert not path.endswith("messages") or error["type"] == kind, cause
        assert parts.line("chat_failed", answer)["error_type"] == code, cause

    parts.upstream.choose = choose
    try:
        with ThreadPoolExecutor(len(FAILURES)) as pool:
            assert list(pool.map(told_of, FAILURES)) == [None] * len(FAILURES)
    finally:
        parts.upstream.choose = None
    wait_until(lambda: parts.server.metrics()["chat_slots_in_use"] == 0)


def test_a_repeated_key_gets_the_stream_without_comments(parts: Parts) -> None:
    gate = parts.silent()
    with parts.stream(key="whole") as (_, received):
        assert next(received).startswith(COMMENT)
        gate.opened.set()
        b"".join(received)
    with parts.stream(key="whole") as (again, received):
        assert b"".join(received) == USUAL
    assert again.headers["Idempotent-Replayed"] == "true"


def test_an_error_after_a_comment_frees_its_key(parts: Parts) -> None:
    gate = Gate()
    busy = Reply.json(503, {"error": {"message": "busy"}})
    parts.upstream.reply(Reply([gate, *busy.steps]), Reply.sse(openai_events()))
    with parts.stream(key="failed") as (_, received):
        assert next(received).startswith(COMMENT)
        gate.opened.set()
        assert b'"error"' in b"".join(received)
    with parts.stream(key="failed") as (again, received):
        assert b"".join(received).replace(COMMENT, b"") == USUAL
    assert "Idempotent-Replayed" not in again.headers


def test_the_connection_is_kept_for_the_next_request(parts: Parts) -> None:
    gate = parts.silent()
    parts.upstream.reply(Reply.sse(openai_events()))
    url = parts.server.url + "/v1/chat/completions"
    with requests.Session() as session:
        session.headers.update(parts.headers)
        with session.post(url, json=STREAM, stream=True, timeout=60) as answer:
            received = answer.iter_content(None)
            assert next(received).startswith(COMMENT)
            gate.opened.set()
            b"".join(received)
        assert "Connection" not in answer.headers
        again = session.post(url, json=STREAM, timeout=60)
    assert again.content.replace(COMMENT, b"") == USUAL


def test_an_old_client_gets_comments_without_chunks(parts: Parts) -> None:
    gate = parts.silent()
    with socket.create_connection(("127.0.0.1", parts.server.port), 60) as connection:
        connection.sendall(parts.request("1.0"))
        seen = until_comments(connection, 1)
        gate.opened.set()
        seen += until_closed(connection)
    head, _, rest = seen.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert rest.replace(COMMENT, b"") == USUAL


def test_a_client_that_leaves_after_a_comment_frees_everything(parts: Parts) -> None:
    incomplete = 'stream_incomplete_total{reason="client"}'
    before = parts.server.metrics()[incomplete]
    parts.silent()
    with parts.stream() as (answer, received):
        assert next(received).startswith(COMMENT)
    assert parts.line("chat_failed", answer)["error_type"] == "client_closed_request"
    line = parts.line("request_completed", answer)
    assert (line["status_code"], line["completed"]) == (200, False)
    assert "error_type" not in line
    assert parts.server.metrics()[incomplete] == before + 1
    wait_until(lambda: parts.server.metrics()["chat_slots_in_use"] == 0)


def test_a_request_that_was_sent_along_is_answered_after_the_silent_one(parts: Parts) -> None:
    gate = parts.silent()
    with socket.create_connection(("127.0.0.1", parts.server.port), 60) as connection:
        last = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(parts.request("1.1") + last)
        seen = until_comments(connection, 1)
        gate.opened.set()
        seen += until_closed(connection)
    first, second = seen.split(b"\r\n0\r\n\r\n")
    assert first.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_silent_stream_is_kept_alive_while_the_server_drains(
    serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(
        serve, fake_upstream, GOBLIN_STREAM_KEEPALIVE_SECONDS="1", GOBLIN_GRACE_SECONDS="300"
    )
    headers = server.register()
    gate = Gate()
    fake_upstream.reply(Reply.sse([gate, *openai_events()]))
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(Parts(server, fake_upstream, fake_upstream, headers).request("1.1"))
        wait_until(lambda: fake_upstream.requests)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("draining")
        until_comments(connection, 2)
        gate.opened.set()
        seen = until_closed(connection)
    assert seen.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert server.wait() == 0


def test_the_first_event_frees_what_only_a_silent_stream_needs() -> None:
    """The maker of the first headers holds the request's context, and that leads back to it."""

    def headers() -> list[tuple[str, str]]:
        return []

    kept = weakref.ref(headers)
    silent = SilentStream(SimpleNamespace(outbuf_lock=threading.Lock()), COMMENT, headers, 15.0)
    del headers
    assert kept() is not None
    assert silent.arrived() is False
    assert kept() is None


def test_nothing_is_sent_where_the_setting_is_0(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "goblin.toml"
    path.write_text('[providers.fault]\nkind = "faults"\n')
    server = serve(GOBLIN_CONFIG_FILE=str(path), GOBLIN_STREAM_KEEPALIVE_SECONDS="0")
    answer = requests.post(
        server.url + "/v1/chat/completions",
        json={**STREAM, "model": "fault/slow_first_token"},
        headers=server.register(),
        timeout=60,
    )
    assert answer.content.startswith(b"data: {")
    assert COMMENT not in answer.content
