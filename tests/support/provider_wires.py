"""Every kind of provider behind HTTP, with its server's bodies, for the contract suite."""

from __future__ import annotations

import importlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.providers.base import (
    Call,
    ChatRequest,
    Completed,
    Provider,
    ProviderError,
    StreamEvent,
)
from tests.support import wire_bodies
from tests.support.wire_bodies import ToolCalls

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "provider_plugin"
TEXT = "Hello there, goblin."
TOOLS: ToolCalls = (
    ("get_weather", {"city": "Cebu", "days": 2}),
    ("get_time", {"zone": "Asia/Manila"}),
)


class Wire(ABC):
    """One provider's class and its server's dialect."""

    name: str
    model: str
    tools = True
    caching = True
    statuses: Mapping[int, type[ProviderError]] = {}
    """Statuses that mean something else here than elsewhere."""

    @abstractmethod
    def provider(self, name: str, row: ProviderRow, config: Config) -> Provider:
        """The provider for a row."""

    @abstractmethod
    def answer(self, text: str = TEXT, tool_calls: ToolCalls = ()) -> bytes:
        """A whole answer: 12 prompt tokens, 4 of them cached, 5 completion tokens."""

    @abstractmethod
    def events(
        self, text: str = TEXT, tool_calls: ToolCalls = (), *, done: bool = True
    ) -> list[bytes]:
        """The same as a stream's events; without `done` its end is missing."""

    @abstractmethod
    def error(self, status: int) -> Any:
        """An error body with the canary in it."""

    def make(
        self,
        url: str,
        *,
        connect: float = 2.0,
        first_token: float = 5.0,
        idle: float = 5.0,
        comments: float = 20.0,
    ) -> Provider:
        """The provider, pointed at `url`."""
        row = ProviderRow(
            kind=self.name,
            base_url=url,
            api_key="test-key",
            timeout_connect=connect,
            timeout_first_token=first_token,
            timeout_idle=idle,
            timeout_comments=comments,
        )
        return self.provider(self.name, row, Config.load(environ={"SECRET_KEY": "x" * 40}))


class OpenAIWire(Wire):
    """Any OpenAI-compatible row."""

    name, model = "openai_compatible", "gpt-4o"

    def provider(self, name: str, row: ProviderRow, config: Config) -> Provider:
        from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider

        return OpenAICompatibleProvider.from_row(name, row, config)

    def answer(self, text: str = TEXT, tool_calls: ToolCalls = ()) -> bytes:
        return json.dumps(wire_bodies.openai_chat(text, tool_calls)).encode()

    def events(
        self, text: str = TEXT, tool_calls: ToolCalls = (), *, done: bool = True
    ) -> list[bytes]:
        events = wire_bodies.openai_events(text, tool_calls)
        return events if done else events[:-3]  # neither finish reason, usage nor [DONE]

    def error(self, status: int) -> Any:
        return wire_bodies.openai_error()


class AnthropicWire(Wire):
    """Anthropic's Messages API."""

    name, model = "anthropic", "claude-sonnet-4-5"

    def provider(self, name: str, row: ProviderRow, config: Config) -> Provider:
        module: Any = importlib.import_module("goblin_assistant.providers.anthropic.provider")
        provider: Provider = module.AnthropicProvider.from_row(name, row, config)
        return provider

    def answer(self, text: str = TEXT, tool_calls: ToolCalls = ()) -> bytes:
        return json.dumps(wire_bodies.anthropic_message(text, tool_calls)).encode()

    def events(
        self, text: str = TEXT, tool_calls: ToolCalls = (), *, done: bool = True
    ) -> list[bytes]:
        return wire_bodies.anthropic_events(text, tool_calls, done=done)

    def error(self, status: int) -> Any:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        return wire_bodies.anthropic_error(
            {**kinds, 529: "overloaded_error"}.get(status, "api_error")
        )


class PluginWire(Wire):
    """The example plug-in."""

    name, model = "llamacpp_native", "llama"
    tools = caching = False

    def provider(self, name: str, row: ProviderRow, config: Config) -> Provider:
        if str(EXAMPLE) not in sys.path:
            sys.path.append(str(EXAMPLE))
        module: Any = importlib.import_module("goblin_llamacpp_native")
        provider: Provider = module.LlamaCppNativeProvider.from_row(name, row, config)
        return provider

    def answer(self, text: str = TEXT, tool_calls: ToolCalls = ()) -> bytes:
        return json.dumps(wire_bodies.llama_answer(text)).encode()

    def events(
        self, text: str = TEXT, tool_calls: ToolCalls = (), *, done: bool = True
    ) -> list[bytes]:
        return wire_bodies.llama_events(text, done=done)

    def error(self, status: int) -> Any:
        return {"error": {"code": status, "message": wire_bodies.CANARY, "type": "server_error"}}


WIRES: list[Wire] = [OpenAIWire(), PluginWire()]
try:
    importlib.import_module("goblin_assistant.providers.anthropic.provider")
except ModuleNotFoundError:
    pass
else:
    WIRES.insert(1, AnthropicWire())


# -- requests and what comes back ---------------------------------------------------------------
def request(
    model: str, *, stream: bool = False, call: Call | None = None, **fields: Any
) -> ChatRequest:
    """A small chat."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello"}],
        **fields,
    }
    if stream:
        body["stream"] = True
    return ChatRequest(
        model, body, json.dumps(body).encode(), stream, call=call or Call(correlation_id="corr-1")
    )


def collect(events: list[StreamEvent]) -> tuple[str, list[tuple[str, Any]], Completed]:
    """Text, tool calls and the end of a stream, put together as a client would."""
    *blocks, completed = events
    assert isinstance(completed, Completed)
    text = ""
    calls: dict[int, list[str]] = {}
    for block in blocks:
        assert isinstance(block, bytes)
        assert block.endswith((b"\n\n", b"\r\n\r\n")), block
        for event in block.replace(b"\r\n", b"\n").split(b"\n\n"):
            if not event.startswith(b"data:"):
                continue
            assert event.strip() != b"data: [DONE]"
            for choice in json.loads(event[5:])["choices"]:
                text += choice["delta"].get("content") or ""
                for delta in choice["delta"].get("tool_calls", ()):
                    call = calls.setdefault(delta["index"], ["", ""])
                    call[0] += delta["function"].get("name") or ""
                    call[1] += delta["function"].get("arguments") or ""
    return text, [(name, json.loads(arguments)) for name, arguments in calls.values()], completed


def whole(body: bytes) -> tuple[str, list[tuple[str, Any]]]:
    """Text and tool calls of an answer in one piece."""
    message = json.loads(body)["choices"][0]["message"]
    calls = [
        (c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in message.get("tool_calls") or ()
    ]
    return message["content"] or "", calls
