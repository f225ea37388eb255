"""Rows that have the Responses API: what is sent, what is read of answers and streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goblin_assistant.providers.base import (
    ChatRequest,
    Completed,
    InvalidRequest,
    Overloaded,
    ProviderError,
    RateLimited,
    Reach,
    Usage,
)
from goblin_assistant.providers.openai.encrypted import CARRIED, mark_of
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.responses import responses_usage
from goblin_assistant.usage.delivered import DeliveredText, estimate_completion_tokens
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.response_bodies import (
    SECRET,
    event,
    function_call,
    message,
    reasoning,
    response,
    response_events,
    usage,
)

MARK = mark_of("main")
Make = Callable[..., OpenAICompatibleProvider]


@pytest.fixture
def make(fake_upstream: FakeUpstream, request: pytest.FixtureRequest) -> Make:
    def provider(**quirks: Any) -> OpenAICompatibleProvider:
        made = OpenAICompatibleProvider(
            "main",
            fake_upstream.url + "/v1",
            quirks=Quirks(responses_path="/responses", **quirks),
        )
        request.addfinalizer(made.close)
        return made

    return provider


def asked(raw: bytes | None = None, **body: Any) -> ChatRequest:
    whole = {"model": "m", "input": "Hello", "store": False, **body}
    stream = whole.get("stream") is True
    return ChatRequest("m", whole, raw, stream, "responses")


def sent(make: Make, upstream: FakeUpstream, request: ChatRequest, **quirks: Any) -> Any:
    upstream.reply(Reply.json(200, response()))
    make(**quirks).complete(request)
    return upstream.requests[-1].json()


# -- requests -------------------------------------------------------------------------------------
def test_a_row_speaks_the_dialect_only_where_it_has_the_path(make: Make) -> None:
    assert make().dialects == {"openai", "responses"}
    plain = OpenAICompatibleProvider("plain", "http://127.0.0.1:9/v1")
    plain.close()
    assert plain.dialects == {"openai"}


def test_the_clients_own_bytes_are_sent(make: Make, fake_upstream: FakeUpstream) -> None:
    raw = b'{"model":"m", "input":"Hello", "store":false, "a_field_of_tomorrow":1e3}'
    fake_upstream.reply(Reply.json(200, response()))
    make().complete(asked(raw, a_field_of_tomorrow=1e3))
    assert fake_upstream.requests[0].path == "/v1/responses"
    assert fake_upstream.requests[0].body == raw


@pytest.mark.parametrize(("given", "named"), [(None, set()), (True, {"store"})])
def test_nothing_is_stored_at_the_provider(
    make: Make, fake_upstream: FakeUpstream, given: bool | None, named: set[str]
) -> None:
    request = asked(store=given)
    assert sent(make, fake_upstream, request)["store"] is False
    assert request.ignored == named


def test_other_names_of_the_limit_and_refused_fields_are_not_sent(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    request = asked(max_output_tokens=5, max_tokens=50_000, n_predict=9, user="ada")
    body = sent(make, fake_upstream, request, drop_fields=("user",))
    assert body == {"model": "m", "input": "Hello", "store": False, "max_output_tokens": 5}


def test_reasoning_goes_back_to_the_row_that_encrypted_it(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    own, unknown = reasoning(MARK + SECRET), reasoning("gAAAA")
    others = [reasoning(mark_of("other") + SECRET), reasoning(CARRIED + "abc"), reasoning(None)]
    hello = {"role": "user", "content": "Hello"}
    request = asked(input=[own, unknown, *others, hello])
    assert sent(make, fake_upstream, request)["input"] == [reasoning(SECRET), unknown, hello]
    assert request.ignored == {"input.reasoning"}


def test_a_compaction_of_another_provider_is_refused_before_it_is_sent(make: Make) -> None:
    item = {"type": "compaction", "encrypted_content": mark_of("other") + SECRET}
    with pytest.raises(InvalidRequest) as caught:
        make().prepare(asked(input=[item]))
    assert caught.value.param == "input"


def test_what_another_provider_wanted_back_leaves_the_ids(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    call = function_call("f", "{}")
    items = [{**call, "call_id": "call_0__goblin_eyJ9"}]
    assert sent(make, fake_upstream, asked(input=items))["input"] == [call]


# -- answers --------------------------------------------------------------------------------------
def test_an_answer_passes_but_for_the_mark(make: Make, fake_upstream: FakeUpstream) -> None:
    quoted = message(f'{{"encrypted_content":"{SECRET}"}}')
    fake_upstream.reply(Reply.json(200, response(reasoning(), quoted)))
    answer = make().complete(asked())
    marked = response(reasoning(MARK + SECRET), quoted)
    assert json.loads(answer.body) == marked
    assert answer.usage == Usage(12, 5, cached_tokens=4, reasoning_tokens=2)
    assert (answer.model, answer.finish_reason) == ("gpt-4o-2024-08-06", "stop")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"output": [function_call("f", "{}")]}, "tool_calls"),
    ],
)
def test_why_an_answer_ended(
    make: Make, fake_upstream: FakeUpstream, fields: dict[str, Any], reason: str
) -> None:
    fake_upstream.reply(Reply.json(200, response() | fields))
    assert make().complete(asked()).finish_reason == reason


FAILED = {"code": "rate_limit_exceeded", "message": "slow down"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failed_response_is_the_providers_error_and_its_usage_counts(
    make: Make, fake_upstream: FakeUpstream, streamed: bool
) -> None:
    failed = response(status="failed", error=FAILED)
    if streamed:
        fake_upstream.reply(Reply.sse([event("response.failed", 0, response=failed)]))
    else:
        fake_upstream.reply(Reply.json(200, failed))
    request, provider = asked(stream=streamed), make()
    with pytest.raises(RateLimited):
        list(provider.stream(request)) if streamed else provider.complete(request)
    assert request.progress.usage is not None
    assert request.progress.usage.completion_tokens == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (usage(12, 5, 4, 2), Usage(12, 5, cached_tokens=4, reasoning_tokens=2)),
        ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 17}, Usage(3, 14)),
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"input_tokens": -5, "output_tokens": 4}, Usage(0, 4, absurd=True)),
        ({"seconds": 4}, None),
        ([], None),
    ],
)
def test_usage_under_the_names_of_either_api(value: Any, expected: Usage | None) -> None:
    found = responses_usage(value)
    assert found == expected
    assert expected is None or (found is not None and found.absurd == expected.absurd)


# -- streams --------------------------------------------------------------------------------------
def test_a_stream_passes_untouched(make: Make, fake_upstream: FakeUpstream) -> None:
    events = response_events()
    fake_upstream.reply(Reply.sse(events))
    *passed, completed = make().stream(asked(stream=True))
    assert b"".join(map(bytes, passed)) == b"".join(events)  # type: ignore[arg-type]
    assert completed == Completed("gpt-4o-2024-08-06", Usage(12, 5, 4, 0, 2), "stop")
    assert fake_upstream.requests[0].json()["stream"] is True


def test_reasoning_in_a_stream_gets_the_mark(make: Make, fake_upstream: FakeUpstream) -> None:
    done = event("response.output_item.done", 1, output_index=0, item=reasoning())
    fake_upstream.reply(Reply.sse([response_events()[0], done, response_events()[-1]]))
    passed = b"".join(e for e in make().stream(asked(stream=True)) if isinstance(e, bytes))
    assert f'"encrypted_content":"{MARK}{SECRET}"'.encode() in passed


def test_the_beginning_waits_until_an_answer_has_begun(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    full = {"code": "overloaded", "message": "full"}
    fake_upstream.reply(
        Reply.sse(
            [
                *response_events()[:2],
                event("response.failed", 2, response=response(status="failed", error=full)),
            ]
        )
    )
    events = make().stream(asked(stream=True))
    with pytest.raises(Overloaded):
        next(iter(events))  # not after an event: another attempt can be made


@pytest.mark.parametrize(
    "last",
    [
        CUT,
        event("error", 9, code="server_error", message="x", param=None),
        b'event: error\ndata: {"error":{"code":"server_error"}}\n\n',
        b"data: [DONE]\n\n",
        b"data: {\n\n",
        b"data: 5\n\n",
    ],
)
def test_a_stream_without_its_end_is_broken(
    make: Make, fake_upstream: FakeUpstream, last: Any
) -> None:
    fake_upstream.reply(Reply.sse([*response_events()[:5], last]))
    passed: list[Any] = []
    with pytest.raises(ProviderError):
        take(make().stream(asked(stream=True)), passed)
    assert b"".join(passed) == b"".join(response_events()[:5])


def test_an_event_that_is_no_object_may_have_been_paid_for(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([b"data: 5\n\n"]))
    with pytest.raises(ProviderError) as caught:
        list(make().stream(asked(stream=True)))
    assert caught.value.reach is Reach.BROKEN


def take(pieces: Iterator[Any], passed: list[Any]) -> None:
    """Keep the pieces up to the one that raises."""
    for piece in pieces:
        passed.append(piece)


def test_a_stream_that_ends_incomplete_is_whole(make: Make, fake_upstream: FakeUpstream) -> None:
    why = {"reason": "max_output_tokens"}
    events = response_events(end="response.incomplete", incomplete_details=why, status="incomplete")
    fake_upstream.reply(Reply.sse([*events, b"data: [DONE]\n\n"]))
    *passed, completed = make().stream(asked(stream=True))
    assert isinstance(completed, Completed)
    assert completed.finish_reason == "length"
    assert b"[DONE]" not in b"".join(map(bytes, passed))  # type: ignore[arg-type]


# -- what is counted without the provider's count -------------------------------------------------
def test_every_text_of_an_answer_counts() -> None:
    output = [message("x" * 400), function_call("f" * 40, "y" * 400), reasoning("z" * 4000)]
    assert estimate_completion_tokens(json.dumps(response(*output)).encode()) == 210


def test_every_text_of_a_stream_counts_once() -> None:
    delivered = DeliveredText()
    for piece in response_events("x" * 400):
        delivered.add(piece)
    call = function_call("f" * 40, "")
    delivered.add(event("response.output_item.added", 1, output_index=1, item=call))
    delivered.add(event("response.function_call_arguments.delta", 2, delta="y" * 400))
    delivered.add(event("response.function_call_arguments.done", 3, arguments="y" * 400))
    assert delivered.tokens == 210
