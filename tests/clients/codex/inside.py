"""Codex's tests. tests/clients/test_codex.py runs them in a network namespace that has only a
loopback interface, so that it can reach nothing but the server here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.lines import lines_of_the_page
from tests.clients.two_rows import two_rows
from tests.conftest import Server
from tests.support import node
from tests.support.downloads import cache
from tests.support.fake_upstream import CUT, FakeUpstream, Reply
from tests.support.response_bodies import call_events, response_events
from tests.support.wire_bodies import openai_events

GPT, PASSED = "up/gpt-4o", "same/gpt-4o"
READ = {"cmd": "cat note.txt"}


@dataclass
class Codex:
    """The program, its home directory, and the server that it asks."""

    server: Server
    upstream: FakeUpstream
    program: Path
    home: Path
    key: str

    def ask(self, prompt: str, *options: str, model: str) -> list[dict[str, Any]]:
        """The events that it prints."""
        arguments = ["--json", "--skip-git-repo-check", "-m", model]
        # Its sandbox needs rights that containers often do not have.
        arguments.append("--dangerously-bypass-approvals-and-sandbox")
        done = subprocess.run(
            [str(self.program), "exec", *options, *arguments, prompt],
            cwd=self.home / "work", capture_output=True, text=True, timeout=240, check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "GOBLIN_KEY": self.key},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    def asked(self) -> list[dict[str, Any]]:
        """The bodies that reached the provider."""
        return [one.json() for one in self.upstream.requests]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Codex]:
    packages = node.installed(Path(__file__).parent, large=True) / "@openai"
    [program] = packages.glob("codex-linux-*/vendor/*/bin/codex")
    base = tmp_path_factory.mktemp("codex")
    # It does not take a home directory below /tmp for its helper programs.
    home = Path(tempfile.mkdtemp(prefix="codex-home-", dir=cache()))
    try:
        with two_rows(base) as (server, upstream):
            (home / "work").mkdir()
            (home / "work" / "note.txt").write_text("the goblin sleeps")
            (home / ".codex").mkdir()
            lines = lines_of_the_page("codex", "toml")
            lines = lines.replace("http://localhost:8001", server.url)
            (home / ".codex" / "config.toml").write_text(lines)
            key = server.register()["Authorization"].removeprefix("Bearer ")
            yield Codex(server, upstream, program, home, key)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def codex(running: Codex) -> Codex:
    running.upstream.requests.clear()
    return running


def said(events: list[dict[str, Any]]) -> str:
    """Its last message, of a turn that is complete."""
    assert events[-1]["type"] == "turn.completed", events
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return str([item for item in items if item["type"] == "agent_message"][-1]["text"])


def test_it_answers_on_the_embedded_model(codex: Codex) -> None:
    assert said(codex.ask("hello there", model="echo")).endswith("hello there")


@pytest.mark.parametrize("model", [GPT, PASSED])
def test_its_shell_works_and_a_session_goes_on(codex: Codex, model: str) -> None:
    # A row that has the Responses API is sent the calls of Codex itself.
    replies = [
        Reply.sse(openai_events(tool_calls=[("exec_command", READ)])),
        *(Reply.sse(openai_events(text)) for text in ("It sleeps.", "It wakes.")),
    ]
    if model == PASSED:
        replies = [
            Reply.sse(call_events(("exec_command", READ))),
            *(Reply.sse(response_events(text)) for text in ("It sleeps.", "It wakes.")),
        ]
    codex.upstream.reply(*replies)
    events = codex.ask("What does it do?", model=model)
    assert said(events) == "It sleeps."
    ran = [one["item"] for one in events if one.get("item", {}).get("type") == "command_execution"]
    assert (ran[-1]["aggregated_output"], ran[-1]["exit_code"]) == ("the goblin sleeps", 0)
    assert said(codex.ask("And then?", "resume", "--last", model=model)) == "It wakes."
    last = json.dumps(codex.asked()[-1])
    for told in ("What does it do?", "exec_command", "the goblin sleeps", "It sleeps.", "And then"):
        assert told in last, told
    sent = {one.path for one in codex.upstream.requests}
    assert sent == {"/v1/responses" if model == PASSED else "/v1/chat/completions"}


def test_a_tool_of_a_namespace_comes_back_under_its_name(codex: Codex) -> None:
    name = "multi_agent_v1__close_agent"
    codex.upstream.reply(
        Reply.sse(openai_events(tool_calls=[(name, {"target": "nobody"})])),
        Reply.sse(openai_events("There is no such agent.")),
    )
    assert said(codex.ask("Close the agent.", model=GPT)) == "There is no such agent."
    first, second = codex.asked()
    assert name in [tool["function"]["name"] for tool in first["tools"]]
    call, result = second["messages"][-2:]
    assert call["tool_calls"][0]["function"]["name"] == name
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert "unsupported call" not in result["content"]


def test_it_asks_again_when_a_stream_breaks(codex: Codex) -> None:
    codex.upstream.reply(
        Reply.sse([*openai_events()[:3], CUT]), Reply.sse(openai_events("At last."))
    )
    assert said(codex.ask("hello", model=GPT)) == "At last."
    assert len(codex.asked()) == 2


def test_it_is_told_what_is_left_out(codex: Codex) -> None:
    codex.upstream.reply(Reply.sse(openai_events("Fine.")))
    assert said(codex.ask("hello", "-c", 'web_search="live"', model=GPT)) == "Fine."
    [asked] = codex.asked()
    assert {tool["type"] for tool in asked["tools"]} == {"function"}
