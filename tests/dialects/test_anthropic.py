"""Anthropic's requests as OpenAI's, and OpenAI's answers as Anthropic's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic.types import Message, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params

from goblin_assistant.dialects.anthropic.answer import response_from_openai
from goblin_assistant.dialects.anthropic.request import (
    IGNORED,
    NEUTRAL,
    TRANSLATED,
    request_to_openai,
)
from goblin_assistant.dialects.carried import ID_MARK, packed
from goblin_assistant.errors import BadRequest
from goblin_assistant.providers.base import ChatResponse, Usage
from goblin_assistant.providers.openai.wire import parse_usage
from tests.support.counted_text import Counted
from tests.support.wire_bodies import openai_chat, openai_usage

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "get_weather",
    "description": "Weather",
    "input_schema": {"type": "object", "properties": {}},
}


def translate(**body: Any) -> dict[str, Any]:
    return translated(**body)[0]


def translated(**body: Any) -> tuple[dict[str, Any], set[str]]:
    """The OpenAI request, and the names of what it leaves out."""
    ignored: set[str] = set()
    whole = {"model": "gpt-4o", "max_tokens": 100, "messages": HELLO, **body}
    return request_to_openai(whole, ignored), ignored


def refused(**body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        translate(**body)
    return caught.value


def user(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def test_what_is_packed_is_counted_before_it_is_unpacked() -> None:
    bomb = packed([[]] * 400_000)
    for block in (
        {"type": "thinking", "thinking": "", "signature": f"goblin.{bomb}"},
        {"type": "tool_use", "id": f"call{ID_MARK}{bomb}", "name": "f", "input": {}},
    ):
        error = refused(messages=[{"role": "assistant", "content": [block]}])
        assert "too many values" in str(error)


# -- requests -------------------------------------------------------------------------------------
def test_the_smallest_request() -> None:
    assert translate() == {"model": "gpt-4o", "max_tokens": 100, "messages": HELLO}


def test_parameters_with_a_counterpart() -> None:
    assert translate(
        stream=True,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END"],
        metadata={"user_id": "u-1"},
        service_tier="auto",
        cache_control={"type": "ephemeral"},
        speed="standard",
        container=None,
    ) == {
        "model": "gpt-4o",
        "max_tokens": 100,
        "messages": HELLO,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
        "user": "u-1",
    }


def test_the_system_prompt_as_text_as_blocks_and_as_a_turn() -> None:
    assert translate(system="Be brief.")["messages"][0] == {
        "role": "system",
        "content": "Be brief.",
    }
    blocks = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two."},
    ]
    assert translate(system=blocks)["messages"][0] == {"role": "system", "content": "One.\n\nTwo."}
    turns = [*HELLO, {"role": "system", "content": [{"type": "text", "text": "Now be long."}]}]
    assert translate(messages=turns)["messages"][1] == {"role": "system", "content": "Now be long."}


def test_text_images_and_documents() -> None:
    blocks = (
        {"type": "text", "text": "Look:"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            "title": "a.pdf",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Body"},
            "title": "Title",
        },
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "Inner"}]},
        },
    )
    assert translate(messages=user(*blocks))["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
                {
                    "type": "file",
                    "file": {
                        "filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,JVBERi0=",
                    },
                },
                {"type": "text", "text": "Title\n\nBody"},
                {"type": "text", "text": "Inner"},
            ],
        }
    ]


def test_a_single_text_block_is_plain_text() -> None:
    assert translate(messages=user({"type": "text", "text": "Hello"}))["messages"] == HELLO


def test_many_blocks_of_thinking_are_joined_once() -> None:
    Counted.copied = 0
    pieces = ["a" * 100_000, *["b"] * 1000]
    blocks = [
        {"type": "thinking", "thinking": Counted(piece), "signature": "goblin."} for piece in pieces
    ]
    message = translate(messages=[*HELLO, {"role": "assistant", "content": blocks}])["messages"][1]
    assert message["reasoning_content"] == "".join(pieces)
    assert Counted.copied <= 2 * sum(map(len, pieces))


def test_tool_use_and_results_with_errors_and_images() -> None:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
    }
    turns = [
        *HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "b", "name": "shot", "input": {}},
                {"type": "tool_use", "id": "c", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": "no such city",
                    "is_error": True,
                },
                {"type": "tool_result", "tool_use_id": "b", "content": [image]},
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "text", "text": "Go on."},
            ],
        },
    ]
    assert translate(messages=turns, tools=[TOOL])["messages"][1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
                },
                {"id": "b", "type": "function", "function": {"name": "shot", "arguments": "{}"}},
                {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "Error: no such city"},
        {"role": "tool", "tool_call_id": "b", "content": "(see the attachment below)"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "Go on."},
            ],
        },
    ]


def test_tools_become_functions() -> None:
    hinted = {
        **TOOL,
        "strict": True,
        "cache_control": {"type": "ephemeral"},
        "type": "custom",
        "defer_loading": False,
    }
    function = {"name": "get_weather", "description": "Weather", "parameters": TOOL["input_schema"]}
    assert translate(tools=[TOOL, hinted])["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": function},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "f"},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choice(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    request = translate(tools=[TOOL], tool_choice=choice)
    assert {
        key: request[key] for key in ("tool_choice", "parallel_tool_calls") if key in request
    } == expected


@pytest.mark.parametrize(
    ("given", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "xhigh"),
    ],
)
def test_thinking_becomes_reasoning_effort(given: dict[str, Any], effort: str | None) -> None:
    assert translate(**given).get("reasoning_effort") == effort


def test_an_output_format_becomes_a_response_format() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    request = translate(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert request["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "new"}]}}, "context_management"),
        ({"context_management": {"edits": 5}}, "context_management"),
        ({"context_management": {"new": 5}}, "context_management"),
        ({"compaction": {"type": "enabled"}}, "compaction"),
        ({"a_field_of_tomorrow": {}}, "a_field_of_tomorrow"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"tools": [{**TOOL, "a_field_of_tomorrow": True}]}, "tools"),
        (
            {
                "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}],
                "tool_choice": {"type": "tool", "name": "web_search"},
            },
            "tools",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "sometimes"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": ["auto"]}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"output_config": {"effort": "enormous"}}, "output_config"),
        ({"output_config": {"effort": ["low"]}}, "output_config"),
        ({"output_config": {"format": "json"}}, "output_config"),
        ({"system": [{"type": "text"}]}, "system"),
        ({"messages": user({"type": "text"})}, "messages"),
        ({"messages": user({"type": "image"})}, "messages"),
        (
            {"messages": user({"type": "image", "source": {"type": "file", "file_id": "f"}})},
            "messages",
        ),
        ({"messages": user({"type": "image", "source": {"type": "base64"}})}, "messages"),
        (
            {
                "messages": user(
                    {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}
                )
            },
            "messages",
        ),
        (
            {"messages": user({"type": "document", "source": {"type": "content", "content": 5}})},
            "messages",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        ({"messages": user({"type": "search_result"})}, "messages"),
        ({"messages": user({"type": "tool_result"})}, "messages"),
        (
            {"messages": user({"type": "tool_result", "tool_use_id": "a", "content": [5]})},
            "messages",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "block_of_tomorrow"}]}]},
            "messages",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": 5, "name": "x"}]}
                ]
            },
            "messages",
        ),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(**body).param == param


def test_what_belongs_to_openais_chat_is_told_its_name_here() -> None:
    assert str(refused(stop=["x"])) == "stop is called stop_sequences in this API"
    assert str(refused(n=2)).startswith("n is not known in this API")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert "{name, description, input_schema}" in str(refused(tools=[tool]))
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    assert "not known in this API" in str(refused(messages=user(image)))


def test_every_parameter_of_anthropic_is_decided_upon() -> None:
    fields = message_create_params.MessageCreateParamsBase.__annotations__.keys() | {"stream"}
    headers = {"user_profile_id", "workspace_id"}
    # Removed from the SDK with API version 2026-10-21. Other clients send them.
    sampling = {"temperature", "top_p", "top_k"}
    betas = {"betas", "context_management", "fallback_credit_token", "fallbacks", "output_format"}
    assert fields - headers == (TRANSLATED | IGNORED | {"container"}) - sampling - betas


def test_every_beta_parameter_of_anthropic_is_decided_upon() -> None:
    fields = beta_message_create_params.MessageCreateParamsBase.__annotations__.keys()
    decided = TRANSLATED | IGNORED | NEUTRAL.keys() | {"user_profile_id", "workspace_id"}
    assert fields - decided == {"compaction", "thread"}  # refused by name


# -- left out, and named --------------------------------------------------------------------------
CLEAR_THINKING = {"type": "clear_thinking_20251015", "keep": "all"}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"context_management": {"edits": [CLEAR_THINKING]}}, set()),
        ({"context_management": {"edits": []}}, set()),
        ({"context_management": {"edits": None}}, set()),
        (
            {"context_management": {"edits": [CLEAR_THINKING, {"type": "compact_20260112"}]}},
            {"context_management"},
        ),
        ({"tools": [TOOL, SEARCH]}, {"tools.web_search_20250305"}),
        (
            {"tools": [SEARCH], "tool_choice": {"type": "none"}},
            {"tools.web_search_20250305"},
        ),
        (
            {"tools": [{**TOOL, "defer_loading": True, "allowed_callers": ["direct"]}]},
            {"tools.defer_loading"},
        ),
        ({"tools": [{**TOOL, "strict": True}]}, {"tools.strict"}),
        ({"speed": "fast", "fallbacks": "default"}, {"speed", "fallbacks"}),
        ({"speed": "standard", "service_tier": "auto"}, set()),
        ({"inference_geo": "eu"}, {"inference_geo"}),
        (
            {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
            {"messages.cache_control"},
        ),
        (
            {"messages": user({"type": "text", "text": "x", "cache_control": {}})},
            {"messages.cache_control"},
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "server_tool_use", "id": "a", "name": "web_search"},
                            {"type": "web_search_tool_result", "tool_use_id": "a", "content": []},
                            {"type": "thinking", "thinking": "Hm", "signature": "claude+sig/x=="},
                            {"type": "text", "text": "Found."},
                        ],
                    }
                ]
            },
            {"messages.server_tool_use", "messages.web_search_tool_result", "messages.thinking"},
        ),
    ],
)
def test_what_an_answer_does_without_is_left_out_and_named(
    body: dict[str, Any], named: set[str]
) -> None:
    request, ignored = translated(**body)
    assert ignored == named
    assert "context_management" not in request
    assert [tool["type"] for tool in request.get("tools", [])] in ([], ["function"])


def test_a_users_long_name_is_hashed_to_fit() -> None:
    long = '{"device_id":"' + "x" * 140 + '"}'
    first, again = (translate(metadata={"user_id": long})["user"] for _ in range(2))
    assert first == again
    assert len(first) == 64
    assert translate(metadata={"user_id": long + "y"})["user"] != first
    assert translate(metadata={"user_id": "x" * 64})["user"] == "x" * 64


def test_a_search_result_becomes_text_and_a_summary_stays() -> None:
    result = {
        "type": "search_result",
        "title": "Cebu",
        "source": "https://example.com",
        "content": [{"type": "text", "text": "Sunny."}],
    }
    messages = [
        {"role": "assistant", "content": [{"type": "compaction", "content": "They said hello."}]},
        *user(result),
    ]
    request, ignored = translated(messages=messages)
    assert request["messages"] == [
        {"role": "assistant", "content": "They said hello."},
        {"role": "user", "content": "Cebu\nhttps://example.com\n\nSunny."},
    ]
    assert ignored == set()


TEXT: dict[str, Any] = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (closed(a=TEXT), True),
        ({**closed(a=TEXT), "required": []}, False),
        ({**closed(a=TEXT), "additionalProperties": True}, False),
        ({"type": "array", "items": closed(a=TEXT)}, False),
        ({"anyOf": [closed(a=TEXT)]}, False),
        (closed(a={"type": "array", "items": closed(a=TEXT)}), True),
        (closed(a={"type": "array", "items": {"type": "object"}}), False),
        (closed(a={"anyOf": [TEXT, {"type": "object"}]}), False),
        (closed(a={"anyOf": [TEXT, {"type": "null"}]}), True),
        (closed(a={"type": ["object", "null"]}), False),
        (closed(a={}), False),
        (closed(a={"description": "anything"}), False),
        (closed(a={"enum": ["x"]}), False),
        (closed(a={"type": "string", "enum": ["x"], "description": "x"}), True),
        (closed(a={"type": "integer", "minimum": 1}), True),
        (closed(a={"type": "string", "minLength": 1}), False),
        (closed(a={"type": "string", "default": "x"}), False),
        (closed(a={"type": "string", "format": "date"}), True),
        (closed(a={"type": "string", "format": "uri"}), False),
        (closed(a={"type": "array"}), False),
        (closed(a={"$ref": "#"}), True),
        (closed(a={"$ref": "#", "description": "itself"}), False),
        (closed(required={"type": "boolean"}, minLength=TEXT), True),
        ({**closed(a={"$ref": "#/$defs/d"}), "$defs": {"d": closed(a=TEXT)}}, True),
        ({**closed(a=TEXT), "$defs": {"d": {**closed(a=TEXT), "required": []}}}, False),
        ({**closed(a=TEXT), "allOf": []}, False),
    ],
)
def test_strict_mode_is_asked_for_only_where_the_schema_fits(
    schema: dict[str, Any], strict: bool
) -> None:
    wanted = {"type": "json_schema", "schema": schema}
    for body in ({"output_config": {"format": wanted}}, {"output_format": wanted}):
        assert translate(**body)["response_format"]["json_schema"]["strict"] is strict


# -- answers --------------------------------------------------------------------------------------
def answer(completion: dict[str, Any]) -> dict[str, Any]:
    response = ChatResponse(
        orjson.dumps(completion), "gpt-4o", parse_usage(completion.get("usage"))
    )
    message: dict[str, Any] = orjson.loads(response_from_openai(response))
    Message.model_validate(message)
    return message


def test_a_text_answer() -> None:
    assert answer(openai_chat("Hello there.", usage=openai_usage(12, 5, 4, 2))) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "gpt-4o-2024-08-06",
        "content": [{"type": "text", "text": "Hello there."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


def test_an_answer_with_reasoning_and_tool_calls() -> None:
    completion = openai_chat(None, [("get_weather", {"city": "Oslo"})])
    message = completion["choices"][0]["message"]
    message["reasoning_content"] = "Hm."
    message["tool_calls"].append(
        {"type": "function", "function": {"name": "odd", "arguments": "not json"}}
    )
    completion["choices"][0]["finish_reason"] = "stop"  # as some servers send with tool calls
    translated = answer(completion)
    assert translated["content"][0] == {
        "type": "thinking",
        "thinking": "Hm.",
        "signature": "goblin.",
    }
    assert translated["content"][1] == {
        "type": "tool_use",
        "id": "call_0",
        "name": "get_weather",
        "input": {"city": "Oslo"},
    }
    assert translated["content"][2]["input"] == {"arguments": "not json"}
    assert translated["content"][2]["id"].startswith("toolu_")
    assert translated["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("new", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_finish_reasons(reason: str | None, expected: str) -> None:
    completion = openai_chat()
    completion["choices"][0]["finish_reason"] = reason
    assert answer(completion)["stop_reason"] == expected


def test_an_answer_nobody_counted_and_one_without_choices() -> None:
    completion = openai_chat() | {"choices": [], "id": None}
    del completion["usage"]
    message = answer(completion)
    assert message["content"] == []
    assert message["usage"]["input_tokens"] == 0
    assert message["id"].startswith("msg_")


def test_written_cache_tokens_are_apart() -> None:
    response = ChatResponse(
        orjson.dumps(openai_chat()), "m", Usage(100, 5, cached_tokens=30, cache_write_tokens=20)
    )
    usage = orjson.loads(response_from_openai(response))["usage"]
    assert (
        usage["input_tokens"],
        usage["cache_read_input_tokens"],
        usage["cache_creation_input_tokens"],
    ) == (
        50,
        30,
        20,
    )
