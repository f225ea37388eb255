"""What a provider needs back comes back with the second turn, and nothing that it refuses.

Each preset's first answer has reasoning and tool calls. It goes to a client of Anthropic's dialect,
whole and streamed; the client sends back what it got, as agents do, with the tools' results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from goblin_assistant.dialects.anthropic.answer import response_from_openai
from goblin_assistant.dialects.anthropic.request import request_to_openai
from goblin_assistant.dialects.anthropic.stream import StreamTranslator
from goblin_assistant.providers.anthropic.foreign import without_foreign_thinking
from goblin_assistant.providers.base import ChatRequest, ChatResponse, Completed
from goblin_assistant.providers.openai.messages import UNSIGNED, MessageFitter
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.short_names import short_id
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.wire_form import MessageForm
from goblin_assistant.providers.wire_forms import WIRE_FORMS

FORMS = {name: form.messages for name, form in WIRE_FORMS.items() if form.messages is not None}
SIGNED = {"google": {"thought_signature": "AbC+/=="}}
DETAILS = [{"type": "reasoning.encrypted", "data": "x+/=", "index": 0, "id": "r1"}]
USER = {"role": "user", "content": "Weather?"}
TOOLS = [{"name": "get_weather", "input_schema": {"type": "object", "properties": {}}}]


def call(position: int, **more: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps({"day": position})}
    return {
        "index": position,
        "id": f"call_{position}",
        "type": "function",
        "function": function,
        **more,
    }


def whole(message: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"id": "c", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    answer = orjson.loads(response_from_openai(ChatResponse(orjson.dumps(body), "m")))
    blocks: list[dict[str, Any]] = answer["content"]
    return blocks


def streamed(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The same message in deltas, as the client puts them together."""
    deltas = [
        {name: value}
        for name, value in message.items()
        if name not in ("role", "tool_calls") and value is not None
    ]
    deltas += [{"tool_calls": [item]} for item in message.get("tool_calls", ())]
    translator = StreamTranslator("m")
    chunks = [
        f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n".encode()
        for delta in deltas
    ]
    pieces = [*(translator.feed(chunk) for chunk in chunks), translator.finish(Completed("m"))]
    blocks: list[dict[str, Any]] = []
    for line in b"".join(pieces).decode().splitlines():
        event = json.loads(line[6:]) if line.startswith("data: ") else {}
        if event.get("type") == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event.get("type") == "content_block_delta":
            delta, block = event["delta"], blocks[-1]
            kind = delta["type"].removesuffix("_delta")
            if kind == "input_json":
                block["input"] = json.loads(delta["partial_json"])
            elif kind == "signature":
                block["signature"] = delta["signature"]
            else:
                block[kind] += delta[kind]
    return blocks


def second_turn(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "Sunny."}
        for block in blocks
        if block["type"] == "tool_use"
    ]
    messages = [
        USER,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": results},
    ]
    return {"model": "m", "max_tokens": 9, "messages": messages, "tools": TOOLS}


def sent(preset: str, body: dict[str, Any]) -> tuple[list[dict[str, Any]], set[str]]:
    """The messages that the preset's server gets, and what was left out."""
    ignored: set[str] = set()
    request = ChatRequest("m", request_to_openai(body, ignored), ignored=ignored)
    return list(MessageFitter(FORMS[preset]).fit(request).request.body["messages"]), ignored


def first_answer(preset: str) -> dict[str, Any]:
    form = FORMS[preset]
    message: dict[str, Any] = {"role": "assistant", "content": None}
    thought = "They ask for the weather."
    if form.reasoning_field == "thinking_parts":
        message["content"] = [
            {"type": "thinking", "thinking": [{"type": "text", "text": thought}]},
            {"type": "text", "text": "Let me see."},
        ]
    elif form.reasoning_field:
        message[form.reasoning_field] = thought
    elif form.reasoning_field is None:
        message["reasoning_content"] = thought
    if preset == "openrouter":
        message["reasoning_details"] = DETAILS
    extra = {"extra_content": SIGNED} if form.thought_signatures else {}
    message["tool_calls"] = [call(0, **extra), call(1)]
    return message


@pytest.mark.parametrize("client", [whole, streamed])
@pytest.mark.parametrize("preset", sorted(FORMS))
def test_what_a_provider_wrote_comes_back_to_it(preset: str, client: Any) -> None:
    first = first_answer(preset)
    messages, _ = sent(preset, second_turn(client(first)))
    assistant = messages[1]
    ids = ["call_0", "call_1"]
    if FORMS[preset].tool_call_ids:
        ids = [short_id(given) for given in ids]
    assert [item["id"] for item in assistant["tool_calls"]] == ids
    assert [item["tool_call_id"] for item in messages[2:]] == ids
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        assert assistant.get(name) == first.get(name)
    assert assistant["tool_calls"][0].get("extra_content") == first["tool_calls"][0].get(
        "extra_content"
    )
    if FORMS[preset].reasoning_field == "thinking_parts":
        assert assistant["content"] == first["content"]


@pytest.mark.parametrize("other", sorted(FORMS))
@pytest.mark.parametrize("preset", sorted(FORMS))
def test_a_conversation_goes_on_at_another_provider(preset: str, other: str) -> None:
    messages, _ = sent(other, second_turn(whole(first_answer(preset))))
    form, assistant = FORMS[other], messages[1]
    fields = assistant.keys() - {"role", "content", "tool_calls"}
    if form.reasoning_field is not None:
        allowed = {form.reasoning_field} | ({"reasoning_details"} - set(form.refused_fields))
        assert fields <= allowed
    if form.reasoning_required:
        assert isinstance(assistant["reasoning_content"], str)
    extra = assistant["tool_calls"][0].get("extra_content")
    if form.thought_signatures:
        assert extra == (SIGNED if FORMS[preset].thought_signatures else UNSIGNED)
    elif form.reasoning_field is not None:
        assert extra is None


