"""Chunked bodies: the decoder returns what http.client does, in fewer and larger pieces."""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.providers.upstream.chunked import MAX_LINE, ChunkedBody


def arriving(data: bytes, cuts: list[int]) -> Callable[[int], bytes]:
    """A socket on which `data` arrives in pieces that end at `cuts`."""
    borders = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    pieces, start = [], 0
    for border in borders:
        if border > start:
            pieces.append(data[start:border])
            start = border
    return lambda _: pieces.pop(0) if pieces else b""


def encoded(chunks: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return body + b"0\r\n" + trailer + b"\r\n"


def read_all(body: ChunkedBody) -> bytes:
    pieces = []
    while piece := body.read1():
        pieces.append(piece)
    return b"".join(pieces)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    st.lists(st.integers(min_value=0, max_value=2000), max_size=12),
    st.sampled_from([b"", b";a=b", b' ; name="v"']),
    st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: 1\r\nB: 2\r\n"]),
)
def test_a_body_is_read_as_by_http_client(
    chunks: list[bytes], cuts: list[int], extension: bytes, trailer: bytes
) -> None:
    wire = encoded(chunks, extension, trailer)

    class Socket:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)

    reference = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    reference.begin()
    body = ChunkedBody(arriving(wire, cuts))
    assert read_all(body) == reference.read() == b"".join(chunks)
    assert body.at_end
    assert body.read1() == b""


def test_what_has_arrived_comes_in_one_piece() -> None:
    body = ChunkedBody(arriving(encoded([b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]), []))
    assert body.read1() == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"


def test_a_part_of_a_chunk_is_not_held_back() -> None:
    wire = encoded([b"data: hello\n\n"])
    body = ChunkedBody(arriving(wire, [8]))
    assert body.read1() == wire[3:8]


@pytest.mark.parametrize("keep", range(1, len(encoded([b"one", b"two"])) - len(b"\r\n")))
def test_a_connection_that_ends_before_the_last_chunk_is_an_error(keep: int) -> None:
    body = ChunkedBody(arriving(encoded([b"one", b"two"])[:keep], []))
    with pytest.raises(http.client.IncompleteRead):
        read_all(body)
    assert not body.at_end


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1_0\r\n",
        b" 1\r\na\r\n",
        b"1\r\nab\r\n",
        b"fffffffffffffffff\r\n",
        b"1" * (MAX_LINE + 20),
    ],
)
def test_invalid_framing_is_an_error(wire: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        read_all(ChunkedBody(arriving(wire, [])))


def test_bytes_behind_the_body_are_seen() -> None:
    body = ChunkedBody(arriving(encoded([b"a"]) + b"HTTP/1.1 200 OK", []))
    assert read_all(body) == b"a"
    assert not body.at_end


@pytest.mark.parametrize("tail", [b"0\r\n", b"0\r\nX-Sum: 1\r\n", b"0\r\nX-S", b"0;a=b\r\n"])
def test_the_last_chunks_size_ends_the_body_although_the_connection_closes_behind_it(
    tail: bytes,
) -> None:
    body = ChunkedBody(arriving(b"3\r\none\r\n" + tail, []))
    assert read_all(body) == b"one"
    assert not body.at_end  # no further request goes over this connection
    assert body.read1() == b""


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5),
    st.lists(st.integers(min_value=0, max_value=400), max_size=12),
    st.sampled_from([b"x\r\n", b"3\r\nlonger\r\n", b"5\n\r\nhello\r\n", b"1;a\nb\r\nx\r\n"]),
)
def test_valid_chunks_are_delivered_before_the_bad_one_however_they_arrive(
    chunks: list[bytes], cuts: list[int], bad: bytes
) -> None:
    good = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    body = ChunkedBody(arriving(good + bad, cuts))
    received: list[bytes] = []
    with pytest.raises(http.client.HTTPException):
        received.extend(iter(body.read1, b""))
    expected = b"".join(chunks)
    assert b"".join(received) in (
        expected,
        expected + b"lon",
    )  # of a chunk longer than its size: the announced part
    with pytest.raises(http.client.HTTPException):
        body.read1()
