"""The two carried forms lose nothing: what a client sends to a provider of another form arrives, is
named in X-Goblin-Ignored, or is refused by name.

A body of each dialect has every kind of content that the dialect knows. Each of its texts is unlike
every other, and fields that nobody knows are put into any of its objects.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goblin_assistant.dialects.table import DIALECTS
from goblin_assistant.errors import BadRequest
from goblin_assistant.providers.anthropic.models import traits_of
from goblin_assistant.providers.anthropic.request import build_request
from goblin_assistant.providers.base import ChatRequest, ChatResponse, Completed, InvalidRequest
from goblin_assistant.providers.openai.messages import MessageFitter
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.request import RequestEncoder
from goblin_assistant.providers.openai.short_names import short_id
from goblin_assistant.providers.presets import PRESETS
from tests.support.turns import CLIENTS, chat, deltas

Body = dict[str, Any]
Path = tuple[Any, ...]
SCHEMA = {"type": "object", "properties": {"a": {"description": "m-schema"}}}
PDF = "JVBERi0xLjQ="
FUNCTION = {"name": "m-name", "description": "m-about", "parameters": SCHEMA, "strict": False}

OPENAI: Body = {
    "model": "m", "max_tokens": 9, "user": "m-user", "temperature": 0.5, "seed": 7,
    "metadata": {"k": "m-metadata"},
    "stop": ["m-stop"],
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "m-system"}]},
        {"role": "user", "name": "m-somebody", "content": [
            {"type": "text", "text": "m-text"},
            {"type": "image_url", "image_url": {"url": "https://m-image", "detail": "low"}},
            {"type": "file", "file": {"filename": "m-file",
             "file_data": "data:application/pdf;base64," + PDF}},
        ]},
        {"role": "assistant", "content": "m-said", "refusal": "m-refused",
         "reasoning_content": "m-thought", "annotations": [{"type": "m-annotation"}],
         "reasoning_details": [{"type": "reasoning.text", "text": "m-detail"}],
         "tool_calls": [{"id": "m-call", "type": "function", "extra_content": {"x": "m-extra"},
          "function": {"name": "m-name", "arguments": '{"a": "m-argument"}'}}]},
        {"role": "tool", "tool_call_id": "m-call", "content": "m-result"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "m-name"}},
    "response_format": {"type": "json_schema", "json_schema": {
        "name": "m-format", "description": "m-of-format", "schema": SCHEMA}},
}  # fmt: skip

ANTHROPIC: Body = {
    "model": "m", "max_tokens": 9, "metadata": {"user_id": "m-user"}, "temperature": 0.5,
    "stop_sequences": ["m-stop"],
    "system": [{"type": "text", "text": "m-system"}],
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "m-text"},
            {"type": "image", "source": {"type": "url", "url": "https://m-image"}},
            {"type": "document", "title": "m-title", "context": "m-context",
             "source": {"type": "text", "media_type": "text/plain", "data": "m-document"}},
            {"type": "document", "title": "m-other-title",
             "source": {"type": "content", "content": [{"type": "text", "text": "m-inner"}]}},
            {"type": "search_result", "source": "m-source", "title": "m-result-title",
             "content": [{"type": "text", "text": "m-found"}]},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "m-thought", "signature": "Eq=m-signature"},
            {"type": "thinking", "thinking": "m-other-thought", "signature": "goblin."},
            {"type": "redacted_thinking", "data": "m-redacted"},
            {"type": "text", "text": "m-said", "citations": [{"cited_text": "m-cited"}]},
            {"type": "server_tool_use", "id": "m-server", "name": "web_search",
             "input": {"q": "m-query"}},
            {"type": "tool_use", "id": "m-call", "name": "m-name", "input": {"a": "m-argument"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "m-call",
             "content": [{"type": "text", "text": "m-result"}]},
        ]},
    ],
    "tools": [{"name": "m-name", "description": "m-about", "input_schema": SCHEMA},
              {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "tool", "name": "m-name"},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
}  # fmt: skip

RESPONSES: Body = {
    "model": "m", "max_output_tokens": 9, "store": False, "user": "m-user", "temperature": 0.5,
    "instructions": "m-system", "metadata": {"k": "m-metadata"},
    "prompt_cache_key": "m-cache-key", "safety_identifier": "m-identifier",
    "input": [
        {"role": "user", "content": [
            {"type": "input_text", "text": "m-text"},
            {"type": "input_image", "image_url": "https://m-image", "detail": "low"},
            {"type": "input_file", "filename": "m-file",
             "file_data": "data:application/pdf;base64," + PDF},
        ]},
        {"type": "reasoning", "id": "rs_1", "encrypted_content": "m-encrypted",
         "summary": [{"type": "summary_text", "text": "m-summary"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "m-said",
                      "annotations": [{"type": "m-annotation"}]}]},
        {"type": "web_search_call", "id": "ws_1", "action": {"query": "m-query"}},
        {"type": "function_call", "id": "fc_1", "call_id": "m-call", "name": "m-name",
         "arguments": '{"a": "m-argument"}'},
        {"type": "custom_tool_call", "id": "ct_1", "call_id": "m-call-2", "name": "m-custom",
         "input": "m-custom-input"},
        {"type": "function_call_output", "call_id": "m-call", "output": "m-result"},
        {"type": "custom_tool_call_output", "call_id": "m-call-2", "output": [
            {"type": "input_text", "text": "m-custom-result"}]},
    ],
    "tools": [
        {"type": "function", "name": "m-name", "description": "m-about", "parameters": SCHEMA},
        {"type": "custom", "name": "m-custom", "description": "m-about-custom"},
        {"type": "namespace", "name": "m-space", "description": "m-about-space", "tools": [
            {"type": "function", "name": "m-within", "parameters": SCHEMA}]},
        {"type": "web_search", "search_context_size": "m-size"},
    ],
    "tool_choice": {"type": "function", "name": "m-name"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "m-format",
             "description": "m-of-format", "schema": SCHEMA}},
}  # fmt: skip
BODIES = {"openai": OPENAI, "anthropic": ANTHROPIC, "responses": RESPONSES}
TARGETS = [*sorted(name for name in PRESETS if name != "anthropic"), "anthropic", "unknown"]


# -- the way of a request -------------------------------------------------------------------------
def sent(dialect: str, target: str, body: Body) -> tuple[str, set[str]]:
    """What the target's server gets, as text, and the names of what was left out."""
    ignored: set[str] = set()
    translation = DIALECTS[dialect].translation  # type: ignore[index]
    chatted: Mapping[str, Any] = body
    if translation is not None:
        chatted = translation.request(body, ignored, cache_marks=target == "openrouter")
    if target == "anthropic":
        made = build_request(chatted, "claude-opus-4-5", traits_of("claude-opus-4-5"),
                             ignored=ignored)  # fmt: skip
        upstream = json.dumps(made)
    else:
        quirks = Quirks(**(PRESETS[target].options if target in PRESETS else {}))
        request = ChatRequest("m", chatted, ignored=ignored)
        fitted = MessageFitter(quirks.message_form(target)).fit(request).request
        upstream = RequestEncoder(quirks).encode(fitted, stream=False).decode()
    if translation is not None:  # what stands in the answer came back
        plain = orjson.dumps(chat({"role": "assistant", "content": "x"}, {}))
        upstream += translation.answer(ChatResponse(plain, "m"), body).decode()
    return upstream, ignored


