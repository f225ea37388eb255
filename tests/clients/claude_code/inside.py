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
from tests.conftest import Serve, Server, wait_until
from tests.support import node
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_events

GPT = "up/gpt-4o"
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

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def server(serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path) -> Server:
    config = tmp_path / "goblin.toml"
    config.write_text(f'[providers.up]\nbase_url = "{fake_upstream.url}/v1"\nmodels = ["gpt-4o"]\n')
    fake_upstream.default = Reply.json(200, {"object": "list", "data": []})
    server = serve(
        GOBLIN_CONFIG_FILE=str(config),
        GOBLIN_RETRIES="0",
        GOBLIN_HEALTH_INTERVAL="3600",
        GOBLIN_BREAKER_MIN_CALLS="1000",
    )
    wait_until(lambda: fake_upstream.requests, what="the check of the provider")
    fake_upstream.requests.clear()
    return server


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
    fake_upstream.reply(Reply.sse(openai_events(tool_calls=[("Bash", command)])))
    fake_upstream.default = Reply.sse(openai_events("It sleeps."))
    events = ask("What does it do?", "--allowedTools", "Bash", model=GPT)
    assert result(events) == "It sleeps."
    called = next(one.json() for one in fake_upstream.requests if b'"tool_call_id"' in one.body)
    [call] = [one for one in called["messages"] if one.get("tool_calls")]
    [answer] = [one for one in called["messages"] if one["role"] == "tool"]
    assert answer["tool_call_id"] == call["tool_calls"][0]["id"]
    assert "the goblin sleeps" in json.dumps(answer["content"])


def test_it_compacts_when_the_prompt_is_too_long(
    ask: Ask, server: Server, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = Reply.sse(openai_events("Fine."))
    first = ask("first " + "words " * 3000, model=GPT)
    fake_upstream.reply(OVERFLOW)
    second = ask("second", "--resume", first[-1]["session_id"], model=GPT)
    assert result(second) == "Fine."
    assert "compact_boundary" in [event.get("subtype") for event in second]
    server.wait_for_line("request_completed", path="/v1/messages", status_code=400)
    assert "words words" not in fake_upstream.requests[-1].body.decode()
