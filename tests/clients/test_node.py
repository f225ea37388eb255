"""JavaScript's clients, official and unmodified, against a running server.

Each is made by the lines that docs/clients.md shows for it, and goes through the same scenarios:
`node/*.mjs` has them in the client's own terms.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.lines import lines_of_the_page
from tests.clients.two_rows import two_rows
from tests.conftest import Server, wait_until
from tests.support import node
from tests.support.fake_upstream import CUT, SILENCE, FakeUpstream, Reply
from tests.support.response_bodies import call_events, message, response, response_events
from tests.support.wire_bodies import openai_chat, openai_error, openai_events

SCRIPTS = Path(__file__).parent / "node"
GPT, PASSED = "up/gpt-4o", "same/gpt-4o"
CALL = [("get_weather", {"city": "Oslo"})]


@dataclass(frozen=True)
class Client:
    """A client: its script, the mark of its lines in docs/clients.md, its dialect."""

    script: str
    mark: str
    path: str = "/v1/chat/completions"


CLIENTS = {
    "openai": Client("openai.mjs", "openai-node"),
    "openai-responses": Client("openai_responses.mjs", "openai-node", "/v1/responses"),
    "anthropic": Client("anthropic.mjs", "anthropic-node", "/v1/messages"),
    "ai-compatible": Client("ai_sdk.mjs", "ai-sdk-compatible"),
    "ai-openai": Client("ai_sdk.mjs", "ai-sdk-openai", "/v1/responses"),
    "ai-openai-chat": Client("ai_sdk.mjs", "ai-sdk-openai-chat"),
    "ai-anthropic": Client("ai_sdk.mjs", "ai-sdk-anthropic", "/v1/messages"),
}
WITH_OBJECTS = ["openai-responses", *(name for name in CLIENTS if name.startswith("ai-"))]
every_client = pytest.mark.parametrize("name", CLIENTS)


@dataclass
class Gateway:
    """A server whose provider `up` is scripted, and how clients are run against it."""

    server: Server
    upstream: FakeUpstream
    folder: Path
    token: dict[str, str]
    keys: int = field(default=0)

    def key(self, **limits: Any) -> str:
        """A new API key."""
        self.keys += 1
        body = {"name": f"key {self.keys}", **limits}
        answer = requests.post(
            self.server.url + "/auth/keys", json=body, headers=self.token, timeout=30
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    def run(self, name: str, *scenarios: tuple[str, dict[str, Any]]) -> list[Any]:
        """The results of a client's scenarios, in one process."""
        client = CLIENTS[name]
        folder = self.folder / name
        if not folder.exists():
            shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("*.json"))
            (folder / "package.json").write_text('{"type": "module"}')
            (folder / "node_modules").symlink_to(node.installed(SCRIPTS))
            made = lines_of_the_page(client.mark, "js")
            config = made.replace("http://localhost:8001", self.server.url)
            (folder / "config.mjs").write_text(re.sub("^const", "export const", config, flags=re.M))
        done = subprocess.run(
            [node.node(), client.script, json.dumps(scenarios)],
            cwd=folder, capture_output=True, text=True, timeout=240, check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "NO_PROXY": "*"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        results: list[Any] = json.loads(done.stdout)
        return results

    def asked(self) -> list[Any]:
        """The bodies of the chats that reached the provider."""
        return [one.json() for one in self.upstream.requests if one.method == "POST"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    node.installed(SCRIPTS)
    base = tmp_path_factory.mktemp("clients")
    prices = '[prices."*"]\ninput = 1\noutput = 2\n'
    limits = {"RATELIMIT_ENABLED": "true", "RATELIMIT_CHAT": "10000 per minute"}
    with two_rows(base, prices, **limits) as (server, upstream):
        (base / "node").mkdir()
        yield Gateway(server, upstream, base / "node", server.register())


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.upstream.requests.clear()
    return running


@every_client
def test_an_answer_and_a_stream(gateway: Gateway, name: str) -> None:
    gateway.upstream.reply(
        Reply.json(200, openai_chat("Hello.")), Reply.sse(openai_events("Hello."))
    )
    echo, gpt = ({"model": model, "key": gateway.key()} for model in ("echo", GPT))
    whole, streamed, answer, stream = gateway.run(
        name, ("answer", echo), ("stream", echo), ("answer", gpt), ("stream", gpt)
    )
    assert whole["text"] == streamed["text"]
    assert whole["text"].endswith("hello there")
    assert answer["text"] == stream["text"] == "Hello."
    line = gateway.server.wait_for_line("chat_completed", correlation_id=answer["id"])
    assert (line["prompt_tokens"], line["completion_tokens"]) == (12, 5)
    assert answer["output"] == 5
    assert [one["messages"][-1]["role"] for one in gateway.asked()] == ["user", "user"]


@pytest.mark.parametrize("stream", [False, True])
@every_client
def test_a_tool_is_called_and_its_result_goes_back(
    gateway: Gateway, name: str, stream: bool
) -> None:
    gateway.upstream.reply(
        *(Reply.sse(openai_events(tool_calls=CALL)), Reply.sse(openai_events("12 in Oslo.")))
        if stream
        else (
            Reply.json(200, openai_chat(tool_calls=CALL)),
            Reply.json(200, openai_chat("12 in Oslo.")),
        )
    )
    [done] = gateway.run(name, ("tools", {"model": GPT, "key": gateway.key(), "stream": stream}))
    assert done == {"text": "12 in Oslo.", "called": [{"city": "Oslo"}]}
    first, second = gateway.asked()
    assert first["tools"][0]["function"]["name"] == "get_weather"
    assert bool(first.get("stream")) == stream
    call, result = second["messages"][-2:]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert (result["role"], "12 degrees" in json.dumps(result["content"])) == ("tool", True)


@pytest.mark.parametrize("name", ["openai-responses", "ai-openai"])
def test_a_row_that_has_the_responses_api_is_sent_what_the_client_sent(
    gateway: Gateway, name: str
) -> None:
    gateway.upstream.reply(
        Reply.json(200, response(message("Hello."))),
        Reply.sse(response_events("Hello.")),
        Reply.sse(call_events(*CALL)),
        Reply.sse(response_events("12 in Oslo.")),
    )
    same = {"model": PASSED, "key": gateway.key()}
    answer, stream, done = gateway.run(
        name, ("answer", same), ("stream", same), ("tools", {**same, "stream": True})
    )
    assert answer["text"] == stream["text"] == "Hello."
    assert (answer["input"], answer["output"]) == (12, 5)
    assert done == {"text": "12 in Oslo.", "called": [{"city": "Oslo"}]}
    assert {one.path for one in gateway.upstream.requests} == {"/v1/responses"}
    last = gateway.asked()[-1]
    assert last["store"] is False
    assert [item.get("type") for item in last["input"]][-2:] == [
        "function_call", "function_call_output",
    ]  # fmt: skip


@pytest.mark.parametrize("name", WITH_OBJECTS)
def test_an_object_of_a_schema(gateway: Gateway, name: str) -> None:
    # Where it does not know the model, the Anthropic provider asks for a call of the tool `json`.
    by_tool = name == "ai-anthropic"
    answer = (
        openai_chat(tool_calls=[("json", {"city": "Oslo"})])
        if by_tool
        else openai_chat('{"city": "Oslo"}')
    )
    gateway.upstream.reply(Reply.json(200, answer))
    [done] = gateway.run(name, ("object", {"model": GPT, "key": gateway.key()}))
    assert done == {"object": {"city": "Oslo"}}
    [asked] = gateway.asked()
    if by_tool:
        assert asked["tool_choice"] == "required"
        schema = asked["tools"][0]["function"]["parameters"]
    else:
        schema = asked["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"city": {"type": "string"}}


@every_client
def test_each_kind_of_error_is_read(gateway: Gateway, name: str) -> None:
    overflow = {"message": "too long", "code": "context_length_exceeded"}
    gateway.upstream.reply(*[Reply.json(400, {"error": overflow})] * 2)
    gateway.upstream.reply(Reply.json(429, openai_error(), {"Retry-After": "7"}))
    key, once = gateway.key(), gateway.key(requests_per_minute=1)
    poor = gateway.key(monthly_budget_usd="0.000001")
    echo = {"model": "echo"}
    results = gateway.run(
        name,
        ("error", {**echo, "key": "gob_nonsense"}),
        ("error", {**echo, "key": poor}),
        ("answer", {**echo, "key": once}),
        ("error", {**echo, "key": once}),
        ("error", {"model": GPT, "key": key}),
        ("error", {"model": GPT, "key": key, "stream": True}),
        ("error", {"model": "nobody/serves-this", "key": key}),
        ("error", {"model": GPT, "key": key}),
    )
    del results[2]
    assert [one["status"] for one in results] == [401, 402, 429, 400, 400, 404, 503]
    stranger, broke, limited, whole, streamed, missing, busy = results
    assert "key" in stranger["message"]
    assert "budget" in broke["message"]
    assert 0 < int(limited["retryAfter"]) <= 60
    assert busy["retryAfter"] == "7"
    for long in (whole, streamed):
        assert "prompt is too long" in long["message"]
    if name in ("openai", "openai-responses"):
        assert [one["name"] for one in (stranger, limited, whole, missing, busy)] == [
            "AuthenticationError", "RateLimitError", "BadRequestError", "NotFoundError",
            "InternalServerError",
        ]  # fmt: skip
        assert whole["code"] == streamed["code"] == "context_length_exceeded"
    if name == "anthropic":
        assert [one["name"] for one in (stranger, broke, limited, whole, missing, busy)] == [
            "AuthenticationError", "PaymentRequiredError", "RateLimitError", "BadRequestError",
            "NotFoundError", "ServiceUnavailableError",
        ]  # fmt: skip
    for one in results:
        assert one["requestId"], one
        gateway.server.wait_for_line(
            "request_completed", correlation_id=one["requestId"], status_code=one["status"]
        )


@every_client
def test_a_client_asks_again_after_a_503(gateway: Gateway, name: str) -> None:
    gateway.upstream.reply(
        Reply.json(529, openai_error(), {"Retry-After": "1"}),
        Reply.json(200, openai_chat("At last.")),
    )
    [done] = gateway.run(name, ("retried", {"model": GPT, "key": gateway.key()}))
    assert done == {"text": "At last."}
    assert len(gateway.asked()) == 2


@every_client
def test_a_stream_that_breaks_does_not_end_as_if_it_were_whole(gateway: Gateway, name: str) -> None:
    gateway.upstream.reply(Reply.sse([*openai_events()[:3], CUT]))
    [done] = gateway.run(name, ("broken", {"model": GPT, "key": gateway.key()}))
    assert "ended before its end" in done["message"]


@every_client
def test_an_abort_ends_the_call_to_the_provider(gateway: Gateway, name: str) -> None:
    closed = gateway.upstream.closed_by_peer
    gateway.upstream.reply(Reply.sse([*openai_events()[:3], SILENCE]))
    [done] = gateway.run(name, ("abort", {"model": GPT, "key": gateway.key()}))
    assert done["text"]
    wait_until(lambda: gateway.upstream.closed_by_peer > closed, what="the provider's connection")
    [asked] = [one for one in gateway.upstream.requests if one.method == "POST"]
    line = gateway.server.wait_for_line(
        "request_completed", trace_id=asked.headers["traceparent"].split("-")[1]
    )
    assert (line["path"], line["completed"]) == (CLIENTS[name].path, False)
