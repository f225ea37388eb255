"""OpenAI-compatible rows: what passes untouched, what is changed for a server, and what a stream
reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ChatRequest,
    Completed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    Model,
    ModelNotFound,
    Overloaded,
    Progress,
    ProviderError,
    RateLimited,
    Timeout,
    Usage,
)
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.stream import StreamObserver
from goblin_assistant.providers.openai.wire import parse_usage
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.provider_wires import collect
from tests.support.wire_bodies import CANARY, openai_chat, openai_error, openai_events, openai_usage

Make = Callable[..., OpenAICompatibleProvider]


@pytest.fixture
def make(fake_upstream: FakeUpstream) -> Iterator[Make]:
    """A provider at the fake upstream, with the given quirks and arguments."""
    made: list[OpenAICompatibleProvider] = []

    def build(quirks: dict[str, Any] | None = None, **arguments: Any) -> OpenAICompatibleProvider:
        provider = OpenAICompatibleProvider(
            "up",
            fake_upstream.url + "/v1",
            api_key="key-1",
            quirks=Quirks(**quirks or {}),
            pool_size=4,
            **arguments,
        )
        made.append(provider)
        return provider

    yield build
    for provider in made:
        provider.close()


def ask(body: dict[str, Any], model: str = "m", raw: bytes | None = None) -> ChatRequest:
    """A request for `model`. Its bytes are unusual, so that a test can see whether they were
    sent."""
    if raw is None:
        raw = json.dumps(body, indent=3).encode()
    return ChatRequest(model, body, raw, bool(body.get("stream")))


UNKNOWN = {
    "model": "m",
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}],
        }
    ],
    "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n"}},
    "seed": 7,
    "a_field_of_next_year": {"deep": [1, None, 1.5, "ü"]},
}


# -- requests -----------------------------------------------------------------------------------
def test_a_request_that_needs_no_change_is_sent_as_the_clients_own_bytes(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()), Reply.sse(openai_events()))
    provider = make()
    plain = ask(UNKNOWN)
    provider.complete(plain)
    streamed = ask({**UNKNOWN, "stream": True, "stream_options": {"include_usage": True}})
    list(provider.stream(streamed))
    assert [sent.body for sent in fake_upstream.requests] == [plain.raw, streamed.raw]
    assert fake_upstream.requests[0].path == "/v1/chat/completions"


def test_unknown_fields_survive_a_change(make: Make, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    make().complete(ask(UNKNOWN, model="another"))
    assert fake_upstream.requests[0].json() == {**UNKNOWN, "model": "another"}


def test_integers_beyond_64_bits_survive_a_change(make: Make, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    make().complete(ask({**UNKNOWN, "seed": 2**80}, model="another"))
    assert fake_upstream.requests[0].json()["seed"] == 2**80


def test_a_request_without_bytes_of_its_own_is_encoded(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    make().complete(ChatRequest("m", UNKNOWN))
    assert fake_upstream.requests[0].json() == UNKNOWN


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        ({"include_usage": True, "x": 1}, {"include_usage": True, "x": 1}),
    ],
)
def test_streams_always_ask_for_usage_beside_the_clients_own_options(
    make: Make, fake_upstream: FakeUpstream, given: Any, sent: Any
) -> None:
    fake_upstream.reply(Reply.sse(openai_events()))
    body = {**UNKNOWN, "stream": True} | ({} if given is None else {"stream_options": given})
    list(make().stream(ask(body)))
    assert fake_upstream.requests[0].json() == {**body, "stream_options": sent}


def test_a_server_without_stream_options_never_sees_them(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(openai_events(include_usage=False)))
    list(
        make({"stream_options": False}).stream(
            ask(
                {
                    "model": "m",
                    "messages": [],
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
            )
        )
    )
    assert fake_upstream.requests[0].json() == {"model": "m", "messages": [], "stream": True}


@pytest.mark.parametrize(
    ("quirks", "given", "sent"),
    [
        ({"max_tokens_field": "max_tokens"}, {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (
            {"max_tokens_field": "max_completion_tokens"},
            {"max_tokens": 5},
            {"max_completion_tokens": 5},
        ),
        (
            {"max_tokens_field": "max_tokens"},
            {"max_completion_tokens": 5, "max_tokens": 9},
            {"max_tokens": 9},
        ),
        (
            {"max_tokens_field": "max_completion_tokens", "max_tokens_models": "o1"},
            {"max_tokens": 5},
            {"max_tokens": 5},
        ),
        ({}, {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ({"drop_fields": ["seed", "absent"]}, {"seed": 1, "top_k": 2}, {"top_k": 2}),
    ],
)
def test_quirks_rename_and_drop_fields(
    make: Make,
    fake_upstream: FakeUpstream,
    quirks: dict[str, Any],
    given: dict[str, Any],
    sent: dict[str, Any],
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    make(quirks).complete(ask({"model": "m", "messages": [], **given}))
    assert fake_upstream.requests[0].json() == {"model": "m", "messages": [], **sent}


def test_azures_key_header_path_and_version_are_data(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    from goblin_assistant.providers.presets import PRESETS

    fake_upstream.reply(Reply.json(200, openai_chat()))
    preset = PRESETS["azure"]
    make(dict(preset.options), query=preset.query).complete(ask(UNKNOWN, model="my deployment/1"))
    sent = fake_upstream.requests[0]
    assert (
        sent.path
        == "/v1/openai/deployments/my%20deployment%2F1/chat/completions?api-version=2024-10-21"
    )
    assert sent.headers["api-key"] == "key-1"
    assert "authorization" not in sent.headers


def test_without_a_key_no_credential_is_sent(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    OpenAICompatibleProvider("local", fake_upstream.url, headers={"X-Own": "1"}).complete(
        ask(UNKNOWN)
    )
    assert "authorization" not in fake_upstream.requests[0].headers
    assert fake_upstream.requests[0].headers["x-own"] == "1"


# -- answers ------------------------------------------------------------------------------------
def test_an_answers_bytes_pass_untouched(make: Make, fake_upstream: FakeUpstream) -> None:
    odd = json.dumps({**openai_chat(), "new_field": {"x": [1]}}, indent=2).encode()
    fake_upstream.reply(Reply.plain(200, odd))
    response = make().complete(ask(UNKNOWN))
    assert response.body == odd
    assert (response.model, response.finish_reason) == ("gpt-4o-2024-08-06", "stop")
    assert response.usage == Usage(12, 5, cached_tokens=4, reasoning_tokens=2)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (openai_usage(10, 3, 8, 1), Usage(10, 3, cached_tokens=8, reasoning_tokens=1)),
        ({"prompt_tokens": 10, "completion_tokens": 3}, Usage(10, 3)),
        ({"prompt_tokens": 10}, Usage(10, 0)),
        (
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_cache_hit_tokens": 6},
            Usage(10, 3, cached_tokens=6),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": None},
            Usage(10, 3),
        ),
        (
            {
                "prompt_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 99, "cache_write_tokens": 2},
            },
            Usage(10, 0, 10, 2),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 3}, Usage(0, 3)),
        ({"prompt_tokens": "10", "completion_tokens": True}, None),
        ({"prompt_tokens": 10**30}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_read_with_its_details_and_never_guessed(
    usage: Any, expected: Usage | None
) -> None:
    assert parse_usage(usage) == expected


def test_embeddings_pass_through(make: Make, fake_upstream: FakeUpstream) -> None:
    answer = {
        "object": "list",
        "data": [{"index": 0, "embedding": "AAAA"}],
        "model": "emb",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    fake_upstream.reply(Reply.json(200, answer), Reply.json(200, {"object": "list"}))
    asked = ask({"model": "emb", "input": ["a b c"], "encoding_format": "base64"}, "emb")
    response = make().embed(asked)
    assert (json.loads(response.body), response.model, response.usage) == (
        answer,
        "emb",
        Usage(3, 0),
    )
    assert (fake_upstream.requests[0].path, fake_upstream.requests[0].body) == (
        "/v1/embeddings",
        asked.raw,
    )
    with pytest.raises(BadResponse):
        make().embed(asked)


def test_a_server_without_embeddings_refuses_them(make: Make) -> None:
    with pytest.raises(InvalidRequest):
        make({"embeddings_path": ""}).embed(ask({"input": "x"}))


# -- streams ------------------------------------------------------------------------------------
def run(
    make: Make, upstream: FakeUpstream, events: list[Any], **body: Any
) -> tuple[list[bytes], Completed]:
    """The blocks of a stream of these events, and its Completed."""
    upstream.reply(Reply.sse(events))
    *blocks, completed = make().stream(ask({**UNKNOWN, "stream": True, **body}))
    assert isinstance(completed, Completed)
    return [block for block in blocks if isinstance(block, bytes)], completed


def test_the_usage_chunk_goes_to_clients_that_asked_for_it_only(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    events = openai_events()
    blocks, completed = run(make, fake_upstream, events)
    assert b"".join(blocks) == b"".join(events[:-2])
    assert completed.usage == Usage(12, 5, cached_tokens=4, reasoning_tokens=2)
    blocks, completed = run(make, fake_upstream, events, stream_options={"include_usage": True})
    assert b"".join(blocks) == b"".join(events[:-1])
    assert completed.usage == Usage(12, 5, cached_tokens=4, reasoning_tokens=2)


def test_events_that_arrive_together_are_taken_apart_only_where_something_is_left_out(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    events = openai_events()
    blocks, completed = run(make, fake_upstream, [b"".join(events)])
    assert b"".join(blocks) == b"".join(events[:-2])
    assert (completed.model, completed.finish_reason) == ("gpt-4o-2024-08-06", "stop")


def test_usage_in_the_last_content_chunk_is_counted_and_passed(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    # Mistral and others always send it there.
    events = openai_events(include_usage=False)
    last = json.loads(events[-2][5:])
    events[-2] = f"data: {json.dumps({**last, 'usage': openai_usage(9, 4)})}\n\n".encode()
    blocks, completed = run(make, fake_upstream, events)
    assert b"".join(blocks) == b"".join(events[:-1])
    assert completed.usage == Usage(9, 4)


def counted(index: int, text: str, reason: str | None, tokens: int) -> bytes:
    """A chunk with a running count, as some servers send it with each."""
    choice = {"index": index, "delta": {"content": text} if text else {}, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens}
    chunk = {"model": "m", "choices": [choice], "usage": usage}
    return f"data: {json.dumps(chunk)}\n\n".encode()


@pytest.mark.parametrize(
    ("chunks", "final"),
    [
        pytest.param(
            [(0, "a", None), (0, "", "stop"), (1, "b", None), (1, "c", None), (1, "", "stop")],
            [False, True, False, False, True],
            id="two choices",
        ),
        pytest.param(
            [(0, "a", ""), (0, "b", ""), (0, "", ""), (0, "", "stop")],
            [False, False, False, True],
            id="an empty reason",
        ),
        pytest.param([(0, "a", None), (0, "b", "stop")], [False, True], id="text at the end"),
    ],
)
def test_a_count_in_every_chunk_is_final_in_the_last(
    chunks: list[tuple[int, str, str | None]], final: list[bool]
) -> None:
    progress = Progress()
    observer = StreamObserver("up", {}, drop_usage=False, progress=progress)
    found = []
    for tokens, (index, text, reason) in enumerate(chunks, 1):
        assert observer.feed(event := counted(index, text, reason, tokens)) == event
        found.append(progress.final)
    assert found == final
    assert observer.completed().finish_reason == "stop"


def test_text_that_looks_like_the_protocol_is_only_text(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    text = 'say [DONE] and "error" and "usage":{ and "finish_reason":"stop" twice'
    blocks, completed = run(make, fake_upstream, openai_events(text))
    assert collect([*blocks, completed])[0] == text


def test_a_stream_without_done_but_with_a_finish_reason_is_complete(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    _, completed = run(make, fake_upstream, openai_events(done=False))
    assert completed.finish_reason == "stop"


def test_a_last_line_without_its_empty_line_counts(make: Make, fake_upstream: FakeUpstream) -> None:
    *events, _ = openai_events(include_usage=False)
    _, completed = run(make, fake_upstream, [*events, b"data: [DONE]"])
    assert completed.finish_reason == "stop"


def test_comments_in_the_middle_pass_and_those_before_the_first_event_do_not(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    first, *rest = openai_events()
    blocks, _ = run(
        make, fake_upstream, [b": OPENROUTER PROCESSING\n\n", first, b": still here\n\n", *rest]
    )
    assert b"".join(blocks).startswith(first + b": still here\n\n")


def test_nothing_after_done_is_passed_on(make: Make, fake_upstream: FakeUpstream) -> None:
    events = openai_events()
    blocks, _ = run(make, fake_upstream, [b"".join(events) + b"data: {}\n\n", b"data: {}\n\n"])
    assert b"data: {}" not in b"".join(blocks)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "rate_limit_exceeded", "type": "requests"}, RateLimited),
        ({"code": None, "type": "overloaded_error"}, Overloaded),
        (
            {"code": "context_length_exceeded", "type": "invalid_request_error"},
            ContextLengthExceeded,
        ),
        ({"code": "content_filter"}, ContentFiltered),
        ({"code": 429}, RateLimited),
        ({"code": 502, "metadata": {"provider_name": "x"}}, BadResponse),
        ({"code": 503}, Overloaded),
        ({"code": 401}, AuthenticationFailed),
        ({"code": "invalid_api_key"}, AuthenticationFailed),
        ({"code": 404}, ModelNotFound),
        ({"code": "provider_timeout"}, Timeout),
        ({"type": "server_error", "code": "oops"}, BadResponse),
        ({}, BadResponse),
        ("text", BadResponse),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_typed_by_its_code(
    make: Make, fake_upstream: FakeUpstream, error: Any, expected: type[ProviderError]
) -> None:
    if isinstance(error, dict):
        error = {"message": CANARY, **error}
    fake_upstream.reply(
        Reply.sse([*openai_events()[:3], f"data: {json.dumps({'error': error})}\n\n".encode()])
    )
    got: list[Any] = []
    with pytest.raises(ProviderError) as caught:
        got.extend(make().stream(ask({**UNKNOWN, "stream": True})))
    assert type(caught.value) is expected
    assert CANARY not in str(caught.value)
    assert b"".join(got) == b"".join(openai_events()[:3])  # one read gives one block


# -- errors by code -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            openai_error("invalid_request_error", "context_length_exceeded", "messages"),
            ContextLengthExceeded,
        ),
        (400, openai_error("invalid_request_error", "content_policy_violation"), ContentFiltered),
        (
            400,
            {
                "error": {
                    "code": "content_filter",
                    "innererror": {"code": "ResponsibleAIPolicyViolation"},
                }
            },
            ContentFiltered,
        ),
        (400, {"error": {"type": "exceed_context_size_error", "code": 400}}, ContextLengthExceeded),
        (400, openai_error("invalid_request_error", "model_not_found"), ModelNotFound),
        (
            400,
            [
                {
                    "error": {
                        "code": 400,
                        "status": "INVALID_ARGUMENT",
                        "details": [{"reason": "API_KEY_INVALID"}],
                    }
                }
            ],
            AuthenticationFailed,
        ),
        (
            400,
            {"object": "error", "type": "BadRequestError", "code": 400, "param": None},
            InvalidRequest,
        ),
        (400, "context_length_exceeded in a text is no code", InvalidRequest),
        (400, {"error": f"context_length_exceeded {CANARY}"}, InvalidRequest),
        (400, {"error": {"message": "context_length_exceeded"}}, InvalidRequest),
        (404, openai_error("invalid_request_error", "model_not_found"), ModelNotFound),
        (429, openai_error("insufficient_quota", "insufficient_quota"), RateLimited),
        (402, openai_error(), RateLimited),
        (500, openai_error("server_error"), BadResponse),
        (500, openai_error("server_error", "context_length_exceeded"), ContextLengthExceeded),
    ],
)
def test_an_error_is_typed_by_status_first_then_by_code_and_never_by_text(
    make: Make, fake_upstream: FakeUpstream, status: int, body: Any, expected: type[ProviderError]
) -> None:
    fake_upstream.reply(Reply.json(status, body))
    with pytest.raises(ProviderError) as caught:
        make().complete(ask(UNKNOWN))
    assert type(caught.value) is expected
    assert CANARY not in str(caught.value)


def test_a_spent_quota_is_not_worth_a_retry_here(make: Make, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(
        Reply.json(
            429, openai_error("insufficient_quota", "insufficient_quota"), {"Retry-After": "1"}
        )
    )
    with pytest.raises(RateLimited) as caught:
        make().complete(ask(UNKNOWN))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 86400 / 48


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        ("seed", "seed"),
        ("messages[0].content", "messages"),
        ("tools.0.function", "tools"),
        (CANARY, None),
        (7, None),
    ],
)
def test_a_param_is_shown_only_if_it_is_a_field_that_the_client_sent(
    make: Make, fake_upstream: FakeUpstream, param: Any, shown: str | None
) -> None:
    body = openai_error("invalid_request_error", None, param)
    fake_upstream.reply(
        Reply.json(400, body),
        Reply.sse(
            [openai_events()[0], b"data: " + json.dumps({**body, "code": 400}).encode() + b"\n\n"]
        ),
    )
    with pytest.raises(InvalidRequest) as caught:
        make().complete(ask(UNKNOWN))
    assert caught.value.param == shown


def test_an_error_with_status_200_is_an_error(make: Make, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(
        Reply.json(200, {"error": {"code": 429, "message": CANARY}}),
        Reply.json(200, openai_error()),
    )
    with pytest.raises(RateLimited):
        make().complete(ask(UNKNOWN))
    with pytest.raises(BadResponse):
        make().complete(ask(UNKNOWN))


# -- catalogue ----------------------------------------------------------------------------------
def test_a_check_learns_the_catalogue_unless_the_row_declares_it(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    listed = {
        "object": "list",
        "data": [
            {"id": "models/chat-1", "context_length": 8192},
            {"id": "text-embedding-9"},
            {"id": "whisper-2"},
            {"id": "bad\nid"},
            {"id": 7},
            "x",
            {"id": "models/chat-1"},
        ],
    }
    fake_upstream.default = Reply.json(200, listed)
    learner = make({"model_id_prefix": "models/"}, fallback_models=[Model("before")])
    assert [model.id for model in learner.models()] == ["before"]
    learner.check()
    assert learner.models() == (
        Model("chat-1"),
        Model("text-embedding-9", frozenset({"embeddings"})),
    )
    known = learner.models()
    learner.check()
    assert learner.models() is known  # unchanged, so the registry's cache stays valid
    assert learner.serves("anything-else")
    declared = make(models=[Model("only")])
    declared.check()
    assert declared.models() == (Model("only"),)
    assert declared.serves("only")
    assert not declared.serves("chat-1")


def test_a_bare_list_of_models_is_understood_and_bounded(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, [{"id": f"m-{i}"} for i in range(3000)]))
    provider = make()
    provider.check()
    assert len(provider.models()) == 2000


@pytest.mark.parametrize("body", [b"{}", b"[1", b"<html>", b'{"data": 3}'])
def test_an_answer_without_a_list_of_models_is_a_bad_response(
    make: Make, fake_upstream: FakeUpstream, body: bytes
) -> None:
    fake_upstream.reply(Reply.plain(200, body))
    with pytest.raises(BadResponse):
        make().check()


def test_a_server_without_a_list_is_up_if_it_answers(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    provider = make({"models_path": ""})
    fake_upstream.reply(
        Reply.plain(404, b"no"),
        Reply.plain(200, b"<html>", "text/html"),
        Reply.plain(500, b""),
        Reply.plain(401, b""),
    )
    provider.check()
    provider.check()
    with pytest.raises(BadResponse):
        provider.check()
    with pytest.raises(AuthenticationFailed):
        provider.check()


def test_an_error_about_a_renamed_limit_names_the_clients_field(
    make: Make, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(400, openai_error("invalid_request_error", param="max_tokens")))
    with pytest.raises(InvalidRequest) as caught:
        make({"max_tokens_field": "max_tokens"}).complete(
            ask({"model": "m", "messages": [], "max_completion_tokens": 5})
        )
    assert "max_tokens" in fake_upstream.requests[-1].json()
    assert caught.value.param == "max_completion_tokens"
