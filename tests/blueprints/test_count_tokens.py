"""POST /v1/messages/count_tokens: Anthropic's own counts, estimates for other models, or a 404."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from goblin_assistant.config import GoblinFile
from goblin_assistant.database.models import usage_records
from goblin_assistant.metrics import REGISTRY
from tests.conftest import MakeApp, Serve, register
from tests.support.fake_upstream import RESET, FakeUpstream, Reply, answering_gets
from tests.support.wire_bodies import CANARY, anthropic_error

PATH = "/v1/messages/count_tokens"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
BODY = {"model": "claude/c", "messages": HELLO}
COUNTED = {"input_tokens": 2095, "context_management": {"original_input_tokens": 70000}}
NO_MODELS = Reply.json(200, {"data": []})
TOML = """
[providers.claude]
kind = "anthropic"
base_url = "URL"
api_key = "sk-ant-upstream"
models = ["c"]
[providers.second]
kind = "anthropic"
base_url = "URL/second"
models = ["c"]
[providers.plain]
base_url = "URL/plain/v1"
models = ["m"]
[aliases]
nick = "claude/c"
[chains]
mixed = ["plain/m", "claude/c"]
two = ["claude/c", "second/c"]
others = ["plain/m", "echo"]
"""


@pytest.fixture
def file(fake_upstream: FakeUpstream) -> str:
    fake_upstream.choose = answering_gets(NO_MODELS)
    return TOML.replace("URL", fake_upstream.url)


Start = Callable[..., Flask]


@pytest.fixture
def start(make_app: MakeApp, file: str) -> Start:
    def make(**overrides: Any) -> Flask:
        rows = GoblinFile.model_validate(tomllib.loads(file))
        settings: dict[str, Any] = {"retries": 0, "breaker_min_calls": 1000, **overrides}
        return make_app(file=rows, **settings)

    return make


class Counting:
    """An application and its user."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self.headers = {"Authorization": f"Bearer {register(self.client)['access_token']}"}

    def ask(self, body: Any = BODY, **headers: str) -> Any:
        return self.client.post(PATH, json=body, headers={**self.headers, **headers})

    def records(self) -> int:
        with self.app.extensions["goblin"].engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(usage_records)).scalar())


@pytest.fixture
def counting(start: Start) -> Counting:
    return Counting(start())


def failures(provider: str) -> float:
    return sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "chat_completion_errors_total"
        and sample.labels.get("provider") == provider
    )


def test_anthropics_own_count_passes_byte_for_byte(
    counting: Counting, fake_upstream: FakeUpstream
) -> None:
    raw = b'{"model": "c", "messages":[{"role":"user","content":"x"}],"field_of_tomorrow":[1.50]}'
    answer = b'{"input_tokens" :2095,"more":{"kept":1.50}}'
    fake_upstream.reply(Reply.plain(200, answer), Reply.json(200, COUNTED))
    headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "token-counting-2026-01-01"}
    passed = counting.client.post(
        PATH,
        data=raw,
        headers={**counting.headers, **headers, "Content-Type": "application/json"},
    )
    assert (passed.status_code, passed.data) == (200, answer)
    assert passed.headers["X-Goblin-Token-Source"] == "provider"
    assert passed.headers["X-Goblin-Provider"] == "claude"
    assert passed.headers["request-id"] == passed.headers["X-Correlation-ID"]
    (sent,) = [one for one in fake_upstream.requests if one.method == "POST"]
    assert (sent.path, sent.body) == (PATH, raw)
    assert sent.headers["x-api-key"] == "sk-ant-upstream"
    assert headers.items() <= sent.headers.items()
    assert sent.headers["x-correlation-id"] == passed.headers["X-Correlation-ID"]


def test_a_count_is_asked_for_the_targets_model_and_nothing_is_filled_in(
    counting: Counting, fake_upstream: FakeUpstream
) -> None:
    settings = {"temperature": 0.3, "max_tokens": 77, "model": "nick"}
    put = counting.client.put("/settings/", json=settings, headers=counting.headers)
    assert put.status_code == 200, put.text
    fake_upstream.reply(Reply.json(200, COUNTED))
    assert counting.ask({"messages": HELLO}).json == COUNTED
    assert fake_upstream.requests[-1].json() == {"model": "c", "messages": HELLO}


