"""A conversation that began at another provider, as each preset takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.config import Config
from goblin_assistant.config.goblin_file import GoblinFile
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.base import ChatRequest, Provider
from goblin_assistant.providers.openai.history import short_id
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.presets import PRESETS
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat, openai_events

NAMES = [name for name, preset in PRESETS.items() if preset.kind == "openai_compatible"]
LONG_ID = "call_PTLP8xhu3uwZk4l3nlnrrJha"
SIGNED = {"google": {"thought_signature": "c2ln"}}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant", "content": None, "refusal": None, "annotations": [],
        "reasoning_content": "hm", "reasoning": "hm", "reasoning_details": [],
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
        "tool_calls": [
            {"id": LONG_ID, "type": "function", "extra_content": SIGNED,
             "function": {"name": "f", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": LONG_ID, "content": "ok"},
]  # fmt: skip


@pytest.fixture
def sent(fake_upstream: FakeUpstream, tmp_path: Path) -> Iterator[Any]:
    """Sends a history to a preset and returns the messages that arrive."""
    made = []

    def send(name: str, *, stream: bool, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        row = {"base_url": fake_upstream.url, "api_key": "k", "models": ["m"]}
        file = GoblinFile.model_validate({"providers": {name: row}})
        config = Config.load(
            {"file": file}, environ={"SECRET_KEY": "x" * 40}, dotenv=tmp_path / "absent.env"
        )
        registry = build_registry(config)
        made.append(registry)
        provider: Provider = registry.get(name)
        body = {"model": "m", "messages": history}
        request = ChatRequest("m", body, encode(body), stream)
        if stream:
            fake_upstream.reply(Reply.sse(openai_events()))
            list(provider.stream(request))
        else:
            fake_upstream.reply(Reply.json(200, openai_chat()))
            provider.complete(request)
        messages: list[dict[str, Any]] = fake_upstream.requests[-1].json()["messages"]
        return messages

    yield send
    for registry in made:
        registry.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("preset", NAMES)
def test_a_foreign_history_arrives_without_what_the_preset_refuses(
    sent: Any, preset: str, stream: bool
) -> None:
    options = PRESETS[preset].options
    refused = set(options.get("drop_message_fields", ("thinking_blocks",)))
    question, turn, result = sent(preset, stream=stream, history=HISTORY)
    assert question == HISTORY[0]
    # Of what is not refused, a form that is known takes its own (test_second_turn.py).
    assert {"role", "content", "tool_calls"} <= set(turn) <= set(HISTORY[1]) - refused
    (call,) = turn["tool_calls"]
    if "extra_content" in refused:
        assert "extra_content" not in call
    elif preset == "gemini":
        assert call["extra_content"] == SIGNED
    expected = short_id(LONG_ID) if "tool_call_ids" in options else LONG_ID
    assert call["id"] == result["tool_call_id"] == expected
    assert call["function"] == {"name": "f", "arguments": "{}"}


def test_strict_servers_get_no_field_of_others() -> None:
    for preset in ("mistral", "groq"):
        assert {"reasoning_content", "thinking_blocks", "refusal"} <= set(
            PRESETS[preset].options["drop_message_fields"]
        )


def test_mistrals_ids_are_nine_letters_or_digits_and_stay_what_they_are(sent: Any) -> None:
    assert short_id(LONG_ID).isalnum()
    assert len(short_id(LONG_ID)) == len(short_id("")) == 9
    assert short_id(LONG_ID) != short_id(LONG_ID + "2")
    call = {"id": "abcDEF123", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    own = [
        HISTORY[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "ok"},
    ]
    assert sent("mistral", stream=False, history=own) == own
