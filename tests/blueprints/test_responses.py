"""OpenAI's SDK on POST /v1/responses: models of every kind give what they give as chats."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import requests
from flask import Flask
from openai.types.responses import Response
from pydantic import BaseModel
from werkzeug.serving import make_server

from tests.conftest import PASSWORD, MakeApp
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.response_bodies import (
    SECRET,
    call_events,
    event,
    function_call,
    message,
    reasoning,
    response,
    response_events,
)
from tests.support.wire_bodies import (
    CANARY,
    anthropic_error,
    anthropic_events,
    anthropic_message,
    openai_chat,
    openai_error,
    openai_events,
)

CLAUDE, GPT, PLAIN, ECHO = "anthropic/claude-sonnet-4-5", "openai/gpt-4o", "plain/m", "echo"
MODELS = (CLAUDE, GPT, PLAIN)
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass
class Live:
    """A listening application, its user, and its providers' servers."""

    app: Flask
    url: str
    token: str
    claude: FakeUpstream
    gpt: FakeUpstream
    plain: FakeUpstream

    def openai(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            **{"api_key": self.token, "base_url": f"{self.url}/v1", "max_retries": 0, **options}
        )

    def post(self, body: Any, **headers: str) -> requests.Response:
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        return requests.post(f"{self.url}/v1/responses", json=body, headers=sent, timeout=60)

    def answer(self, model: str, text: str = "Hello there, goblin.") -> None:
        """Have the provider of a model say this once."""
        if model == CLAUDE:
            self.claude.reply(Reply.json(200, anthropic_message(text)))
        elif model == PLAIN:
            self.plain.reply(Reply.json(200, openai_chat(text)))
        elif model == GPT:
            self.gpt.reply(Reply.json(200, response(message(text))))

    def call(self, model: str, arguments: dict[str, Any]) -> None:
        """Have the provider of a model call get_weather once."""
        calls = [("get_weather", arguments)]
        if model == CLAUDE:
            self.claude.reply(Reply.json(200, anthropic_message(tool_calls=calls)))
        elif model == PLAIN:
            self.plain.reply(Reply.json(200, openai_chat(None, calls)))
        else:
            item = function_call("get_weather", json.dumps(arguments))
            self.gpt.reply(Reply.json(200, response(item)))

    def stream(self, model: str, calls: Any = ()) -> None:
        """Have the provider of a model stream a text, or calls, once."""
        if model == CLAUDE:
            self.claude.reply(Reply.sse(anthropic_events(tool_calls=calls)))
        elif model == PLAIN:
            self.plain.reply(Reply.sse(openai_events(tool_calls=calls)))
        elif model == GPT:
            self.gpt.reply(Reply.sse(call_events(*calls) if calls else response_events()))

    def upstream(self, model: str) -> FakeUpstream:
        """The server behind a model."""
        return {CLAUDE: self.claude, GPT: self.gpt, PLAIN: self.plain}[model]


Start = Callable[..., Live]


@pytest.fixture
def start(make_app: MakeApp, fake_upstream: FakeUpstream) -> Iterator[Start]:
    gpt, plain = FakeUpstream(), FakeUpstream()
    servers = []

    def make(**overrides: Any) -> Live:
        file = overrides.pop("file", {})
        row = {"base_url": plain.url + "/v1", "models": ["m"]}
        app = make_app(
            anthropic_api_key="sk-ant-upstream",
            anthropic_base_url=fake_upstream.url,
            openai_api_key="sk-upstream",
            openai_base_url=gpt.url + "/v1",
            retries=0,
            breaker_min_calls=1000,
            file={"providers": {"plain": row}, **file},
            **overrides,
        )
        app.extensions["goblin"].monitor.stop()  # its checks would use up scripted replies
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        url = f"http://127.0.0.1:{server.server_port}"
        credentials = {"email": "ada@example.com", "password": PASSWORD}
        requests.post(f"{url}/auth/register", json=credentials, timeout=60).raise_for_status()
        answer = requests.post(f"{url}/auth/login", json=credentials, timeout=60)
        return Live(app, url, answer.json()["access_token"], fake_upstream, gpt, plain)

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join(60)
        server.server_close()
    gpt.close()
    plain.close()


@pytest.fixture
def live(start: Start) -> Live:
    return start()


