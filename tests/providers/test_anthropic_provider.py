"""The Anthropic provider on the wire: headers, bodies, pass-through, catalogue, configuration.
Faults are in test_contract.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from goblin_assistant.config import Config, ConfigError, ProviderRow
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.anthropic.models import CATALOGUE
from goblin_assistant.providers.anthropic.provider import AnthropicProvider, Options
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    Call,
    ChatRequest,
    Completed,
    Dialect,
    InvalidRequest,
    Overloaded,
)
from tests.conftest import wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.wire_bodies import CANARY, anthropic_error, anthropic_events, anthropic_message

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def provider(fake_upstream: FakeUpstream) -> Iterator[AnthropicProvider]:
    made = AnthropicProvider(
        "anthropic", fake_upstream.url, api_key="sk-ant-1", fallback_models=CATALOGUE
    )
    yield made
    made.close()


def request(
    body: Mapping[str, Any],
    *,
    model: str = "claude-sonnet-4-5",
    raw: bytes | None = None,
    stream: bool = False,
    dialect: Dialect = "openai",
    headers: Mapping[str, str] | None = None,
) -> ChatRequest:
    return ChatRequest(
        model, body, raw, stream, dialect, Call(correlation_id="id-1"), headers or {}
    )


def native(stream: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 10,
        "messages": HELLO,
        **({"stream": True} if stream else {}),
        **more,
    }


# -- OpenAI's dialect -----------------------------------------------------------------------------
def test_a_chat_is_sent_as_a_message(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, anthropic_message()))
    response = provider.complete(
        request({"model": "anthropic/claude-sonnet-4-5", "messages": HELLO, "max_tokens": 7})
    )
    sent = fake_upstream.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1/messages")
    assert sent.headers["x-api-key"] == "sk-ant-1"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["x-correlation-id"] == "id-1"
    assert "authorization" not in sent.headers
    assert sent.json() == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 7,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }
    assert orjson.loads(response.body)["choices"][0]["message"]["content"] == "Hello there, goblin."
    assert (response.model, response.finish_reason) == ("claude-sonnet-4-5", "stop")
    assert response.usage is not None
    assert response.usage.prompt_tokens == 12


def test_a_streamed_chat_asks_for_a_stream(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse(anthropic_events()))
    events = list(provider.stream(request({"messages": HELLO}, stream=True)))
    assert fake_upstream.requests[0].json()["stream"] is True
    assert b"[DONE]" not in b"".join(event for event in events if isinstance(event, bytes))
    assert isinstance(events[-1], Completed)
    assert events[-1].usage is not None


def test_a_request_that_cannot_be_translated_sends_nothing(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    with pytest.raises(InvalidRequest):
        provider.complete(request({"messages": HELLO, "n": 3}))
    with pytest.raises(InvalidRequest):
        next(provider.stream(request({"messages": HELLO, "n": 3}, stream=True)))
    assert fake_upstream.requests == []


# -- Anthropic's own dialect ----------------------------------------------------------------------
def test_in_its_own_dialect_the_bytes_pass_both_ways(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    raw = (
        b'{ "model": "claude-sonnet-4-5", "max_tokens": 10, '
        b'"messages": [{"role":"user","content":"Hello"}], "new": 1e2 }'
    )
    answer = orjson.dumps(anthropic_message()) + b" \n"
    fake_upstream.reply(Reply.plain(200, answer))
    headers = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a-2026-01-01,b",
        "x-api-key": "gob_x",
        "anthropic-workspace-id": "w",
    }
    response = provider.complete(
        request(orjson.loads(raw), raw=raw, dialect="anthropic", headers=headers)
    )
    sent = fake_upstream.requests[0]
    assert sent.body == raw
    assert response.body == answer
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert sent.headers["anthropic-beta"] == "a-2026-01-01,b"
    assert sent.headers["x-api-key"] == "sk-ant-1"
    assert sent.repeated == []
    assert "anthropic-workspace-id" not in sent.headers
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.cached_tokens) == (12, 4)


def test_in_its_own_dialect_a_stream_passes_byte_for_byte(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    sent = anthropic_events("Hello there, goblin.")
    fake_upstream.reply(Reply.sse(sent))
    body = native(stream=True)
    events = list(
        provider.stream(request(body, raw=orjson.dumps(body), stream=True, dialect="anthropic"))
    )
    assert b"".join(event for event in events if isinstance(event, bytes)) == b"".join(sent)
    assert events[-1] == Completed(
        "claude-sonnet-4-5",
        events[-1].usage,  # type: ignore[union-attr]
        "stop",
    )
    assert fake_upstream.requests[0].headers["anthropic-version"] == "2023-06-01"


def test_only_the_models_name_is_replaced(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, anthropic_message()))
    provider.complete(request(native(top_k=5) | {"model": "an-alias"}, dialect="anthropic"))
    assert fake_upstream.requests[0].json() == native(top_k=5)


@pytest.mark.parametrize(
    "header",
    [
        {"anthropic-version": "latest"},
        {"anthropic-version": "2023-06-01,2026-10-21"},
        {"anthropic-beta": "a\tb"},
        {"anthropic-beta": "x" * 2000},
    ],
)
def test_an_invalid_header_is_refused(provider: AnthropicProvider, header: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(header))):
        provider.complete(request(native(), dialect="anthropic", headers=header))


@pytest.mark.parametrize("joined", ["2026-10-21,2026-10-21", "2026-10-21, 2026-10-21"])
def test_a_version_that_was_sent_twice_is_one(
    provider: AnthropicProvider, fake_upstream: FakeUpstream, joined: str
) -> None:
    fake_upstream.reply(Reply.json(200, anthropic_message()))
    provider.complete(request(native(), dialect="anthropic", headers={"anthropic-version": joined}))
    assert fake_upstream.requests[0].headers["anthropic-version"] == "2026-10-21"


def test_an_empty_header_is_none(provider: AnthropicProvider, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(200, anthropic_message()))
    headers = {"anthropic-beta": "", "anthropic-version": ""}
    provider.complete(request(native(), dialect="anthropic", headers=headers))
    sent = fake_upstream.requests[0].headers
    assert "anthropic-beta" not in sent
    assert sent["anthropic-version"] == "2023-06-01"


def test_an_overloaded_service_that_says_so_in_its_stream_can_be_retried(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    error = b"event: error\ndata: " + orjson.dumps(anthropic_error("overloaded_error")) + b"\n\n"
    for dialect in ("openai", "anthropic"):
        fake_upstream.reply(Reply.sse([anthropic_events()[0], error]))
        events = provider.stream(
            request(native(), stream=True, dialect=dialect)  # type: ignore[arg-type]
        )
        with pytest.raises(Overloaded) as caught:
            next(events)  # the client has received nothing
        assert CANARY not in str(caught.value)


def test_an_incomplete_stream_is_an_error_in_either_dialect(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    for dialect in ("openai", "anthropic"):
        fake_upstream.reply(Reply.sse(anthropic_events(done=False)))
        events = provider.stream(
            request(native(), stream=True, dialect=dialect)  # type: ignore[arg-type]
        )
        with pytest.raises(BadResponse):
            list(events)


def test_closing_a_stream_closes_the_connection(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([*anthropic_events()[:5], SILENCE]))
    events = provider.stream(request(native(stream=True), stream=True, dialect="anthropic"))
    next(events)
    events.close()  # type: ignore[attr-defined]
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_a_connection_serves_several_streams(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    for _ in range(3):
        fake_upstream.reply(Reply.sse(anthropic_events()))
        list(provider.stream(request({"messages": HELLO}, stream=True)))
    assert fake_upstream.connections == 1


# -- catalogue ------------------------------------------------------------------------------------
def test_a_check_learns_the_models_and_what_they_accept(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    assert any(model.id == "claude-opus-5-5" for model in provider.models())
    row = {
        "type": "model",
        "id": "claude-new-1",
        "display_name": "New",
        "created_at": "2026-11-01T00:00:00Z",
    }
    listed = {
        "data": [
            {**row, "max_tokens": 999, "max_input_tokens": 5000},
            {**row, "id": "gone", "lifecycle": "retired"},
            5,
        ]
    }
    fake_upstream.reply(
        Reply.json(200, {**listed, "has_more": False, "first_id": "x", "last_id": "y"})
    )
    provider.check()
    assert fake_upstream.requests[0].path == "/v1/models?limit=1000"
    assert [(model.id, model.context_window) for model in provider.models()] == [
        ("claude-new-1", 5000)
    ]
    fake_upstream.reply(Reply.json(200, anthropic_message()))
    provider.complete(request({"messages": HELLO}, model="claude-new-1"))
    assert fake_upstream.requests[1].json()["max_tokens"] == 999
    assert provider.serves("claude-opus-4-1-20250805")


def test_a_check_that_fails_says_how_and_forgets_nothing(
    provider: AnthropicProvider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(
        Reply.json(401, anthropic_error("authentication_error")),
        Reply.json(200, {"x": 1}),
        Reply.json(404, {}),
        Reply.json(200, {"data": []}),
    )
    with pytest.raises(AuthenticationFailed):
        provider.check()
    with pytest.raises(BadResponse):
        provider.check()
    provider.check()
    provider.check()
    assert provider.models() == CATALOGUE


# -- configuration --------------------------------------------------------------------------------
def config(tmp_path: Any, environ: dict[str, str], **providers: Any) -> Config:
    overrides: dict[str, Any] = {"file": {"providers": providers}} if providers else {}
    return Config.load(
        overrides, environ={"SECRET_KEY": "x" * 40, **environ}, dotenv=tmp_path / "absent"
    )


def test_the_key_in_the_environment_switches_it_on(
    tmp_path: Any, fake_upstream: FakeUpstream
) -> None:
    registry = build_registry(
        config(
            tmp_path,
            {"ANTHROPIC_API_KEY": "sk-ant-2", "ANTHROPIC_BASE_URL": fake_upstream.url + "/v1/"},
        )
    )
    provider = registry.get("anthropic")
    assert provider.dialects == {"openai", "anthropic"}
    assert registry.find("claude-opus-5-5")[0][0] is provider
    fake_upstream.reply(Reply.json(200, anthropic_message()))
    provider.complete(request({"messages": HELLO}))
    assert fake_upstream.requests[0].headers["x-api-key"] == "sk-ant-2"
    assert fake_upstream.requests[0].path == "/v1/messages"
    registry.close()
    assert "anthropic" not in build_registry(config(tmp_path, {})).providers


def test_a_row_sets_models_headers_and_options(tmp_path: Any, fake_upstream: FakeUpstream) -> None:
    row = ProviderRow(
        kind="anthropic",
        base_url=fake_upstream.url + "/anthropic",
        api_key="k",
        models=["m-1"],
        headers={"Anthropic-Version": "2026-10-21", "X-Team": "goblins"},
        query={"tenant": "a"},
        max_concurrency=3,
        options={"bearer": True, "max_tokens": 50, "drop_sampling": True},
    )
    provider = AnthropicProvider.from_row("gateway", row, config(tmp_path, {}))
    assert [model.id for model in provider.models()] == ["m-1"]
    assert provider.serves("m-1")
    assert not provider.serves("claude-opus-5-5")
    assert provider.max_concurrency == 3
    fake_upstream.reply(
        Reply.json(200, anthropic_message()), Reply.json(200, {"data": [{"id": "m-2"}]})
    )
    provider.complete(request({"messages": HELLO, "temperature": 0.5}, model="claude-opus-5"))
    provider.check()
    provider.close()
    sent = fake_upstream.requests[0]
    assert sent.path == "/anthropic/v1/messages?tenant=a"
    assert sent.headers["authorization"] == "Bearer k"
    assert "x-api-key" not in sent.headers
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert sent.headers["x-team"] == "goblins"
    assert sent.json()["max_tokens"] == 50
    assert "temperature" not in sent.json()
    assert [model.id for model in provider.models()] == ["m-1"]


def test_anthropic_without_a_key_is_a_configuration_error(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="no key"):
        AnthropicProvider.from_row("claude", ProviderRow(kind="anthropic"), config(tmp_path, {}))
    row = ProviderRow(kind="anthropic", api_key="k", options={"drop_samplings": True})
    with pytest.raises(ConfigError, match="drop_sampling"):
        AnthropicProvider.from_row("claude", row, config(tmp_path, {}))
    assert Options().drop_sampling is False