def test_every_preset_has_a_form() -> None:
    assert FORMS.keys() == PRESETS.keys() - {"anthropic"}


def test_other_models_thinking_does_not_go_to_anthropic() -> None:
    body = second_turn(whole(first_answer("deepseek")))
    kept = without_foreign_thinking(body)
    assert [block["type"] for block in kept["messages"][1]["content"]] == ["tool_use", "tool_use"]
    claudes = second_turn([{"type": "thinking", "thinking": "Hm", "signature": "EqRk=="}])
    assert without_foreign_thinking(claudes) is claudes


def fit(form: MessageForm, body: dict[str, Any], raw: bytes | None = None) -> ChatRequest:
    return MessageFitter(form).fit(ChatRequest("m", body, raw)).request


@pytest.mark.parametrize("preset", sorted(FORMS))
def test_bytes_pass_where_nothing_has_to_change(preset: str) -> None:
    messages = [USER, {"role": "assistant", "content": "Sunny."}, USER]
    body = {"messages": messages, "model": "m"}
    assert fit(FORMS[preset], body, json.dumps(body).encode()).raw is not None


def test_a_long_name_of_a_tool_is_shortened_and_comes_back_whole() -> None:
    long = "mcp__a_server_with_a_long_name__" + "x" * 60
    tool = {"type": "function", "function": {"name": long, "parameters": {}}}
    earlier = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": long}}]}
    body = {
        "messages": [USER, earlier, {"role": "tool", "tool_call_id": "a", "content": ""}],
        "tools": [tool, {"type": "function", "function": {"name": "short"}}],
        "tool_choice": {"type": "function", "function": {"name": long}},
    }
    fitted = MessageFitter(FORMS["openai"]).fit(ChatRequest("m", body, json.dumps(body).encode()))
    changed = fitted.request.body
    short = changed["tools"][0]["function"]["name"]
    assert len(short) <= 64
    assert changed["tool_choice"]["function"]["name"] == short
    assert changed["messages"][1]["tool_calls"][0]["function"]["name"] == short
    assert changed["tools"][1]["function"]["name"] == "short"
    assert fitted.request.raw is None
    assert json.loads(fitted.restore(json.dumps({"name": short}).encode())) == {"name": long}
    assert json.dumps(body) == json.dumps({**body})  # the client's own is as it was
    assert fit(FORMS["vllm"], body) is not None


def test_a_long_id_is_shortened_alike_in_call_and_result() -> None:
    long = "call_" + "x" * 80
    messages = [
        {"role": "assistant", "tool_calls": [{"id": long, "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": long, "content": "x"},
    ]
    fitted = fit(FORMS["openai"], {"messages": messages}).body["messages"]
    assert fitted[0]["tool_calls"][0]["id"] == fitted[1]["tool_call_id"]
    assert len(fitted[1]["tool_call_id"]) <= 40


def test_short_ids_are_nine_letters_or_digits_and_always_the_same() -> None:
    long = "call_PTLP8xhu3uwZk4l3nlnrrJha"
    assert short_id(long).isalnum()
    assert len(short_id(long)) == len(short_id("")) == 9
    assert short_id(long) == short_id(long) != short_id(long + "2")


def test_a_name_that_is_no_longer_among_the_tools_is_shortened_too() -> None:
    long = "é" * 70
    messages = [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": long}}]}]
    fitted = fit(FORMS["openai"], {"messages": messages}).body["messages"]
    name = fitted[0]["tool_calls"][0]["function"]["name"]
    assert len(name) == 64
    assert name.isascii()


def test_a_name_with_quotation_marks_comes_back_as_json() -> None:
    long = 'a "strange" name ' + "x" * 60
    body = {"messages": [USER], "tools": [{"type": "function", "function": {"name": long}}]}
    fitted = MessageFitter(FORMS["openai"]).fit(ChatRequest("m", body))
    short = fitted.request.body["tools"][0]["function"]["name"]
    assert json.loads(fitted.restore(json.dumps([short]).encode())) == [long]


def test_options_of_a_row_replace_what_its_wire_form_says() -> None:
    assert Quirks().message_form("mistral") is FORMS["mistral"]
    assert Quirks(wire_form="deepseek").message_form("kimi") is FORMS["deepseek"]
    own = Quirks(drop_message_fields=("x",), tool_call_ids="").message_form("mistral")
    assert (own.refused_fields, own.tool_call_ids) == (("x",), "")
    assert own.reasoning_field == "thinking_parts"
    with pytest.raises(ValueError, match="accepted: azure, deepseek"):
        Quirks(wire_form="deepsek")


def test_a_field_that_a_row_refuses_is_not_put_in_by_its_wire_form() -> None:
    form = Quirks(drop_message_fields=("reasoning_content",)).message_form("deepseek")
    said = {"role": "assistant", "content": "x", "reasoning": "hm"}
    request = ChatRequest("m", {"messages": [said]})
    fitted = MessageFitter(form).fit(request).request.body["messages"]
    assert fitted == [{"role": "assistant", "content": "x"}]
    assert request.ignored == {"messages.reasoning"}


def test_gemini_gets_googles_mark_for_a_call_that_it_did_not_sign() -> None:
    calls = [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in "ab"]
    body = {"messages": [USER, {"role": "assistant", "tool_calls": calls}]}
    first, second = fit(FORMS["gemini"], body).body["messages"][1]["tool_calls"]
    mark = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert first["extra_content"] == mark
    assert "extra_content" not in second  # Google wants it on the first of several
