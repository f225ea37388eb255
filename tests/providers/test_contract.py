"""What every provider must do, tested on each of them against a scripted server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    Call,
    CallCancelled,
    ConnectionFailed,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Provider,
    ProviderError,
    RateLimited,
    Reach,
    Timeout,
)
from goblin_assistant.providers.upstream.deadlines import deadlines
from tests.conftest import wait_until
from tests.support.fake_upstream import (
    CUT,
    RESET,
    SILENCE,
    FakeUpstream,
    Pause,
    Reply,
    http_date,
    unused_url,
)
from tests.support.provider_wires import TEXT, TOOLS, WIRES, Wire, collect, request, whole
from tests.support.wire_bodies import CANARY

FUNCTIONS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {}}},
    }
    for name, _ in TOOLS
]


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each of the providers."""
    found: Wire = request.param
    return found


@pytest.fixture
def provider(wire: Wire, fake_upstream: FakeUpstream) -> Iterator[Provider]:
    """The provider at the test's upstream. After the test all of its calls must have ended."""
    made = wire.make(fake_upstream.url)
    yield made
    made.close()
    wait_until(lambda: deadlines.active() == 0, what="every call ended")


def both(wire: Wire) -> list[Callable[[Provider, Call], Any]]:
    """A call in one piece and one as a stream."""
    return [
        lambda provider, call: provider.complete(request(wire.model, call=call)),
        lambda provider, call: list(provider.stream(request(wire.model, stream=True, call=call))),
    ]


# -- the same answer either way -----------------------------------------------------------------
def test_streaming_and_not_give_the_same_text_and_usage(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.plain(200, wire.answer()), Reply.sse(wire.events()))
    response = provider.complete(request(wire.model))
    text, calls, completed = collect(list(provider.stream(request(wire.model, stream=True))))
    assert whole(response.body) == (text, calls) == (TEXT, [])
    assert response.usage == completed.usage
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (12, 5)
    assert response.usage.cached_tokens == (4 if wire.caching else 0)
    assert response.finish_reason == completed.finish_reason == "stop"
    assert response.model == completed.model


def test_streaming_and_not_give_the_same_tool_calls(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    if not wire.tools:
        with pytest.raises(InvalidRequest):
            provider.complete(request(wire.model, tools=FUNCTIONS))
        return
    fake_upstream.reply(Reply.plain(200, wire.answer("", TOOLS)), Reply.sse(wire.events("", TOOLS)))
    response = provider.complete(request(wire.model, tools=FUNCTIONS))
    _, calls, completed = collect(
        list(provider.stream(request(wire.model, stream=True, tools=FUNCTIONS)))
    )
    assert whole(response.body)[1] == calls == list(TOOLS)
    assert response.finish_reason == completed.finish_reason == "tool_calls"


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
def test_a_stream_is_the_same_however_the_network_splits_it(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream, size: int
) -> None:
    data = b"".join(wire.events())
    fake_upstream.reply(Reply.sse([data[i : i + size] for i in range(0, len(data), size)]))
    assert collect(list(provider.stream(request(wire.model, stream=True))))[0] == TEXT


def test_a_stream_with_crlf_line_ends_is_understood(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([event.replace(b"\n", b"\r\n") for event in wire.events()]))
    text, _, completed = collect(list(provider.stream(request(wire.model, stream=True))))
    assert text == TEXT
    assert completed.usage is not None


def test_a_stream_without_chunked_encoding_is_understood(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(wire.events(), framing="close"))
    assert collect(list(provider.stream(request(wire.model, stream=True))))[0] == TEXT


def test_compressed_answers_are_understood(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.gzipped(200, wire.answer()),
        Reply.gzipped(200, b"".join(wire.events()), "text/event-stream"),
    )
    assert whole(provider.complete(request(wire.model)).body)[0] == TEXT
    assert collect(list(provider.stream(request(wire.model, stream=True))))[0] == TEXT


def test_events_arrive_one_by_one_while_the_stream_goes_on(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    *most, last = wire.events()
    fake_upstream.reply(Reply.sse([*most, SILENCE, last]))
    events = provider.stream(request(wire.model, stream=True))
    first = next(events)  # would wait for the end of the silence if anything were buffered
    fake_upstream.release()
    assert collect([first, *events])[0] == TEXT


def test_nothing_is_sent_before_the_first_event_is_asked_for(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    events = provider.stream(request(wire.model, stream=True))
    assert fake_upstream.connections == 0
    fake_upstream.reply(Reply.sse(wire.events()))
    next(events)
    assert len(fake_upstream.requests) == 1
    events.close()  # type: ignore[attr-defined]


def test_the_correlation_id_goes_upstream(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.plain(200, wire.answer()), Reply.sse(wire.events()))
    provider.complete(request(wire.model))
    list(provider.stream(request(wire.model, stream=True)))
    assert [sent.headers["x-correlation-id"] for sent in fake_upstream.requests] == [
        "corr-1",
        "corr-1",
    ]


def test_a_connection_is_used_again_after_whole_answers_streams_and_errors(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.plain(200, wire.answer()),
        Reply.sse(wire.events()),
        Reply.json(429, wire.error(429)),
        Reply.plain(200, wire.answer()),
    )
    provider.complete(request(wire.model))
    list(provider.stream(request(wire.model, stream=True)))
    with pytest.raises(RateLimited):
        provider.complete(request(wire.model))
    provider.complete(request(wire.model))
    assert fake_upstream.connections == 1


# -- faults by their names ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequest),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, ModelNotFound),
        (408, Timeout),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, BadResponse),
        (502, BadResponse),
        (503, Overloaded),
        (504, Timeout),
        (529, Overloaded),
        (302, BadResponse),
        (418, BadResponse),
    ],
)
def test_each_status_has_its_error(
    wire: Wire,
    provider: Provider,
    fake_upstream: FakeUpstream,
    status: int,
    expected: type[ProviderError],
) -> None:
    expected = wire.statuses.get(status, expected)
    for call in both(wire):
        fake_upstream.reply(Reply.json(status, wire.error(status)))
        with pytest.raises(expected) as caught:
            call(provider, Call())
        assert type(caught.value) is expected
        assert caught.value.upstream_status == status
        assert caught.value.provider == provider.name
        assert CANARY not in repr(caught.value)
        assert CANARY not in str(caught.value.__cause__)


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "1.5"}, 1.5, 1.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25, 0.25),
        ({"Retry-After": "in 30 s"}, 20, 31),
        ({"Retry-After": "30 s ago"}, 0, 0),
        ({"Retry-After": "99999999"}, 86400, 86400),
    ],
)
def test_retry_after_is_read(
    wire: Wire,
    provider: Provider,
    fake_upstream: FakeUpstream,
    status: int,
    headers: dict[str, str],
    low: float,
    high: float,
) -> None:
    # Dates are made here, because parameters are made when the tests are collected.
    dates = {"in 30 s": http_date(30), "30 s ago": http_date(-30)}
    headers = {name: dates.get(value, value) for name, value in headers.items()}
    fake_upstream.reply(Reply.json(status, wire.error(status), headers))
    with pytest.raises(ProviderError) as caught:
        provider.complete(request(wire.model))
    assert caught.value.retry_after is not None
    assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize("value", [None, "soon", "-3", "nan", ""])
