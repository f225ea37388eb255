"""Requests that are sent along are answered, whatever the answer before them looks like."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests

from tests.conftest import Server, serving, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.real_server import CHAT, STREAM, raw, start

LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@dataclass
class Parts:
    """A server, its provider, a caller."""

    server: Server
    upstream: FakeUpstream
    headers: dict[str, str]

    def request(self, method: str, path: str, *lines: str, body: bytes = b"") -> bytes:
        """A request with credentials as it is written on the wire."""
        head = [f"{method} {path} HTTP/1.1", "Host: a", *lines]
        head.append(f"Authorization: {self.headers['Authorization']}")
        if body:
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*head, "\r\n"]).encode() + body

    def chat(self, stream: bool) -> bytes:
        """A chat as it is written on the wire."""
        body = json.dumps(STREAM if stream else CHAT).encode()
        return self.request("POST", "/v1/chat/completions", body=body)

    def answers(self, sent: bytes) -> list[bytes]:
        """What the server answers until it closes, cut before each status line."""
        return re.split(rb"(?=HTTP/1\.[01] \d{3} )", raw(self.server, sent))[1:]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    upstream = FakeUpstream()
    try:
        with serving(tmp_path_factory.mktemp("pipelining")) as serve:
            server = start(serve, upstream)
            yield Parts(server, upstream, server.register())
    finally:
        upstream.close()


def statuses(answers: list[bytes]) -> list[int]:
    return [int(answer.split()[1]) for answer in answers]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/conversations", 204),
        ("GET", "/", 304),
        ("HEAD", "/conversations/export", 200),
        ("HEAD", "/usage?format=csv", 200),
        ("HEAD", "/metrics", 200),
        ("HEAD", "/nothing", 404),
        ("HEAD", "/v1/chat/completions", 405),
    ],
)
def test_an_answer_without_a_body_keeps_its_connection(
    parts: Parts, method: str, path: str, status: int
) -> None:
    plain = {"Accept-Encoding": "identity"}
    etag = requests.get(parts.server.url + "/", headers=plain, timeout=60).headers["ETag"]
    sent = parts.request(method, path, f"If-None-Match: {etag}")
    first, *others = parts.answers(sent + LIVE + CLOSING)
    assert statuses([first, *others]) == [status, 200, 200]
    assert first.partition(b"\r\n\r\n")[2] == b"", "no byte behind its head"
    assert b"\r\nconnection: close" not in first.lower()


@pytest.mark.parametrize("path", ["/conversations/export", "/usage?format=csv", "/metrics"])
def test_a_head_that_closes_its_connection_has_no_byte_behind_it_either(
    parts: Parts, path: str
) -> None:
    (only,) = parts.answers(parts.request("HEAD", path, "Connection: close"))
    assert statuses([only]) == [200]
    assert only.partition(b"\r\n\r\n")[2] == b""


@pytest.mark.parametrize("sent", [LIVE, LIVE + LIVE, LIVE.replace(b"1.1", b"1.0")])
def test_a_client_that_closes_its_half_gets_its_answers(parts: Parts, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", parts.server.port), 60) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b" 200 OK\r\n") == sent.count(b"GET ")


@pytest.mark.parametrize("options", ["close", "Close", "TE, close", "keep-alive,CLOSE"])
def test_a_connection_is_closed_when_one_of_its_options_says_so(parts: Parts, options: str) -> None:
    (only,) = parts.answers(parts.request("GET", "/health/live", f"Connection: {options}") + LIVE)
    assert b"\r\nConnection: close\r\n" in only


def test_a_connection_of_an_old_client_is_kept_when_one_of_its_options_says_so(
    parts: Parts,
) -> None:
    old = parts.request("GET", "/health/live", "Connection: TE, Keep-Alive")
    old = old.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(parts.answers(old + old + CLOSING)) == [200, 200, 200]


def test_a_refused_head_gets_a_head(parts: Parts) -> None:
    (only,) = parts.answers(b"HEAD /health/live HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert only.startswith(b"HTTP/1.1 400 ")
    assert only.partition(b"\r\n\r\n")[2] == b""


def test_blank_lines_between_requests_mean_nothing(parts: Parts) -> None:
    sent = b"\r\n" + LIVE + b"\r\n\r\n \r\n\r\n" + LIVE + b"\r\n" * 50_000 + CLOSING
    assert statuses(parts.answers(sent)) == [200, 200, 200]


@pytest.mark.parametrize(
    ("stream", "behind"),
    [(True, LIVE), (False, LIVE * 2000), (True, b"GET /hea"), (False, b"\r\n")],
    ids=["a request", "many", "half a request", "a blank line"],
)
def test_a_client_that_leaves_its_chat_is_noticed_though_it_sent_more(
    parts: Parts, stream: bool, behind: bytes
) -> None:
    asked, left = len(parts.upstream.requests), parts.upstream.closed_by_peer
    parts.upstream.reply(Reply.sse([SILENCE]) if stream else Reply([SILENCE]))
    with socket.create_connection(("127.0.0.1", parts.server.port), 60) as connection:
        connection.sendall(parts.chat(stream) + behind)
        wait_until(lambda: len(parts.upstream.requests) > asked)
    wait_until(lambda: parts.upstream.closed_by_peer > left, what="the call to end")
    wait_until(lambda: parts.server.metrics()["chat_slots_in_use"] == 0)