# -- what may not vanish --------------------------------------------------------------------------
def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text with "m-" in it, and where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif isinstance(value, str) and "m-" in value:
        yield path, value


def names_at(body: Any, path: Path) -> set[str]:
    """The names by which something at this place may be told: its keys, and types around it."""
    found = set()
    for step in path:
        if isinstance(body, dict):
            found |= {str(step), str(body.get("type"))}
        body = body[step]
    return found


def marks_in(text: str) -> list[str]:
    """The marks of a text: it may be an address, or JSON."""
    return [word for word in text.replace('"', " ").replace("/", " ").split() if "m-" in word]


def check(dialect: str, target: str, body: Body) -> None:
    try:
        upstream, ignored = sent(dialect, target, body)
    except (BadRequest, InvalidRequest) as error:
        refused = error.param
    else:
        refused = None
    if refused is not None:
        assert refused.split(".")[0].split("[")[0] in body
        return
    told = {name.split(".")[-1] for name in ignored}
    for path, text in leaves(body):
        for mark in marks_in(text):
            mark = mark.strip("}{:,").removeprefix("Eq=")
            arrived = mark in upstream or short_id(mark) in upstream
            assert arrived or told & names_at(body, path), (path, text, sorted(ignored))


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a body."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


WAYS = [
    (dialect, target)
    for dialect in BODIES
    for target in TARGETS
    if (dialect, target) != ("anthropic", "anthropic")  # it passes as it is
]


def body_for(dialect: str, target: str) -> Body:
    body = copy.deepcopy(BODIES[dialect])
    if target == "anthropic":  # which refuses both: reasoning, and a tool that has to be called
        body.pop("reasoning", None)
    return body