# -- the same as a chat ---------------------------------------------------------------------------
@pytest.mark.parametrize("model", [ECHO, *MODELS])
def test_a_response_has_the_text_and_usage_of_a_chat(live: Live, model: str) -> None:
    with live.openai() as client:
        live.answer(model)
        made = client.responses.create(model=model, input="Hello goblin", instructions="Be brief.")
        if model == GPT:
            live.gpt.reply(Reply.json(200, openai_chat()))
        else:
            live.answer(model)
        said: Any = [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello goblin"}
        ]  # fmt: skip
        chat = client.chat.completions.create(model=model, messages=said)
    assert made.output_text == chat.choices[0].message.content
    assert made.status == "completed"
    assert made.store is False
    assert made.usage is not None
    assert chat.usage is not None
    assert made.usage.input_tokens == chat.usage.prompt_tokens
    assert made.usage.output_tokens == chat.usage.completion_tokens


@pytest.mark.parametrize("model", [ECHO, *MODELS])
def test_a_stream_says_the_same_as_a_whole_answer(live: Live, model: str) -> None:
    with live.openai() as client:
        live.answer(model)
        whole = client.responses.create(model=model, input="Hello goblin")
        live.stream(model)
        with client.responses.stream(model=model, input="Hello goblin") as stream:
            numbers, text = [], ""
            for found in stream:
                numbers.append(found.sequence_number)
                if found.type == "response.output_text.delta":
                    text += found.delta
            final = stream.get_final_response()
    assert numbers == list(range(len(numbers)))
    assert text == final.output_text == whole.output_text
    assert final.usage is not None
    assert whole.usage is not None
    told = final.usage.to_dict()
    assert (told.pop("cost_usd", None) is None) == (model == PLAIN)  # it has no price
    assert told == whole.usage.to_dict()
    assert final.id


@pytest.mark.parametrize("model", MODELS)
def test_a_tools_round_trip(live: Live, model: str) -> None:
    tools: Any = [WEATHER]
    with live.openai() as client:
        live.call(model, {"city": "Oslo"})
        turns: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
        first = client.responses.create(model=model, input=turns, tools=tools)
        [call] = [item for item in first.output if item.type == "function_call"]
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
        turns += first.output
        turns.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        live.answer(model, "It rains.")
        second = client.responses.create(model=model, input=turns, tools=tools)
    assert second.output_text == "It rains."
    sent = live.upstream(model).requests[-1].json()
    if model == PLAIN:
        assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "tool"]
        assert sent["messages"][1]["tool_calls"][0]["id"] == call.call_id
        assert sent["messages"][2] == {
            "role": "tool", "tool_call_id": call.call_id, "content": "rain",
        }  # fmt: skip
    elif model == CLAUDE:
        assert sent["messages"][2]["content"][0]["type"] == "tool_result"
    else:
        assert [item.get("type") for item in sent["input"]] == [
            None, "function_call", "function_call_output",
        ]  # fmt: skip


def test_streamed_calls(live: Live) -> None:
    calls = [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    tools: Any = [WEATHER]
    with live.openai() as client:
        for model in (CLAUDE, PLAIN):
            live.stream(model, calls)
            with client.responses.stream(model=model, input="Hi", tools=tools) as stream:
                final = stream.get_final_response()
            found = [
                json.loads(item.arguments) for item in final.output if item.type == "function_call"
            ]
            assert found == [{"city": "Oslo"}, {"city": "Rome"}], model


class City(BaseModel):
    name: str


@pytest.mark.parametrize("model", MODELS)
def test_parsed_output(live: Live, model: str) -> None:
    live.answer(model, '{"name": "Oslo"}')
    with live.openai() as client:
        made = client.responses.parse(model=model, input="Where?", text_format=City)
    assert made.output_parsed == City(name="Oslo")
    sent = live.upstream(model).requests[0].json()
    assert '"required": ["name"]' in json.dumps(sent)


@pytest.mark.parametrize("model", MODELS)
def test_images(live: Live, model: str) -> None:
    live.answer(model)
    content: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
    ]
    with live.openai() as client:
        client.responses.create(model=model, input=[{"role": "user", "content": content}])
    assert PIXEL.partition(",")[2] in live.upstream(model).requests[0].body.decode()


