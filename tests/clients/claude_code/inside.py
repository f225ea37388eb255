"""Claude Code's tests. tests/clients/test_claude_code.py runs them in a network namespace that has
only a loopback interface, so that it can reach nothing but the server here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.lines import lines_of_the_page
from tests.conftest import Serve, Server
from tests.support import node
from tests.support.fake_upstream import FakeUpstream, Reply, Request, answering_gets
from tests.support.wire_bodies import anthropic_events, openai_events

GPT = "up/gpt-4o"
CLAUDE = "claude/c"
COUNT = "/v1/messages/count_tokens"
OVERFLOW = Reply.json(
    400,
    {
        "error": {
            "message": "This model's maximum context length is 128000 tokens. However, your "
            "messages resulted in 140000 tokens.",
            "code": "context_length_exceeded",
        }
    },
)

LISTED = Reply.json(200, {"object": "list", "data": []})

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def server(serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path) -> Server:
    config = tmp_path / "goblin.toml"
    url = fake_upstream.url
    config.write_text(
        f'[providers.up]\nbase_url = "{url}/v1"\nmodels = ["gpt-4o"]\n'
        f'[providers.claude]\nkind = "anthropic"\nbase_url = "{url}"\nmodels = ["c"]\n'
    )
    fake_upstream.choose = answering_gets(LISTED)
    return serve(
        GOBLIN_CONFIG_FILE=str(config),
        GOBLIN_RETRIES="0",
        GOBLIN_HEALTH_INTERVAL="3600",
        GOBLIN_BREAKER_MIN_CALLS="1000",
    )


def once(
    reply: Reply, meant: Callable[[dict[str, Any]], bool]
) -> Callable[[Request], Reply | None]:
    """For `choose`: this reply to the first chat that is meant. Claude Code sends others beside it,
    such as for a title, in any order."""
    left = [reply]

    def choose(request: Request) -> Reply | None:
        if request.method == "GET":
            return LISTED
        return left.pop() if left and meant(request.json()) else None

    return choose


def has_bash(body: dict[str, Any]) -> bool:
    return any(tool["function"]["name"] == "Bash" for tool in body.get("tools", ()))


def is_the_second(body: dict[str, Any]) -> bool:
    """The chat itself, with the whole conversation."""
    said = json.dumps(body["messages"])
    return has_bash(body) and "words words" in said and "second" in said


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Ask:
    """`ask("hello", "--allowedTools", "Bash", model=GPT)`: the events that Claude Code prints."""
    packages = node.installed(Path(__file__).parent) / "@anthropic-ai"
    [program] = packages.glob("claude-code-linux-*/claude")
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    key = server.register()["Authorization"].removeprefix("Bearer ")
    lines = lines_of_the_page("claude-code", "sh").replace("http://localhost:8001", server.url)

    def ask(prompt: str, *options: str, model: str) -> list[dict[str, Any]]:
        script = lines.replace("=echo", f"={model}").replace("claude -p", '"$CLAUDE" "$@" -p')
        assert "$CLAUDE" in script
        assert f"={model}" in script
        script = script.replace('"hello"', '"$PROMPT"')
        arguments = ["--output-format", "stream-json", "--verbose", *options]
        done = subprocess.run(
            ["sh", "-c", script, "claude", *arguments],
            cwd=home / "work", capture_output=True, text=True, timeout=240, check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "GOBLIN_KEY": key,
            "CLAUDE": str(program), "PROMPT": prompt},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def result(events: list[dict[str, Any]]) -> str:
    [last] = [event for event in events if event["type"] == "result"]
    assert last["is_error"] is False
    return str(last["result"])


def test_it_answers_on_the_embedded_model(ask: Ask) -> None:
    assert result(ask("hello there", model="echo")).endswith("hello there")


def test_its_tools_work_on_another_providers_model(
    ask: Ask, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    (tmp_path / "home" / "work" / "note.txt").write_text("the goblin sleeps")
    command = {"command": "cat note.txt", "description": "Read the note"}
    called = Reply.sse(openai_events(tool_calls=[("Bash", command)]))
    fake_upstream.choose = once(called, has_bash)
    fake_upstream.default = Reply.sse(openai_events("It sleeps."))
    events = ask("What does it do?", "--allowedTools", "Bash", model=GPT)
    assert result(events) == "It sleeps."
    asked = next(one.json() for one in fake_upstream.requests if b'"tool_call_id"' in one.body)
    [call] = [one for one in asked["messages"] if one.get("tool_calls")]
    [answer] = [one for one in asked["messages"] if one["role"] == "tool"]
    assert answer["tool_call_id"] == call["tool_calls"][0]["id"]
    assert "the goblin sleeps" in json.dumps(answer["content"])


def test_it_compacts_when_the_prompt_is_too_long(
    ask: Ask, server: Server, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.sse(openai_events("Fine."))
    first = ask("first " + "words " * 3000, model=GPT)
    fake_upstream.choose = once(OVERFLOW, is_the_second)
    second = ask("second", "--resume", first[-1]["session_id"], model=GPT)
    assert result(second) == "Fine."
    assert "compact_boundary" in [event.get("subtype") for event in second]
    server.wait_for_line("request_completed", path="/v1/messages", status_code=400)
    chats = [one.json() for one in fake_upstream.requests if one.method == "POST"]
    last = [chat for chat in chats if has_bash(chat)][-1]
    assert "words words" not in json.dumps(last)


def test_it_has_its_prompt_counted_by_a_row_of_anthropics(
    ask: Ask, server: Server, fake_upstream: FakeUpstream
) -> None:
    def choose(request: Request) -> Reply | None:
        if request.method == "GET":
            return LISTED
        return Reply.json(200, {"input_tokens": 1234}) if request.path == COUNT else None

    fake_upstream.choose = choose
    fake_upstream.default = Reply.sse(anthropic_events("Fine."))
    ask("/context", model=CLAUDE)
    counts = [one.json() for one in fake_upstream.requests if one.path == COUNT]
    assert {count["model"] for count in counts} == {"c"}
    assert any(count.get("tools") for count in counts)
    server.wait_for_line("request_completed", path=COUNT, status_code=200)
