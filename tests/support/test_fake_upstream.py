"""The scripted server does what its script says."""

from __future__ import annotations

import gzip
import http.client
import socket

import pytest

from tests.conftest import wait_until
from tests.support.fake_upstream import CUT, RESET, SILENCE, FakeUpstream, Pause, Reply, unused_url

REQUEST = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nX-Thing:  a b \r\nContent-Length: 5\r\n\r\nhello"


def connect(upstream: FakeUpstream) -> socket.socket:
    """A raw connection."""
    return socket.create_connection(("127.0.0.1", upstream.port), timeout=5)


def everything(connection: socket.socket) -> bytes:
    """All bytes until the server closes."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def test_requests_are_recorded_to_the_byte(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.raw(b"HTTP/1.1 204 No Content\r\n\r\n"))
    with connect(fake_upstream) as connection:
        for i in range(0, len(REQUEST), 7):  # however it arrives
            connection.sendall(REQUEST[i : i + 7])
        assert everything(connection) == b"HTTP/1.1 204 No Content\r\n\r\n"
    (request,) = fake_upstream.requests
    assert (request.method, request.path, request.body, request.connection) == (
        "POST",
        "/v1/x?y=1",
        b"hello",
        1,
    )
    assert request.headers["x-thing"] == "a b"


def test_replies_come_in_the_order_of_the_script_then_the_default(
    fake_upstream: FakeUpstream,
) -> None:
    fake_upstream.default = Reply.plain(404, b"over")
    fake_upstream.reply(Reply.json(200, {"n": 1}), Reply.json(429, {"n": 2}, {"Retry-After": "3"}))
    client = http.client.HTTPConnection("127.0.0.1", fake_upstream.port, timeout=5)
    seen = []
    for _ in range(3):
        client.request("POST", "/", b"{}")
        response = client.getresponse()
        seen.append((response.status, response.read(), response.headers["Retry-After"]))
    client.close()
    assert seen == [(200, b'{"n": 1}', None), (429, b'{"n": 2}', "3"), (404, b"over", None)]
    assert fake_upstream.connections == 1


def test_a_stream_is_chunked_as_scripted(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.sse([b"data: 1\n\n", Pause(0.01), b"data: 2\n\n"]))
    client = http.client.HTTPConnection("127.0.0.1", fake_upstream.port, timeout=5)
    client.request("POST", "/", b"{}")
    response = client.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert [response.read1(), response.read1(), response.read1()] == [
        b"data: 1\n\n",
        b"data: 2\n\n",
        b"",
    ]
    client.close()


def test_a_compressed_answer_is_compressed(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.gzipped(200, b"hello"))
    client = http.client.HTTPConnection("127.0.0.1", fake_upstream.port, timeout=5)
    client.request("POST", "/", b"{}")
    response = client.getresponse()
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(response.read()) == b"hello"
    client.close()


def test_a_cut_closes_and_a_reset_resets(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.raw(b"half", CUT), Reply.raw(b"half", Pause(0.05), RESET))
    with connect(fake_upstream) as connection:
        connection.sendall(REQUEST)
        assert everything(connection) == b"half"
    with connect(fake_upstream) as connection:
        connection.sendall(REQUEST)
        with pytest.raises(ConnectionResetError):
            everything(connection)


def test_a_reset_on_accept_answers_nothing(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reset_on_accept = True
    # The reset may arrive while the client still connects.
    with pytest.raises(ConnectionResetError), connect(fake_upstream) as connection:
        wait_until(lambda: connection.recv(1) == b"x")
    assert fake_upstream.requests == []


def test_silence_lasts_until_it_is_released(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.raw(b"a", SILENCE, b"b"))
    with connect(fake_upstream) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(10) == b"a"
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        connection.settimeout(5)
        fake_upstream.release()
        assert everything(connection) == b"b"
    assert fake_upstream.closed_by_peer == 0


def test_a_peer_that_closes_during_silence_or_between_requests_is_noticed(
    fake_upstream: FakeUpstream,
) -> None:
    fake_upstream.reply(Reply.raw(SILENCE))
    with connect(fake_upstream) as connection, connect(fake_upstream):
        connection.sendall(REQUEST)
        wait_until(lambda: fake_upstream.requests and fake_upstream.open_connections == 2)
    wait_until(lambda: fake_upstream.closed_by_peer == 2)
    assert fake_upstream.open_connections == 0


def test_a_stale_connection_takes_the_next_request_and_closes(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.plain(200, b"first", stale=True))
    with connect(fake_upstream) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(1000).endswith(b"first")
        connection.sendall(REQUEST)
        assert everything(connection) == b""
    assert len(fake_upstream.requests) == 1


def test_nobody_listens_at_an_unused_address() -> None:
    port = int(unused_url().rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
