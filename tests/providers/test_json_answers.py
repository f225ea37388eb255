"""A provider's JSON is refused if it has too many values for its size, before they are all
parsed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from goblin_assistant.dialects.anthropic.answer import response_from_openai
from goblin_assistant.providers.anthropic.messages import translate_messages
from goblin_assistant.providers.anthropic.models import CATALOGUE
from goblin_assistant.providers.anthropic.provider import AnthropicProvider
from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    ChatRequest,
    ChatResponse,
    InvalidRequest,
    Provider,
    ProviderError,
)
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from goblin_assistant.providers.upstream.response_head import MAX_INFORMATIONAL
from goblin_assistant.schemas.json_bounds import TooMuchStructure
from tests.support.fake_upstream import FakeUpstream, Reply

DENSE = b"[" + b"[]," * 1_000_000 + b"[]]"
BODY = {
    "model": "claude-sonnet-4-5",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 5,
}
MAKERS: dict[str, Callable[[str], Provider]] = {
    "openai": lambda url: OpenAICompatibleProvider("up", url + "/v1", api_key="k"),
    "anthropic": lambda url: AnthropicProvider("up", url, api_key="k", fallback_models=CATALOGUE),
}


@pytest.fixture(params=MAKERS)
def provider(request: pytest.FixtureRequest, fake_upstream: FakeUpstream) -> Iterator[Provider]:
    made = MAKERS[request.param](fake_upstream.url)
    yield made
    made.close()


def ask(*, stream: bool = False) -> ChatRequest:
    return ChatRequest(
        "claude-sonnet-4-5", {**BODY, "stream": stream}, None, stream, "openai", Call()
    )


@pytest.mark.parametrize("field", ["choices", "content", "x"])
def test_a_dense_answer_is_the_providers_failure(
    provider: Provider, fake_upstream: FakeUpstream, field: str
) -> None:
    fake_upstream.reply(Reply.plain(200, b'{"%b":%b}' % (field.encode(), DENSE)))
    with pytest.raises(BadResponse, match="too many values") as caught:
        provider.complete(ask())
    assert caught.value.status == 502


def test_a_dense_event_is_the_providers_failure(
    provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([b'event: message_start\ndata: {"choices":%b}\n\n' % DENSE]))
    with pytest.raises(BadResponse, match="too many values"):
        list(provider.stream(ask(stream=True)))


def test_a_dense_list_of_models_is_the_providers_failure(
    provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.plain(200, b'{"data":%b}' % DENSE))
    with pytest.raises(BadResponse, match="too many values"):
        provider.check(5.0)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_dense_error_is_known_by_its_status(
    provider: Provider, fake_upstream: FakeUpstream, status: int
) -> None:
    fake_upstream.reply(Reply.plain(status, b'{"error":%b}' % DENSE))
    with pytest.raises(ProviderError) as caught:
        provider.complete(ask())
    assert caught.value.upstream_status == status
    assert len(str(caught.value)) < 500


def test_large_embeddings_are_accepted(fake_upstream: FakeUpstream) -> None:
    provider = OpenAICompatibleProvider("up", fake_upstream.url + "/v1", api_key="k")
    vector = json.dumps([0.0123456789] * 3072)
    item = b'{"object":"embedding","index":0,"embedding":%b}' % vector.encode()
    fake_upstream.reply(
        Reply.plain(200, b'{"object":"list","data":[%b]}' % b",".join([item] * 300))
    )
    request = ChatRequest("m", {"model": "m", "input": ["a"]}, None, False, "openai", Call())
    assert len(provider.embed(request).body) > 10_000_000
    provider.close()


def test_arguments_of_tool_calls_count_together() -> None:
    arguments = '{"a":[' + "[]," * 150_000 + "[]]}"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call] * 4}]
    with pytest.raises(InvalidRequest, match="too many values"):
        translate_messages(messages, set())
    one = [*messages[:1], {"role": "assistant", "tool_calls": [call]}]
    assert translate_messages(one, set())
    answer = {"choices": [{"message": {"tool_calls": [call] * 4}, "finish_reason": "tool_calls"}]}
    with pytest.raises(TooMuchStructure):
        response_from_openai(ChatResponse(json.dumps(answer).encode(), "m", None, None))


@pytest.mark.parametrize("code", [100, 102, 103])
@pytest.mark.parametrize("stream", [False, True])
def test_endless_responses_with_status_1xx_are_a_failure(
    provider: Provider, fake_upstream: FakeUpstream, code: int, stream: bool
) -> None:
    words = b"HTTP/1.1 %d Wait\r\n\r\n" % code
    end = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    fake_upstream.reply(Reply.raw(words * (MAX_INFORMATIONAL + 1) + end))
    with pytest.raises(ProviderError, match="did not answer in HTTP") as caught:
        list(provider.stream(ask(stream=True))) if stream else provider.complete(ask())
    assert caught.value.status == 502
