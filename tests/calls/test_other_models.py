"""Models that a request names beside its own: the caller's list and its budget hold for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from goblin_assistant.calls.other_models import other_models
from goblin_assistant.config import GoblinFile
from goblin_assistant.errors import BadRequest
from tests.conftest import MakeApp, register
from tests.support.fake_upstream import FakeUpstream, Reply, answering_gets

SCHEMA = {"type": "object", "properties": {"model": {"enum": ["no"]}}, "required": ["model"]}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, []),
        ({"models": ["a", "b", "a"]}, ["a", "b"]),
        ({"models": "a"}, ["a"]),
        ({"models": [{"model": "a", "weight": 1}]}, ["a"]),
        ({"fallbacks": [{"model": "a", "max_tokens": 5}, "b"]}, ["a", "b"]),
        ({"fallbacks": "default"}, ["default"]),
        ({"preset": "cheap"}, ["@preset/cheap"]),
        ({"plugins": [{"id": "fusion", "analysis_models": ["a"], "model": "b"}]}, ["a", "b"]),
        ({"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "a"}]}, ["a"]),
        ({"tools": [{"type": "openrouter:advisor", "parameters": {"model": "a"}}]}, ["a"]),
        ({"tools": [{"type": "image_generation", "model": "gpt-image-1"}]}, ["gpt-image-1"]),
        ({"compound_custom": {"models": {"reasoning_model": "a", "answering_model": "b"}}},
         ["a", "b"]),
        # Content and schemas name none.
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]}, []),
        ({"tools": [{"name": "f", "input_schema": SCHEMA, "input_examples": [{"model": "no"}]}]},
         []),
        ({"tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "model": "no"}]}, []),
        ({"metadata": {"model": "no"}, "text": {"format": {"schema": SCHEMA}}}, []),
        ({"messages": [{"role": "user", "content": [{"type": "text", "model": "no"}]}]}, []),
        ({"models": [3, None, {"deep": [["x"]]}]}, []),
        ({"moderation": {"model": "omni-moderation-latest"}}, []),  # it only judges
        # A schema beside a type of the server's own hides none.
        ({"tools": [{"type": "openrouter:advisor", "parameters": {"model": "a"}, "function": {}}]},
         ["a"]),
    ],
)  # fmt: skip
def test_every_model_that_a_request_names_is_found(
    fields: dict[str, Any], names: list[str]
) -> None:
    assert other_models({"model": "m", "messages": [], **fields}) == names


def test_names_without_end_are_refused_at_once() -> None:
    with pytest.raises(BadRequest, match="names more than 32 other models"):
        other_models({"models": [f"claude-opus-4-6-{number}" for number in range(100_000)]})


MODELS = ["m", "cheap", "dear"]
CHAT = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "hi"}], "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip
RESPONSE = {
    "id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed",
    "output": [
        {"id": "i", "type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "hi", "annotations": []}]}
    ],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}  # fmt: skip
HELLO = [{"role": "user", "content": "hello"}]
DIALECTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", "up", {"messages": HELLO, "max_tokens": 9}, CHAT),
    "messages": ("/v1/messages", "claude", {"messages": HELLO, "max_tokens": 9}, MESSAGE),
    "responses": ("/v1/responses", "openai", {"input": "hello", "max_output_tokens": 9}, RESPONSE),
}
"""Path, row that speaks the dialect, request, its answer."""


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A provider that answers the monitor beside its script."""
    upstream = FakeUpstream(choose=answering_gets(Reply.json(200, {"object": "list", "data": []})))
    try:
        yield upstream
    finally:
        upstream.close()


@pytest.fixture
def client(make_app: MakeApp, upstream: FakeUpstream) -> FlaskClient:
    rows: dict[str, Any] = {
        "up": {"base_url": upstream.url + "/v1", "models": MODELS},
        "claude": {"kind": "anthropic", "base_url": upstream.url, "api_key": "k",
                   "models": MODELS},
        "openai": {"base_url": upstream.url + "/v1", "api_key": "k", "models": MODELS},
    }  # fmt: skip
    price = {"input": 1, "output": 1}
    prices = {f"{row}/{name}": price for row in rows for name in ("m", "cheap")}
    prices |= {f"{row}/dear": {"input": 1, "output": 1_000_000} for row in rows}
    app = make_app(file=GoblinFile.model_validate({
        "providers": rows, "prices": prices, "aliases": {"nick": "up/m"},
    }))  # fmt: skip
    return app.test_client()