def test_the_asynchronous_client(live: Live) -> None:
    live.plain.reply(Reply.sse(openai_events("Hello there.")))

    async def talk() -> Any:
        async with (
            openai.AsyncOpenAI(
                api_key=live.token, base_url=f"{live.url}/v1", max_retries=0
            ) as client,
            client.responses.stream(model=PLAIN, input="Hello") as stream,
        ):
            return await stream.get_final_response()

    assert asyncio.run(talk()).output_text == "Hello there."


# -- rows that have the API -----------------------------------------------------------------------
def test_an_answer_passes_untouched(live: Live) -> None:
    answer = response(a_field_of_tomorrow={"x": [1, 2]})
    live.gpt.reply(Reply.json(200, answer))
    body = {"model": "gpt-4o", "input": "Hello", "store": False, "another_field": 1}
    found = live.post(body)
    assert found.json() == answer
    sent = live.gpt.requests[0]
    assert (sent.path, sent.json()) == ("/v1/responses", body)
    assert sent.headers["authorization"] == "Bearer sk-upstream"
    assert found.headers["x-correlation-id"] == sent.headers["x-correlation-id"]


def test_reasoning_is_carried_to_its_own_provider_only(live: Live) -> None:
    live.gpt.reply(Reply.json(200, response(reasoning(), *response()["output"])))
    include: Any = ["reasoning.encrypted_content"]
    with live.openai() as client:
        first = client.responses.create(model=GPT, input="Hi", include=include)
        live.answer(GPT)
        live.answer(PLAIN)
        turns: Any = [*first.output, {"role": "user", "content": "And?"}]
        client.responses.create(model=GPT, input=turns, include=include)
        raw = client.responses.with_raw_response.create(model=PLAIN, input=turns, include=include)
    assert live.gpt.requests[1].json()["input"][0]["encrypted_content"] == SECRET
    assert SECRET not in live.plain.requests[0].body.decode()
    assert raw.headers["x-goblin-ignored"] == "input.reasoning"


def test_thinking_of_claude_is_carried_back_to_it(live: Live) -> None:
    thought = {"type": "thinking", "thinking": "I think.", "signature": "c2lnbmF0dXJl"}
    answer = anthropic_message("Hello.")
    answer["content"].insert(0, thought)
    live.claude.reply(Reply.json(200, answer), Reply.json(200, anthropic_message("And.")))
    with live.openai() as client:
        first = client.responses.create(model=CLAUDE, input="Hi")
        turns: Any = [*first.output, {"role": "user", "content": "And?"}]
        client.responses.create(model=CLAUDE, input=turns)
    assert live.claude.requests[1].json()["messages"][0]["content"][0] == thought


def test_a_chain_goes_from_the_api_to_a_translation_unnoticed(start: Start) -> None:
    live = start(file={"chains": {"smart": [GPT, PLAIN, CLAUDE]}})
    live.gpt.reply(
        Reply.json(503, openai_error()),
        Reply.sse(
            [
                *response_events()[:2],
                event("response.failed", 2, response=response(status="failed",
                      error={"code": "overloaded", "message": CANARY})),
            ]
        ),
    )  # fmt: skip
    live.plain.reply(Reply.json(503, openai_error()), Reply.sse(openai_events("Still there.")))
    live.claude.reply(Reply.json(200, anthropic_message("From the other side.")))
    with live.openai() as client:
        made = client.responses.create(model="smart", input="Hi")
        with client.responses.stream(model="smart", input="Hi") as stream:
            streamed = stream.get_final_response()
    assert made.output_text == "From the other side."
    assert streamed.output_text == "Still there."


def test_a_target_that_cannot_take_the_request_is_passed_over(start: Start) -> None:
    live = start(file={"chains": {"smart": [PLAIN, GPT]}})
    live.answer(GPT)
    tools: Any = [{"type": "web_search"}]
    with live.openai() as client:
        assert client.responses.create(model="smart", input="Hi", tools=tools).output_text
    assert live.plain.requests == []


# -- what is refused ------------------------------------------------------------------------------
WRONG: list[dict[str, Any]] = [
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"background": True},
    {"prompt": {"id": "pmpt_1"}},
    {"prompt": {"id": "pmpt_1"}, "input": None},
    {"previous_response_id": "resp_1", "input": None},
    {"input": None},
    {"input": [{"type": "item_reference", "id": "msg_1"}]},
    {"input": []},
    {"input": [{"role": "wizard", "content": "x"}]},
    {"input": 5},
    {"temperature": 3},
    {"max_output_tokens": 0},
    {"tools": [5]},
]


