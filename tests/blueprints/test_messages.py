"""Anthropic's SDK on every model, and OpenAI's SDK on Anthropic's models."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
import requests
from flask import Flask
from pydantic import BaseModel
from werkzeug.serving import make_server

from tests.conftest import PASSWORD, MakeApp
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.wire_bodies import (
    CANARY,
    anthropic_error,
    anthropic_events,
    anthropic_message,
    openai_chat,
    openai_error,
    openai_events,
)

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CLAUDE, GPT = "anthropic/claude-sonnet-4-5", "openai/gpt-4o"
WEATHER = {
    "name": "get_weather",
    "description": "Weather",
    "input_schema": {"type": "object", "properties": {}},
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


@dataclass
class Live:
    """A listening application, its user, and its two providers' servers."""

    app: Flask
    url: str
    token: str
    claude: FakeUpstream
    gpt: FakeUpstream

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            **{"api_key": self.token, "base_url": self.url, "max_retries": 0, **options}
        )

    def openai(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            **{"api_key": self.token, "base_url": f"{self.url}/v1", "max_retries": 0, **options}
        )

    def post(self, body: Any, **headers: str) -> requests.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            **headers,
        }
        return requests.post(f"{self.url}/v1/messages", content, headers=sent, timeout=30)


Start = Callable[..., Live]


@pytest.fixture
def start(make_app: MakeApp, fake_upstream: FakeUpstream) -> Iterator[Start]:
    gpt = FakeUpstream()
    servers = []

    def make(**overrides: Any) -> Live:
        app = make_app(
            anthropic_api_key="sk-ant-upstream",
            anthropic_base_url=fake_upstream.url,
            openai_api_key="sk-upstream",
            openai_base_url=gpt.url + "/v1",
            retries=0,
            breaker_min_calls=1000,
            **overrides,
        )
        app.extensions["goblin"].monitor.stop()  # its checks would use up scripted replies
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        url = f"http://127.0.0.1:{server.server_port}"
        credentials = {"email": "ada@example.com", "password": PASSWORD}
        assert requests.post(f"{url}/auth/register", json=credentials, timeout=30).status_code in (
            200,
            201,
        )
        token = requests.post(f"{url}/auth/login", json=credentials, timeout=30).json()[
            "access_token"
        ]
        return Live(app, url, token, fake_upstream, gpt)

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join(30)
        server.server_close()
    gpt.close()


@pytest.fixture
def live(start: Start) -> Live:
    return start()


def test_anthropics_sdk_lists_and_describes_every_model(live: Live) -> None:
    with live.anthropic() as client:
        names = [model.id for model in client.models.list(limit=2)]  # fetches page after page
        assert {"echo/echo", GPT} <= set(names)
        assert len(names) == len(set(names)) > 2
        whole = client.models.list(limit=1000)
        assert [model.id for model in whole.data] == names
        assert whole.has_more is False
        first = client.models.list(limit=1)
        assert first.has_more is True
        before = client.models.list(limit=1, before_id=names[2])
        assert [model.id for model in before.data] == [names[1]]
        one = client.models.retrieve(CLAUDE)
        assert (one.type, one.id, one.display_name) == ("model", CLAUDE, CLAUDE)
        assert one.max_input_tokens
        assert one._request_id
        assert client.models.with_raw_response.list().headers["request-id"]
        for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "no/such"}):
            with pytest.raises(anthropic.BadRequestError):
                client.models.list(**wrong)  # type: ignore[arg-type]
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.models.retrieve("no/such")
        assert missing.value.request_id == missing.value.response.headers["x-correlation-id"]
        told: Any = missing.value.body
        assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")
        with pytest.raises(anthropic.NotFoundError, match="content within the request") as absent:
            client.beta.files.list()
        assert absent.value.request_id
    with live.openai() as other:
        assert [model.id for model in other.models.list()] == names
        with pytest.raises(openai.NotFoundError) as unknown:
            other.models.retrieve("no/such")
        assert unknown.value.type == "invalid_request_error"


