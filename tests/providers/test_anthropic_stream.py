"""Anthropic's answers, event streams and errors, and their translation to OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from goblin_assistant.providers.anthropic.errors import classify, stream_error
from goblin_assistant.providers.anthropic.observer import StreamObserver
from goblin_assistant.providers.anthropic.response import (
    FINISH_REASONS,
    parse_message,
    parse_usage,
    to_openai,
)
from goblin_assistant.providers.anthropic.stream import Translator
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderError,
    RateLimited,
    ResourceNotFound,
    Timeout,
    Usage,
)
from goblin_assistant.providers.faults import UpstreamFailure
from tests.support.wire_bodies import CANARY, anthropic_error, anthropic_events, anthropic_message

USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 30,
    "output_tokens": 8,
    "output_tokens_details": {"thinking_tokens": 3},
    "service_tier": "standard",
}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def translate(
    events: Sequence[bytes], *, include_usage: bool = False
) -> tuple[list[dict[str, Any]], Translator]:
    translator = Translator("anthropic", include_usage=include_usage)
    out = b"".join(translator.feed(block) for block in events)
    chunks = [json.loads(line[6:]) for line in out.decode().splitlines() if line]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks, translator


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


# -- answers --------------------------------------------------------------------------------------
def test_usage_counts_cached_tokens_as_part_of_the_prompt() -> None:
    assert parse_usage(USAGE) == Usage(
        60, 8, cached_tokens=30, cache_write_tokens=20, reasoning_tokens=3
    )
    assert parse_usage({"input_tokens": -5, "output_tokens": 2**50}) == Usage(0, 0)
    assert parse_usage(None) is None


def test_an_answer_with_text_thinking_and_tool_calls() -> None:
    message = anthropic_message(usage=USAGE) | {
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "text", "text": "Let me "},
            {"type": "text", "text": "see."},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
            {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
            {"type": "a_block_of_tomorrow"},
        ],
        "stop_reason": "tool_use",
    }
    completion = to_openai(message, parse_usage(message["usage"]), "claude-x")
    ChatCompletion.model_validate(completion)
    answer = completion["choices"][0]["message"]
    assert answer["content"] == "Let me see."
    assert answer["reasoning_content"] == "Hm."
    assert answer["thinking_blocks"] == message["content"][:2]
    assert answer["tool_calls"] == [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
        },
        {"id": "toolu_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    assert completion["choices"][0]["finish_reason"] == "tool_calls"
    assert completion["usage"] == {
        "prompt_tokens": 60,
        "completion_tokens": 8,
        "total_tokens": 68,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


def test_content_is_null_beside_tool_calls_and_empty_without() -> None:
    calls = to_openai(anthropic_message(tool_calls=[("f", {})]), None, "m")
    assert calls["choices"][0]["message"]["content"] is None
    empty = to_openai(anthropic_message() | {"content": [], "stop_reason": "refusal"}, None, "m")
    assert empty["choices"][0]["message"]["content"] == ""
    assert empty["choices"][0]["finish_reason"] == "content_filter"
    assert "usage" not in empty


def test_every_stop_reason_of_the_sdk_has_a_finish_reason() -> None:
    from typing import get_args

    from anthropic.types import StopReason

    assert set(get_args(StopReason)) == FINISH_REASONS.keys()
    later = to_openai(anthropic_message() | {"stop_reason": "a_reason_of_tomorrow"}, None, "m")
    assert later["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"content": "x"}'])
def test_an_answer_that_is_no_message_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_message("anthropic", body)


# -- streams --------------------------------------------------------------------------------------
def test_a_text_stream_becomes_chunks() -> None:
    chunks, translator = translate(anthropic_events("Hello there, goblin."))
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " there,"},
        {"content": " goblin."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {("msg_1", "claude-sonnet-4-5")}
    completed = translator.completed()
    assert completed.usage == Usage(12, 5, cached_tokens=4)
    assert (completed.model, completed.finish_reason) == ("claude-sonnet-4-5", "stop")


def test_usage_is_a_last_chunk_only_for_clients_that_asked() -> None:
    chunks, _ = translate(anthropic_events(), include_usage=True)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 17


def started(index: int, block: dict[str, Any]) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def tool_use(call_id: str, name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}}


def tool_call(index: int, call_id: str, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    call = {"index": index, "id": call_id, "type": "function", "function": function}
    return {"tool_calls": [call]}


def test_parallel_tool_calls_keep_their_own_numbers_beside_text_and_thinking() -> None:
    events = [
        event("message_start", message=anthropic_message(usage=USAGE) | {"content": []}),
        started(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking_delta", thinking="Hm"),
        delta(0, "thinking_delta", thinking="."),
        delta(0, "signature_delta", signature="sig"),
        event("content_block_stop", index=0),
        started(1, {"type": "text", "text": ""}),
        delta(1, "text_delta", text="See:"),
        event("content_block_stop", index=1),
        started(2, tool_use("a", "f")),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json='{"x":'),
        delta(2, "input_json_delta", partial_json="1}"),
        event("content_block_stop", index=2),
        started(3, tool_use("b", "g")),
        event("content_block_stop", index=3),
        event("an_event_of_tomorrow"),
        event(
            "message_delta",
            delta={"stop_reason": "tool_use", "stop_sequence": None},
            usage={"output_tokens": 9},
        ),
        event("message_stop"),
    ]
    chunks, translator = translate(events)
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"reasoning_content": "."},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "sig"}]},
        {"content": "See:"},
        tool_call(0, "a", "f"),
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        tool_call(1, "b", "g"),
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert translator.completed().usage == Usage(60, 9, 30, 20, 3)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_blocks_of_any_size_say_the_same(size: int) -> None:
    from goblin_assistant.providers.upstream.sse import EventBuffer

    whole = b"".join(anthropic_events(tool_calls=[("f", {"x": 1})]))
    cutter = EventBuffer()
    blocks = [
        block for at in range(0, len(whole), size) if (block := cutter.feed(whole[at : at + size]))
    ]
    chunks, _ = translate(blocks)
    expected, _ = translate(anthropic_events(tool_calls=[("f", {"x": 1})]))
    assert deltas(chunks) == deltas(expected)


def test_in_its_own_dialect_every_byte_passes() -> None:
    events = [
        block.replace(b"\n", b"\r\n") if i % 2 else block
        for i, block in enumerate(anthropic_events('"message_stop" is a word'))
    ]
    observer = StreamObserver("anthropic")
    assert b"".join(observer.feed(block) for block in events) == b"".join(events)
    assert observer.completed().usage == Usage(12, 5, cached_tokens=4)
    assert observer.done


@pytest.mark.parametrize(
    "observer", [StreamObserver("anthropic"), Translator("anthropic", include_usage=False)]
)
def test_nothing_goes_out_before_the_second_event_so_that_an_early_error_can_be_retried(
    observer: StreamObserver,
) -> None:
    assert observer.feed(anthropic_events()[0]) == b""
    with pytest.raises(Overloaded):
        observer.feed(
            b"event: error\ndata: " + orjson.dumps(anthropic_error("overloaded_error")) + b"\n\n"
        )


@pytest.mark.parametrize("kind", [StreamObserver, Translator])
def test_a_ping_lets_the_first_event_through(kind: type[StreamObserver]) -> None:
    observer = (
        Translator("anthropic", include_usage=False)
        if kind is Translator
        else StreamObserver("anthropic")
    )
    assert observer.feed(anthropic_events()[0]) == b""
    assert observer.feed(event("ping")) != b""


def test_a_stream_without_its_last_event_is_incomplete() -> None:
    _, translator = translate(anthropic_events(done=False))
    with pytest.raises(BadResponse, match="ended before its end"):
        translator.completed()


@pytest.mark.parametrize("block", [b"data: {\n\n", b"data: 5\n\n", b'event: x\ndata: "y"\n\n'])
def test_an_event_that_is_no_object_is_a_bad_response(block: bytes) -> None:
    for observer in (StreamObserver("anthropic"), Translator("anthropic", include_usage=False)):
        with pytest.raises(BadResponse):
            observer.feed(block)


def test_null_in_place_of_a_text_is_no_text_whole_and_streamed() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": None, "signature": "s"},
        {"type": "text", "text": None},
        {"type": "tool_use", "id": "t", "name": "f", "input": None},
    ]
    message = {**anthropic_message(), "content": blocks}
    whole = to_openai(message, None, "m")["choices"][0]["message"]
    assert (whole["content"], whole.get("reasoning_content")) == ("", None)
    assert whole["tool_calls"][0]["function"]["arguments"] == "{}"
    kinds = ("thinking", "text", "partial_json")
    events = [anthropic_events()[0]]
    for index, (block, name) in enumerate(zip(blocks, kinds, strict=True)):
        kind = "input_json_delta" if name == "partial_json" else f"{name}_delta"
        events += [
            event("content_block_start", index=index, content_block=block),
            delta(index, kind, **{name: None}),
            event("content_block_stop", index=index),
        ]
    chunks, _ = translate([*events, *anthropic_events()[-2:]])
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert not any(item.get("content") or item.get("reasoning_content") for item in deltas)
    pieces = [
        call["function"]["arguments"] for item in deltas for call in item.get("tool_calls", ())
    ]
    assert "".join(pieces) == "{}"


def test_an_error_after_the_first_token_is_found_on_the_fast_path() -> None:
    observer = StreamObserver("anthropic")
    for block in anthropic_events()[:6]:
        observer.feed(block)
    with pytest.raises(RateLimited) as caught:
        observer.feed(
            b"event: error\ndata: " + orjson.dumps(anthropic_error("rate_limit_error")) + b"\n\n"
        )
    assert CANARY not in str(caught.value)


# -- errors ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", InvalidRequest),
        (401, "authentication_error", AuthenticationFailed),
        (402, "billing_error", RateLimited),
        (403, "permission_error", AuthenticationFailed),
        (404, "not_found_error", ModelNotFound),
        (409, "conflict_error", BadResponse),
        (413, "request_too_large", InvalidRequest),
        (418, "invalid_request_error", InvalidRequest),
        (429, "rate_limit_error", RateLimited),
        (500, "api_error", BadResponse),
        (503, "overloaded_error", Overloaded),
        (504, "timeout_error", Timeout),
        (529, "overloaded_error", Overloaded),
        (520, "something_else", BadResponse),
    ],
)
def test_each_status_has_its_error(status: int, kind: str, error: type[ProviderError]) -> None:
    headers = {"retry-after": "7"}
    found = classify(
        UpstreamFailure("anthropic", status, headers, orjson.dumps(anthropic_error(kind)))
    )
    assert type(found) is error
    assert found.upstream_status == status
    assert found.provider == "anthropic"
    assert CANARY not in str(found)
    if status == 429:
        assert found.retry_after == 7


def test_a_prompt_that_is_too_long_is_recognised_by_its_sentence_whole_or_streamed() -> None:
    said = "prompt is too long: 213462 tokens > 200000 maximum"
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": said}}
    for found in (
        classify(UpstreamFailure("anthropic", 400, {}, orjson.dumps(body))),
        stream_error("anthropic", body),
    ):
        assert isinstance(found, ContextLengthExceeded)
        assert str(found) == said


def test_details_for_programs_pass_and_sentences_do_not() -> None:
    body = anthropic_error("not_found_error")
    body["error"]["details"] = {
        "error_code": "thread_not_found",
        "limit": 5,
        "unsupported": ["thinking"],
        "explanation": f"see {CANARY} for more",
    }
    found = classify(UpstreamFailure("anthropic", 404, {}, orjson.dumps(body)))
    assert isinstance(found, ResourceNotFound)
    assert found.status == 404
    assert found.details == {
        "error_code": "thread_not_found",
        "limit": 5,
        "unsupported": ["thinking"],
    }


def test_details_about_the_operators_account_do_not_pass() -> None:
    body = anthropic_error("invalid_request_error")
    body["error"]["details"] = {"error_code": "organization_on_hold", "organization": "o-1"}
    found = classify(UpstreamFailure("anthropic", 400, {}, orjson.dumps(body)))
    assert isinstance(found, AuthenticationFailed)
    assert found.details is None


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "organization_on_hold", AuthenticationFailed),
        (400, "image_dimensions_too_large", InvalidRequest),
        (429, "contract_spend_limit_reached", RateLimited),
    ],
)
def test_error_codes_refine_the_status(status: int, code: str, error: type[ProviderError]) -> None:
    body = anthropic_error("invalid_request_error")
    body["error"]["details"] = {"error_code": code}
    found = classify(UpstreamFailure("anthropic", status, {"retry-after": "1"}, orjson.dumps(body)))
    assert type(found) is error
    if status == 429:
        assert found.retry_after is not None
        assert found.retry_after > 60  # the same target is not tried again


@pytest.mark.parametrize(
    "body", [b"", b"<html>bad gateway</html>", b'"text"', b'{"error": "text"}', b"[1]"]
)
def test_a_failure_without_a_structured_body_goes_by_its_status(body: bytes) -> None:
    assert type(classify(UpstreamFailure("anthropic", 502, {}, body))) is BadResponse
    assert type(classify(UpstreamFailure("anthropic", 429, {}, body))) is RateLimited


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", Overloaded),
        ("rate_limit_error", RateLimited),
        ("api_error", BadResponse),
        ("timeout_error", Timeout),
        ("invalid_request_error", InvalidRequest),
        ("authentication_error", AuthenticationFailed),
        ("an_error_of_tomorrow", BadResponse),
    ],
)
def test_an_error_event_has_its_error(kind: str, error: type[ProviderError]) -> None:
    found = stream_error("anthropic", anthropic_error(kind))
    assert type(found) is error
    assert found.upstream_status is None
    assert CANARY not in str(found)
