"""The official `openai` package, LangChain and the `llm` tool as clients of a running server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner

from tests.conftest import Serve, Server
from tests.support.fake_upstream import FakeUpstream, Reply, answering_gets
from tests.support.wire_bodies import openai_chat, openai_events

MODELS = Reply.json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class Setup:
    def __init__(self, server: Server, upstream: FakeUpstream, token: str) -> None:
        self.server = server
        self.upstream = upstream
        self.token = token
        self._clients: list[OpenAI] = []

    def client(self, **options: Any) -> OpenAI:
        options = {
            "api_key": self.token,
            "base_url": self.server.url + "/v1",
            "max_retries": 0,
            **options,
        }
        client = OpenAI(**options)
        self._clients.append(client)
        return client

    def asked(self) -> Any:
        """The body of the last chat. A health check may have come after it."""
        return [one for one in self.upstream.requests if one.method == "POST"][-1].json()

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def setup(serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path) -> Iterator[Setup]:
    fake_upstream.choose = answering_gets(MODELS)
    config = tmp_path / "goblin.toml"
    config.write_text(f'[providers.up]\nbase_url = "{fake_upstream.url}/v1"\nmodels = ["m"]\n')
    server = serve(
        GOBLIN_CONFIG_FILE=str(config), GOBLIN_RETRIES="0", GOBLIN_MAX_BODY_BYTES="100000"
    )
    token = server.register()["Authorization"].removeprefix("Bearer ")
    made = Setup(server, fake_upstream, token)
    yield made
    made.close()


def test_create_stream_models_embeddings_and_raw_headers(setup: Setup) -> None:
    client = setup.client()
    completion = client.chat.completions.create(model="echo", messages=HELLO)
    assert (completion.choices[0].message.content or "").endswith("hello there")
    assert completion.usage is not None
    assert completion._request_id is not None

    stream = client.chat.completions.create(
        model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == completion.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == completion.usage.total_tokens
    assert chunks[-1].usage.to_dict()["cost_usd"] == "0.00"

    assert "echo/echo" in [model.id for model in client.models.list()]
    assert client.models.retrieve("echo/echo").owned_by == "echo"
    assert len(client.embeddings.create(model="echo", input=["a", "b"]).data) == 2

    raw = client.chat.completions.with_raw_response.create(model="echo", messages=HELLO)
    assert raw.headers["x-goblin-provider"] == "echo"
    assert raw.headers["x-goblin-cost"] == "0.00"
    assert raw.headers["x-correlation-id"] == raw.headers["x-request-id"]
    assert "provider;dur=" in raw.headers["server-timing"]


def test_a_tools_round_trip_an_image_and_structured_output(setup: Setup) -> None:
    client = setup.client()
    asked = client.chat.completions.create(
        model="echo", messages=HELLO, tools=[TOOL], tool_choice="required"
    )
    message = asked.choices[0].message
    assert asked.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    call: Any = message.tool_calls[0]
    assert call.function.name == "get_weather"
    answered = client.chat.completions.create(
        model="echo",
        messages=[*HELLO, message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}],
        tools=[TOOL],
    )
    assert answered.choices[0].message.content

    setup.upstream.reply(Reply.json(200, openai_chat()))
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    client.chat.completions.create(
        model="up/m",
        messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}],
    )
    assert setup.asked()["messages"][0]["content"][1] == image

    structured = client.chat.completions.create(
        model="echo", messages=HELLO, response_format={"type": "json_object"}
    )
    assert (structured.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("status", "upstream_status", "kind"),
    [
        (400, 400, openai.BadRequestError),
        (404, 404, openai.NotFoundError),
        (502, 401, openai.InternalServerError),
        (502, 500, openai.InternalServerError),
        (503, 429, openai.InternalServerError),
    ],
)
def test_a_providers_failure_raises_the_sdks_exception(
    setup: Setup, status: int, upstream_status: int, kind: type[openai.APIStatusError]
) -> None:
    setup.upstream.reply(Reply.json(upstream_status, {"error": {"message": "x", "code": "y"}}))
    with pytest.raises(kind) as raised:
        setup.client().chat.completions.create(model="up/m", messages=HELLO)
    assert raised.value.status_code == status
    assert raised.value.request_id
    assert raised.value.body["source"] == "provider"  # type: ignore[index]


def test_our_own_refusals_raise_the_sdks_exceptions(setup: Setup, serve: Serve) -> None:
    with pytest.raises(openai.AuthenticationError):
        setup.client(api_key="gob_nonsense").chat.completions.create(model="echo", messages=HELLO)
    with pytest.raises(openai.NotFoundError) as missing:
        setup.client().chat.completions.create(model="nope", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        setup.client().chat.completions.create(  # type: ignore[call-overload]
            model="echo", messages=HELLO, temperature="hot"
        )
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.APIStatusError) as large:
        setup.client().chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "x" * 200_000}]
        )
    assert large.value.status_code == 413

    limited = serve(RATELIMIT_ENABLED="true", RATELIMIT_CHAT="1 per minute")
    client = setup.client(
        api_key=limited.register()["Authorization"].removeprefix("Bearer "),
        base_url=limited.url + "/v1",
    )
    client.chat.completions.create(model="echo", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as many:
        client.chat.completions.create(model="echo", messages=HELLO)
    assert 0 < int(many.value.response.headers["retry-after"]) <= 60


def test_a_stream_that_breaks_raises_and_does_not_end_silently(setup: Setup) -> None:
    chunk = (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
        b'"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    )
    setup.upstream.reply(Reply.sse([chunk]))
    stream = setup.client().chat.completions.create(model="up/m", messages=HELLO, stream=True)
    assert next(iter(stream)).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError, match="ended before its end"):
        list(stream)


def test_the_sdks_own_retry_waits_as_retry_after_says(setup: Setup) -> None:
    answer = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "at last"},
        "finish_reason": "stop"}],
    }  # fmt: skip
    overloaded = Reply.json(529, {"error": {"message": "busy"}}, {"Retry-After": "1"})
    setup.upstream.reply(overloaded, Reply.json(200, answer))
    chats = setup.client(max_retries=1).chat.completions.with_raw_response
    response = chats.create(model="up/m", messages=HELLO)
    assert response.parse().choices[0].message.content == "at last"
    identity = response.headers["x-correlation-id"]
    setup.server.wait_for_line("request_completed", correlation_id=identity)
    lines = setup.server.log_lines("request_completed")
    at = next(n for n, line in enumerate(lines) if line["correlation_id"] == identity)
    assert lines[at]["timestamp"] > lines[at - 1]["timestamp"]


def test_the_async_client_creates_and_streams(setup: Setup) -> None:
    async def talk() -> list[str]:
        async with AsyncOpenAI(api_key=setup.token, base_url=setup.server.url + "/v1") as client:
            create = client.chat.completions.create(model="echo", messages=HELLO)
            stream = await client.chat.completions.create(model="echo", messages=HELLO, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return [(await create).choices[0].message.content or "", "".join(pieces)]

    whole, streamed = asyncio.run(talk())
    assert whole == streamed


def test_langchain_answers_streams_and_embeds(setup: Setup) -> None:
    code = """
