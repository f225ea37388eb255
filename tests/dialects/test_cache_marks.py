"""Anthropic's cache marks pass to servers that read them, and are named for all others."""

from __future__ import annotations

from typing import Any

import pytest

from goblin_assistant.config import GoblinFile
from goblin_assistant.dialects.anthropic.request import request_to_openai
from tests.conftest import MakeApp, register, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat

HOUR = {"type": "ephemeral", "ttl": "1h"}
SHORT = {"type": "ephemeral"}
TTL_ALONE = {"ttl": "1h"}


def text(said: str, mark: Any = None) -> dict[str, Any]:
    """A text, as a block of Anthropic's and as a part of OpenAI's: they look the same."""
    return {"type": "text", "text": said} | ({} if mark is None else {"cache_control": mark})


USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "Seen."}
FOUND = {
    "type": "search_result",
    "title": "A page",
    "source": "https://a.example",
    "content": [text("Words.", SHORT)],
}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
MARKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "cache_control": SHORT,
    "system": [text("You are a goblin."), text("Long rules.", HOUR)],
    "tools": [{**TOOL, "cache_control": HOUR}],
    "messages": [
        {"role": "user", "content": [text("Look.", TTL_ALONE)]},
        {"role": "assistant", "content": [text("I will."), text(" Now.", SHORT), USE]},
        {"role": "user", "content": [{**RESULT, "cache_control": SHORT}, text("And?")]},
        {"role": "user", "content": [text("This:"), {**IMAGE, "cache_control": SHORT}]},
    ],
}
NAMES = {"cache_control", "messages.cache_control", "tools.cache_control"}


def without(value: Any) -> Any:
    """The same without any mark."""
    if isinstance(value, dict):
        return {name: without(inner) for name, inner in value.items() if name != "cache_control"}
    return [without(inner) for inner in value] if isinstance(value, list) else value


def test_a_server_that_reads_marks_gets_each_where_it_stood() -> None:
    ignored: set[str] = set()
    request = request_to_openai(MARKED, ignored, cache_marks=True)
    assert ignored == set()
    assert request["cache_control"] == SHORT
    assert request["tools"][0]["cache_control"] == HOUR
    system, first, answer, result, again, image = request["messages"]
    assert system["content"] == [text("You are a goblin."), text("Long rules.", HOUR)]
    assert first["content"] == [text("Look.", TTL_ALONE)]
    assert answer["content"] == [text("I will."), text(" Now.", SHORT)]
    assert answer["tool_calls"][0]["id"] == "t1"
    assert (result["role"], result["content"]) == ("tool", [text("Seen.", SHORT)])
    assert again["content"] == "And?"
    assert image["content"][0] == text("This:")
    assert image["content"][1]["cache_control"] == SHORT


def test_another_server_gets_what_it_would_get_without_marks() -> None:
    ignored: set[str] = set()
    assert request_to_openai(MARKED, ignored) == request_to_openai(without(MARKED), set())
    assert ignored == NAMES


@pytest.mark.parametrize("cache_marks", [True, False])
@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": [{**USE, "cache_control": SHORT}]},
        {"role": "user", "content": [text("", SHORT), text("Hello")]},
        {"role": "assistant", "content": [text("", SHORT), text("Hello")]},
        {"role": "user", "content": [FOUND]},
    ],
)
def test_a_mark_without_a_part_to_stand_on_is_named(turn: Any, cache_marks: bool) -> None:
    body, ignored = {"model": "m", "max_tokens": 9, "messages": [turn]}, set[str]()
    request = request_to_openai(body, ignored, cache_marks=cache_marks)
    assert ignored == {"messages.cache_control"}
    assert without(request) == request


def test_openrouter_is_such_a_server_and_the_header_tells_for_others(
    make_app: MakeApp, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.json(200, {"object": "list", "data": [{"id": "m"}]})
    rows = {
        name: {"base_url": fake_upstream.url + "/v1", "models": ["m"], "api_key": "sk-x"}
        for name in ("openrouter", "up")
    }
    app = make_app(file=GoblinFile.model_validate({"providers": rows}))
    client = app.test_client()
    client.get("/health/live")
    wait_until(lambda: len(fake_upstream.requests) >= 2, what="the monitor's own requests")
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    answers = {}
    for name in rows:
        fake_upstream.reply(Reply.json(200, openai_chat()))
        body = {**MARKED, "model": f"{name}/m"}
        answers[name] = client.post("/v1/messages", json=body, headers=headers)
        assert answers[name].status_code == 200, answers[name].text
        sent = fake_upstream.requests[-1].json()
        assert ("cache_control" in sent) is (name == "openrouter")
        assert (b"ephemeral" in fake_upstream.requests[-1].body) is (name == "openrouter")
    assert "X-Goblin-Ignored" not in answers["openrouter"].headers
    assert answers["up"].headers["X-Goblin-Ignored"] == ", ".join(sorted(NAMES))