# -- Anthropic's SDK on any model -----------------------------------------------------------------
def test_create_on_the_embedded_model(live: Live) -> None:
    with live.anthropic() as client:
        message = client.messages.create(
            model="echo", max_tokens=100, system="Be brief.", messages=HELLO
        )
    assert message.type == "message"
    assert message.role == "assistant"
    assert "Hello" in message.content[0].text  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


def test_stream_on_the_embedded_model(live: Live) -> None:
    with live.anthropic() as client:
        whole = client.messages.create(model="echo", max_tokens=100, messages=HELLO)
        with client.messages.stream(model="echo", max_tokens=100, messages=HELLO) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text  # type: ignore[union-attr]
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.stop_reason == "end_turn"


def test_a_tools_round_trip_on_an_openai_model(live: Live) -> None:
    live.gpt.reply(
        Reply.json(
            200,
            openai_chat(
                None, [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
            ),
        ),
        Reply.json(200, openai_chat("Rain in Oslo, sun in Rome.")),
    )
    turns = [*HELLO]
    tools: Any = [WEATHER]
    with live.anthropic() as client:
        first = client.messages.create(model=GPT, max_tokens=100, messages=turns, tools=tools)
        assert first.stop_reason == "tool_use"
        turns.append({"role": "assistant", "content": first.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
            for block in first.content
            if block.type == "tool_use"
        ]
        turns.append({"role": "user", "content": results})
        second = client.messages.create(model=GPT, max_tokens=100, messages=turns, tools=tools)
    assert second.content[0].text == "Rain in Oslo, sun in Rome."  # type: ignore[union-attr]
    sent = live.gpt.requests[1].json()
    assert sent["model"] == "gpt-4o"
    assert [message["role"] for message in sent["messages"]] == [
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assert [call["id"] for call in sent["messages"][1]["tool_calls"]] == ["call_0", "call_1"]
    assert sent["tools"][0]["function"]["name"] == "get_weather"


def test_streamed_tool_calls_on_an_openai_model(live: Live) -> None:
    live.gpt.reply(
        Reply.sse(openai_events(tool_calls=[("get_weather", {"city": "Oslo"}), ("now", {})]))
    )
    tools: Any = [WEATHER]
    with (
        live.anthropic() as client,
        client.messages.stream(model=GPT, max_tokens=100, messages=HELLO, tools=tools) as stream,
    ):
        message = stream.get_final_message()
    found = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
    assert found == [("get_weather", {"city": "Oslo"}), ("now", {})]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (8, 4)


def test_images_on_an_openai_model(live: Live) -> None:
    live.gpt.reply(Reply.json(200, openai_chat("A pixel.")))
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    ]
    with live.anthropic() as client:
        client.messages.create(
            model=GPT, max_tokens=100, messages=[{"role": "user", "content": content}]
        )
    assert live.gpt.requests[0].json()["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
    }


class City(BaseModel):
    name: str


def test_structured_output_on_either_side(live: Live) -> None:
    live.gpt.reply(Reply.json(200, openai_chat('{"name": "Oslo"}')))
    live.claude.reply(Reply.json(200, anthropic_message('{"name": "Rome"}')))
    with live.anthropic() as client:
        city = client.messages.parse(model=GPT, max_tokens=100, messages=HELLO, output_format=City)
    assert city.parsed_output == City(name="Oslo")
    assert live.gpt.requests[0].json()["response_format"]["json_schema"]["schema"]["required"] == [
        "name"
    ]
    with live.openai() as other:
        rome = other.chat.completions.parse(model=CLAUDE, messages=HELLO, response_format=City)
    assert rome.choices[0].message.parsed == City(name="Rome")
    assert (
        live.claude.requests[0].json()["output_config"]["format"]["schema"]["additionalProperties"]
        is False
    )


def test_the_asynchronous_client(live: Live) -> None:
    live.claude.reply(Reply.sse(anthropic_events("Hello there.")))

    async def talk() -> tuple[Any, Any]:
        async with anthropic.AsyncAnthropic(
            api_key=live.token, base_url=live.url, max_retries=0
        ) as client:
            one = await client.messages.create(model="echo", max_tokens=50, messages=HELLO)
            async with client.messages.stream(
                model=CLAUDE, max_tokens=50, messages=HELLO
            ) as stream:
                return one, await stream.get_final_message()

    one, two = asyncio.run(talk())
    assert one.content[0].text
    assert two.content[0].text == "Hello there."


# -- Anthropic's SDK on Anthropic's models --------------------------------------------------------
def test_on_an_anthropic_model_the_answer_passes_untouched(live: Live) -> None:
    answer = anthropic_message("Hi.") | {"a_field_of_tomorrow": {"x": [1, 2]}}
    live.claude.reply(Reply.json(200, answer))
    with live.anthropic() as client:
        raw = client.messages.with_raw_response.create(
            model="claude-haiku-4-5",
            max_tokens=9,
            messages=HELLO,
            extra_headers={"anthropic-beta": "files-2026-01-01"},
        )
    assert json.loads(raw.read()) == answer
    sent = live.claude.requests[0]
    assert sent.json() == {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": HELLO}
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert sent.headers["anthropic-beta"] == "files-2026-01-01"
    assert sent.headers["x-api-key"] == "sk-ant-upstream"
    assert live.token not in str(sent)
    assert (
        raw.headers["request-id"]
        == raw.headers["x-correlation-id"]
        == sent.headers["x-correlation-id"]
    )


def test_on_an_anthropic_model_the_stream_passes_with_its_cost(live: Live) -> None:
    events = anthropic_events(tool_calls=[("get_weather", {"city": "Oslo"})])
    live.claude.reply(Reply.sse(events))
    answer = live.post({"model": CLAUDE, "max_tokens": 9, "messages": HELLO, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert re.sub(rb'"cost_usd":"0[.]\d+",', b"", answer.content) == b"".join(events)
    with live.anthropic() as client:
        live.claude.reply(Reply.sse(events))
        with client.messages.stream(model=CLAUDE, max_tokens=9, messages=HELLO) as stream:
            told = [e.usage.to_dict() for e in stream if e.type == "message_delta"]
            usage = stream.get_final_message().usage
    assert float(str(told[0]["cost_usd"])) > 0
    assert (usage.input_tokens, usage.output_tokens) == (8, 5)


def test_a_default_temperature_does_not_make_requests_invalid(live: Live) -> None:
    live.claude.reply(Reply.json(200, anthropic_message()))
    settings = requests.put(
        f"{live.url}/settings/",
        json={"temperature": 0.3, "system_prompt": "Be brief."},
        headers={"Authorization": f"Bearer {live.token}"},
        timeout=30,
    )
    assert settings.status_code == 200, settings.text
    with live.anthropic() as client:
        client.messages.create(model=CLAUDE, max_tokens=9, messages=HELLO)
    sent = live.claude.requests[0].json()
    assert "temperature" not in sent
    assert sent["system"] == "Be brief."


def test_a_chain_goes_from_anthropic_to_another_provider_unnoticed(start: Start) -> None:
    live = start(file={"chains": {"smart": [CLAUDE, GPT]}})
    early = (
        b"event: error\ndata: " + json.dumps(anthropic_error("overloaded_error")).encode() + b"\n\n"
    )
    live.claude.reply(
        Reply.json(529, anthropic_error("overloaded_error")),
        Reply.sse([anthropic_events()[0], early]),
    )
    live.gpt.reply(
        Reply.json(200, openai_chat("From the other side.")),
        Reply.sse(openai_events("Still there.")),
    )
    with live.anthropic() as client:
        message = client.messages.create(model="smart", max_tokens=9, messages=HELLO)
        with client.messages.stream(model="smart", max_tokens=9, messages=HELLO) as stream:
            streamed = stream.get_final_message()
    assert message.content[0].text == "From the other side."  # type: ignore[union-attr]
    assert streamed.content[0].text == "Still there."  # type: ignore[union-attr]


# -- errors ---------------------------------------------------------------------------------------
PROVIDER_ERRORS: tuple[tuple[int, str, type[anthropic.APIStatusError]], ...] = (
    (400, "invalid_request_error", anthropic.BadRequestError),
    (404, "not_found_error", anthropic.NotFoundError),
    (401, "authentication_error", anthropic.InternalServerError),
    (429, "rate_limit_error", anthropic.ServiceUnavailableError),
    (500, "api_error", anthropic.InternalServerError),
    (529, "overloaded_error", anthropic.ServiceUnavailableError),
)


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_a_providers_error_has_its_class_and_shape(live: Live, model: str) -> None:
    with live.anthropic() as client:
        for status, kind, raised in PROVIDER_ERRORS:
            live.claude.reply(Reply.json(status, anthropic_error(kind), {"Retry-After": "7"}))
            live.gpt.reply(Reply.json(status, openai_error(kind), {"Retry-After": "7"}))
            with pytest.raises(raised) as caught:
                client.messages.create(model=model, max_tokens=9, messages=HELLO)
            body = caught.value.body
            assert isinstance(body, dict)
            assert body["type"] == "error"
            assert body["error"]["source"] == "provider"
            assert caught.value.request_id == body["request_id"]
            assert CANARY not in str(caught.value)
            if status in (429, 529):
                assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_a_prompt_that_is_too_long_is_recognised_by_every_client(
    live: Live, model: str, stream: bool
) -> None:
    said = "prompt is too long: 213462 tokens > 200000 maximum"
    for upstream in (live.claude, live.gpt):
        error = {"type": "invalid_request_error", "message": said}
        upstream.reply(*[Reply.json(400, {"type": "error", "error": error})] * 2)
    body = {"model": model, "max_tokens": 9, "messages": HELLO, "stream": stream}
    answer = live.post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == said
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    with live.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HELLO, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert said in caught.value.message


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_langchain_takes_an_overflow_for_one(live: Live, model: str) -> None:
    said = "The input (9 tokens) is longer than the model's context length (8 tokens)."
    error = {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}
    live.claude.default = Reply.json(400, {"type": "error", "error": error})
    live.gpt.default = Reply.json(400, {"object": "error", "message": said, "code": 400})
    code = """
import sys
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI
url, token, model = sys.argv[1:]
chat = ChatOpenAI(model=model, base_url=url, api_key=token, max_retries=0)
for call in (chat.invoke, lambda text: list(chat.stream(text))):
    try:
        call("hello there")
    except ContextOverflowError as error:
        print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, f"{live.url}/v1", live.token, model],
        capture_output=True, text=True, timeout=240, check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"),
        "LANGCHAIN_TRACING_V2": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("prompt is too long: 9 tokens > 8 maximum") == 2


def test_an_expired_thread_is_not_a_missing_model(live: Live) -> None:
    error = anthropic_error("not_found_error")
    error["error"]["details"] = {"error_code": "thread_not_found"}
    live.claude.reply(Reply.json(404, error))
    with live.anthropic() as client, pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(
            model=CLAUDE,
            max_tokens=9,
            messages=HELLO,
            extra_body={"thread": {"type": "continue", "previous_message_id": "msg_1"}},
        )
    assert caught.value.error_code == "thread_not_found"
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["error"]["code"] == "resource_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["echo", GPT])
def test_anthropics_tool_runner_goes_on_without_a_thread(
    live: Live, model: str, stream: bool
) -> None:
    live.gpt.reply(Reply.sse(openai_events("Sunny.")) if stream else Reply.json(200, openai_chat()))

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return city

    with live.anthropic() as client:
        runner = client.beta.messages.tool_runner(
            model=model, max_tokens=99, messages=HELLO, tools=[get_weather], stream=stream
        )
        if stream:
            finals = [turn.get_final_message() for turn in runner]
        else:
            finals = list(runner)
    assert finals[-1].stop_reason == "end_turn"
    assert finals[-1].content


def test_what_the_page_of_clients_says_does_not_work_is_refused(live: Live) -> None:
    with live.anthropic() as client:
        for ask in (
            lambda: client.messages.count_tokens(model=GPT, messages=HELLO),
            client.messages.batches.list,
            client.beta.files.list,
        ):
            with pytest.raises(anthropic.NotFoundError):
                ask()
        search: Any = {"type": "web_search_20250305", "name": "web_search"}
        with pytest.raises(anthropic.BadRequestError, match="tools that Anthropic runs"):
            client.messages.create(model=GPT, max_tokens=9, messages=HELLO, tools=[search])


def test_our_own_errors_have_their_class(start: Start) -> None:
    live = start(max_body_bytes=2000)
    with live.anthropic() as client:
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="nobody/serves-this", max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            client.messages.create(
                model="echo", max_tokens=9, messages=HELLO, extra_body={"temperature": 3}
            )
        with pytest.raises(anthropic.RequestTooLargeError):
            client.messages.create(
                model="echo", max_tokens=9, messages=[{"role": "user", "content": "x" * 3000}]
            )
    with (
        live.anthropic(api_key="gob_nonsense") as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="echo", max_tokens=9, messages=HELLO)
    for others in ({"api_key": "sk-ant-1"}, {"auth_token": "sk-ant-1", "api_key": None}):
        with (
            live.anthropic(**others) as stranger,
            pytest.raises(anthropic.AuthenticationError, match="keys of this server begin with"),
        ):
            stranger.messages.create(model="echo", max_tokens=9, messages=HELLO)


def test_our_limit_is_a_rate_limit_error_whose_retry_after_the_sdk_honours(start: Start) -> None:
    live = start(ratelimit_enabled=True, ratelimit_chat="1 per minute")
    waits: list[float] = []

    class Patient(anthropic.Anthropic):
        """Records the wait instead of waiting."""

        def _calculate_retry_timeout(
            self, remaining: int, options: Any, headers: Any = None
        ) -> float:
            waits.append(super()._calculate_retry_timeout(remaining, options, headers))
            return 0

    with Patient(api_key=live.token, base_url=live.url, max_retries=1) as client:
        client.messages.create(model="echo", max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(model="echo", max_tokens=9, messages=HELLO)
    assert len(waits) == 1
    assert waits[0] > 8  # the SDK's own guess is never more
    assert int(caught.value.response.headers["retry-after"]) > 8


@pytest.mark.parametrize("model", [CLAUDE, GPT])
@pytest.mark.parametrize("fault", ["error", "cut"])
def test_a_stream_that_breaks_raises_in_the_sdk(live: Live, model: str, fault: str) -> None:
    error = b"event: error\ndata: " + json.dumps(anthropic_error("api_error")).encode() + b"\n\n"
    live.claude.reply(Reply.sse([*anthropic_events()[:5], error if fault == "error" else CUT]))
    broken = b"data: " + json.dumps(openai_error()).encode() + b"\n\n"
    live.gpt.reply(Reply.sse([*openai_events()[:3], broken if fault == "error" else CUT]))
    with (
        live.anthropic() as client,
        client.messages.stream(model=model, max_tokens=9, messages=HELLO) as stream,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        stream.get_final_message()
    assert caught.value.type == "api_error"
    assert CANARY not in str(caught.value)


BAD_BODIES: tuple[Any, ...] = (
    b"",
    b"{",
    b"[]",
    {},
    {"model": "echo", "messages": HELLO},
    {"model": "echo", "max_tokens": 9},
    {"model": "echo", "max_tokens": 9, "messages": []},
    {"model": "echo", "max_tokens": "9", "messages": HELLO},
    {"model": "echo", "max_tokens": -1, "messages": HELLO},
    {"model": "echo", "max_tokens": 0, "messages": HELLO},
    {"model": 5, "max_tokens": 9, "messages": HELLO},
    {"model": "echo", "max_tokens": 9, "messages": [{"role": "tool", "content": "x"}]},
    {"model": "echo", "max_tokens": 9, "messages": [{"role": "user"}]},
    {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": [5]}]},
    {
        "model": "echo",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "hologram"}]}],
    },
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "stream": "yes"},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "system": 5},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "tools": [5]},
    {
        "model": "echo",
        "max_tokens": 9,
        "messages": HELLO,
        "tools": [{"type": "bash_20250124", "name": "bash"}],
    },
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "n": "x"},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "max_completion_tokens": {}},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "metadata": 5},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "thinking": []},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "output_config": {"format": 5}},
    {"model": "echo", "max_tokens": 9, "messages": HELLO, "a_field_of_tomorrow": 5},
)


def test_a_bad_request_is_a_400_in_anthropics_shape(live: Live) -> None:
    for body in BAD_BODIES:
        answer = live.post(body)
        assert answer.status_code == 400, (body, answer.text)
        error = answer.json()
        assert error["type"] == "error", body
        assert error["error"]["type"] == "invalid_request_error", body
        assert error["request_id"] == answer.headers["request-id"], body


def test_other_routes_below_and_other_methods_answer_in_anthropics_shape(live: Live) -> None:
    headers = {"Authorization": f"Bearer {live.token}"}
    missing = requests.post(f"{live.url}/v1/messages/batches", json={}, headers=headers, timeout=30)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    wrong = requests.get(f"{live.url}/v1/messages", headers=headers, timeout=30)
    assert (wrong.status_code, wrong.json()["type"]) == (405, "error")
    form = live.post(b"a=b", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert (form.status_code, form.json()["type"]) == (415, "error")
    for answer in (missing, wrong, form):
        assert answer.headers["request-id"] == answer.json()["request_id"]


def test_the_key_may_come_as_x_api_key(live: Live) -> None:
    made = requests.post(
        f"{live.url}/auth/keys",
        json={"name": "team", "scopes": ["chat"]},
        headers={"Authorization": f"Bearer {live.token}"},
        timeout=30,
    )
    assert made.status_code in (200, 201), made.text
    key = made.json()["key"]
    body = {"model": "echo", "max_tokens": 9, "messages": HELLO}
    answer = requests.post(
        f"{live.url}/v1/messages", json=body, headers={"x-api-key": key}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    none = requests.post(f"{live.url}/v1/messages", json=body, timeout=30)
    assert (none.status_code, none.json()["error"]["type"]) == (401, "authentication_error")


# -- OpenAI's SDK on Anthropic's models -----------------------------------------------------------
def test_openais_sdk_talks_to_an_anthropic_model(live: Live) -> None:
    live.claude.reply(
        Reply.json(200, anthropic_message(tool_calls=[("get_weather", {"city": "Oslo"})])),
        Reply.sse(anthropic_events("Rain, it seems.")),
    )
    tool: Any = {
        "type": "function",
        "function": {"name": "get_weather", "parameters": WEATHER["input_schema"]},
    }
    turns: list[Any] = [{"role": "system", "content": "Be brief."}, *HELLO]
    with live.openai() as client:
        first = client.chat.completions.create(
            model=CLAUDE, messages=turns, tools=[tool], max_completion_tokens=50
        )
        assert first.choices[0].finish_reason == "tool_calls"
        assert first.usage is not None
        assert first.usage.prompt_tokens_details is not None
        assert first.usage.prompt_tokens_details.cached_tokens == 4
        calls = first.choices[0].message.tool_calls or []
        turns += [
            first.choices[0].message,
            {"role": "tool", "tool_call_id": calls[0].id, "content": "rain"},
        ]
        stream = client.chat.completions.create(
            model=CLAUDE,
            messages=turns,
            tools=[tool],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == "Rain, it seems."
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 17
    sent = live.claude.requests[1].json()
    assert sent["system"] == "Be brief."
    assert sent["messages"][2]["content"][0] == {
        "type": "tool_result",
        "tool_use_id": "call_0",
        "content": "rain",
    }
    assert live.claude.requests[1].headers["anthropic-version"] == "2023-06-01"


def test_openais_sdk_is_told_which_field_an_anthropic_model_refuses(live: Live) -> None:
    with live.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=CLAUDE, messages=HELLO, logprobs=True)
    assert caught.value.param == "logprobs"
    assert live.claude.requests == []
