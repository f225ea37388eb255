"""Names, roles and refusals that a server does not take: they are fitted to it, and come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goblin_assistant.providers.base import ChatRequest
from goblin_assistant.providers.openai.messages import Fitted, MessageFitter
from goblin_assistant.providers.wire_form import ANY
from goblin_assistant.providers.wire_forms import WIRE_FORMS
from tests.conftest import MakeApp
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.plain_and_claude import CHAT, HELLO, Gateway
from tests.support.wire_bodies import anthropic_events, anthropic_message

FORMS = {name: form.messages for name, form in WIRE_FORMS.items() if form.messages is not None}
HOSTED = sorted(name for name, form in FORMS.items() if form.tool_name_limit is not None)
ODD = ["files.read", "mcp/server tool", "größe", 'a"b', "é" * 70]
USER = {"role": "user", "content": "hi"}


def fit(preset: str, messages: list[dict[str, Any]], **fields: Any) -> Fitted:
    """As the client's bytes, so that it is seen what is looked for in them."""
    body = {"model": "m", "messages": messages, **fields}
    return MessageFitter(FORMS[preset]).fit(ChatRequest("m", body, json.dumps(body).encode()))


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("preset", HOSTED)
@pytest.mark.parametrize("name", ODD)
def test_a_tool_with_an_odd_name_is_called_by_another_and_comes_back(
    preset: str, name: str
) -> None:
    call = {"id": "abcDEF123", **function(name)}
    history = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcDEF123", "name": name, "content": "x"},
    ]
    fitted = fit(
        preset, history, tools=[function(name), function("ok")], tool_choice=function(name)
    )
    sent = fitted.request.body
    new = sent["tools"][0]["function"]["name"]
    assert len(new) <= 64
    assert new.replace("_", "").replace("-", "").isalnum()
    assert new.isascii()
    assert sent["tools"][1]["function"]["name"] == "ok"
    assert sent["tool_choice"]["function"]["name"] == new
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == new
    assert sent["messages"][2]["name"] == new
    assert json.loads(fitted.restore(json.dumps({"name": new}).encode())) == {"name": name}


@pytest.mark.parametrize("preset", HOSTED)
def test_odd_names_among_the_tools_that_are_allowed_are_the_tools_names(preset: str) -> None:
    allowed = {"mode": "required", "tools": [function("files.read"), function("ok")]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    tools = [function("files.read"), function("ok")]
    sent = fit(preset, [USER], tools=tools, tool_choice=choice).request.body
    assert sent["tool_choice"]["allowed_tools"] == {"mode": "required", "tools": sent["tools"]}
    assert sent["tools"][0] != function("files.read")


MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


@pytest.mark.parametrize("preset", sorted(FORMS))
def test_cache_marks_are_left_out_and_named_where_the_server_refuses_them(preset: str) -> None:
    call = {"id": "abcDEF123", **function("f")}
    plain: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {**USER, "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "x"},
    ]
    marked: list[dict[str, Any]] = [
        {**plain[0], **MARK},
        {**USER, "content": [{"type": "text", "text": "hi", **MARK}]},
        {**plain[2], "tool_calls": [{**call, **MARK}]},
        {**plain[3], **MARK},
    ]
    tools = [{**function("f"), **MARK}, {"type": "function", "function": {"name": "g", **MARK}}]
    fitted = fit(preset, marked, tools=tools, **MARK)
    if FORMS[preset].cache_control:
        assert b"cache_control" in json.dumps(fitted.request.body).encode()
        return
    without = fit(preset, plain, tools=[function("f"), function("g")])
    assert fitted.request.body == without.request.body
    assert fitted.request.ignored == {
        "cache_control", "messages.cache_control", "tools.cache_control",
    }  # fmt: skip


@pytest.mark.parametrize("preset", sorted(FORMS))
def test_what_a_developer_says_is_the_systems_where_the_role_is_not_known(preset: str) -> None:
    messages = [USER, {"role": "developer", "content": "be brief"}]
    sent = fit(preset, messages).request.body["messages"]
    known = preset in ("openai", "azure")
    assert sent[1] == {"role": "developer" if known else "system", "content": "be brief"}
    assert messages[1]["role"] == "developer"
    assert ANY.developer_role


@pytest.mark.parametrize("preset", sorted(FORMS))
def test_who_speaks_is_left_out_and_named_where_the_server_refuses_it(preset: str) -> None:
    fitted = fit(preset, [{**USER, "name": "ann"}])
    kept = "name" in fitted.request.body["messages"][0]
    assert kept is (preset != "mistral")
    assert ("messages.name" in fitted.request.ignored) is not kept


@pytest.mark.parametrize("preset", ["gemini", "groq", "mistral"])
def test_a_refusal_is_text_where_there_is_no_place_for_it(preset: str) -> None:
    part = {"type": "refusal", "refusal": "no"}
    text = {"type": "text", "text": "no"}
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": "yes", "refusal": "no"}, "yes\n\nno"),
        ({"content": [part]}, [text]),
        ({"content": [{"type": "text", "text": "yes"}], "refusal": "no"},
         [{"type": "text", "text": "yes"}, text]),
        ({"content": "yes", "refusal": None}, "yes"),
    ]  # fmt: skip
    for fields, expected in cases:
        fitted = fit(preset, [USER, {"role": "assistant", **fields}])
        assert fitted.request.body["messages"][1] == {"role": "assistant", "content": expected}
        assert fitted.request.ignored == set()


@pytest.fixture
def gateway(make_app: MakeApp, fake_upstream: FakeUpstream) -> Gateway:
    return Gateway(make_app, fake_upstream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_claude_gets_names_that_it_takes_and_the_client_its_own(
    gateway: Gateway, stream: bool
) -> None:
    for name in (*ODD, "x" * 140):
        gateway.ask(CHAT, "claude/m", Reply.json(200, anthropic_message()), tools=[function(name)])
        new = gateway.asked()[-1].json()["tools"][0]["name"]
        assert len(new) <= 128
        assert new.replace("_", "").replace("-", "").isalnum()
        assert new.isascii()
        used = [(new, {"a": 1})]
        reply = (
            Reply.sse(anthropic_events(tool_calls=used))
            if stream
            else Reply.json(200, anthropic_message(tool_calls=used))
        )
        history = [
            *HELLO,
            {"role": "assistant", "tool_calls": [{"id": "a", **function(name)}]},
            {"role": "tool", "tool_call_id": "a", "content": "x"},
        ]
        answer = gateway.ask(
            CHAT, "claude/m", reply, stream=stream, messages=history, tools=[function(name)],
            tool_choice=function(name),
        )  # fmt: skip
        sent = gateway.asked()[-1].json()
        assert sent["messages"][1]["content"][0]["name"] == new
        assert sent["tool_choice"]["name"] == new
        assert new not in answer.text
        told = [line.removeprefix("data: ") for line in answer.text.splitlines() if "{" in line]
        choices = [choice for line in told for choice in json.loads(line)["choices"]]
        calls = [
            call
            for choice in choices
            for call in (choice.get("delta") or choice.get("message") or {}).get("tool_calls", ())
        ]
        assert calls[0]["function"]["name"] == name