def key_with(client: FlaskClient, **limits: Any) -> dict[str, str]:
    user = {"Authorization": f"Bearer {register(client)['access_token']}"}
    made = client.post("/auth/keys", json={"name": "k", **limits}, headers=user)
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json['key']}"}


def posted(upstream: FakeUpstream) -> int:
    return sum(request.method == "POST" for request in upstream.requests)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "fields",
    [
        {"models": ["cheap", "dear"]},
        {"fallbacks": [{"model": "dear"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "dear"}]},
    ],
    ids=["models", "fallbacks", "tools"],
)
def test_a_key_reaches_no_model_outside_its_list_by_another_field(
    client: FlaskClient, upstream: FakeUpstream, dialect: str, fields: dict[str, Any]
) -> None:
    path, row, request, answer = DIALECTS[dialect]
    key = key_with(client, allowed_models=[f"{row}/m", f"{row}/cheap", "nick"])
    body = {**request, **fields, "model": f"{row}/m"}
    refused = client.post(path, json=body, headers=key)
    assert refused.status_code == 403, refused.text
    assert "'dear'" in refused.get_json()["error"]["message"]
    assert posted(upstream) == 0
    if dialect == "chat":  # nor by an alias that it may use
        assert client.post(path, json={**body, "model": "nick"}, headers=key).status_code == 403

    upstream.reply(Reply.json(200, answer))
    allowed = {"models": ["cheap"]} if "models" in fields else {}
    body = {**request, **allowed, "model": f"{row}/m"}
    assert client.post(path, json=body, headers=key).status_code == 200


def test_what_is_not_sent_on_is_not_looked_at(client: FlaskClient, upstream: FakeUpstream) -> None:
    key = key_with(client, allowed_models=["up/m"])
    upstream.reply(Reply.json(200, CHAT))
    body = {"model": "up/m", "messages": HELLO, "max_tokens": 9, "fallbacks": [{"model": "dear"}]}
    answer = client.post("/v1/messages", json=body, headers=key)
    assert answer.status_code == 200, answer.text
    assert "fallbacks" in answer.headers["X-Goblin-Ignored"]
    (sent,) = [request for request in upstream.requests if request.method == "POST"]
    assert "fallbacks" not in sent.json()


def test_nothing_is_held_for_what_is_not_sent_on(
    client: FlaskClient, upstream: FakeUpstream
) -> None:
    key = key_with(client, monthly_budget_usd="0.001")
    upstream.reply(Reply.json(200, CHAT))
    body = {"model": "up/m", "messages": HELLO, "max_tokens": 9,
            "fallbacks": [{"model": "dear", "max_tokens": 2_000_000}]}  # fmt: skip
    assert client.post("/v1/messages", json=body, headers=key).status_code == 200


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_budget_holds_the_dearest_model_that_may_answer(
    client: FlaskClient, upstream: FakeUpstream, dialect: str
) -> None:
    path, row, request, answer = DIALECTS[dialect]
    key = key_with(client, monthly_budget_usd="1")
    for fields, status in [
        ({"models": ["dear"]}, 402),
        ({"fallbacks": [{"model": "dear"}]}, 402),
        ({"fallbacks": [{"model": "cheap", "max_tokens": 2_000_000}]}, 402),
        ({"models": ["unknown"]}, 400),
        ({"models": ["cheap"]}, 200),
    ]:
        if status == 200:
            upstream.reply(Reply.json(200, answer))
        told = client.post(path, json={**request, **fields, "model": f"{row}/m"}, headers=key)
        assert told.status_code == status, (fields, told.text)
    assert posted(upstream) == 1


def test_a_budget_holds_the_summary_that_anthropic_may_write_first(
    client: FlaskClient, upstream: FakeUpstream
) -> None:
    key = key_with(client, monthly_budget_usd="0.002")
    body = {"model": "claude/m", "messages": HELLO, "max_tokens": 9}
    edits = [{"type": "clear_tool_uses_20250919"}, {"type": "compact_20260112"}]
    for management, status in [({"edits": edits}, 402), ({"edits": edits[:1]}, 200), (None, 200)]:
        if status == 200:
            upstream.reply(Reply.json(200, MESSAGE))
        answer = client.post(
            "/v1/messages", json={**body, "context_management": management}, headers=key
        )
        assert answer.status_code == status, answer.text