@pytest.mark.parametrize("model", [ECHO, GPT])
def test_a_wrong_request_is_a_400_that_names_its_field(live: Live, model: str) -> None:
    for fields in WRONG:
        answer = live.post({"model": model, "input": "Hi", **fields})
        assert answer.status_code == 400, fields
        assert str(answer.json()["error"]["param"]).startswith(next(iter(fields))), fields
    assert live.gpt.requests == []


@pytest.mark.parametrize(
    ("model", "wrong", "named", "begins"),
    [
        (CLAUDE, {"reasoning": {"effort": "much"}}, "reasoning", "reasoning.effort: accepted"),
        (CLAUDE, {"include": ["message.output_text.logprobs"]}, "include", "include has no"),
        (
            CLAUDE,
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x"}]}
                ]
            },
            "input",
            "input: accepted: an http(s) URL",
        ),
        (ECHO, {"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens: "),
    ],
)
def test_a_refusal_names_the_field_as_the_client_wrote_it(
    live: Live, model: str, wrong: dict[str, Any], named: str, begins: str
) -> None:
    answer = live.post({"model": model, "input": "x", **wrong})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == named
    assert error["message"].startswith(begins)


@pytest.mark.parametrize(
    ("param", "named"),
    [
        ("max_tokens", "max_output_tokens"),
        ("max_completion_tokens", "max_output_tokens"),
        ("messages[1].content", "input"),
        ("reasoning_effort", "reasoning"),
        ("response_format.json_schema", "text"),
        ("user", "safety_identifier"),
        ("temperature", "temperature"),
        ("stop", None),
        ("internal_field", None),
    ],
)
def test_a_providers_error_names_the_field_as_the_client_wrote_it(
    live: Live, param: str, named: str | None
) -> None:
    asked = {
        "model": PLAIN, "input": "x", "max_output_tokens": 5, "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}}, "safety_identifier": "u", "temperature": 0,
    }  # fmt: skip
    failed = openai_error("invalid_request_error", None, param)
    live.plain.reply(Reply.json(400, failed))
    assert live.post(asked).json()["error"]["param"] == named
    live.plain.reply(
        Reply.sse([openai_events("Hi")[0], f"data: {json.dumps(failed)}\n\n".encode()])
    )
    streamed = live.post({**asked, "stream": True})
    last = json.loads(streamed.text.rpartition("data: ")[2])
    assert last["param"] == named


def test_minus_one_is_no_limit(live: Live) -> None:
    for model in (PLAIN, GPT):
        live.answer(model)
        assert live.post({"model": model, "input": "x", "max_output_tokens": -1}).ok
        sent = live.upstream(model).requests[-1].json()
        assert not {"max_tokens", "max_output_tokens"} & sent.keys()


def test_what_is_left_out_is_named(live: Live) -> None:
    tools = [WEATHER, {"type": "web_search", "external_web_access": False}]
    answer = live.post({"model": ECHO, "input": "Hi", "tools": tools, "prompt_cache_key": "x"})
    assert answer.status_code == 200
    assert answer.headers["X-Goblin-Ignored"] == "prompt_cache_key, tools.web_search"


PROVIDER_ERRORS: tuple[tuple[int, str, type[openai.APIStatusError]], ...] = (
    (400, "invalid_request_error", openai.BadRequestError),
    (404, "not_found_error", openai.NotFoundError),
    (401, "authentication_error", openai.InternalServerError),
    (429, "rate_limit_error", openai.InternalServerError),
    (500, "api_error", openai.InternalServerError),
)


@pytest.mark.parametrize("model", MODELS)
def test_a_providers_error_has_its_class_and_shape(live: Live, model: str) -> None:
    with live.openai() as client:
        for status, kind, raised in PROVIDER_ERRORS:
            live.claude.reply(Reply.json(status, anthropic_error(kind), {"Retry-After": "7"}))
            for upstream in (live.gpt, live.plain):
                upstream.reply(Reply.json(status, openai_error(kind), {"Retry-After": "7"}))
            with pytest.raises(raised) as caught:
                client.responses.create(model=model, input="Hi")
            assert caught.value.body["source"] == "provider"  # type: ignore[index]
            assert CANARY not in str(caught.value)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", ["error", "cut"])