import sys
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
url, token = sys.argv[1:]
chat = ChatOpenAI(model="echo", base_url=url, api_key=token, stream_usage=True)
print(chat.invoke("hello there").content)
chunks = list(chat.stream("hello there"))
print("".join(chunk.content for chunk in chunks))
print(sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata))
embeddings = OpenAIEmbeddings(
    model="echo", base_url=url, api_key=token, check_embedding_ctx_length=False
)
print(len(embeddings.embed_query("x")))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, setup.server.url + "/v1", setup.token],
        capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"),
        "LANGCHAIN_TRACING_V2": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, streamed, tokens, size = done.stdout.strip().splitlines()
    assert whole == streamed
    assert int(tokens) == 2 + len(whole.split())
    assert whole.endswith("hello there")
    assert int(size) > 0


def test_the_llm_command_line_tool_answers(setup: Setup, tmp_path: Path) -> None:
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: goblin\n  model_name: echo\n  api_base: {setup.server.url}/v1\n  "
        f"api_key_name: goblin\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "llm", "-m", "goblin", "--key", setup.token,
        "hello there"],
        capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LLM_USER_PATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("hello there")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_tool_runner_calls_a_function_and_gives_back_its_result(
    setup: Setup, stream: bool
) -> None:
    wanted: Any = [("get_weather", {"city": "Cebu"})]
    if stream:
        setup.upstream.reply(
            Reply.sse(openai_events("", wanted)), Reply.sse(openai_events("Sunny."))
        )
    else:
        setup.upstream.reply(
            Reply.json(200, openai_chat("", wanted)), Reply.json(200, openai_chat("Sunny."))
        )
    asked: list[dict[str, object]] = []

    def weather(given: dict[str, object]) -> str:
        asked.append(given)
        return "The sun shines."

    tool: Any = {"type": "function", "strict": False, **TOOL["function"]}
    runner = ResponsesToolRunner(functions=[RegisteredFunction(tool, weather)])
    answer = runner.run(
        setup.client(), {"model": "up/m", "input": "Weather?", "store": False}, stream=stream
    )
    assert answer.output_text == "Sunny."
    assert asked == [{"city": "Cebu"}]
    last = setup.asked()["messages"]
    assert last[-1]["content"] == "The sun shines."
    assert last[-2]["tool_calls"][0]["id"] == last[-1]["tool_call_id"]


def test_what_the_page_of_clients_says_does_not_work_is_refused(setup: Setup) -> None:
    client = setup.client()
    for ask in (
        client.files.list,
        client.batches.list,
        lambda: client.audio.speech.create(model="echo", voice="alloy", input="hello"),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="echo", input="hello", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