def test_a_count_is_no_chat_in_records_budgets_limits_and_metrics(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    counting = Counting(
        start(ratelimit_enabled=True, ratelimit_chat="1 per hour", ratelimit_default="50 per hour")
    )
    spec = {"name": "k", "scopes": ["chat"], "monthly_budget_usd": "0.01", "tokens_per_minute": 1}
    made = counting.client.post("/auth/keys", json=spec, headers=counting.headers)
    assert made.status_code in (200, 201), made.text
    counting.headers = {"x-api-key": made.json["key"]}
    before = failures("claude")
    fake_upstream.default = Reply.json(200, COUNTED)
    for _ in range(3):
        answer = counting.ask()
        assert (answer.status_code, answer.json) == (200, COUNTED)
    assert answer.headers["X-RateLimit-Limit"] == "50"
    fake_upstream.reply(Reply.json(500, {}))
    assert counting.ask().status_code == 502
    assert failures("claude") == before
    assert counting.records() == 0
    slots = counting.app.extensions["goblin"].chat.slots
    assert slots.in_use == 0


def test_a_full_house_refuses_a_count(start: Start) -> None:
    counting = Counting(start(chat_slots=1, chat_slot_wait_seconds=0))
    slots = counting.app.extensions["goblin"].chat.slots
    for _ in range(slots.limit):
        slots.acquire()
    try:
        answer = counting.ask()
    finally:
        for _ in range(slots.limit):
            slots.release()
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply.json(400, anthropic_error("invalid_request_error")), 400, "invalid_request"),
        (Reply.json(401, {}), 502, "provider_authentication_failed"),
        (Reply.json(404, anthropic_error("not_found_error")), 404, "model_not_found"),
        (Reply.json(429, anthropic_error("rate_limit_error")), 503, "provider_rate_limited"),
        (Reply.json(529, anthropic_error("overloaded_error")), 503, "provider_overloaded"),
        (Reply.plain(200, b"<html>"), 502, "provider_bad_response"),
        (Reply.json(200, {"input_tokens": "9"}), 502, "provider_bad_response"),
        (Reply.json(200, {"input_tokens": -9}), 502, "provider_bad_response"),
        (Reply.json(200, [9]), 502, "provider_bad_response"),
        (Reply.raw(RESET), 502, "provider_connection_failed"),
    ],
)  # fmt: skip
def test_failures_are_those_of_chats_in_anthropics_shape(
    counting: Counting, fake_upstream: FakeUpstream, reply: Reply, status: int, code: str
) -> None:
    fake_upstream.default = reply
    answer = counting.ask()
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
    assert answer.json["type"] == "error"
    assert answer.json["error"]["source"] == "provider"
    assert answer.json["error"]["provider"] == "claude"
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert CANARY not in answer.text
    assert counting.app.extensions["goblin"].chat.slots.in_use == 0


def test_a_count_is_repeated_and_opens_the_breaker_like_a_chat(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    counting = Counting(start(retries=1, breaker_min_calls=4, breaker_failure_ratio=0.5))
    fake_upstream.reply(Reply.json(529, {}), Reply.json(200, COUNTED))
    again = counting.ask()
    assert (again.status_code, again.headers["X-Goblin-Attempts"]) == (200, "2")
    fake_upstream.default = Reply.json(529, {})
    answers = [counting.ask() for _ in range(6)]
    codes = [answer.json["error"]["code"] for answer in answers]
    assert codes[0] == "provider_overloaded"
    assert codes[-1] == "provider_unavailable"


def test_the_first_of_a_chain_that_counts_answers_and_the_next_one_when_it_fails(
    counting: Counting, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, COUNTED))
    answer = counting.ask({**BODY, "model": "mixed"})
    assert (answer.status_code, answer.headers["X-Goblin-Provider"]) == (200, "claude")
    fake_upstream.reply(Reply.json(529, {}), Reply.json(200, {"input_tokens": 7}))
    answer = counting.ask({**BODY, "model": "two"})
    assert (answer.json, answer.headers["X-Goblin-Provider"]) == ({"input_tokens": 7}, "second")
    assert fake_upstream.requests[-1].path == f"/second{PATH}"


