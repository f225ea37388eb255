"""Requests of the Responses API as OpenAI's chat requests, and OpenAI's answers as responses."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, response_create_params

from goblin_assistant.dialects.carried import packed
from goblin_assistant.dialects.responses.answer import response_from_openai
from goblin_assistant.dialects.responses.input_items import messages_of
from goblin_assistant.dialects.responses.request import (
    IGNORED,
    NEUTRAL,
    TRANSLATED,
    request_to_openai,
)
from goblin_assistant.dialects.responses.state import refuse_state
from goblin_assistant.errors import BadRequest
from goblin_assistant.providers.base import ChatResponse
from goblin_assistant.providers.openai.encrypted import CARRIED
from goblin_assistant.providers.openai.wire import parse_usage
from tests.support.counted_text import Counted
from tests.support.wire_bodies import openai_chat, openai_usage

HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
FUNCTION = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}


def translated(**body: Any) -> tuple[dict[str, Any], set[str]]:
    """The OpenAI request, and the names of what it leaves out."""
    ignored: set[str] = set()
    return request_to_openai({"model": "m", "input": "Hello", **body}, ignored), ignored


def translate(**body: Any) -> dict[str, Any]:
    return translated(**body)[0]


def messages(*items: Any, **body: Any) -> list[dict[str, Any]]:
    return list(translate(input=list(items), **body)["messages"])


def refused(**body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        translate(**body)
    return caught.value


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def call(name: str = "get_weather", number: int = 0, **more: Any) -> dict[str, Any]:
    given = {"type": "function_call", "call_id": f"call_{number}", "name": name}
    return {**given, "arguments": "{}", **more}


def result(output: Any = "rain", number: int = 0) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": output}


# -- requests -------------------------------------------------------------------------------------
def test_the_smallest_request() -> None:
    assert translate() == {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def test_parameters_with_a_counterpart() -> None:
    assert translate(
        instructions="Be brief.",
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        stream=True,
        user="ada",
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        top_logprobs=2,
        metadata={"a": "b"},
        store=False,
    ) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "stream": True,
        "user": "ada",
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_every_field_of_the_sdk_is_translated_ignored_or_refused_by_name() -> None:
    fields = response_create_params.ResponseCreateParamsStreaming.__annotations__
    known = {*fields, *response_create_params.ResponseCreateParamsBase.__annotations__}
    stateful = {"previous_response_id", "conversation", "prompt"}
    assert {"input", "tools", "background"} <= known  # the SDK's list is what it was taken for
    for name in sorted(known - TRANSLATED - IGNORED - stateful):
        assert refused(**{name: {"x": 1}}).param == name
    for name in stateful:
        with pytest.raises(BadRequest) as caught:
            refuse_state({"input": "x", name: "x"})
        assert caught.value.param == name


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_promises_nothing_is_left_out_and_named(name: str) -> None:
    request, ignored = translated(**{name: "something"})
    assert request == translate()
    assert ignored == {name}
    for value in NEUTRAL.get(name, ()):
        assert translated(**{name: value}) == (translate(), set())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"store": True}, "store"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["web_search_call.action.sources"]}, "include"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
def test_hints_within_a_field_are_left_out_and_named(fields: dict[str, Any], named: str) -> None:
    assert translated(**fields) == (translate(), {named})


def test_an_unknown_field_is_refused_by_name() -> None:
    assert refused(n=2).param == "n"
    assert refused(max_tokens=5).param == "max_tokens"


def test_a_field_of_the_chat_api_is_told_its_name_here() -> None:
    assert str(refused(max_tokens=5)) == "max_tokens is called max_output_tokens in this API"
    assert str(refused(response_format={})) == "response_format is called text.format in this API"
    assert str(refused(n=2)).startswith("n is not known in this API")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for wrong in ({"tools": [tool]}, {"tools": [TOOL], "tool_choice": tool}):
        assert "the fields of `function` stand in its place" in str(refused(**wrong))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"id": "msg_1"}]}, "input"),
    ],
)
def test_what_needs_memory_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        refuse_state({"input": "x", **body})
    assert caught.value.param == param


def test_no_memory_is_what_most_ask_for() -> None:
    refuse_state(
        {"input": [{"role": "user", "content": "x"}], "background": False, "conversation": None}
    )


# -- the conversation -----------------------------------------------------------------------------
def test_instructions_and_developers_at_the_beginning_are_one_system_message() -> None:
    assert messages(
        {"type": "message", "role": "developer", "content": "One."},
        {"role": "system", "content": [{"type": "input_text", "text": "Two."}]},
        {"role": "user", "content": "Hello"},
        {"role": "developer", "content": "Later."},
        instructions="First.",
    ) == [
        {"role": "system", "content": "First.\n\nOne.\n\nTwo."},
        {"role": "user", "content": "Hello"},
        {"role": "system", "content": "Later."},
    ]


def test_a_long_system_prompt_in_many_items_is_joined_once() -> None:
    Counted.copied = 0
    pieces = ["a" * 100_000, *["b"] * 1000]
    items = [{"role": "system", "content": Counted(piece)} for piece in pieces]
    assert messages(*items, HELLO) == [
        {"role": "system", "content": "\n\n".join(pieces)},
        HELLO,
    ]
    assert Counted.copied <= 2 * sum(map(len, pieces))


def test_a_turn_of_many_texts_and_thoughts_is_joined_without_gaps() -> None:
    thoughts = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": f"t{n}."}]}
        for n in range(1000)
    ]
    said = [{"role": "assistant", "content": text} for text in ["", "a", "", *["b"] * 1000, ""]]
    assert messages(HELLO, *thoughts, *said, HELLO)[1] == {
        "role": "assistant",
        "content": "\n\n".join(["a", *["b"] * 1000]),
        "reasoning_content": "".join(f"t{n}." for n in range(1000)),
    }


def test_images_files_and_sounds_of_a_user() -> None:
    sound = {"data": "UklGRg==", "format": "wav"}
    assert messages(
        user(
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;,A"},
            {"type": "input_audio", "input_audio": sound},
        )
    ) == [
        user(
            {"type": "text", "text": "What is this?"},
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"},
            },
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;,A"}},
            {"type": "input_audio", "input_audio": sound},
        )
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "hologram"},
        {"type": "input_text"},
    ],
)
def test_content_that_only_openai_can_read_is_refused_with_its_place(part: dict[str, Any]) -> None:
    error = refused(input=[{"role": "user", "content": "x"}, user(part)])
    assert "input[1].content[0]" in str(error)
    assert error.param == "input"


def test_a_turn_of_the_assistant_is_one_message() -> None:
    assert messages(
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
            {"type": "reasoning_text", "text": "Two cities."}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
        call(number=0, arguments='{"city":"Oslo"}'),
        call(number=1, arguments='{"city":"Rome"}'),
        result("rain", 0),
        result([{"type": "input_text", "text": "sun"}], 1),
        {"role": "assistant", "content": "Rain and sun."},
        {"role": "user", "content": "Thanks"},
    ) == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "Two cities.",
            "tool_calls": [
                {"id": f"call_{number}", "type": "function", "function": {
                    "name": "get_weather", "arguments": f'{{"city":"{city}"}}'}}
                for number, city in enumerate(("Oslo", "Rome"))
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "assistant", "content": "Rain and sun."},
        {"role": "user", "content": "Thanks"},
    ]  # fmt: skip


def test_images_that_tools_return_follow_the_last_result() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    found = messages(call(), call(number=1), result([image], 0), result("sun", 1))
    assert [message["role"] for message in found] == ["assistant", "tool", "tool", "user"]
    assert found[1]["content"] == "(see the attachment below)"
    assert found[3]["content"][0]["type"] == "image_url"


def test_reasoning_of_another_provider_is_left_out_and_named() -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    request, ignored = translated(input=[item, {"role": "user", "content": "x"}])
    assert request["messages"] == [{"role": "user", "content": "x"}]
    assert ignored == {"input.reasoning"}


def test_items_of_tools_that_openai_runs_are_left_out_and_named() -> None:
    item = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    request, ignored = translated(input=[item, {"role": "user", "content": "x"}])
    assert len(request["messages"]) == 1
    assert ignored == {"input.web_search_call"}


@pytest.mark.parametrize("kind", ["compaction", "compaction_trigger", "additional_tools", "new"])
def test_an_item_that_changes_the_conversation_is_refused(kind: str) -> None:
    error = refused(input=[{"type": kind, "encrypted_content": "x"}])
    assert "input[0]" in str(error)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "f"},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "output": "x"},
        {"type": "function_call_output", "call_id": "c", "output": 5},
        {"type": "message", "content": "x"},
        {"role": "assistant", "content": [{"type": "input_image", "image_url": "https://a/b"}]},
    ],
)
def test_a_wrong_item_is_a_400_that_names_it(item: dict[str, Any]) -> None:
    assert "input[0]" in str(refused(input=[item]))


def test_what_is_packed_is_counted_before_it_is_unpacked() -> None:
    bomb = CARRIED + packed([[]] * 400_000)
    item = {"type": "reasoning", "summary": [], "encrypted_content": bomb}
    assert "too many values" in str(refused(input=[item]))


# -- tools ----------------------------------------------------------------------------------------
def test_functions_and_their_choice() -> None:
    tool = {**TOOL, "description": "Weather", "strict": True}
    function = {
        **FUNCTION["function"],  # type: ignore[dict-item]
        "description": "Weather",
        "strict": True,
    }
    for choice, expected in (
        ("auto", "auto"), ("none", "none"), ("required", "required"),
        ({"type": "function", "name": "get_weather"},
         {"type": "function", "function": {"name": "get_weather"}}),
    ):  # fmt: skip
        request = translate(tools=[tool], tool_choice=choice, parallel_tool_calls=False)
        assert request["tools"] == [{"type": "function", "function": function}]
        assert request["tool_choice"] == expected
        assert request["parallel_tool_calls"] is False


def test_a_namespace_is_flattened_and_comes_back() -> None:
    space = {
        "type": "namespace",
        "name": "crm",
        "description": "Customers.",
        "tools": [
            {"type": "function", "name": "find", "description": "Find one.", "parameters": {}}
        ],
    }
    body = {"input": [{"role": "user", "content": "x"}, call("find", namespace="crm")],
            "tools": [TOOL, space],
            "tool_choice": {"type": "function", "name": "find", "namespace": "crm"}}  # fmt: skip
    request = translate(**body)
    assert [tool["function"]["name"] for tool in request["tools"]] == ["get_weather", "crm__find"]
    assert request["tools"][1]["function"]["description"] == "Customers.\n\nFind one."
    assert request["tool_choice"]["function"]["name"] == "crm__find"
    assert request["messages"][1]["tool_calls"][0]["function"]["name"] == "crm__find"
    items = answered(openai_chat(None, [("crm__find", {"id": 1}), ("get_weather", {})]), **body)
    assert [(item.name, item.namespace) for item in items.output] == [  # type: ignore[union-attr]
        ("find", "crm"),
        ("get_weather", None),
    ]


def test_a_namespaces_description_is_sent_once() -> None:
    about = "Customers. " * 100
    tools = [{"type": "function", "name": f"f{n}"} for n in range(300)]
    crm = {"type": "namespace", "name": "crm", "description": about, "tools": tools}
    request = translate(tools=[crm, {**crm, "name": "erp"}])
    told = [tool["function"].get("description") for tool in request["tools"]]
    assert told == [about, *[None] * 299] * 2
    allowed = [{"type": "function", "name": f"f{n}", "namespace": "crm"} for n in (7, 9)]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
    request = translate(tools=[crm], tool_choice=choice)
    told = [tool["function"].get("description") for tool in request["tools"]]
    assert told == [about, None]


def test_namespaces_of_one_name_keep_their_descriptions() -> None:
    spaces = [
        {
            "type": "namespace",
            "name": "crm",
            "description": about,
            "tools": [{"type": "function", "name": name}],
        }
        for about, name in (("Reads.", "find"), ("Writes.", "store"))
    ]
    request = translate(tools=spaces)
    told = [tool["function"]["description"] for tool in request["tools"]]
    assert told == ["Reads.", "Writes."]


@pytest.mark.parametrize("kind", ["function", "custom", "namespace"])
def test_a_tools_name_has_an_end(kind: str) -> None:
    tools = [{"type": "function", "name": "f"}] if kind == "namespace" else None
    tool = {"type": kind, "name": "n" * 128, "tools": tools}
    assert translate(tools=[tool])["tools"][0]["function"]["name"].startswith("n" * 128)
    error = refused(tools=[TOOL, {**tool, "name": "n" * 129}])
    assert error.param == "tools"
    assert str(error) == "tools[1]: a name has at most 128 characters"


def test_a_custom_tool_is_a_function_of_one_text_and_comes_back() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    custom = {"type": "custom", "name": "patch", "description": "Patches.", "format": grammar}
    history = [
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
    ]
    request, ignored = translated(input=history, tools=[custom])
    function = request["tools"][0]["function"]
    assert function["parameters"]["required"] == ["input"]
    assert "start: WORD" in function["description"]
    assert ignored == {"tools.format"}
    called = request["messages"][0]["tool_calls"][0]["function"]
    assert orjson.loads(called["arguments"]) == {"input": "*** Begin"}
    assert request["messages"][1]["content"] == "done"
    made = answered(openai_chat(None, [("patch", {"input": "*** End"})]), tools=[custom])
    item = made.output[0]
    found = (item.type, item.name, item.input)  # type: ignore[union-attr]
    assert found == ("custom_tool_call", "patch", "*** End")


def test_a_tool_that_openai_runs_is_left_out_where_there_are_others() -> None:
    request, ignored = translated(
        tools=[TOOL, {"type": "web_search", "external_web_access": False}, {"type": "local_shell"}]
    )
    assert request["tools"] == [FUNCTION]
    assert ignored == {"tools.web_search", "tools.local_shell"}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [TOOL, {"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        {"tools": [TOOL, {"type": "mcp"}], "tool_choice": {"type": "mcp", "server_label": "x"}},
        {"tools": [TOOL, TOOL]},
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        {"tools": [TOOL], "tool_choice": "some"},
        {"tool_choice": "required"},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "namespace", "name": "x", "tools": 5}]},
    ],
)
def test_a_choice_that_cannot_be_kept_is_refused(fields: dict[str, Any]) -> None:
    assert refused(**fields).param in ("tools", "tool_choice")


def test_without_a_choice_of_tools_one_of_openais_alone_does_no_harm() -> None:
    request = translate(tools=[{"type": "web_search"}], tool_choice="none")
    assert "tools" not in request


def test_allowed_tools_are_the_only_ones_that_are_sent() -> None:
    other = {**TOOL, "name": "other"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "get_weather"}]}  # fmt: skip
    request = translate(tools=[TOOL, other], tool_choice=allowed)
    assert request["tools"] == [FUNCTION]
    assert request["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": {"type": "object"}, "strict": True},
            },
        ),
    ],
)
def test_the_form_of_an_answer(form: Any, expected: Any) -> None:
    assert translate(text={"format": form}).get("response_format") == expected


def test_an_unknown_form_of_an_answer_is_refused() -> None:
    assert refused(text={"format": {"type": "yaml"}}).param == "text"


# -- answers --------------------------------------------------------------------------------------
def raw_answer(completion: dict[str, Any], **body: Any) -> dict[str, Any]:
    usage = parse_usage(completion.get("usage"))
    found = response_from_openai(
        ChatResponse(orjson.dumps(completion), "m", usage), {"input": "Hello", **body}
    )
    whole: dict[str, Any] = orjson.loads(found)
    return whole


def answered(completion: dict[str, Any], **body: Any) -> Response:
    """The response, as the SDK's strict model reads it."""
    return Response.model_validate(raw_answer(completion, **body))


