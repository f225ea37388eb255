"""Heads are read as http.client reads them, plain ones and odd ones."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest

from goblin_assistant.providers.upstream import response_head
from goblin_assistant.providers.upstream.response_head import (
    QuickResponse,
    split,
)

PLAIN = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 \r\ncontent-length:2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n{}",
    b"HTTP/1.1 200 Fine Indeed\r\nX-Empty:\r\nX-Tab:\tvalue \r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX-Latin: caf\xe9\r\nContent-Length: 2\r\n\r\n{}",
]
ODD = [
    b"HTTP/1.1 200 OK\r\n\r\n",  # no headers at all
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Folded: one\r\n two\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nSpace before : colon\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: 1\nY: 2\r\nContent-Length: 2\r\n\r\n{}",
]


class FakeSocket:
    """A server that has sent these bytes and closed. With a small `piece` the head comes in several
    reads."""

    def __init__(self, data: bytes, piece: int = io.DEFAULT_BUFFER_SIZE) -> None:
        self._data, self._piece = data, piece

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._data), self._piece)  # type: ignore[arg-type]


def read(
    kind: type[http.client.HTTPResponse], data: bytes, piece: int = io.DEFAULT_BUFFER_SIZE
) -> dict[str, Any]:
    """All attributes of a response's head, and its body."""
    return facts(kind(FakeSocket(data, piece), method="POST"))  # type: ignore[arg-type]


def facts(response: http.client.HTTPResponse) -> dict[str, Any]:
    response.begin()
    seen = {
        "status": response.status,
        "reason": response.reason,
        "version": response.version,
        "chunked": response.chunked,  # type: ignore[attr-defined]
        "length": response.length,
        "will_close": response.will_close,  # type: ignore[attr-defined]
        "headers": response.headers.items(),
        "type": response.headers.get("CONTENT-type"),
        "absent": response.headers.get("absent", "nothing"),
    }
    # http.client keeps blanks after a value; urllib3 strips them.
    headers = [(name, value.strip()) for name, value in seen["headers"]]
    return {**seen, "headers": headers, "body": response.read()}


@pytest.mark.parametrize("data", PLAIN + ODD)
@pytest.mark.parametrize("piece", [16, io.DEFAULT_BUFFER_SIZE])
def test_a_response_is_read_as_by_http_client(data: bytes, piece: int) -> None:
    assert read(QuickResponse, data, piece) == read(http.client.HTTPResponse, data)


@pytest.mark.parametrize("data", PLAIN)
def test_a_plain_head_does_not_reach_the_email_package(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.client, "parse_headers", lambda *_: pytest.fail("the long way"))
    read(QuickResponse, data)


def test_a_closed_connection_is_reported_as_by_http_client() -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        read(QuickResponse, b"")


def test_a_head_cut_short_is_reported_as_by_http_client() -> None:
    assert read(QuickResponse, b"HTTP/1.1 200 OK\r\nContent-Le") == read(
        http.client.HTTPResponse, b"HTTP/1.1 200 OK\r\nContent-Le"
    )


def test_more_than_a_hundred_headers_are_left_to_http_client() -> None:
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(101))
    assert split(b"HTTP/1.1 200 OK\r\n" + lines[:-2]) is None


def test_several_values_of_a_name_are_all_kept_and_the_first_is_got() -> None:
    head = response_head.ResponseHead([("Via", "a"), ("via", "b")])
    assert head.get("VIA") == "a"
    assert head.items() == [("Via", "a"), ("via", "b")]


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2\r\nX: 1\r\ncontent-length: 3\r\n",
        b"Content-Length: 2, 3\r\n",
        b"Content-Length: 2\r\n folded\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length: -2\r\n",
        b"Content-Length: many\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 2_0\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n"])
def test_different_or_unreadable_content_lengths_are_an_error(start: bytes, fields: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        read(QuickResponse, start + fields + b"\r\n{}x")


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 2\r\nContent-Length: 2\r\n", b"Content-Length: 2, 2\r\n"]
)
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n"])
def test_a_repeated_content_length_is_that_length(start: bytes, fields: bytes) -> None:
    answer = read(QuickResponse, start + fields + b"\r\n{}x")
    assert (answer["length"], answer["body"]) == (2, b"{}")


def test_different_content_lengths_do_not_matter_beside_transfer_encoding() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    lengths = b"Content-Length: 2\r\nContent-Length: 3\r\n"
    assert read(QuickResponse, head + lengths + b"\r\n1\r\na\r\n0\r\n\r\n")["body"] == b"a"