def test_an_absent_or_invalid_retry_after_is_none(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream, value: str | None
) -> None:
    fake_upstream.reply(
        Reply.json(429, wire.error(429), {} if value is None else {"Retry-After": value})
    )
    with pytest.raises(RateLimited) as caught:
        provider.complete(request(wire.model))
    assert caught.value.retry_after is None


def test_an_html_error_page_is_an_error_by_its_status(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    for call in both(wire):
        fake_upstream.reply(Reply.plain(502, f"<html>{CANARY}</html>".encode(), "text/html"))
        with pytest.raises(BadResponse) as caught:
            call(provider, Call())
        assert CANARY not in str(caught.value)


def test_html_with_status_200_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    for call in both(wire):
        fake_upstream.reply(
            Reply.plain(200, b"<html>please log in</html>", "text/html; charset=utf-8")
        )
        with pytest.raises(BadResponse):
            call(provider, Call())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b'{"choices": 3}', b"\xff\xfe", b'{"a": "' + b"x" * 50],
)
def test_an_answer_that_is_not_the_answer_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream, body: bytes
) -> None:
    fake_upstream.reply(Reply.plain(200, body))
    with pytest.raises(BadResponse):
        provider.complete(request(wire.model))


def test_an_answer_shorter_than_announced_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n",
            wire.answer(),
            CUT,
        )
    )
    with pytest.raises(BadResponse, match="before its end"):
        provider.complete(request(wire.model))


def test_a_stream_that_ends_early_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(wire.events(done=False)))
    with pytest.raises(BadResponse, match="before its end"):
        list(provider.stream(request(wire.model, stream=True)))


@pytest.mark.parametrize("how", [CUT, RESET], ids=["closed", "reset"])
def test_a_stream_that_is_cut_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream, how: Any
) -> None:
    fake_upstream.reply(Reply.sse([*wire.events(done=False), Pause(0.05), how]))
    with pytest.raises(BadResponse, match="before its end"):
        list(provider.stream(request(wire.model, stream=True)))