def test_a_stream_that_breaks_fails_and_raises_in_the_sdk(
    live: Live, model: str, fault: str
) -> None:
    error = b"event: error\ndata: " + json.dumps(anthropic_error("api_error")).encode() + b"\n\n"
    live.claude.reply(Reply.sse([*anthropic_events()[:5], error if fault == "error" else CUT]))
    broken = b"data: " + json.dumps(openai_error()).encode() + b"\n\n"
    live.plain.reply(Reply.sse([*openai_events()[:3], broken if fault == "error" else CUT]))
    failed = event("error", 5, code="server_error", message=CANARY, param=None)
    live.gpt.reply(Reply.sse([*response_events()[:5], failed if fault == "error" else CUT]))
    seen: list[Any] = []
    with live.openai() as client:
        stream = client.responses.create(model=model, input="Hi", stream=True)
        with pytest.raises(openai.APIError) as caught:
            take(stream, seen)
    assert seen[-1].type == "response.failed"
    assert seen[-1].response.status == "failed"
    assert seen[-1].response.id == seen[0].response.id
    assert [found.sequence_number for found in seen] == list(range(len(seen)))
    assert CANARY not in str(caught.value) + str(seen)


# -- all that a chat has --------------------------------------------------------------------------
def test_the_limit_on_chats_counts_responses_too(start: Start) -> None:
    live = start(ratelimit_enabled=True, ratelimit_chat="1 per minute")
    with live.openai() as client:
        client.responses.create(model=ECHO, input="Hi")
        with pytest.raises(openai.RateLimitError) as caught:
            client.responses.create(model=ECHO, input="Hi")
    assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("model", [ECHO, GPT])
