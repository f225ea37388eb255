"""The chat routes end to end in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Row, select

from goblin_assistant.calls.access import may_use_model
from goblin_assistant.config import GoblinFile
from goblin_assistant.database.models import usage_records
from goblin_assistant.metrics import REGISTRY
from tests.conftest import MakeApp, register, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.services import RedisServer
from tests.support.wire_bodies import openai_events

MODELS = Reply.json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
SAID = {"model": "echo", "messages": [{"role": "user", "content": "canary-prompt"}]}
HELLO = {"messages": [{"role": "user", "content": "hello there"}]}
ANSWER = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m-2026","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14},"future_field":{"kept":true}}'
)

Post = Callable[..., Any]


@pytest.fixture
def upstream(fake_upstream: FakeUpstream) -> FakeUpstream:
    fake_upstream.default = MODELS
    return fake_upstream


@pytest.fixture
def chat_app(make_app: MakeApp, upstream: FakeUpstream) -> Flask:
    rows = {"up": {"base_url": upstream.url + "/v1", "models": ["m"]}}
    return make_app(
        file=GoblinFile.model_validate({"providers": rows, "aliases": {"nick": "up/m"}})
    )


@pytest.fixture
def client(chat_app: Flask, upstream: FakeUpstream) -> FlaskClient:
    client = chat_app.test_client()
    client.get("/health/live")
    wait_until(lambda: upstream.requests, what="the monitor's own request")
    return client


@pytest.fixture
def headers(client: FlaskClient) -> dict[str, str]:
    return {"Authorization": f"Bearer {register(client)['access_token']}"}


def records(app: Flask) -> Sequence[Row[Any]]:
    with app.extensions["goblin"].engine.connect() as connection:
        return connection.execute(select(usage_records).order_by(usage_records.c.id)).all()


def post(
    client: FlaskClient,
    headers: dict[str, str],
    body: dict[str, Any],
    path: str = "/chat/completions",
) -> Any:
    return client.post(path, json=body, headers=headers)


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions"])
def test_a_chat_without_a_model_is_answered_by_the_default(
    client: FlaskClient, headers: dict[str, str], path: str
) -> None:
    answer = post(client, headers, HELLO, path)
    assert answer.status_code == 200
    assert "You said: hello there" in answer.json["choices"][0]["message"]["content"]
    assert answer.headers["X-Goblin-Provider"] == "echo"
    assert set(answer.headers["Server-Timing"].replace(",", "").split()) >= {"queue;dur=0"}


def test_bytes_go_to_the_provider_and_come_back_untouched(
    client: FlaskClient, headers: dict[str, str], upstream: FakeUpstream
) -> None:
    upstream.reply(Reply.plain(200, ANSWER))
    raw = (
        b'{ "model":"m" ,"messages":[{"role":"user","content":"x"}],'
        b'"brand_new":{"deep":[1,2.50],"huge":12345678901234567890123}, "seed":7 }'
    )
    answer = client.post(
        "/v1/chat/completions", data=raw, headers={**headers, "Content-Type": "application/json"}
    )
    assert answer.data == ANSWER
    assert upstream.requests[-1].body == raw
    assert upstream.requests[-1].headers["x-correlation-id"] == answer.headers["X-Correlation-ID"]


def test_fields_that_nobody_knows_survive_where_the_body_has_to_change(
    client: FlaskClient, headers: dict[str, str], upstream: FakeUpstream
) -> None:
    upstream.reply(Reply.plain(200, ANSWER))
    body = {
        **HELLO,
        "model": "nick",
        "brand_new": {"deep": [1, 2.5]},
        "seed": 7,
        "tools": [{"type": "function"}],
    }
    assert post(client, headers, body).status_code == 200
    sent = upstream.requests[-1].json()
    assert sent == {**body, "model": "m"}


def test_a_users_settings_fill_in_what_the_request_leaves_out(
    client: FlaskClient, headers: dict[str, str], upstream: FakeUpstream
) -> None:
    settings = {
        "model": "up/m",
        "temperature": 0.25,
        "max_tokens": 77,
        "system_prompt": "Be brief.",
    }
    assert client.put("/settings/", json=settings, headers=headers).status_code == 200
    upstream.reply(Reply.plain(200, ANSWER), Reply.plain(200, ANSWER))
    post(client, headers, HELLO)
    assert upstream.requests[-1].json() == {
        "messages": [{"role": "system", "content": "Be brief."}, *HELLO["messages"]],
        "model": "m",
        "temperature": 0.25,
        "max_tokens": 77,
    }
    own = {
        "messages": [{"role": "developer", "content": "Mine."}, *HELLO["messages"]],
        "model": "up/m",
        "temperature": 1,
        "max_completion_tokens": 5,
    }
    post(client, headers, own)
    assert upstream.requests[-1].json() == {**own, "model": "m"}


def test_one_record_says_what_a_chat_used(
    client: FlaskClient, headers: dict[str, str], chat_app: Flask, upstream: FakeUpstream
) -> None:
    upstream.reply(Reply.plain(200, ANSWER))
    answer = post(client, headers, {**HELLO, "model": "nick"})
    (record,) = records(chat_app)
    assert record.correlation_id == answer.headers["X-Correlation-ID"]
    assert (record.provider, record.model, record.model_requested) == ("up", "m-2026", "nick")
    assert (record.prompt_tokens, record.completion_tokens, record.token_source) == (
        11,
        3,
        "provider",
    )
    assert record.cost_microusd is None, "nobody knows a price for it"
    assert (record.status_code, record.completed, record.stream, record.attempts) == (
        200,
        True,
        False,
        1,
    )
    labels = {"provider": "up", "model": "m"}  # the name in the catalogue
    assert REGISTRY.get_sample_value("chat_price_unknown_total", labels)


def test_a_stream_ends_with_done_and_counts_its_tokens(
    client: FlaskClient, headers: dict[str, str], chat_app: Flask
) -> None:
    answer = post(client, headers, {**HELLO, "stream": True})
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    events = answer.data.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [orjson.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text.endswith("hello there")
    (record,) = records(chat_app)
    assert record.stream
    assert record.completed
    assert record.completion_tokens > 0
    assert record.first_token_ms is not None


def test_an_unknown_model_is_404_in_each_dialect(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    native = post(client, headers, {**HELLO, "model": "nope"})
    assert native.status_code == 404
    assert native.json["error"] == "model_not_found"
    openai = post(client, headers, {**HELLO, "model": "nope"}, "/v1/chat/completions")
    assert openai.status_code == 404
    assert openai.json["error"]["code"] == "model_not_found"
    assert openai.json["error"]["param"] == "model"


def test_models_lists_what_may_be_asked_for_and_describes_each(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    listed = client.get("/v1/models", headers=headers).json["data"]
    assert {"echo/echo", "up/m", "nick"} <= {row["id"] for row in listed}
    for row in listed:
        assert client.get(f"/v1/models/{row['id']}", headers=headers).json == row
    assert client.get("/chat/models", headers=headers).json["data"] == listed
    assert client.get("/v1/models/no/such", headers=headers).status_code == 404


def test_a_key_with_a_list_of_models_may_use_and_sees_only_those(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    made = client.post(
        "/auth/keys", json={"name": "narrow", "allowed_models": ["up/*"]}, headers=headers
    )
    key = {"Authorization": f"Bearer {made.json['key']}"}
    refused = post(client, key, {**HELLO, "model": "echo"})
    assert refused.status_code == 403
    assert refused.json["param"] == "model"
    names = {row["id"] for row in client.get("/v1/models", headers=key).json["data"]}
    assert names == {"up/m", "nick"}  # all that is behind the alias is in the list


@pytest.mark.parametrize(
    ("allowed", "provider", "model", "may"),
    [
        ("openai/*", "openai", "gpt-4o", True),
        ("openai/*", "router", "openai/gpt-4o", False),  # routers name models so
        ("openai/gpt-4o", "router", "openai/gpt-4o", False),
        ("router/openai/*", "router", "openai/gpt-4o", True),
        ("gpt-4o", "openai", "gpt-4o", True),
        ("gpt-4o", "router", "openai/gpt-4o", False),
        ("gpt-*", "azure", "gpt-4o", True),
        ("*", "router", "openai/gpt-4o", True),
        ("*/gpt-4o", "azure", "gpt-4o", True),
        ("*/gpt-4o", "router", "openai/gpt-4o", False),
        ("open*/gpt-4o", "openrouter", "openai/gpt-4o", False),
        ("router/*/gpt-4o", "router", "openai/gpt-4o", True),
        ("g*", "openai", "gpt-4o", True),
        ("g*", "groq", "llama3", False),
        ("g*", "groq", "meta/llama3", False),
        ("OpenAI/*", "openai", "gpt-4o", False),
    ],
)
def test_a_name_in_a_list_of_models_is_compared_whole(
    allowed: str, provider: str, model: str, may: bool
) -> None:
    assert may_use_model({allowed}, provider, model) is may


def test_a_list_of_models_names_a_provider_whole(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    made = client.post(
        "/auth/keys", json={"name": "o", "allowed_models": ["openai/*", "m"]}, headers=headers
    )
    key = {"Authorization": f"Bearer {made.json['key']}"}
    assert post(client, key, {**HELLO, "model": "echo"}).status_code == 403
    # The alias too: everything behind it is in the list.
    names = {row["id"] for row in client.get("/v1/models", headers=key).json["data"]}
    assert names == {"up/m", "nick"}


@pytest.mark.parametrize("claude", [False, True], ids=["openai", "anthropic"])
@pytest.mark.parametrize("allowed", [["echo"], ["up/m"], ["nick"], ["m"], ["*"], ["nobody/*"]])
def test_one_model_is_described_to_a_key_exactly_when_it_may_use_it(
    client: FlaskClient,
    headers: dict[str, str],
    upstream: FakeUpstream,
    allowed: list[str],
    claude: bool,
) -> None:
    made = client.post("/auth/keys", json={"name": "o", "allowed_models": allowed}, headers=headers)
    key = {"Authorization": f"Bearer {made.json['key']}"}
    dialect = {"anthropic-version": "2023-06-01"} if claude else {}
    listed = client.get("/v1/models", headers={**key, **dialect}).json["data"]
    for name in ("echo", "echo/echo", "up/m", "m", "nick"):
        upstream.reply(Reply.plain(200, ANSWER))
        may = post(client, key, {**HELLO, "model": name}).status_code == 200
        shown = client.get(f"/v1/models/{name}", headers={**key, **dialect})
        assert shown.status_code == (200 if may else 404), name
        if name in ("echo/echo", "up/m", "nick"):
            assert (name in {row["id"] for row in listed}) is may, name


# -- Idempotency-Key --------------------------------------------------------------------------
def test_a_repeated_key_gets_the_same_answer_and_is_billed_once(
    client: FlaskClient, headers: dict[str, str], chat_app: Flask, upstream: FakeUpstream
) -> None:
    upstream.reply(Reply.plain(200, ANSWER))
    once = {**headers, "Idempotency-Key": "order-1"}
    first = post(client, once, {**HELLO, "model": "m"})
    again = post(client, once, {**HELLO, "model": "m"})
    assert first.data == again.data == ANSWER
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(records(chat_app)) == 1
    assert sum(request.method == "POST" for request in upstream.requests) == 1
    assert post(client, once, {**HELLO, "model": "m", "n": 1}).status_code == 422


def test_a_repeated_stream_is_replayed_whole(
    client: FlaskClient, headers: dict[str, str], chat_app: Flask
) -> None:
    once = {**headers, "Idempotency-Key": "stream-1"}
    first = post(client, once, {**HELLO, "stream": True})
    again = post(client, once, {**HELLO, "stream": True})
    assert first.data == again.data
    assert again.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert len(records(chat_app)) == 1


def test_a_failed_chat_frees_its_idempotency_key(
    client: FlaskClient, headers: dict[str, str], upstream: FakeUpstream
) -> None:
    refusal = Reply.json(400, {"error": {"message": "no", "code": "bad"}})
    upstream.reply(refusal, Reply.plain(200, ANSWER))
    once = {**headers, "Idempotency-Key": "retry-1"}
    assert post(client, once, {**HELLO, "model": "m"}).status_code == 400
    assert post(client, once, {**HELLO, "model": "m"}).status_code == 200


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_a_stream_of_any_bytes_arrives_whole_and_is_replayed(
    make_app: MakeApp, upstream: FakeUpstream, request: pytest.FixtureRequest, store: str
) -> None:
    url = request.getfixturevalue("redis_server").url if store == "redis" else None
    rows = {"up": {"base_url": upstream.url + "/v1", "models": ["m"]}}
    client = make_app(
        file=GoblinFile.model_validate({"providers": rows}), redis_url=url
    ).test_client()
    client.get("/health/live")
    wait_until(lambda: upstream.requests, what="the monitor's own request")
    once = {
        "Authorization": f"Bearer {register(client)['access_token']}",
        "Idempotency-Key": "bytes-1",
    }
    first, *rest = openai_events()
    odd = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'
    upstream.reply(Reply.sse([first, odd, *rest]))
    body = {**HELLO, "model": "up/m", "stream": True}
    answers = [post(client, once, body) for _ in range(2)]
    assert odd in answers[0].data
    assert answers[0].data.endswith(b"data: [DONE]\n\n")
    assert answers[0].data == answers[1].data
    assert answers[1].headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    "choices", ["nonsense", ["x"], [{"message": "x"}], [{"message": {"tool_calls": [5]}}]]
)
def test_an_answer_that_cannot_be_translated_is_a_clear_failure_and_gives_its_slot_back(
    client: FlaskClient,
    headers: dict[str, str],
    chat_app: Flask,
    upstream: FakeUpstream,
    choices: Any,
) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    upstream.reply(
        Reply.json(
            200, {"object": "chat.completion", "model": "m", "choices": choices, "usage": usage}
        )
    )
    answer = post(client, headers, {**HELLO, "model": "m", "max_tokens": 5}, "/v1/messages")
    assert answer.status_code == 502
    assert answer.json["error"]["source"] == "provider"
    (record,) = records(chat_app)
    assert (record.status_code, record.completed, record.error_type) == (
        502,
        False,
        "provider_bad_response",
    )


# -- embeddings -------------------------------------------------------------------------------
def test_embeddings_are_deterministic_and_recorded(
    client: FlaskClient, headers: dict[str, str], chat_app: Flask
) -> None:
    body = {"model": "echo", "input": ["one", "two"]}
    first = client.post("/v1/embeddings", json=body, headers=headers)
    assert first.status_code == 200
    assert [item["index"] for item in first.json["data"]] == [0, 1]
    assert (
        client.post("/v1/embeddings", json=body, headers=headers).json["data"] == first.json["data"]
    )
    record = records(chat_app)[0]
    assert record.operation == "embeddings"
    assert record.prompt_tokens > 0


@pytest.fixture(autouse=True)
def every_slot_comes_back() -> Iterator[None]:
    yield
    assert REGISTRY.get_sample_value("chat_slots_in_use") == 0


def test_a_dump_of_redis_holds_no_word_of_a_chat_or_of_a_caller(
    make_app: MakeApp, redis_server: RedisServer
) -> None:
    app = make_app(redis_url=redis_server.url, ratelimit_enabled=True)
    client = app.test_client()
    user = {
        "Authorization": f"Bearer {register(client, 'canary-user@example.com')['access_token']}"
    }
    made = client.post("/auth/keys", json={"name": "canary-name"}, headers=user).json
    key = {"Authorization": f"Bearer {made['key']}"}
    assert (
        client.post(
            "/auth/login", json={"email": "canary-user@example.com", "password": "canary-password"}
        ).status_code
        == 401
    )
    once = {**key, "Idempotency-Key": "canary-once", "X-Goblin-Tags": "team=canary-tag"}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**SAID, "stream": False}),
        ("/v1/chat/completions", {**SAID, "stream": True}),
        ("/v1/messages", {**SAID, "max_tokens": 99}),
        ("/v1/responses", {"model": "echo", "input": "canary-prompt"}),
    ]
    for number, (path, body) in enumerate(requests):
        again = {**once, "Idempotency-Key": f"canary-once-{number}"}
        first = client.post(path, json=body, headers=again, buffered=True)
        assert first.status_code == 200, first.text
        assert b"canary-prompt" in first.data
        replay = client.post(path, json=body, headers=again, buffered=True)
        assert replay.headers["Idempotent-Replayed"] == "true"

    redis_client = redis.Redis.from_url(redis_server.url)
    try:
        assert redis_client.dbsize() > len(requests)  # limits are there as well
        redis_client.config_set("rdbcompression", "no")
        redis_client.save()
        folder = Path(redis_client.config_get("dir")["dir"])
        dump = (folder / redis_client.config_get("dbfilename")["dbfilename"]).read_bytes()
    finally:
        redis_client.close()
    assert b"goblin:idempotency" in dump
    for secret in (b"canary", made["key"].encode(), made["prefix"].encode(), b"example.com"):
        assert secret not in dump, secret