def test_a_text_is_a_message_with_usage_in_detail() -> None:
    made = answered(openai_chat("Hello.", usage=openai_usage(12, 5, 4, 2)))
    assert made.output_text == "Hello."
    assert (made.status, made.store, made.error) == ("completed", False, None)
    assert made.id == "resp_1"
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (
        12, 5, 17,
    )  # fmt: skip
    assert made.usage.input_tokens_details.cached_tokens == 4
    assert made.usage.output_tokens_details.reasoning_tokens == 2


def test_what_was_asked_for_stands_in_the_answer() -> None:
    asked = {"instructions": "Be brief.", "temperature": 0.5, "max_output_tokens": 9,
             "metadata": {"a": "b"}, "tools": [TOOL], "text": {"format": {"type": "json_object"}},
             "parallel_tool_calls": False, "tool_choice": "none"}  # fmt: skip
    made = raw_answer(openai_chat("x"), **asked)
    tool = {"description": None, "strict": None, **TOOL}
    assert {name: made[name] for name in asked} == {**asked, "tools": [tool]}


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_why_an_answer_is_incomplete(reason: str, status: str, why: str | None) -> None:
    completion = openai_chat("x")
    completion["choices"][0]["finish_reason"] = reason
    made = answered(completion)
    assert made.status == status == made.output[0].status  # type: ignore[union-attr]
    assert (made.incomplete_details and made.incomplete_details.reason) == why


