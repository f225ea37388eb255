"""Any conversation of an agent, in each dialect, arrives at each server as it takes it.

The rules are those by which the servers refuse requests: docs/providers.md, docs/anthropic.md.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.dialects.anthropic.request import request_to_openai as from_messages
from goblin_assistant.dialects.responses.request import request_to_openai as from_responses
from goblin_assistant.providers.anthropic.messages import translate_messages
from goblin_assistant.providers.base import ChatRequest
from goblin_assistant.providers.openai.messages import MessageFitter
from goblin_assistant.providers.wire_forms import WIRE_FORMS

Message = dict[str, Any]
Turn = tuple[str, list[tuple[str, str]], list[str]]
"""What the user says first, the calls (id, arguments), and what the user says among the results."""

ODD_IDS = ["functions.f:0", "functions:f.0", "functions_f_0", "call_1", "abcDEF123", "x" * 70]
TEXTS = st.sampled_from(["Hi", "", " \n", "Größe"])
CALLS = st.lists(
    st.tuples(st.sampled_from(ODD_IDS), st.sampled_from(['{"a":1}', "{}", "", '{"a":', "[1]"])),
    max_size=3,
)
TURNS = st.lists(st.tuples(TEXTS, CALLS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=4)


def called(call_id: str, arguments: str) -> Message:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def interleaved(results: list[Message], said: list[Message], back: bool) -> list[Message]:
    """Results with messages of the user between them, also the other way round."""
    ordered = results[::-1] if back else results
    found: list[Message] = []
    for place, result in enumerate(ordered):
        found += [*said[place : place + 1], result]
    return found + said[len(ordered) :]


def of_chat(turns: list[Turn], back: bool) -> list[Message]:
    messages: list[Message] = []
    for text, calls, said in turns:
        messages.append({"role": "user", "content": text})
        if calls:
            tool_calls = [called(*call) for call in calls]
            messages.append({"role": "assistant", "content": None, "tool_calls": tool_calls})
        results = [{"role": "tool", "tool_call_id": name, "content": name} for name, _ in calls]
        users = [{"role": "user", "content": item} for item in said]
        messages += [*interleaved(results, users, back), {"role": "assistant", "content": text}]
    return [*messages, {"role": "user", "content": "Go on."}]


def unique(turns: list[Turn]) -> list[Turn]:
    """The same with each id once in a turn: other dialects tie results to calls by nothing else."""
    return [(text, [*dict(calls).items()], said) for text, calls, said in turns]


def of_messages(turns: list[Turn], back: bool) -> list[Message]:
    messages: list[Message] = []
    for text, calls, said in unique(turns):
        messages.append({"role": "user", "content": text})
        uses = [{"type": "tool_use", "id": name, "name": "f", "input": {}} for name, _ in calls]
        messages.append({"role": "assistant", "content": uses or "Hm."})
        results = [{"type": "tool_result", "tool_use_id": name, "content": name}
                   for name, _ in calls]  # fmt: skip
        users = [{"type": "text", "text": item} for item in said]
        messages += [
            {"role": "user", "content": [block]} for block in interleaved(results, users, back)
        ]
        messages.append({"role": "assistant", "content": "So."})
    body = {"max_tokens": 5, "messages": [*messages, {"role": "user", "content": "Go on."}]}
    found: list[Message] = from_messages(body, set())["messages"]
    return found


def of_responses(turns: list[Turn], back: bool) -> list[Message]:
    items: list[Message] = []
    for text, calls, said in unique(turns):
        items.append({"role": "user", "content": text})
        items += [{"type": "function_call", "call_id": name, "name": "f", "arguments": arguments}
                  for name, arguments in calls]  # fmt: skip
        results = [{"type": "function_call_output", "call_id": name, "output": name}
                   for name, _ in calls]  # fmt: skip
        users = [{"role": "user", "content": item} for item in said]
        items += [*interleaved(results, users, back), {"role": "assistant", "content": "So."}]
    body = {"input": [*items, {"role": "user", "content": "Go on."}]}
    found: list[Message] = from_responses(body, set())["messages"]
    return found


DIALECTS = {"openai": of_chat, "anthropic": of_messages, "responses": of_responses}


@pytest.mark.parametrize("dialect", DIALECTS)
@given(turns=TURNS, back=st.booleans())
def test_claude_takes_it(dialect: str, turns: list[Turn], back: bool) -> None:
    _, sent = translate_messages(DIALECTS[dialect](turns, back), set())
    roles = [turn["role"] for turn in sent]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    used: set[str] = set()
    waiting: list[str] = []
    for turn in sent:
        assert turn["content"]
        kinds = [block["type"] for block in turn["content"]]
        assert all(block["text"].strip() for block in turn["content"] if block["type"] == "text")
        if turn["role"] == "user":
            answered = [block["tool_use_id"] for block in turn["content"][: len(waiting)]]
            assert sorted(answered) == sorted(waiting)
            assert "tool_result" not in kinds[len(waiting) :]
        waiting = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        assert all(re.fullmatch("[a-zA-Z0-9_-]+", name) for name in waiting)
        assert len({*used, *waiting}) == len(used) + len(waiting)
        used.update(waiting)


@pytest.mark.parametrize("preset", ["openai", "mistral", "groq", "deepseek"])
@pytest.mark.parametrize("dialect", ["anthropic", "responses"])
@given(turns=TURNS, back=st.booleans())
def test_servers_of_openais_dialect_take_it(
    preset: str, dialect: str, turns: list[Turn], back: bool
) -> None:
    form = WIRE_FORMS[preset].messages
    assert form is not None
    request = ChatRequest("m", {"messages": DIALECTS[dialect](turns, back)})
    sent = MessageFitter(form).fit(request).request.body["messages"]
    waiting: list[str] = []
    before = ""
    for message in sent:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting, json.dumps(sent)
            waiting = [call["id"] for call in message.get("tool_calls", ())]
        assert len(set(waiting)) == len(waiting)
        assert all(len(name) <= (form.id_limit or 100) for name in waiting)
        if form.tool_call_ids:
            assert all(re.fullmatch(form.tool_call_ids, name) for name in waiting)
        assert not (form.bridge and (before, message["role"]) == ("tool", "user"))
        before = message["role"]
    assert not waiting