def test_half_an_event_at_the_end_is_never_passed_on(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    *most, last = wire.events(done=False)
    fake_upstream.reply(Reply.sse([*most, last[: len(last) // 2]]))
    got: list[Any] = []
    with pytest.raises(BadResponse, match="before its end"):
        got.extend(provider.stream(request(wire.model, stream=True)))
    for block in got:
        assert block.endswith(b"\n\n")


def test_malformed_json_in_a_stream_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    first, second, *_ = wire.events()
    fake_upstream.reply(
        Reply.sse([first, second, b'data: {"choices": [{"delta": {"con\n\n', *wire.events()[2:]])
    )
    with pytest.raises(BadResponse):
        list(provider.stream(request(wire.model, stream=True)))


def test_an_event_that_is_no_object_may_have_been_paid_for(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    for data in (b"data: 5\n\n", b"data: [1]\n\n", b'data: "text"\n\n'):
        fake_upstream.reply(Reply.sse([data]))
        with pytest.raises(BadResponse) as caught:
            list(provider.stream(request(wire.model, stream=True)))
        assert caught.value.reach is Reach.BROKEN


def test_a_huge_event_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    first, *_ = wire.events()
    fake_upstream.reply(Reply.sse([first, b"data: ", *[b"x" * 2**20] * 17]))
    with pytest.raises(BadResponse, match="too large") as caught:
        list(provider.stream(request(wire.model, stream=True)))
    assert caught.value.reach is Reach.BROKEN
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_what_is_not_http_is_a_bad_response(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    for call in both(wire):
        fake_upstream.reply(Reply.raw(b"SSH-2.0-OpenSSH_9.2\r\n"))
        with pytest.raises(BadResponse):
            call(provider, Call())


def test_nobody_listening_is_a_failed_connection(wire: Wire) -> None:
    provider = wire.make(unused_url())
    for call in both(wire):
        with pytest.raises(ConnectionFailed):
            call(provider, Call())


def test_a_name_that_does_not_resolve_is_a_failed_connection(wire: Wire) -> None:
    provider = wire.make("http://no-such-host.invalid")
    with pytest.raises(ConnectionFailed):
        provider.complete(request(wire.model))


def test_a_reset_at_connect_is_a_failed_connection(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reset_on_accept = True
    for call in both(wire):
        with pytest.raises(ConnectionFailed):
            call(provider, Call())


@pytest.mark.parametrize("how", [CUT, RESET], ids=["closed", "reset"])
def test_a_close_before_any_answer_is_a_failed_connection(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream, how: Any
) -> None:
    for call in both(wire):
        fake_upstream.reply(Reply.raw(how))
        with pytest.raises(ConnectionFailed):
            call(provider, Call())
    assert len(fake_upstream.requests) == 2  # a failure of a new connection is not retried here


def test_a_stale_connection_is_replaced_without_an_error(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.plain(200, wire.answer(), stale=True),
        Reply.plain(200, wire.answer(), stale=True),
        Reply.sse(wire.events()),
    )
    provider.complete(request(wire.model))
    provider.complete(request(wire.model))
    assert collect(list(provider.stream(request(wire.model, stream=True))))[0] == TEXT
    assert fake_upstream.connections == 3
    assert len(fake_upstream.requests) == 3  # each was read once


# -- time ---------------------------------------------------------------------------------------
def test_silence_before_the_headers_ends_with_a_timeout(
    wire: Wire, fake_upstream: FakeUpstream
) -> None:
    provider = wire.make(fake_upstream.url, first_token=0.2)
    fake_upstream.reply(Reply.raw(SILENCE))
    with pytest.raises(Timeout, match="sent nothing within"):
        list(provider.stream(request(wire.model, stream=True)))
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_silence_after_the_headers_ends_with_a_timeout(
    wire: Wire, fake_upstream: FakeUpstream
) -> None:
    provider = wire.make(fake_upstream.url, first_token=0.2)
    fake_upstream.reply(Reply.sse([SILENCE]))
    with pytest.raises(Timeout, match="sent nothing within"):
        list(provider.stream(request(wire.model, stream=True)))
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_a_comment_is_not_a_first_token(wire: Wire, fake_upstream: FakeUpstream) -> None:
    provider = wire.make(fake_upstream.url, first_token=20.0, comments=0.5)
    fake_upstream.reply(
        Reply.sse([step for _ in range(1200) for step in (b": still here\n\n", Pause(0.05))])
    )
    with pytest.raises(Timeout, match="only comments within"):
        list(provider.stream(request(wire.model, stream=True)))


def test_silence_in_the_middle_ends_with_a_timeout(wire: Wire, fake_upstream: FakeUpstream) -> None:
    provider = wire.make(fake_upstream.url, idle=0.2)
    fake_upstream.reply(Reply.sse([*wire.events(done=False), SILENCE]))
    with pytest.raises(Timeout, match="silent"):
        list(provider.stream(request(wire.model, stream=True)))
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_an_answer_in_one_piece_may_take_longer_than_a_first_token(
    wire: Wire, fake_upstream: FakeUpstream
) -> None:
    provider = wire.make(fake_upstream.url, first_token=0.05, idle=0.05)
    answer = wire.answer()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        answer
    )
    fake_upstream.reply(Reply.raw(Pause(0.3), head, Pause(0.3), answer))
    assert whole(provider.complete(request(wire.model)).body)[0] == TEXT


def test_the_deadline_ends_every_call(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    dripping = [step for event in wire.events(done=False) * 50 for step in (event, Pause(0.02))]
    fake_upstream.reply(Reply.raw(SILENCE), Reply.raw(SILENCE), Reply.sse(dripping))
    complete, stream = both(wire)
    for call in (complete, stream, stream):
        with pytest.raises(Timeout, match="deadline"):
            call(provider, Call(deadline=time.monotonic() + 0.3))
        wait_until(lambda: fake_upstream.open_connections == 0)


def test_a_call_past_its_deadline_is_not_sent(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    for call in both(wire):
        with pytest.raises(Timeout, match="deadline"):
            call(provider, Call(deadline=time.monotonic() - 1))
    assert fake_upstream.connections == 0


# -- the client leaves --------------------------------------------------------------------------
def test_closing_the_iterator_closes_the_connection(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([*wire.events(done=False), SILENCE]))
    events = provider.stream(request(wire.model, stream=True))
    next(events)
    assert fake_upstream.open_connections == 1
    events.close()  # type: ignore[attr-defined]
    wait_until(lambda: fake_upstream.closed_by_peer == 1)
    assert fake_upstream.open_connections == 0


def left_in(provider: Provider, wire: Wire, *, stream: bool, fake_upstream: FakeUpstream) -> None:
    """The client disconnects while the provider is silent. Within a second the call must end as
    cancelled and its connection be closed."""
    gone = threading.Event()
    ended: list[BaseException | None] = []
    asked = request(wire.model, stream=stream, call=Call(client_gone=gone.is_set))

    def run() -> None:
        try:
            if stream:
                list(provider.stream(asked))
            else:
                provider.complete(asked)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: fake_upstream.requests)
    gone.set()
    wait_until(lambda: fake_upstream.closed_by_peer == 1)
    thread.join(30)
    assert isinstance(ended[0], CallCancelled)


def test_a_client_that_leaves_before_the_headers_cancels_the_call(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.raw(SILENCE))
    left_in(provider, wire, stream=False, fake_upstream=fake_upstream)


def test_a_client_that_leaves_before_the_first_event_cancels_the_stream(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([SILENCE]))
    left_in(provider, wire, stream=True, fake_upstream=fake_upstream)


def test_a_client_that_leaves_in_the_middle_cancels_the_stream(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([*wire.events(done=False), SILENCE]))
    left_in(provider, wire, stream=True, fake_upstream=fake_upstream)


def test_a_client_that_leaves_within_a_body_cancels_the_call(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
            SILENCE,
        )
    )
    left_in(provider, wire, stream=False, fake_upstream=fake_upstream)


def test_a_server_that_announces_close_can_be_cut_too(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    # http.client clears its socket then. The deadline must still find it.
    fake_upstream.reply(Reply.sse([*wire.events(done=False), SILENCE], framing="close"))
    left_in(provider, wire, stream=True, fake_upstream=fake_upstream)


# -- checks -------------------------------------------------------------------------------------
def test_a_check_that_nobody_answers_fails_in_time(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.raw(SILENCE))
    with pytest.raises(Timeout):
        provider.check(timeout=0.2)


def test_a_check_costs_nothing_and_raises_what_is_wrong(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.json(200, {"data": [{"id": wire.model, "type": "model", "display_name": "x"}]}),
        Reply.json(401, wire.error(401)),
    )
    provider.check()
    with pytest.raises(AuthenticationFailed):
        provider.check()
    assert [sent.method for sent in fake_upstream.requests] == ["GET", "GET"]


def test_the_key_is_in_no_error_and_no_representation(
    wire: Wire, fake_upstream: FakeUpstream
) -> None:
    provider = wire.make(fake_upstream.url)
    fake_upstream.reply(
        Reply.json(
            401,
            {"error": {"message": "your key test-key is wrong", "type": "authentication_error"}},
        )
    )
    with pytest.raises(AuthenticationFailed) as caught:
        provider.complete(request(wire.model))
    assert "test-key" not in f"{caught.value!r} {caught.value.__cause__!r} {provider!r}"


def test_the_request_is_never_changed(
    wire: Wire, provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.plain(200, wire.answer()), Reply.sse(wire.events()))
    for stream in (False, True):
        asked = request(wire.model, stream=stream, max_tokens=5)
        before = json.dumps(asked.body)
        list(provider.stream(asked)) if stream else provider.complete(asked)
        assert json.dumps(asked.body) == before
