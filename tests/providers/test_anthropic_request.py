"""OpenAI chat requests as requests to Anthropic's Messages API, to the byte."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import pytest
from anthropic.types import message_create_params
from openai.types.chat import completion_create_params

from goblin_assistant.providers.anthropic.models import ALL_EFFORTS, CATALOGUE, learned, traits_of
from goblin_assistant.providers.anthropic.request import (
    IGNORED,
    NEUTRAL,
    ONLY_JSON,
    TRANSLATED,
    build_request,
)
from goblin_assistant.providers.base import InvalidRequest

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg"
    "=="
)
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def build(model: str = "claude-sonnet-4-5", **body: Any) -> dict[str, Any]:
    body.setdefault("messages", HELLO)
    return build_request({"model": "x", **body}, model, traits_of(model))


def refused(model: str = "claude-sonnet-4-5", **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        build(model, **body)
    return caught.value


# -- messages -------------------------------------------------------------------------------------
def test_the_smallest_request() -> None:
    assert build() == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }


def test_system_and_developer_messages_become_the_system_prompt_wherever_they_stand() -> None:
    request = build(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        ]
    )
    assert request["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind."},
    ]
    assert [turn["role"] for turn in request["messages"]] == ["user"]
    assert (
        build(messages=[{"role": "system", "content": "Be brief."}, *HELLO])["system"]
        == "Be brief."
    )


def test_a_conversation_with_parallel_tool_calls_makes_alternating_turns() -> None:
    request = build(
        messages=[
            {"role": "user", "content": "Weather in Oslo and Rome?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
                    },
                    {
                        "id": "call.2",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": ""},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
            {
                "role": "tool",
                "tool_call_id": "call.2",
                "content": [{"type": "text", "text": "sun"}],
            },
            {"role": "user", "content": "And now?"},
        ],
        tools=[WEATHER],
    )
    assert request["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo and Rome?"}]},
        {
            "role": "assistant",
            "content": [
                {
                    "type": "tool_use",
                    "id": "call_1",
                    "name": "get_weather",
                    "input": {"city": "Oslo"},
                },
                {"type": "tool_use", "id": "call_2", "name": "get_weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"},
                {
                    "type": "tool_result",
                    "tool_use_id": "call_2",
                    "content": [{"type": "text", "text": "sun"}],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


def test_images_by_address_and_by_value() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {
            "type": "image_url",
            "image_url": {"url": "https://example.com/cat.png", "detail": "high"},
        },
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    assert build(messages=[{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    ]


def test_files_become_documents() -> None:
    text = base64.b64encode("Grüße".encode()).decode()
    parts = [
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        },
        {"type": "file", "file": {"file_data": f"data:text/plain;charset=utf-8;base64,{text}"}},
    ]
    assert build(messages=[{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            "title": "a.pdf",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
        },
    ]


def test_thinking_blocks_come_back_in_front_of_the_tool_call_they_led_to() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": None, "thinking_blocks": [thought], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sun"},
    ]
    request = build(messages=messages, reasoning_effort="low")
    assert request["messages"][1]["content"][0] == thought
    assert request["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    del messages[1]["thinking_blocks"]
    assert "thinking" not in build(messages=messages, reasoning_effort="low")


def test_cache_marks_of_a_client_are_kept() -> None:
    mark = {"type": "ephemeral"}
    request = build(
        messages=[
            {
                "role": "system",
                "content": [{"type": "text", "text": "Long.", "cache_control": mark}],
            },
            *HELLO,
        ],
        tools=[{**WEATHER, "cache_control": mark}],
        cache_control=mark,
    )
    assert request["system"] == [{"type": "text", "text": "Long.", "cache_control": mark}]
    assert request["tools"][0]["cache_control"] == mark
    assert request["cache_control"] == mark


def test_a_cache_mark_in_a_tool_message_stands_on_its_result() -> None:
    mark = {"type": "ephemeral"}
    request = build(
        messages=[
            *HELLO,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {
                "role": "tool",
                "tool_call_id": "a",
                "content": [{"type": "text", "text": "Sunny.", "cache_control": mark}],
            },
        ],
    )
    assert request["messages"][-1]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "a",
            "content": [{"type": "text", "text": "Sunny."}],
            "cache_control": mark,
        }
    ]


def test_blank_text_is_left_out_and_a_last_turn_of_the_assistant_ends_without_blanks() -> None:
    request = build(
        messages=[
            {"role": "system", "content": " \n"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "\n\n"}, {"type": "text", "text": "Hi"}],
            },
            {"role": "assistant", "content": " "},
            {"role": "user", "content": "Count: "},
            {"role": "assistant", "content": "One, \n"},
        ]
    )
    assert "system" not in request
    assert request["messages"] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "Count: "}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "One,"}]},
    ]


def test_a_json_object_is_asked_for_in_the_system_prompt() -> None:
    wanted = {"type": "json_object"}
    assert build(messages=HELLO, response_format=wanted)["system"] == ONLY_JSON
    request = build(
        messages=[{"role": "system", "content": "Be brief."}, *HELLO], response_format=wanted
    )
    assert [block["text"] for block in request["system"]] == ["Be brief.", ONLY_JSON]
    assert "output_config" not in request


def test_what_is_left_out_is_named() -> None:
    ignored: set[str] = set()
    messages = [
        {"role": "user", "content": "Hi", "name": "ada"},
        {"role": "assistant", "content": "Hm.", "reasoning_content": "They greet."},
    ]
    body = {"messages": messages, "seed": 5, "logit_bias": {}}
    build_request(body, "claude-sonnet-4-5", traits_of("claude-sonnet-4-5"), ignored=ignored)
    assert ignored == {"messages.name", "messages.reasoning_content", "seed"}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "function", "name": "f", "content": "x"},
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
        },
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "image_url"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x/y.png"}}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,AAAA"}}
            ],
        },
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png,plain"}}],
        },
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64,/////w=="}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}}
            ],
        },
        {
            "role": "system",
            "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
        },
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": None, "audio": {"id": "a"}},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "custom"}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    ],
)
def test_a_message_without_counterpart_is_refused_by_its_place(message: dict[str, Any]) -> None:
    error = refused(messages=[*HELLO, message])
    assert error.param == "messages"
    assert str(error).startswith("messages[1]")


def test_a_conversation_of_instructions_only_is_refused() -> None:
    assert refused(messages=[{"role": "system", "content": "Be brief."}]).param == "messages"


# -- tools ----------------------------------------------------------------------------------------
def test_tools_become_input_schemas() -> None:
    strict = {"type": "function", "function": {"name": "now", "strict": True}}
    assert build(tools=[WEATHER, strict])["tools"] == [
        {
            "name": "get_weather",
            "description": "Weather of a city",
            "input_schema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
        {
            "name": "now",
            "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
            "strict": True,
        },
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            {"type": "tool", "name": "get_weather"},
        ),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_tool_choice(given: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert build(tools=[WEATHER], **given).get("tool_choice") == expected


@pytest.mark.parametrize("choice", ["sometimes", {"type": "allowed_tools"}, {"type": "function"}])
def test_a_tool_choice_without_counterpart_is_refused(choice: Any) -> None:
    assert refused(tools=[WEATHER], tool_choice=choice).param == "tool_choice"


def test_a_tool_that_is_no_function_is_refused() -> None:
    assert refused(tools=[{"type": "custom", "custom": {"name": "x"}}]).param == "tools"


# -- parameters -----------------------------------------------------------------------------------
def test_parameters_with_a_counterpart() -> None:
    request = build(
        max_completion_tokens=300,
        max_tokens=200,
        temperature=0.5,
        top_p=1.0,
        stop="END",
        user="u-1",
        service_tier="default",
        top_k=5,
        seed=7,
        n=1,
        logprobs=False,
        presence_penalty=0,
        store=False,
        metadata={"a": "b"},
        stream_options={"include_usage": True},
        logit_bias=None,
    )
    assert {key: value for key, value in request.items() if key not in ("model", "messages")} == {
        "max_tokens": 300,
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "top_k": 5,
        "metadata": {"user_id": "u-1"},
        "service_tier": "standard_only",
    }
    assert build(max_tokens=200)["max_tokens"] == 200
    assert build(stop=["a", "b"])["stop_sequences"] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"1": 2}),
        ("store", True),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("verbosity", "low"),
        ("web_search_options", {}),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("moderation", {"model": "m"}),
        ("a_field_of_tomorrow", 1),
        ("service_tier", "flex"),
        ("response_format", {"type": "json_lines"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("reasoning_effort", "enormous"),
        ("reasoning_effort", ["low"]),
        ("thinking", "yes"),
    ],
)
def test_a_parameter_without_counterpart_is_refused_by_name(name: str, value: Any) -> None:
    error = refused(**{name: value})
    assert error.param == name
    assert name in str(error)


def test_every_parameter_of_openai_is_decided_upon() -> None:
    # A new parameter of the SDK fails this test. The provider refuses it by name until then.
    fields = completion_create_params.CompletionCreateParamsBase.__annotations__.keys() | {"stream"}
    refused_outright = {"audio", "web_search_options", "functions", "function_call", "moderation"}
    assert fields == (TRANSLATED | IGNORED | NEUTRAL.keys() | refused_outright) - {
        "thinking",
        "top_k",
        "cache_control",
    }


def test_what_is_sent_is_known_to_the_sdk_of_anthropic() -> None:
    request = build(
        "claude-sonnet-4-6",
        tools=[WEATHER],
        tool_choice="auto",
        stop="x",
        user="u",
        service_tier="auto",
        reasoning_effort="low",
        cache_control={"type": "ephemeral"},
        messages=[{"role": "system", "content": "s"}, *HELLO],
    )
    assert request.keys() <= message_create_params.MessageCreateParamsBase.__annotations__.keys()


# -- structured output ----------------------------------------------------------------------------
def test_a_json_schema_becomes_an_output_format_with_closed_objects() -> None:
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["object"]},
            "inner": {
                "anyOf": [{"type": ["object", "null"], "properties": {}}, {"$ref": "#/$defs/item"}]
            },
        },
        "$defs": {"item": {"type": "object", "additionalProperties": True}},
    }
    asked = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    before = json.dumps(schema)
    wanted = build(response_format=asked)["output_config"]["format"]
    assert json.dumps(schema) == before
    assert wanted["type"] == "json_schema"
    assert wanted["schema"]["additionalProperties"] is False
    assert wanted["schema"]["properties"]["type"] == {"type": "string", "enum": ["object"]}
    assert wanted["schema"]["properties"]["inner"]["anyOf"][0]["additionalProperties"] is False
    assert wanted["schema"]["$defs"]["item"]["additionalProperties"] is False


def test_what_claude_refuses_in_a_schema_becomes_a_note_and_is_named() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "days": {"type": "integer", "minimum": 1, "maximum": 7, "description": "How many."},
            "default": {"properties": {"a": {"type": "string", "maxLength": 5}}},
            "mail": {"type": "string", "format": "email", "pattern": "^a"},
            "colour": {"type": "string", "format": "color"},
            "tags": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            "pair": {"type": "array", "minItems": 2, "items": {"type": "string"}},
            "either": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/minimum"}]},
            "names": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["days"],
        "$defs": {"minimum": {"type": "string"}},
    }
    ignored: set[str] = set()
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": HELLO, "response_format": asked}
    model = "claude-sonnet-4-5"
    request = build_request(body, model, traits_of(model), ignored=ignored)
    sent = request["output_config"]["format"]["schema"]
    assert sent == {
        **schema,
        "properties": {
            "days": {"type": "integer", "description": "How many.\n\n{minimum: 1, maximum: 7}"},
            "default": {
                "properties": {"a": {"type": "string", "description": "{maxLength: 5}"}},
                "additionalProperties": False,
            },
            "mail": {"type": "string", "format": "email", "pattern": "^a"},
            "colour": {"type": "string", "description": '{format: "color"}'},
            "tags": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            "pair": {"type": "array", "items": {"type": "string"}, "description": "{minItems: 2}"},
            "either": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/minimum"}]},
            "names": {
                "type": "object",
                "additionalProperties": False,
                "description": '{additionalProperties: {"type":"string"}}',
            },
        },
        "additionalProperties": False,
    }
    words = ("additionalProperties", "format", "maxLength", "maximum", "minItems", "minimum")
    assert ignored == {f"response_format.{word}" for word in words}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({"type": "object", "properties": {}}, False),
        (
            {
                "type": "object",
                "properties": {"n": {"type": "integer", "minimum": 1}},
                "additionalProperties": False,
            },
            False,
        ),
    ],
)
def test_a_tool_is_strict_only_where_claude_takes_its_schema(
    schema: dict[str, Any], strict: bool
) -> None:
    ignored: set[str] = set()
    function = {"name": "f", "strict": True, "parameters": schema}
    body = {"messages": HELLO, "tools": [{"type": "function", "function": function}]}
    model = "claude-sonnet-4-5"
    (tool,) = build_request(body, model, traits_of(model), ignored=ignored)["tools"]
    assert tool == {"name": "f", "input_schema": schema, **({"strict": True} if strict else {})}
    assert ignored == (set() if strict else {"tools.strict"})


@pytest.mark.parametrize("stop", [" ", ["END", "\n"]])
def test_a_stop_sequence_of_blanks_is_refused_by_name(stop: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build(stop=stop)
    assert caught.value.param == "stop"


def test_a_choice_without_tools_is_refused_by_name() -> None:
    assert "tool_choice" not in build(tool_choice="auto")
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        with pytest.raises(InvalidRequest) as caught:
            build(tool_choice=choice)
        assert caught.value.param == "tool_choice"


def test_the_text_format_asks_for_nothing() -> None:
    assert "output_config" not in build(response_format={"type": "text"})


# -- thinking -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("claude-sonnet-4-5", "high", {"thinking": {"type": "enabled", "budget_tokens": 16384}}),
        ("claude-haiku-4-5", "minimal", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("claude-haiku-4-5", "none", {}),
        (
            "claude-opus-4-6",
            "max",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        ),
        (
            "claude-sonnet-5-5",
            "xhigh",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
        ),
        (
            "claude-sonnet-5-5",
            "minimal",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        ),
        ("claude-sonnet-5-5", "none", {"thinking": {"type": "disabled"}}),
    ],
)
def test_reasoning_effort(model: str, effort: str, expected: dict[str, Any]) -> None:
    request = build(model, reasoning_effort=effort)
    assert {
        key: request[key] for key in ("thinking", "output_config") if key in request
    } == expected


def test_a_thinking_budget_stays_below_the_longest_answer() -> None:
    assert build(reasoning_effort="high", max_tokens=4000)["thinking"]["budget_tokens"] == 3999
    assert "thinking" not in build(reasoning_effort="high", max_tokens=1000)


@pytest.mark.parametrize(
    ("model", "effort"),
    [
        ("claude-3-5-haiku-latest", "low"),
        ("claude-opus-5-5", "none"),
        ("claude-fable-5-1", "none"),
        ("claude-opus-4-6", "xhigh"),
    ],
)
def test_an_effort_that_a_model_does_not_know_is_refused(model: str, effort: str) -> None:
    assert refused(model, reasoning_effort=effort).param == "reasoning_effort"


def test_forced_tools_and_thinking_exclude_each_other() -> None:
    forced: dict[str, Any] = {
        "tools": [WEATHER],
        "tool_choice": "required",
        "reasoning_effort": "low",
    }
    assert refused("claude-sonnet-4-5", **forced).param == "reasoning_effort"
    newer = build("claude-sonnet-4-6", **forced)
    assert "thinking" not in newer
    assert newer["output_config"] == {"effort": "low"}


def test_thinking_of_a_client_that_knows_anthropic_is_kept() -> None:
    own = {"type": "adaptive", "display": "summarized"}
    assert build("claude-opus-5", thinking=own)["thinking"] == own
    assert build("claude-opus-5", thinking=own, reasoning_effort="low")["thinking"] == own


# -- sampling -------------------------------------------------------------------------------------
def test_a_temperature_above_one_is_one_which_is_the_default() -> None:
    assert "temperature" not in build(temperature=1.7)
    assert "temperature" not in build("claude-opus-5-5", temperature=1, top_p=1)
    assert build(temperature=0)["temperature"] == 0


def test_sampling_that_a_model_does_not_take_is_refused_or_left_out_as_the_operator_likes() -> None:
    assert refused("claude-opus-4-7", temperature=0.2).param == "temperature"
    assert refused("claude-sonnet-5-5", top_p=0.2).param == "top_p"
    assert refused("claude-haiku-4-5", temperature=0.2, top_p=0.2).param == "top_p"
    assert (
        refused("claude-haiku-4-5", temperature=0.2, reasoning_effort="low").param == "temperature"
    )
    for model in ("claude-opus-4-7", "claude-haiku-4-5"):
        body = {"messages": HELLO, "temperature": 0.2, "top_p": 0.3}
        request = build_request(body, model, traits_of(model), drop_sampling=True)
        assert "top_p" not in request
        assert ("temperature" in request) is (model == "claude-haiku-4-5")
    assert build("claude-3-5-haiku-latest", temperature=0.2, top_p=0.2)["top_p"] == 0.2


# -- models ---------------------------------------------------------------------------------------
def test_limits_follow_the_version_in_the_name() -> None:
    assert traits_of("claude-3-haiku-20240307").max_tokens == 4096
    assert traits_of("claude-3-5-sonnet-20241022").max_tokens == 8192
    assert traits_of("claude-3-7-sonnet-latest").thinking == "budget"
    assert traits_of("claude-opus-4-20250514").max_tokens == 32000
    assert traits_of("claude-opus-4-1-20250805").sampling == "one"
    assert traits_of("claude-sonnet-4-20250514").sampling == "both"
    assert traits_of("claude-haiku-4-5-20251001").max_tokens == 64000
    assert traits_of("anthropic.claude-opus-4-6-v1").thinking == "adaptive"
    assert traits_of("claude-opus-5").thinking == "adaptive"
    assert traits_of("claude-mythos-preview").thinking == "always"
    assert traits_of("MiniMax-M2").max_tokens == 8192


def test_every_model_of_the_catalogue_has_a_window() -> None:
    assert all(model.context_window for model in CATALOGUE)
    assert len({model.id for model in CATALOGUE}) == len(CATALOGUE)


def test_a_listed_model_teaches_its_limits() -> None:
    def yes(on: bool) -> dict[str, bool]:
        return {"supported": on}

    row = {
        "type": "model",
        "id": "claude-future-9",
        "lifecycle": "active",
        "max_input_tokens": 5_000_000,
        "max_tokens": 500_000,
        "capabilities": {
            "thinking": {
                "supported": True,
                "types": {"adaptive": yes(True), "disabled": yes(False), "enabled": yes(False)},
            },
            "effort": {"supported": True, **{level: yes(level != "max") for level in ALL_EFFORTS}},
        },
    }
    found = learned(row)
    assert found is not None
    model, traits = found
    assert (model.id, model.context_window) == ("claude-future-9", 5_000_000)
    assert (traits.max_tokens, traits.thinking, traits.efforts) == (
        500_000,
        "always",
        ("low", "medium", "high", "xhigh"),
    )
    assert learned({**row, "lifecycle": "retired"}) is None
    assert learned({"id": "x\ny"}) is None
    assert learned({"id": 5}) is None


def test_effort_levels_are_the_sdks() -> None:
    from anthropic.types import output_config_param

    hint = output_config_param.OutputConfigParam.__annotations__["effort"]
    text = getattr(hint, "__forward_arg__", str(hint))
    assert all(f'"{level}"' in text or f"'{level}'" in text for level in ALL_EFFORTS), get_args(
        hint
    )
