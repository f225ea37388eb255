"""Agent frameworks of Python that speak the Responses API by default, against a running server.

Each runs in a process of its own, with the environment that docs/clients.md shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.lines import lines_of_the_page
from tests.clients.two_rows import two_rows
from tests.conftest import Server, wait_until
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.response_bodies import call_events, message, response, response_events
from tests.support.venvs import python_with
from tests.support.wire_bodies import openai_chat, openai_error, openai_events

HERE = Path(__file__).parent
CALL = [("get_weather", {"city": "Oslo"})]
UP, SAME = "up/gpt-4o", "same/gpt-4o"
NAMES = {
    "openai-agents": {"echo": "echo", UP: f"openai/{UP}", SAME: f"openai/{SAME}"},
    "pydantic-ai": {"echo": "openai:echo", UP: f"openai:{UP}", SAME: f"openai:{SAME}"},
}
"""What each framework calls a model."""
every_framework = pytest.mark.parametrize("name", NAMES)


@dataclass
class Gateway:
    """A server whose providers are scripted, and how frameworks are run against it. `up` has chats
    only, `same` has the Responses API."""

    server: Server
    upstream: FakeUpstream
    folder: Path
    key: str

    def run(self, name: str, *scenarios: tuple[str, str]) -> list[Any]:
        """The results of a framework's scenarios, in one process."""
        if name == "openai-agents":
            program = [str(python_with(HERE / "openai_agents")), str(HERE / "openai_agents/run.py")]
        else:
            program = [sys.executable, str(HERE / "pydantic_agents" / "run.py")]
        lines = lines_of_the_page("openai-environment", "sh")
        script = lines.replace("http://localhost:8001", self.server.url) + 'exec "$@"'
        wanted = [(scenario, NAMES[name][model]) for scenario, model in scenarios]
        done = subprocess.run(
            ["sh", "-c", script, "sh", *program, json.dumps(wanted)],
            cwd=self.folder, capture_output=True, text=True, timeout=240, check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "GOBLIN_KEY": self.key,
            "NO_PROXY": "*"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout
        results: list[Any] = json.loads(done.stdout)
        return results

    def chats(self) -> list[str]:
        """The paths of all chats that are logged."""
        lines = self.server.log_lines("request_completed")
        return [line["path"] for line in lines if not line["path"].startswith("/auth")]

    def asked(self) -> list[Any]:
        """The bodies that reached the providers."""
        return [one.json() for one in self.upstream.requests]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    base = tmp_path_factory.mktemp("agents")
    with two_rows(base) as (server, upstream):
        key = server.register()["Authorization"].removeprefix("Bearer ")
        yield Gateway(server, upstream, base, key)


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.upstream.requests.clear()
    return running


@every_framework
def test_answers_and_streams_on_every_kind_of_row(gateway: Gateway, name: str) -> None:
    gateway.upstream.reply(
        Reply.json(200, openai_chat("Hello.")), Reply.sse(openai_events("Hello.")),
        Reply.json(200, response(message("Hello."))), Reply.sse(response_events("Hello.")),
    )  # fmt: skip
    echo, echo_stream, *others = gateway.run(
        name, *((scenario, model) for model in ("echo", UP, SAME)
                for scenario in ("answer", "stream"))
    )  # fmt: skip
    assert echo["text"] == echo_stream["text"]
    assert echo["text"].endswith("hello there")
    assert [one["text"] for one in others] == ["Hello."] * 4
    for answer in others[::2]:
        assert (answer["input"], answer["output"]) == (12, 5)
    assert [one.path for one in gateway.upstream.requests] == [
        "/v1/chat/completions", "/v1/chat/completions", "/v1/responses", "/v1/responses",
    ]  # fmt: skip
    wait_until(lambda: len(gateway.chats()) >= 6, what="the log lines")
    assert set(gateway.chats()) == {"/v1/responses"}


@pytest.mark.parametrize("model", [UP, SAME])
@every_framework
def test_a_tool_is_called_and_its_result_goes_back(gateway: Gateway, name: str, model: str) -> None:
    if model == UP:
        replies = [openai_chat(None, CALL), openai_chat("12 in Oslo.")]
    else:
        item = json.loads(call_events(*CALL)[-1].split(b"data: ")[1])["response"]
        replies = [item, response(message("12 in Oslo."))]
    gateway.upstream.reply(*(Reply.json(200, reply) for reply in replies))
    [done] = gateway.run(name, ("tools", model))
    assert done == {"text": "12 in Oslo.", "called": ["Oslo"]}
    first, second = gateway.asked()
    assert "get_weather" in json.dumps(first["tools"])
    result = (second.get("messages") or second["input"])[-1]
    assert "12 degrees" in json.dumps(result)
    assert result.get("tool_call_id") or result["call_id"]


@every_framework
def test_an_object_of_a_schema(gateway: Gateway, name: str) -> None:
    by_tool = name == "pydantic-ai"  # by default it asks for a call of the tool `final_result`
    answer = (
        openai_chat(None, [("final_result", {"city": "Oslo"})])
        if by_tool
        else openai_chat('{"city": "Oslo"}')
    )
    gateway.upstream.reply(Reply.json(200, answer))
    [done] = gateway.run(name, ("object", UP))
    assert done == {"object": {"city": "Oslo"}}
    [asked] = gateway.asked()
    if by_tool:
        assert asked["tools"][0]["function"]["name"] == "final_result"
    else:
        schema = asked["response_format"]["json_schema"]["schema"]
        assert schema["required"] == ["city"]


@every_framework
def test_failures_are_told(gateway: Gateway, name: str) -> None:
    gateway.upstream.reply(Reply.json(400, openai_error()), Reply.sse([*openai_events()[:3], CUT]))
    refused, broken = gateway.run(name, ("error", UP), ("broken", UP))
    assert refused == {"status": 400}
    assert "ended before its end" in broken["message"]
