"""Requests that were once billed too little, each kind through the whole application."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from goblin_assistant import metrics
from goblin_assistant.config.goblin_file import GoblinFile
from goblin_assistant.providers.answer_limits import LIMIT_FIELDS, limit_in
from goblin_assistant.providers.anthropic.observer import StreamObserver
from goblin_assistant.providers.anthropic.provider import AnthropicProvider
from goblin_assistant.providers.anthropic.stream import Translator
from goblin_assistant.providers.base import ChatRequest, Model, Progress
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.request import RequestEncoder
from goblin_assistant.usage.estimates import estimate_prompt_tokens, most_prompt_tokens
from goblin_assistant.usage.images import image_size
from tests.conftest import MakeApp, register
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat, openai_events, openai_usage
from tests.usage.test_billing import BODY, PROMPT_ESTIMATE, Bench


@pytest.fixture
def bench(make_app: MakeApp, fake_upstream: FakeUpstream) -> Bench:
    return Bench(make_app, fake_upstream)


# -- two limits in one request ------------------------------------------------------------------
@pytest.mark.parametrize(
    "limits",
    [
        {"max_completion_tokens": 1, "max_tokens": 50_000},
        {"max_completion_tokens": 50_000, "max_tokens": 1},
        {"max_tokens": 1, "n_predict": 50_000},
        {"max_tokens": 1, "max_new_tokens": 5e4},
        {"max_tokens": 500, "n": 1, "best_of": 100},
    ],
)
def test_of_several_limits_the_largest_is_reserved(bench: Bench, limits: dict[str, Any]) -> None:
    assert bench.chat(bench.key("0.01"), **limits).status_code == 402


@pytest.mark.parametrize("field", [None, "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    "limits",
    [
        {"max_completion_tokens": 1, "max_tokens": 50},
        {"max_completion_tokens": 50, "max_tokens": 1},
        {"max_completion_tokens": 7, "max_tokens": None},
        {"max_completion_tokens": None, "max_tokens": 7, "n_predict": 9},
    ],
)
def test_one_limit_goes_upstream_and_no_more_than_was_reserved(
    fake_upstream: FakeUpstream, field: Any, limits: dict[str, Any]
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    provider = OpenAICompatibleProvider(
        "row", fake_upstream.url, quirks=Quirks(max_tokens_field=field), models=[Model("m")]
    )
    provider.complete(ChatRequest("m", {"model": "m", "messages": [], **limits}))
    sent = fake_upstream.requests[0].json()
    named = {name: sent[name] for name in sent if name not in ("model", "messages")}
    assert len(named) == 1
    assert None not in named.values()
    assert max(named.values()) <= max(value for value in limits.values() if value is not None)
    assert field is None or field in named
    provider.close()


UNREAD: tuple[dict[str, Any], ...] = (
    {"n_predict": 1},
    {"max_output_tokens": 1},
    {"max_new_tokens": 0},
    {"max_completion_tokens": 1},
    {"max_output_tokens": -1, "n_predict": 5},
    {"max_output_tokens": True, "n_predict": 5},
    {"max_new_tokens": "abc", "n_predict": 5},
    {"max_new_tokens": [1], "n_predict": "7"},
    {"max_tokens": None, "n_predict": 2.5},
    {"max_tokens": 3, "n_predict": 9},
    {"n_predict": -1},
)


@pytest.mark.parametrize("limits", UNREAD)
@pytest.mark.parametrize("limited", ["monthly_budget_usd", "tokens_per_minute"])
def test_what_is_held_is_sent_under_the_name_that_the_row_reads(
    bench: Bench, fake_upstream: FakeUpstream, limits: dict[str, Any], limited: str
) -> None:
    made = bench.client.post(
        "/auth/keys",
        json={"name": "t", limited: "0.45" if limited.startswith("m") else 5000},
        headers=bench.user,
    )
    fake_upstream.reply(Reply.json(200, openai_chat()))
    key = {"Authorization": f"Bearer {made.get_json()['key']}"}
    assert bench.chat(key, **limits).status_code == 200
    sent = fake_upstream.requests[-1].json()
    largest = max(limit_in(value) or 0 for value in limits.values())
    named = {name: sent[name] for name in LIMIT_FIELDS if name in sent}
    default = limits == {"n_predict": -1}
    assert named == {"max_tokens": 4096 if default else max(1, largest)}


@pytest.mark.parametrize(
    ("quirks", "given", "sent"),
    [
        ({}, "max_completion_tokens", "max_tokens"),
        ({}, "max_tokens", "max_tokens"),
        ({"max_tokens_field": "max_tokens"}, "max_completion_tokens", "max_tokens"),
        (
            {"max_tokens_field": "max_tokens", "max_tokens_models": "other"},
            "max_completion_tokens",
            "max_tokens",
        ),
        ({"max_tokens_field": "max_completion_tokens"}, "max_tokens", "max_completion_tokens"),
        # Such a server knows both names, whatever the deployment is called.
        (
            {"max_tokens_field": "max_completion_tokens", "max_tokens_models": "o1"},
            "max_completion_tokens",
            "max_completion_tokens",
        ),
        (
            {"max_tokens_field": "max_completion_tokens", "max_tokens_models": "o1"},
            "max_tokens",
            "max_tokens",
        ),
    ],
)
def test_the_row_says_under_which_name_a_held_limit_is_sent(
    quirks: dict[str, Any], given: str, sent: str
) -> None:
    request = ChatRequest("m", {"model": "m", "messages": [], given: 5}, held_limit=True)
    encoded = RequestEncoder(Quirks(**quirks)).encode(request, stream=False)
    assert json.loads(encoded) == {"model": "m", "messages": [], sent: 5}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"n_predict": -1}, {"n_predict": -1}),
        ({"n_predict": 5, "max_tokens": None}, {"n_predict": 5}),
        ({"max_output_tokens": "abc", "n_predict": 5}, {"n_predict": 5}),
        ({"max_output_tokens": -1, "n_predict": [5]}, {}),
        ({"max_output_tokens": 3, "n_predict": 5}, {"max_tokens": 5}),
        ({"max_tokens": 3, "n_predict": 5}, {"max_tokens": 3}),
    ],
)
def test_where_nothing_is_held_one_limit_passes_and_of_several_one_that_can_be_read(
    given: dict[str, Any], sent: dict[str, Any]
) -> None:
    request = ChatRequest("m", {"model": "m", "messages": [], **given})
    encoded = RequestEncoder(Quirks()).encode(request, stream=False)
    assert json.loads(encoded) == {"model": "m", "messages": [], **sent}


def test_anthropic_is_sent_no_limit_by_another_name(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(
        Reply.json(200, {"type": "message", "content": [], "usage": {"input_tokens": 1}})
    )
    provider = AnthropicProvider("claude", fake_upstream.url, models=[Model("m")])
    body = {
        "model": "m",
        "messages": [],
        "max_tokens": 5,
        "max_completion_tokens": 9,
        "n_predict": 9,
    }
    provider.complete(ChatRequest("m", body, dialect="anthropic"))
    assert fake_upstream.requests[0].json() == {"model": "m", "messages": [], "max_tokens": 5}
    provider.close()


def test_a_key_with_a_budget_sends_the_limit_that_was_reserved_where_its_chat_has_none(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()), Reply.json(200, openai_chat()))
    bench.chat(bench.key("1.00"))
    bench.chat()
    with_budget, without = (request.json() for request in fake_upstream.requests[1:])
    assert with_budget["max_tokens"] == 4096
    assert "max_tokens" not in without


def test_tokens_a_minute_hold_the_larger_limit_and_what_a_minute_leaves_where_there_is_none(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    made = bench.client.post(
        "/auth/keys", json={"name": "t", "tokens_per_minute": 100}, headers=bench.user
    )
    key = {"Authorization": f"Bearer {made.get_json()['key']}"}
    assert bench.chat(key, max_completion_tokens=1, max_tokens=5000).status_code == 429
    fake_upstream.reply(Reply.json(200, openai_chat()))
    assert bench.chat(key).status_code == 200
    assert fake_upstream.requests[-1].json()["max_tokens"] == 100 - PROMPT_ESTIMATE


# -- streams that nobody counted ------------------------------------------------------------------
@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x" * 40_000},
        {"reasoning_content": "x" * 40_000},
        {"reasoning": "x" * 40_000, "reasoning_details": [{"text": "x" * 40_000}]},
        {"refusal": "x" * 40_000},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"arguments": "x" * 40_000}}]},
        {"content": [{"type": "text", "text": "x" * 40_000}]},
        {"content": "ж" * 20_000},
    ],
)
@pytest.mark.parametrize("end", ["nobody counts", "the provider breaks off", "the client leaves"])
def test_a_stream_that_nobody_counted_costs_a_quarter_of_its_bytes(
    bench: Bench, fake_upstream: FakeUpstream, delta: dict[str, Any], end: str
) -> None:

    events = openai_events(text="a", include_usage=False)
    chunk = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    events[1:1] = [f"data: {json.dumps(chunk)}\n\n".encode()]
    fake_upstream.reply(
        Reply.sse([*events[:3], CUT] if end == "the provider breaks off" else events)
    )
    answer = bench.client.post(
        "/chat/completions", json={**BODY, "stream": True}, headers=bench.user, buffered=False
    )
    pieces: Iterator[bytes] = iter(answer.response)
    got = b""
    for piece in pieces:
        got += piece
        if end == "the client leaves" and len(got) > 40_000:
            break
    answer.close()
    prompt, completion, source, *_ = bench.record()
    assert (prompt, source) == (PROMPT_ESTIMATE, "estimated")
    assert 10_000 <= completion < 10_010


def test_a_long_stream_is_counted_a_part_at_a_time(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    text = " ".join(["word" * 10] * 2000)
    fake_upstream.reply(Reply.sse(openai_events(text=text, include_usage=False)))
    bench.chat(stream=True)
    assert len(text) / 4 <= bench.record()[1] < len(text) / 4 * 1.1


def test_what_was_reported_before_a_stream_was_cut_is_the_floor(
    bench: Bench, fake_upstream: FakeUpstream
) -> None:
    chunk = {
        "id": "c", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
        "usage": {"prompt_tokens": 5000, "completion_tokens": 50},
    }  # fmt: skip
    event = f"data: {json.dumps(chunk)}\n\n".encode()
    fake_upstream.reply(Reply.sse([event, CUT]))
    bench.chat(stream=True)
    assert bench.record()[:2] == (5000, 50)


def chunk_of(delta: dict[str, Any] | None, reason: str | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return f"data: {json.dumps({'id': 'c', 'choices': choices, **fields})}\n\n".encode()


TEXT = [chunk_of({"content": "x" * 4000})] * 10
ROLE = chunk_of({"role": "assistant", "content": ""})
STOP = chunk_of({}, "stop")
DONE = b"data: [DONE]\n\n"
COUNTED = {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}
UNCOUNTED = {"usage": {"prompt_tokens": 5, "completion_tokens": 0}}


@pytest.mark.parametrize(
    "events",
    [
        [ROLE, chunk_of(None, **COUNTED), *TEXT, STOP, DONE],
        [ROLE, chunk_of({"content": "a"}, "stop", **COUNTED), *TEXT, DONE],
        [ROLE, STOP, chunk_of(None, **COUNTED), *TEXT, DONE],
        [ROLE, chunk_of(None, **COUNTED), *TEXT, STOP, chunk_of(None, **UNCOUNTED), DONE],
        [chunk_of({"content": "a"}, **COUNTED), *TEXT, chunk_of({}, "stop", **UNCOUNTED), DONE],
    ],
)
def test_a_count_that_came_before_the_text_is_only_the_floor(
    bench: Bench, fake_upstream: FakeUpstream, events: list[bytes]
) -> None:
    fake_upstream.reply(Reply.sse(events))
    bench.chat(stream=True)
    prompt, completion, source = bench.record()[:3]
    assert (prompt, source) == (5, "estimated")
    assert 10_000 <= completion < 10_020


@pytest.mark.parametrize(
    "events",
    [
        [ROLE, *TEXT, STOP, chunk_of(None, **COUNTED), DONE],
        [ROLE, *TEXT, chunk_of({}, "stop", **COUNTED), DONE],
        [ROLE, *TEXT, chunk_of(None, **COUNTED), STOP, DONE],
        [ROLE, chunk_of(None, **COUNTED), *TEXT, STOP, chunk_of(None, **COUNTED), DONE],
    ],
)
def test_a_count_behind_the_text_is_what_is_booked(
    bench: Bench, fake_upstream: FakeUpstream, events: list[bytes]
) -> None:
    fake_upstream.reply(Reply.sse(events))
    bench.chat(stream=True)
    assert bench.record()[:3] == (5, 1, "provider")


def claude(kind: str, **fields: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


CLAUDE_START = claude("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}})
CLAUDE_TEXT = claude("content_block_delta", index=0, delta={"type": "text_delta", "text": "x"})
CLAUDE_STOP = claude("message_stop")


def claude_end(tokens: Any) -> bytes:
    usage = {"output_tokens": tokens}
    return claude("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize(
    ("events", "final"),
    [
        ([CLAUDE_START, CLAUDE_TEXT, claude_end(7), CLAUDE_STOP], True),
        ([CLAUDE_START, claude_end(7), CLAUDE_TEXT, CLAUDE_STOP], False),
        ([CLAUDE_START, claude_end(7), CLAUDE_TEXT, claude_end(9), CLAUDE_STOP], True),
        ([CLAUDE_START, CLAUDE_TEXT, claude_end(0), CLAUDE_STOP], False),
        ([CLAUDE_START, CLAUDE_TEXT, claude_end("7"), CLAUDE_STOP], False),
        ([CLAUDE_START, CLAUDE_TEXT, claude_end(7), claude_end(0), CLAUDE_STOP], False),
        ([CLAUDE_START, CLAUDE_TEXT, CLAUDE_STOP], False),
    ],
)
def test_anthropics_count_is_final_if_it_is_one_and_no_text_followed(
    events: list[bytes], final: bool, translated: bool
) -> None:
    progress = Progress()
    observer = (
        Translator("claude", progress, include_usage=True)
        if translated
        else StreamObserver("claude", progress)
    )
    for event in events:
        observer.feed(event)
    assert observer.completed().usage is not None
    assert progress.final is final


# -- absurd counts ---------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": -5, "completion_tokens": -5}, (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": 2**40, "completion_tokens": 2**40}, (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": 2**39, "completion_tokens": 3}, (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": 50, "completion_tokens": 2**33}, (50, 10)),
        ({"prompt_tokens": "50", "completion_tokens": "7"}, (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": True, "completion_tokens": True}, (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": 50, "completion_tokens": None}, (50, 10)),
        ({"prompt_tokens": 50, "completion_tokens": 0}, (50, 10)),
        ({"prompt_tokens": 50.5, "completion_tokens": 7.5}, (PROMPT_ESTIMATE, 10)),
        ("lots", (PROMPT_ESTIMATE, 10)),
        ({"prompt_tokens": 50.0, "completion_tokens": 7.0}, (50, 7)),
    ],
)
def test_a_count_that_cannot_be_true_is_estimated(
    bench: Bench, fake_upstream: FakeUpstream, usage: Any, expected: tuple[int, int], stream: bool
) -> None:
    text = "y" * 40
    events = openai_events(text=text, usage=openai_usage(50, 7))
    if stream:
        end = {"id": "c", "choices": [], "usage": usage}
        events = [event for event in events if b'"usage":{' not in event and b"[DONE]" not in event]
        fake_upstream.reply(
            Reply.sse([*events, f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode()])
        )
    else:
        fake_upstream.reply(Reply.json(200, {**openai_chat(text=text), "usage": usage}))
    bench.chat(bench.key("1.00"), stream=stream, max_tokens=100)
    prompt, completion, source, *_ = bench.record()
    assert (prompt, completion) == expected
    assert source == ("provider" if expected == (50, 7) else "estimated")


def test_absurd_counts_are_counted_and_logged_once_a_model(
    bench: Bench, fake_upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    counter = metrics.provider_usage_unusable_total.labels("fake", "gpt-4o")
    before = counter._value.get()
    answer = {**openai_chat(), "usage": {"prompt_tokens": -1, "completion_tokens": 2**40}}
    fake_upstream.reply(*[Reply.json(200, answer)] * 3)
    for _ in range(3):
        bench.chat()
    assert counter._value.get() - before == 3
    assert [record.message for record in caplog.records].count("usage_unusable") == 1


# -- embeddings ------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [-1e9, 10**9, "abc", [1], {}, True, None])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "best_of"])
def test_embeddings_hold_their_prompt_whatever_else_their_body_says(
    bench: Bench, fake_upstream: FakeUpstream, limit: Any, name: str
) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.1]}
    usage = {"prompt_tokens": 40, "total_tokens": 40}
    fake_upstream.reply(
        *[Reply.json(200, {"object": "list", "data": [vector], "model": "m", "usage": usage})] * 9
    )
    made = bench.client.post(
        "/auth/keys",
        json={
            "name": "e",
            "scopes": ["embeddings"],
            "tokens_per_minute": 100,
            "monthly_budget_usd": "0.01",
        },
        headers=bench.user,
    )
    key = {"Authorization": f"Bearer {made.get_json()['key']}"}
    body = {"model": "fake/gpt-4o", "input": "x" * 160, name: limit}
    statuses = [
        bench.client.post("/v1/embeddings", json=body, headers=key).status_code for _ in range(4)
    ]
    assert statuses == [200, 200, 429, 429]


@pytest.mark.parametrize("messages", [[], [1], [{"content": 5}]])
def test_embeddings_read_no_messages(make_app: MakeApp, messages: Any) -> None:
    file = GoblinFile.model_validate({"prices": {"echo/*": {"input": 10, "output": 10}}})
    client = make_app(file=file).test_client()
    user = {"Authorization": f"Bearer {register(client)['access_token']}"}
    made = client.post(
        "/auth/keys",
        json={"name": "e", "scopes": ["embeddings"], "monthly_budget_usd": "0.01"},
        headers=user,
    )
    key = {"Authorization": f"Bearer {made.get_json()['key']}"}
    body = {"model": "echo", "input": "word " * 4000, "messages": messages}
    assert client.post("/v1/embeddings", json=body, headers=key).status_code == 402


# -- prompts that are larger than they look --------------------------------------------------------
@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"web_search_options": {}},
    ],
)
@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({"monthly_budget_usd": "0.10"}, 402),
        ({"tokens_per_minute": 100_000}, 429),
        ({"monthly_budget_usd": "100", "tokens_per_minute": 1_000_000}, 200),
    ],
)
def test_a_small_key_is_refused_what_the_provider_fetches_itself(
    bench: Bench,
    fake_upstream: FakeUpstream,
    fields: dict[str, Any],
    limits: dict[str, Any],
    status: int,
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()))
    made = bench.client.post(
        "/auth/keys", json={"name": "k", "scopes": ["chat"], **limits}, headers=bench.user
    )
    answer = bench.client.post(
        "/v1/chat/completions",
        json={**BODY, "max_tokens": 5, **fields},
        headers={"Authorization": f"Bearer {made.get_json()['key']}"},
    )
    assert answer.status_code == status, answer.data


# -- estimates that could be fooled ---------------------------------------------------------------
def said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


LONG = "data:image/png;base64," + "x" * 400_000


@pytest.mark.parametrize(
    "body",
    [
        said(LONG),
        said([{"type": "text", "text": LONG}]),
        said([{"type": "image_url", "image_url": {"url": "https://a/b.png"}, "text": LONG}]),
        said([{"type": "image_url", "image_url": {"url": "https://a/b.png", "note": LONG}}]),
        said([{"type": "image", "source": {"type": "text", "text": LONG}}]),
        said([{"type": "tool_use", "input": {"type": "image_url", "image_url": {"url": LONG}}}]),
        said([{"type": "file", "file": {"file_data": "data:text/plain;base64," + "x" * 400_000}}]),
        said("hi", prediction={"type": "content", "content": LONG}),
        said("hi", documents=[{"text": LONG}]),
        said("hi", tools=[{"description": LONG}]),
        said(
            "hi",
            tools=[{"parameters": {"type": "image", "source": {"type": "base64", "data": LONG}}}],
        ),
        said("hi", instructions=LONG),
        said("hi", metadata={"note": LONG}),
        said("hi", something_new={"a": [{"b": LONG}]}),
        said("hi", response_format={"json_schema": {"schema": {LONG: {}}}}),
        {"input": [LONG]},
        {**said("hi"), "system": [{"type": "text", "text": LONG}]},
    ],
)
def test_every_text_that_goes_upstream_is_counted(body: dict[str, Any]) -> None:
    assert estimate_prompt_tokens(body) >= 100_000
    assert most_prompt_tokens(body) >= 133_000


def test_a_request_of_an_image_like_text_is_refused_by_a_small_budget(bench: Bench) -> None:
    messages = [{"role": "user", "content": LONG}]
    assert bench.chat(bench.key("0.05"), messages=messages, max_tokens=1).status_code == 402


def png(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0" * 4
    )


def jpeg(width: int, height: int) -> bytes:
    notes = b"\xff\xe1" + struct.pack(">H", 40_002) + b"n" * 40_000
    return (
        b"\xff\xd8" + notes + b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\0" * 30
    )


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size + b"\0" * 8


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0" * 30


@pytest.mark.parametrize("make", [png, jpeg, webp, gif])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (3000, 2000)])
def test_an_image_tells_its_size(make: Any, size: tuple[int, int]) -> None:
    data = base64.b64encode(make(*size)).decode()
    assert image_size(data) == image_size("data:image/any;base64," + data) == size
    assert image_size(data[:20]) is None


def test_an_image_counts_by_its_pixels_and_at_most_so_much() -> None:
    def cost(size: int, count: Any) -> int:
        url = "data:image/png;base64," + base64.b64encode(png(size, size)).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        return int(count(said(parts)) - count(said([])))

    assert [cost(size, estimate_prompt_tokens) for size in (16, 750, 5000)] == [260, 750, 1600]
    assert [cost(size, most_prompt_tokens) for size in (16, 750, 5000)] == [260, 1407, 4800]
    assert (
        most_prompt_tokens(
            said([{"type": "image_url", "image_url": {"url": "https://a/b"}}]), ["gpt-4o-mini"]
        )
        > 160_000
    )


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_minus_one_is_no_limit_for_every_row(
    bench: Bench, fake_upstream: FakeUpstream, field: str
) -> None:
    fake_upstream.reply(Reply.json(200, openai_chat()), Reply.json(200, openai_chat()))
    assert bench.chat(**{field: -1}).status_code == 200
    assert field not in fake_upstream.requests[-1].json()
    assert bench.chat(bench.key("1.00"), **{field: -1}).status_code == 200
    sent = fake_upstream.requests[-1].json()
    assert {name: sent[name] for name in LIMIT_FIELDS if name in sent} == {"max_tokens": 4096}
    for refused in (0, -2):
        assert bench.chat(**{field: refused}).status_code == 400