def test_reasoning_refusals_citations_and_probabilities() -> None:
    completion = openai_chat("x")
    cited = {"start_index": 0, "end_index": 1, "url": "https://example.com", "title": "E"}
    completion["choices"][0]["message"] |= {
        "reasoning_content": "I think.",
        "refusal": "No.",
        "annotations": [{"type": "url_citation", "url_citation": cited}],
    }
    scored = [{"token": "x", "logprob": -0.1, "bytes": [120], "top_logprobs": []}]
    completion["choices"][0]["logprobs"] = {"content": scored}
    thought, said = raw_answer(completion)["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "I think."}]
    assert said["content"][0]["annotations"] == [{"type": "url_citation", **cited}]
    assert said["content"][0]["logprobs"] == scored
    assert said["content"][1] == {"type": "refusal", "refusal": "No."}


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    assert answered(openai_chat("")).output_text == ""


def test_summaries_stand_where_the_provider_gives_them() -> None:
    completion = openai_chat("x")
    completion["choices"][0]["message"] |= {
        "reasoning": "In short.",
        "reasoning_details": [{"type": "reasoning.summary", "summary": "In short.", "index": 0}],
    }
    item = raw_answer(completion)["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "In short."}]
    assert item["content"] == []


def test_what_a_provider_wants_back_comes_back() -> None:
    completion = openai_chat(None, [("get_weather", {"city": "Oslo"})])
    message = completion["choices"][0]["message"]
    details = [{"type": "reasoning.encrypted", "data": "abc", "index": 0}]
    blocks = [{"type": "thinking", "thinking": "I think.", "signature": "c2ln"}]
    message |= {
        "reasoning_content": "I think.", "reasoning_details": details, "thinking_blocks": blocks,
    }  # fmt: skip
    message["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "s"}}
    output = raw_answer(completion)["output"]
    turn = messages_of({"input": [*output, result("rain")]}, set())[0]
    assert turn["reasoning_content"] == "I think."
    assert turn["reasoning_details"] == details
    assert turn["thinking_blocks"] == blocks
    assert turn["tool_calls"][0]["id"] == "call_0"
    assert turn["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "s"}}


def test_encrypted_content_is_enough_where_it_was_asked_for() -> None:
    completion = openai_chat("x")
    completion["choices"][0]["message"]["reasoning_content"] = "I think."
    item = raw_answer(completion, include=["reasoning.encrypted_content"])["output"][0]
    kept = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    said = {"role": "assistant", "content": "x"}
    assert messages(kept, said)[0]["reasoning_content"] == "I think."
    assert "encrypted_content" not in raw_answer(completion)["output"][0]


TEXTS = st.text(max_size=12)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(("get_weather", "crm__find", "now")),
        st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3),
    ),
    max_size=3,
)


@given(text=TEXTS, reasoning=TEXTS, calls=CALLS)
def test_an_answer_comes_back_as_the_message_that_it_was(
    text: str, reasoning: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """The client sends the output back as its next input, as the SDK's examples do."""
    space = {"type": "namespace", "name": "crm", "description": "", "tools": [
        {"type": "function", "name": "find"}]}  # fmt: skip
    completion = openai_chat(text, calls)
    said = completion["choices"][0]["message"]
    said["content"] = text
    said["reasoning_content"] = reasoning
    output = raw_answer(completion, tools=[TOOL, space])["output"]
    [turn] = messages_of({"input": output}, set())
    assert turn["content"] in ((text,) if text or not calls else (None,))
    assert turn.get("reasoning_content", "") == reasoning
    assert turn.get("tool_calls", []) == said.get("tool_calls", [])