def test_the_same_idempotency_key_gives_the_same_response(live: Live, model: str) -> None:
    live.gpt.reply(Reply.json(200, response()))
    body = {"model": model, "input": "Hi"}
    first, second = (live.post(body, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.content == second.content
    assert len(live.gpt.requests) == (model == GPT)


def test_a_users_settings_fill_in_what_is_left_out(live: Live) -> None:
    live.answer(PLAIN)
    live.answer(GPT)
    settings = {"temperature": 0.3, "max_tokens": 77, "system_prompt": "Be brief."}
    found = requests.put(
        f"{live.url}/settings/",
        json=settings,
        headers={"Authorization": f"Bearer {live.token}"},
        timeout=60,
    )
    found.raise_for_status()
    with live.openai() as client:
        client.responses.create(model=PLAIN, input="Hi")
        client.responses.create(model=GPT, input="Hi", instructions="Mine.", temperature=0)
    translated = live.plain.requests[0].json()
    assert (translated["temperature"], translated["max_tokens"]) == (0.3, 77)
    assert translated["messages"][0] == {"role": "system", "content": "Be brief."}
    passed = live.gpt.requests[0].json()
    assert (passed["temperature"], passed["max_output_tokens"]) == (0, 77)
    assert passed["instructions"] == "Mine."


def test_a_budget_holds_the_limit_that_is_sent(start: Start) -> None:
    live = start(file={"prices": {"plain/m": {"input": 1, "output": 2}}})
    headers = {"Authorization": f"Bearer {live.token}"}
    wish = {"name": "k", "monthly_budget_usd": "1"}
    made = requests.post(f"{live.url}/auth/keys", json=wish, headers=headers, timeout=60)
    live.token = made.json()["key"]
    for model in MODELS:
        for limit in (40, None):
            live.answer(model)
            asked = {} if limit is None else {"max_output_tokens": limit, "max_tokens": 1}
            live.post({"model": model, "input": "Hi", **asked}).raise_for_status()
            sent = live.upstream(model).requests[-1].json()
            name, other = "max_output_tokens", "max_tokens"
            if model != GPT:
                name, other = other, name
            assert sent[name] == limit or (limit is None and sent[name] > 40), model
            assert other not in sent, model
    large = {"model": PLAIN, "input": "Hi", "max_output_tokens": 10_000_000}
    assert live.post(large).json()["error"]["code"] == "budget_exceeded"


# -- Open Responses' compliance cases -------------------------------------------------------------
# The cases of https://github.com/openresponses/openresponses (bin/compliance-test.ts), with the
# fields that its OpenAPI document requires of a response.
REQUIRED = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model",
    "previous_response_id", "instructions", "output", "error", "tools", "tool_choice",
    "truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty", "frequency_penalty",
    "top_logprobs", "temperature", "reasoning", "user", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier",
    "prompt_cache_key",
}  # fmt: skip
ITEM = {"item_id", "output_index"}
EVENTS: dict[str, set[str]] = {
    **{f"response.{state}": {"response"} for state in ("created", "in_progress", "completed")},
    **{f"response.output_item.{what}": {"output_index", "item"} for what in ("added", "done")},
    **{f"response.content_part.{what}": {*ITEM, "content_index", "part"}
       for what in ("added", "done")},
    "response.output_text.delta": {*ITEM, "content_index", "delta"},
    "response.output_text.done": {*ITEM, "content_index", "text"},
    "response.function_call_arguments.delta": {*ITEM, "delta"},
    "response.function_call_arguments.done": {*ITEM, "arguments"},
}  # fmt: skip
"""The events of a text or a call, and what each must have beside its type and number."""
ITEMS: dict[str, set[str]] = {
    "message": {"id", "status", "role", "content"},
    "function_call": {"id", "call_id", "name", "arguments", "status"},
}
PARTS = {"output_text": {"text", "annotations"}}
USAGE = {
    "input_tokens", "output_tokens", "total_tokens", "input_tokens_details",
    "output_tokens_details",
}  # fmt: skip
COMPLIANCE: dict[str, dict[str, Any]] = {
    "basic": {"input": [{"type": "message", "role": "user", "content": "Say hello."}]},
    "system prompt": {
        "input": [
            {"type": "message", "role": "system", "content": "You are a pirate."},
            {"type": "message", "role": "user", "content": "Say hello."},
        ]
    },
    "tools": {"input": [{"type": "message", "role": "user", "content": "Weather?"}],
              "tools": [WEATHER]},
    "image": {"input": [{"type": "message", "role": "user", "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PIXEL}]}]},
    "several turns": {
        "input": [
            {"type": "message", "role": "user", "content": "My name is Alice."},
            {"type": "message", "role": "assistant", "content": "Hello Alice!"},
            {"type": "message", "role": "user", "content": "What is my name?"},
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_the_compliance_cases(live: Live, stream: bool) -> None:
    for model in (ECHO, *MODELS):
        for case in COMPLIANCE:
            try_case(live, model, case, stream=stream)


def try_case(live: Live, model: str, case: str, *, stream: bool) -> None:
    calls = [("get_weather", {"city": "Oslo"})] if case == "tools" else []
    if stream:
        live.stream(model, calls)
    elif calls and model != ECHO:
        live.call(model, {"city": "Oslo"})
    else:
        live.answer(model)
    answer = live.post({"model": model, "stream": stream, **COMPLIANCE[case]})
    assert answer.status_code == 200, answer.text
    events = events_of(answer.text) if stream else []
    body = events[-1]["response"] if stream else answer.json()
    check_events(events)
    check_items(body["output"])
    assert body["usage"].keys() >= USAGE
    if model != GPT:  # what OpenAI itself leaves out is not added
        assert body.keys() >= REQUIRED
    Response.model_validate(body)
    assert body["status"] == "completed"
    assert body["output"]
    if calls and model != ECHO:
        assert body["output"][0]["type"] == "function_call"
    if calls and stream and model != ECHO:
        kinds = {found["type"] for found in events}
        assert kinds >= {
            "response.output_item.added", "response.function_call_arguments.delta",
            "response.function_call_arguments.done", "response.output_item.done",
        }  # fmt: skip


def check_events(events: list[dict[str, Any]]) -> None:
    """Each event is whole, and its item is the one that was added at its place."""
    added: list[dict[str, Any]] = []
    for number, found in enumerate(events):
        kind = found["type"]
        assert found["sequence_number"] == number
        assert found.keys() >= EVENTS[kind], found
        if kind == "response.output_item.added":
            assert found["output_index"] == len(added)
            added.append(found["item"])
        if "item_id" in found:
            assert added[found["output_index"]]["id"] == found["item_id"]
        if "item" in found:
            check_items([found["item"]])
    assert not events or [item["id"] for item in events[-1]["response"]["output"]] == [
        item["id"] for item in added
    ]


def check_items(items: list[dict[str, Any]]) -> None:
    for item in items:
        assert item.keys() >= ITEMS[item["type"]], item
        for part in item.get("content", ()):
            assert part.keys() >= PARTS[part["type"]], part


def take(stream: Any, seen: list[Any]) -> None:
    """Keep the events up to the one that raises."""
    for found in stream:
        seen.append(found)


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