@pytest.mark.parametrize(("dialect", "target"), WAYS)
def test_every_text_of_a_request_arrives_or_is_named(dialect: str, target: str) -> None:
    upstream, _ = sent(dialect, target, body_for(dialect, target))  # it is not refused
    assert "m-text" in upstream
    check(dialect, target, body_for(dialect, target))


@pytest.mark.parametrize(("dialect", "target"), WAYS)
def test_a_field_that_nobody_knows_arrives_is_named_or_refused(dialect: str, target: str) -> None:
    count = len(list(objects(body_for(dialect, target))))
    assert count > 15
    for position in range(count):
        body = body_for(dialect, target)
        list(objects(body))[position]["zz_new"] = {"deep": "m-new"}
        check(dialect, target, body)


# -- two turns ------------------------------------------------------------------------------------
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, min_size=1, max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> Body:
    """An assistant's message with everything that a provider may want back."""
    names = draw(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=3))
    calls: list[Body] = []
    for index, name in enumerate(names):
        call: Body = {"id": f"call_{index}", "type": "function", "function": {
            "name": name, "arguments": json.dumps(draw(OBJECTS))}}  # fmt: skip
        if draw(st.booleans()):
            call["extra_content"] = draw(OBJECTS)
        calls.append(call)
    message: Body = {"role": "assistant", "content": draw(TEXTS), "tool_calls": calls}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(TEXTS)
    if draw(st.booleans()):
        kind = st.sampled_from(("reasoning.encrypted", "reasoning.summary"))
        message["reasoning_details"] = [
            {"type": draw(kind), "index": index, "data": draw(TEXTS)}
            for index in range(draw(st.integers(1, 3)))
        ]
    return message


def came_back(dialect: str, message: Body, *, stream: bool) -> Body:
    """The message as a provider gets it with the next turn, after it was a client's."""
    client, ways = CLIENTS[dialect], DIALECTS[dialect].translation  # type: ignore[index]
    assert ways is not None
    first = client.first("m")
    if stream:
        translator = ways.stream("m", first)
        pieces = [
            translator.feed(f"data: {json.dumps(chunk)}\n\n".encode())
            for chunk in ({"choices": [{"index": 0, "delta": one}]} for one in deltas(message))
        ]
        pieces.append(translator.finish(Completed("m")))
        lines = b"".join(pieces).decode().split("\n")
        turn = client.joined([json.loads(line[6:]) for line in lines if line.startswith("data: ")])
    else:
        whole = ChatResponse(orjson.dumps(chat(message, {})), "m")
        turn = client.whole(orjson.loads(ways.answer(whole, first)))
    ignored: set[str] = set()
    body = client.second("m", turn)
    back: Body = ways.request(body, ignored, cache_marks=False)["messages"][1]
    assert ignored == set()
    return back


@given(message=messages(), stream=st.booleans())
@settings(max_examples=150)
@pytest.mark.parametrize("dialect", ["anthropic", "responses"])
def test_what_a_provider_wrote_comes_back_with_the_next_turn(
    dialect: str, message: Body, stream: bool
) -> None:
    back = came_back(dialect, message, stream=stream)
    assert back["content"] == message["content"]
    assert back.get("reasoning_content") == message.get("reasoning_content")
    assert back.get("reasoning_details") == message.get("reasoning_details")
    assert len(back["tool_calls"]) == len(message["tool_calls"])
    for new, old in zip(back["tool_calls"], message["tool_calls"], strict=True):
        assert new["id"] == old["id"]
        assert new.get("extra_content") == old.get("extra_content")
        assert new["function"]["name"] == old["function"]["name"]
        arguments = json.loads(new["function"]["arguments"])
        assert arguments == json.loads(old["function"]["arguments"])


@pytest.mark.parametrize("kind", [[1], {"a": 1}, 1, None, True, "nobody_knows"])
@pytest.mark.parametrize(("dialect", "target"), [way for way in WAYS if way[1] != "azure"])
def test_a_type_of_any_kind_is_refused_or_passed_and_breaks_nothing(
    dialect: str, target: str, kind: Any
) -> None:
    typed = [value for value in objects(body_for(dialect, target)) if "type" in value]
    for position in range(len(typed)):
        body = body_for(dialect, target)
        [value for value in objects(body) if "type" in value][position]["type"] = kind
        with contextlib.suppress(BadRequest, InvalidRequest):
            sent(dialect, target, body)