@pytest.mark.parametrize("model", ["echo", "plain/m", "others"])
def test_other_models_are_a_404_in_anthropics_shape(counting: Counting, model: str) -> None:
    answer = counting.ask({**BODY, "model": model})
    assert answer.status_code == 404
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("not_found_error", "token_count_unavailable")
    assert "GOBLIN_COUNT_TOKENS" in error["message"]


def test_other_models_get_an_estimate_where_the_operator_allows_it(
    start: Start, fake_upstream: FakeUpstream
) -> None:
    counting = Counting(start(count_tokens="estimate"))
    answer = counting.ask({**BODY, "model": "others"})
    assert (answer.status_code, answer.json) == (200, {"input_tokens": 9})
    assert answer.headers["X-Goblin-Token-Source"] == "estimated"
    assert "X-Goblin-Provider" not in answer.headers
    # Anthropic's rows count themselves, and one without the route is estimated for.
    fake_upstream.reply(Reply.json(200, COUNTED), Reply.json(404, {}), Reply.json(500, {}))
    assert counting.ask().json == COUNTED
    missing = counting.ask()
    assert (missing.json, missing.headers["X-Goblin-Token-Source"]) == (
        {"input_tokens": 9},
        "estimated",
    )
    assert counting.ask().status_code == 502


def test_a_key_counts_only_for_its_models_and_with_its_scope(counting: Counting) -> None:
    person = counting.headers
    for spec, status in (
        ({"allowed_models": ["plain/m"], "scopes": ["chat"]}, 403),
        ({"scopes": ["embeddings"]}, 403),
    ):
        made = counting.client.post("/auth/keys", json={"name": "k", **spec}, headers=person)
        assert made.status_code in (200, 201), made.text
        counting.headers = {"x-api-key": made.json["key"]}
        answer = counting.ask()
        assert (answer.status_code, answer.json["error"]["type"]) == (status, "permission_error")
    unknown = counting.client.post(PATH, json=BODY)
    assert (unknown.status_code, unknown.json["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "echo", "messages": []},
        {"model": "echo", "messages": [{"role": "tool", "content": "x"}]},
        {"model": "echo", "messages": HELLO, "tools": [5]},
        {"model": "nobody/has-it", "messages": HELLO},
    ],
)
def test_bad_requests_are_refused_in_anthropics_shape(counting: Counting, body: Any) -> None:
    answer = counting.ask(body)
    assert answer.status_code == (404 if body.get("model") == "nobody/has-it" else 400)
    assert answer.json["type"] == "error"


def test_anthropics_sdk_counts_and_the_log_names_the_route(
    serve: Serve, file: str, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "goblin.toml"
    config.write_text(file)
    server = serve(GOBLIN_CONFIG_FILE=str(config), GOBLIN_COUNT_TOKENS="estimate")
    key = server.register()["Authorization"].removeprefix("Bearer ")
    fake_upstream.default = Reply.json(200, COUNTED)
    tool: Any = {"name": "t", "description": "d", "input_schema": {"type": "object"}}
    with anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0) as client:
        counted = client.messages.count_tokens(model="claude/c", messages=HELLO, tools=[tool])
        assert counted.input_tokens == 2095
        beta = client.beta.messages.count_tokens(
            model="claude/c", messages=HELLO, betas=["context-management-2025-06-27"]
        )
        assert beta.context_management is not None
        assert beta.context_management.original_input_tokens == 70000
        sent = [one for one in fake_upstream.requests if one.method == "POST"]
        assert sent[-1].headers["anthropic-beta"].startswith("context-management-2025-06-27")
        estimated = client.messages.with_raw_response.count_tokens(model="echo", messages=HELLO)
        assert estimated.headers["X-Goblin-Token-Source"] == "estimated"
        assert estimated.parse().input_tokens == 9
    line = server.wait_for_line("request_completed", path=PATH)
    assert line["status_code"] == 200
    counted_requests = [
        value
        for name, value in server.metrics().items()
        if name.startswith("http_requests_total{") and f'"{PATH}"' in name and '"200"' in name
    ]
    assert sum(counted_requests) == 3
