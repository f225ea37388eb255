"""The upstream client without a provider: requests, connections, deadlines."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    CallCancelled,
    ConnectionFailed,
    Timeout,
)
from goblin_assistant.providers.upstream.client import Timeouts, UpstreamClient
from goblin_assistant.providers.upstream.deadlines import deadlines
from tests.conftest import wait_until
from tests.support.fake_upstream import CUT, RESET, SILENCE, FakeUpstream, Pause, Reply
from tests.support.forking import fork


@pytest.fixture
def client(fake_upstream: FakeUpstream) -> Iterator[UpstreamClient]:
    """A client of the fake upstream. Its pool holds two connections."""
    made = UpstreamClient(
        "up",
        f"{fake_upstream.url}/base",
        {"Authorization": "Bearer k"},
        Timeouts(2, 5, 5),
        2,
        {"v": "1 2"},
    )
    yield made
    made.close()
    wait_until(lambda: deadlines.active() == 0)


# -- requests -----------------------------------------------------------------------------------
def test_headers_path_and_query_are_as_configured(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.plain(200, b"{}"), Reply.json(200, {"ok": True}))
    assert (
        client.post("/chat", b'{"a":1}', Call(correlation_id="c-1"), headers={"X-More": "m"})
        == b"{}"
    )
    assert client.get_json("/models") == {"ok": True}
    post, get = fake_upstream.requests
    assert (post.path, post.body, get.path) == (
        "/base/chat?v=1+2",
        b'{"a":1}',
        "/base/models?v=1+2",
    )
    assert post.headers["authorization"] == get.headers["authorization"] == "Bearer k"
    assert (post.headers["x-correlation-id"], post.headers["x-more"]) == ("c-1", "m")
    assert post.headers["content-type"] == "application/json"
    assert post.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_bodies_of_every_size_arrive_whole_and_in_order(
    client: UpstreamClient, fake_upstream: FakeUpstream, size: int
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    for _ in range(2):
        assert client.post("/", body, Call()) == b"{}"
    assert [sent.body == body for sent in fake_upstream.requests] == [True, True]
    assert fake_upstream.connections == 1


BODY = b'{"text": "' + b"x" * 20_000 + b'"}'


@pytest.mark.parametrize("cut", [1, 16, 60, 61, 62, 63, 64, 90, 8191, 8192, 8193, 20_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_answers_arrive_whole_wherever_they_are_cut_and_the_connection_stays(
    client: UpstreamClient, fake_upstream: FakeUpstream, cut: int, framing: str
) -> None:
    if framing == "length":
        whole = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n%b" % (
            len(BODY),
            BODY,
        )
    else:
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:5000], BODY[5000:])
        )
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    fake_upstream.default = Reply([whole[:cut], Pause(0.02), whole[cut:]])
    for _ in range(2):
        assert client.post("/", b"", Call()) == BODY
    assert fake_upstream.connections == 1


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
STRAY = HEAD % 2 + b"no"


def arrived(client: UpstreamClient) -> bool:
    """Whether the connection that the next call takes has bytes to read, or has ended."""
    places = client._pool.pool
    assert places is not None
    idle = places.get()  # the pool's own method would check whether it is closed
    try:
        return bool(select.select([idle.sock], [], [], 0)[0])
    finally:
        places.put(idle)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("answer", [HEAD % 2 + b"{}", HEAD % len(BODY) + BODY, CHUNKED])
def test_what_comes_behind_an_answer_is_not_taken_for_the_next_one(
    client: UpstreamClient, fake_upstream: FakeUpstream, answer: bytes, late: bool
) -> None:
    fake_upstream.reply(
        Reply([answer, Pause(0.05), STRAY] if late else [answer + STRAY]), Reply([HEAD % 2 + b"[]"])
    )
    assert client.post("/", b"", Call()) in (b"{}", BODY)
    if late:
        wait_until(lambda: arrived(client))
    assert client.post("/", b"", Call()) == b"[]"
    assert fake_upstream.connections == 2


@pytest.mark.parametrize(
    "word", [b"103 Early Hints\r\nLink: </x>; rel=preload", b"102 Processing", b"100 Continue"]
)
def test_informational_responses_before_the_final_one_are_skipped(
    client: UpstreamClient, fake_upstream: FakeUpstream, word: bytes
) -> None:
    ahead = b"HTTP/1.1 " + word + b"\r\n\r\n"
    fake_upstream.reply(
        Reply([ahead, Pause(0.05), HEAD % 2 + b"{}"]),
        Reply([ahead + ahead + HEAD % 2 + b"[]"]),
        Reply([ahead, *Reply.sse([b"data: 1\n\n"]).steps]),
    )
    assert [client.post("/", b"", Call()) for _ in range(2)] == [b"{}", b"[]"]
    assert list(client.post_sse("/", b"", Call())) == [b"data: 1\n\n"]
    assert fake_upstream.connections == 1


def test_a_server_that_switches_protocols_gets_no_second_request_on_the_connection(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"]), Reply.plain(200, b"{}")
    )
    with pytest.raises(BadResponse):
        client.post("/", b"", Call())
    assert client.post("/", b"", Call()) == b"{}"
    assert fake_upstream.connections == 2


def test_an_answer_that_breaks_off_is_a_bad_response_and_its_place_in_the_pool_is_kept(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    for _ in range(3):
        fake_upstream.reply(
            Reply.raw(head + b"12345"), Reply.raw(head + b"12345", RESET), Reply.raw(head, CUT)
        )
        for _ in range(3):
            with pytest.raises(BadResponse, match="ended before its end"):
                client.post("/", b"", Call())
    assert client._pool.pool is not None
    assert client._pool.pool.qsize() == 2


def test_the_environments_proxy_is_not_used(
    monkeypatch: pytest.MonkeyPatch, fake_upstream: FakeUpstream
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    fake_upstream.reply(Reply.plain(200, b"{}"))
    client = UpstreamClient("up", fake_upstream.url, {}, Timeouts(), 2)
    assert client.post("/", b"", Call()) == b"{}"
    client.close()


def test_an_answer_beyond_the_bound_is_a_bad_response(
    client: UpstreamClient, fake_upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goblin_assistant.providers.upstream.answers.MAX_ANSWER_BYTES", 1000)
    fake_upstream.reply(
        Reply.plain(200, b"x" * 1001),
        Reply.sse([b"x" * 600, b"y" * 600]),
        Reply.gzipped(200, b"z" * 5000),
    )
    for _ in range(3):
        with pytest.raises(BadResponse, match="too large"):
            client.post("/", b"", Call())


def test_tls_to_a_server_that_speaks_plain_http_is_a_failed_connection(
    fake_upstream: FakeUpstream,
) -> None:
    fake_upstream.default = Reply.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client = UpstreamClient(
        "up", fake_upstream.url.replace("http:", "https:"), {}, Timeouts(2, 2, 2), 2
    )
    waiting = threading.Timer(0.2, fake_upstream.close_idle)
    waiting.start()
    with pytest.raises(ConnectionFailed):
        client.post("/", b"", Call())
    client.close()


def test_a_tls_handshake_can_be_cut(fake_upstream: FakeUpstream) -> None:
    # The fake upstream takes the client's hello for half a request and waits for more.
    timeouts = Timeouts(3600, 3600, 3600)
    client = UpstreamClient("up", fake_upstream.url.replace("http:", "https:"), {}, timeouts, 2)
    cut = threading.Event()

    def call() -> None:
        with pytest.raises(CallCancelled):
            client.post("/", b"", Call(client_gone=lambda: fake_upstream.open_connections == 1))
        cut.set()

    threading.Thread(target=call, daemon=True).start()
    assert cut.wait(60)
    wait_until(lambda: fake_upstream.open_connections == 0)
    client.close()


# -- connections --------------------------------------------------------------------------------
def test_the_pool_keeps_as_many_connections_as_it_has_threads(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    for _ in range(3):
        barrier = threading.Barrier(2)

        def run(meet: threading.Barrier = barrier) -> None:
            meet.wait(30)
            client.post("/", b"", Call())

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert fake_upstream.connections <= 2
    assert len(fake_upstream.requests) == 6


def test_connections_that_are_closed_while_idle_are_replaced(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    client.post("/", b"", Call())
    fake_upstream.close_idle()
    wait_until(lambda: fake_upstream.open_connections == 0)
    client.post("/", b"", Call())
    assert fake_upstream.connections == 2


def test_a_connection_that_was_closed_while_idle_is_noticed_before_its_use(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    client.post("/", b"", Call())
    fake_upstream.close_idle()
    wait_until(lambda: arrived(client))
    second = deadlines.watch(Call())
    assert client._send("POST", "/", b"", second, None).whole() == b"{}"
    deadlines.release(second)
    assert not second.fresh  # no request was sent again
    assert not second.reused
    assert (fake_upstream.connections, len(fake_upstream.requests)) == (2, 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_reused_connection_that_is_reset_within_an_answer_is_not_tried_again(
    client: UpstreamClient, fake_upstream: FakeUpstream, streamed: bool
) -> None:
    # The server has begun to answer, and may have billed the call.
    fake_upstream.reply(
        Reply.plain(200, b"{}"), Reply([b"HTTP/1.1 200 OK\r\nConte", Pause(0.05), RESET])
    )
    client.post("/", b"", Call())
    with pytest.raises(BadResponse):
        client.post_sse("/", b"", Call()) if streamed else client.post("/", b"", Call())
    assert (fake_upstream.connections, len(fake_upstream.requests)) == (1, 2)


def test_after_a_stale_connection_no_other_idle_one_is_trusted(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    # A server that closes idle connections closes all of them, and another thread may put one back
    # meanwhile.
    fake_upstream.default = Reply.plain(200, b"{}")
    client.post("/", b"", Call())
    second = deadlines.watch(Call())
    second.fresh = True
    assert client._send("POST", "/", b"", second, None).whole() == b"{}"
    deadlines.release(second)
    assert not second.reused
    assert fake_upstream.connections == 2


def test_a_reused_connection_that_fails_late_is_not_tried_again(
    client: UpstreamClient, fake_upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server may have processed the request, and billed it.
    monkeypatch.setattr("goblin_assistant.providers.upstream.client.STALE_SECONDS", -1.0)
    fake_upstream.reply(Reply.plain(200, b"{}", stale=True))
    client.post("/", b"", Call())
    with pytest.raises(ConnectionFailed):
        client.post("/", b"", Call())
    assert fake_upstream.connections == 1


def test_finish_keeps_a_connection_whose_stream_is_over_and_closes_one_that_goes_on(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.sse([b"data: 1\n\n"]),
        Reply.sse([b"data: 2\n\n", SILENCE]),
        Reply.sse([b"data: 3\n\n", b"data: 4\n\n"]),
    )
    stream = client.post_sse("/", b"", Call())
    assert next(stream) == b"data: 1\n\n"
    stream.finish()
    stream = client.post_sse("/", b"", Call())
    assert next(stream) == b"data: 2\n\n"
    assert fake_upstream.connections == 1
    stream.finish()
    wait_until(lambda: fake_upstream.open_connections == 0)
    stream.close()
    assert list(stream) == []


def test_a_stream_that_is_dropped_unread_is_closed(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([b"data: 1\n\n", SILENCE]))
    stream = client.post_sse("/", b"", Call())
    del stream
    wait_until(lambda: fake_upstream.open_connections == 0)


# -- deadlines ----------------------------------------------------------------------------------
def test_a_client_that_leaves_late_does_not_cut_the_next_request_on_its_connection(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    first = deadlines.watch(Call(client_gone=lambda: True))
    client.post("/", b"", Call())  # opens the connection
    # The thread for deadlines checks a call whose connection already belongs to another one.
    idle = client._pool._get_conn()
    first.connection = idle  # type: ignore[assignment]
    client._pool._put_conn(idle)
    first.check(time.monotonic())
    assert first.cut == "client_gone"
    client.post("/", b"", Call())
    assert fake_upstream.connections == 1
    deadlines.release(first)


def test_a_broken_client_gone_does_not_stop_the_deadlines(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    def broken() -> bool:
        raise RuntimeError("boom")

    fake_upstream.default = Reply.raw(SILENCE)
    odd = deadlines.watch(Call(client_gone=broken))
    with pytest.raises(Timeout):
        client.post("/", b"", Call(deadline=time.monotonic() + 0.6))
    with pytest.raises(CallCancelled):
        client.post("/", b"", Call(client_gone=lambda: True))
    deadlines.release(odd)


def test_an_idle_connection_keeps_no_request_in_memory(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.plain(200, b"{}")
    client.post("/", b"", Call())
    idle = client._pool._get_conn()
    assert idle.exchange is None  # type: ignore[attr-defined]
    client._pool._put_conn(idle)


def test_many_calls_cut_in_every_way_leave_nothing_behind(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.sse([b"data: 1\n\n", SILENCE])
    outcomes: list[str] = []

    def run(number: int) -> None:
        try:
            call = Call(deadline=time.monotonic() + 0.4 if number % 2 else time.monotonic() + 60)
            if not number % 2:
                call.client_gone = lambda: True
            list(client.post_sse("/", b"", call))
        except (Timeout, CallCancelled) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["CallCancelled"] * 20 + ["Timeout"] * 20
    wait_until(lambda: fake_upstream.open_connections == 0)
    assert deadlines.active() == 0


def test_a_forked_process_cuts_calls_of_its_own(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    # As under a server that loads the application before it forks: the child has no thread, though
    # the flags say that it runs.
    fake_upstream.default = Reply.raw(SILENCE)
    busy = deadlines.watch(Call())
    child = fork()
    if child == 0:
        own = UpstreamClient("up", fake_upstream.url, {}, Timeouts(2, 30, 30), 1)
        try:
            own.post("/", b"", Call(deadline=time.monotonic() + 0.3))
        except Timeout:
            os._exit(7)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    deadlines.release(busy)
    assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.parametrize("status", [b"200 OK", b"400 No"])
@pytest.mark.parametrize("ask", ["post", "post_sse"])
def test_an_answer_with_two_different_lengths_is_a_bad_one_and_its_connection_is_not_used_again(
    client: UpstreamClient, fake_upstream: FakeUpstream, ask: str, status: bytes
) -> None:
    head = b"HTTP/1.1 %b\r\nContent-Type: text/event-stream\r\n" % status
    lengths = b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n"
    hidden = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden"
    fake_upstream.reply(Reply.raw(head + lengths + b"{}" + hidden))
    with pytest.raises(BadResponse):
        list(getattr(client, ask)("/", b"{}", Call()))
    fake_upstream.reply(Reply.plain(200, b"mine"))
    assert client.post("/", b"{}", Call()) == b"mine"
