"""The embedded provider: what it answers, and how it simulates a slow or faulty one."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import random
import struct
import threading
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    CallCancelled,
    ChatRequest,
    Completed,
    InvalidRequest,
    Overloaded,
    ProviderError,
    RateLimited,
    Timeout,
)
from goblin_assistant.providers.echo import answers
from goblin_assistant.providers.echo.answers import INTRODUCTION, count_tokens, instance_of
from goblin_assistant.providers.echo.provider import EchoProvider
from goblin_assistant.providers.echo.simulation import SimulationOptions, distribution
from tests.support.provider_wires import collect, whole

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 2},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time"}},
]


def ask(text: str = "hello there", **fields: Any) -> ChatRequest:
    """A chat with one message, unless `fields` has `messages`."""
    return ChatRequest(
        "echo", {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}
    )


def sim(**options: Any) -> EchoProvider:
    """A simulating provider."""
    return EchoProvider("sim", SimulationOptions(**options))


# -- answers ------------------------------------------------------------------------------------
def test_it_says_what_it_is_and_repeats_the_last_message() -> None:
    response = EchoProvider().complete(ask("hello  there\nfriend"))
    assert whole(response.body)[0] == f"{INTRODUCTION} hello  there\nfriend"
    assert "not a language model" in INTRODUCTION


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 4},
        {"max_completion_tokens": 0},
        {"stop": [" model"]},
        {"n": 3},
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "get_time"}}},
        {"response_format": {"type": "json_object"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "w", "schema": WEATHER},
            }
        },
    ],
)
def test_streaming_and_not_give_the_same(fields: dict[str, Any]) -> None:
    provider = EchoProvider()
    response = provider.complete(ask(**fields))
    text, calls, completed = collect(list(provider.stream(ask(**fields))))
    assert (text, calls) == (whole(response.body)[0] * fields.get("n", 1), whole(response.body)[1])
    assert (response.usage, response.finish_reason) == (completed.usage, completed.finish_reason)
    assert provider.complete(ask(**fields)).usage == response.usage


def test_tokens_are_words() -> None:
    assert count_tokens(" one  two\nthree ") == 3
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a b c"}, {"type": "image_url"}]},
    ]
    usage = EchoProvider().complete(ask(messages=messages)).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, count_tokens(INTRODUCTION) + 3)


def test_a_stream_comes_word_by_word_and_ends_with_completed() -> None:
    *blocks, last = EchoProvider().stream(ask("a b"))
    assert isinstance(last, Completed)
    assert (
        len(blocks) == 1 + count_tokens(INTRODUCTION) + 2 + 1
    )  # the role, the words, the finish reason


def test_the_usage_chunk_is_sent_when_asked_for() -> None:
    *_, block, completed = EchoProvider().stream(ask(stream_options={"include_usage": True}))
    assert isinstance(block, bytes)
    chunk = json.loads(block[5:])
    assert chunk["choices"] == []
    assert isinstance(completed, Completed)
    assert completed.usage is not None
    assert chunk["usage"]["completion_tokens"] == completed.usage.completion_tokens


@pytest.mark.parametrize(
    ("text", "fields", "called"),
    [
        ("hello", {}, []),
        ("use get_time please", {}, ["get_time"]),
        ("get_time, get_weather!", {}, ["get_weather", "get_time"]),
        ("get_time, get_weather!", {"parallel_tool_calls": False}, ["get_weather"]),
        ("hello", {"tool_choice": "required"}, ["get_weather"]),
        ("use get_time", {"tool_choice": "none"}, []),
        (
            "hello",
            {"tool_choice": {"type": "function", "function": {"name": "get_time"}}},
            ["get_time"],
        ),
    ],
)
def test_tools_are_called_by_the_written_rule(
    text: str, fields: dict[str, Any], called: list[str]
) -> None:
    response = EchoProvider().complete(ask(text, tools=TOOLS, **fields))
    calls = whole(response.body)[1]
    assert [name for name, _ in calls] == called
    assert response.finish_reason == ("tool_calls" if called else "stop")
    for name, arguments in calls:
        jsonschema.validate(arguments, WEATHER if name == "get_weather" else {})


def test_after_a_tools_result_the_answer_is_text() -> None:
    messages = [
        {"role": "user", "content": "use get_time"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_echo_0", "function": {"name": "get_time", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_echo_0", "content": "noon"},
    ]
    assert whole(EchoProvider().complete(ask(tools=TOOLS, messages=messages)).body) == (
        f"{INTRODUCTION} noon",
        [],
    )


def test_structured_output_fits_its_schema() -> None:
    schema = {
        "$defs": {
            "step": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/step"}, "n": {"type": "number"}},
                "required": ["n"],
            }
        },
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 2},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "kind": {"const": "k"},
            "flag": {"type": ["boolean", "null"]},
        },
        "required": ["steps", "maybe", "kind", "flag"],
        "additionalProperties": False,
    }
    jsonschema.validate(instance_of(schema), schema)
    text, _ = whole(
        EchoProvider()
        .complete(
            ask(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": schema},
                }
            )
        )
        .body
    )
    jsonschema.validate(json.loads(text), schema)


def test_a_schema_made_to_explode_does_not() -> None:
    node: dict[str, Any] = {"type": "array", "minItems": 8}
    node["items"] = {"$ref": "#"}
    started = time.process_time()
    instance_of(node)
    assert time.process_time() - started < 1.0


SCHEMA_KEYS = "type properties items $ref enum anyOf minItems minimum required"
OTHER_KEYS = "function name parameters text role content json_schema schema"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(f"{SCHEMA_KEYS} {OTHER_KEYS}".split()),
        inner | st.sampled_from(
            ["object", "array", "integer", "user", "#/x", "json_schema", "required"]
        ),
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "messages",
                "tools",
                "tool_choice",
                "response_format",
                "n",
                "stop",
                "max_tokens",
                "stream_options",
                "input",
                "dimensions",
            ]
        ),
        JSON,
    )
)
def test_invalid_bodies_are_refused_or_answered(body: dict[str, Any]) -> None:
    provider = EchoProvider()
    for operation in (provider.complete, lambda r: list(provider.stream(r)), provider.embed):
        with contextlib.suppress(InvalidRequest):
            operation(ChatRequest("echo", {"messages": [{"role": "user", "content": "x"}], **body}))


# -- embeddings ---------------------------------------------------------------------------------
def test_embeddings_are_the_same_in_both_encodings_and_near_for_like_texts() -> None:
    provider = EchoProvider()
    texts = ["the green goblin", "the green goblin laughs", "quarterly tax report"]
    plain = json.loads(provider.embed(ChatRequest("echo", {"input": texts})).body)
    packed = json.loads(
        provider.embed(ChatRequest("echo", {"input": texts, "encoding_format": "base64"})).body
    )
    vectors = [row["embedding"] for row in plain["data"]]
    for vector, row in zip(vectors, packed["data"], strict=True):
        assert struct.unpack("<256f", base64.b64decode(row["embedding"])) == pytest.approx(vector)
        assert math.sqrt(sum(x * x for x in vector)) == pytest.approx(1)
    near, far = (
        sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:]
    )
    assert near > 0.5 > far
    assert plain["usage"] == {"prompt_tokens": 10, "total_tokens": 10}


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ({"input": "a"}, (1, 256)),
        ({"input": [1, 2, 3]}, (1, 256)),
        ({"input": [[1, 2], [3]], "dimensions": 8}, (2, 8)),
        ({"input": ""}, (1, 256)),
    ],
)
def test_embeddings_take_what_openai_takes(body: dict[str, Any], shape: tuple[int, int]) -> None:
    rows = json.loads(EchoProvider().embed(ChatRequest("echo", body)).body)["data"]
    assert (len(rows), len(rows[0]["embedding"])) == shape


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": [1, "a"]},
        {"input": "a", "dimensions": 0},
        {"input": "a", "dimensions": 10**9},
    ],
)
def test_embeddings_refuse_the_rest(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        EchoProvider().embed(ChatRequest("echo", body))


# -- simulation ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("0.5", 0.5),
        ("uniform:1,3", 2),
        ("normal:2,0.1", 2),
        ("lognormal:2,0.1", 2.01),
        ("exponential:2", 2),
        ("exponential:0", 0),
    ],
)
def test_distributions_have_their_mean(text: str, mean: float) -> None:
    rng = random.Random(1)
    draw = distribution(text)
    drawn = [draw(rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.05)
    assert min(drawn) >= 0


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "nan", "inf", "uniform:1", "normal:1,2,3", "exponential:", "gauss:1,2"]
)
def test_an_invalid_distribution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        distribution(text)


def test_the_length_of_answers_is_simulated() -> None:
    response = sim(tokens=120).complete(ask())
    assert response.usage is not None
    assert response.usage.completion_tokens == 120
    assert len(whole(response.body)[0].split()) == 120


def test_latency_and_pace_take_their_time() -> None:
    started = time.monotonic()
    list(sim(ttft="0.1", tokens=10, tokens_per_second=100).stream(ask()))
    assert time.monotonic() - started >= 0.2
    started = time.monotonic()
    sim(latency=0.1, tokens=10, tokens_per_second=100).complete(ask())
    assert time.monotonic() - started >= 0.2


def test_errors_come_at_their_rate_and_the_same_seed_gives_the_same() -> None:
    def outcomes() -> list[str]:
        provider = sim(error_rate=0.3, error_kinds=["rate_limited", "overloaded"], seed=7)
        found = []
        for _ in range(1000):
            try:
                provider.complete(ask())
                found.append("ok")
            except ProviderError as error:
                found.append(type(error).__name__)
        return found

    first = outcomes()
    assert first == outcomes()
    assert 250 < len([name for name in first if name != "ok"]) < 350
    assert set(first) == {"ok", "RateLimited", "Overloaded"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("rate_limited", RateLimited), ("overloaded", Overloaded), ("timeout", Timeout)],
)
def test_faults_are_the_errors_that_real_providers_give(
    kind: str, expected: type[ProviderError]
) -> None:
    provider = sim(error_rate=1, error_kinds=[kind], retry_after=3)
    with pytest.raises(expected) as caught:
        provider.complete(ask())
    assert caught.value.retry_after == (None if kind == "timeout" else 3)
    with pytest.raises(expected):
        next(provider.stream(ask()))
    with pytest.raises(expected):
        provider.embed(ChatRequest("echo", {"input": "a"}))


def test_a_cut_stream_breaks_in_the_middle() -> None:
    got: list[Any] = []
    with pytest.raises(BadResponse):
        got.extend(sim(error_rate=1, error_kinds=["cut"], tokens=20).stream(ask()))
    assert 1 < len(got) < 20


@pytest.mark.parametrize("options", [{"latency": 60}, {"tokens": 3, "tokens_per_second": 0.05}])
def test_waits_end_with_the_client_or_the_deadline(options: dict[str, Any]) -> None:
    gone = threading.Event()
    threading.Timer(0.1, gone.set).start()
    for operation in (
        lambda r: sim(**options).complete(r),
        lambda r: list(sim(**options).stream(r)),
    ):
        with pytest.raises(CallCancelled):
            operation(ChatRequest("echo", ask().body, call=Call(client_gone=gone.is_set)))
        with pytest.raises(Timeout, match="deadline"):
            operation(ChatRequest("echo", ask().body, call=Call(deadline=time.monotonic() + 0.1)))


def test_a_check_always_succeeds() -> None:
    sim(error_rate=1, latency=60).check()


@pytest.mark.parametrize(
    "text", ["ab " * 60_000, "x" * 200_000, " " * 200_000, "a" * 65_536 + " b" * 50_000]
)
def test_the_words_of_a_long_text_are_counted_as_those_of_a_short_one(text: str) -> None:
    assert answers.count_tokens(text) == len(text.split())


def test_vectors_of_a_long_request_depend_on_its_first_words() -> None:
    words = ["goblin"] * answers.MAX_VECTOR_WORDS
    first, tokens = answers.embeddings({"input": " ".join([*words, "troll"])})
    assert first == answers.embeddings({"input": " ".join(words)})[0]
    assert tokens == len(words) + 1


def test_the_length_of_an_answer_is_bounded() -> None:
    made = answers.answer(
        {"messages": [{"role": "user", "content": "ab " * (answers.MAX_ANSWER_WORDS + 1)}]}
    )
    assert (len(made.words), made.finish_reason) == (answers.MAX_ANSWER_WORDS, "length")
