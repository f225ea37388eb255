"""Anthropic's event stream, translated to OpenAI's chunks.

    message_start         the role chunk; usage of the prompt
    content_block_start   tool_use: a tool call's index, id and name
    content_block_delta   text_delta -> content, thinking_delta -> reasoning_content,
                          input_json_delta -> a tool call's arguments
    content_block_stop    of thinking: the block with its signature, as `thinking_blocks`
    message_delta         finish_reason; usage so far, cumulative
    message_stop          the end; a stream without it is incomplete
    ping, unknown events  passed on or left out; Anthropic may add events and deltas at any time
    error                 a ProviderError

What is held back, counted and refused is in observer.py, with the sources.
"""

from __future__ import annotations

import time
from typing import Any

from goblin_assistant.providers.anthropic.observer import StreamObserver, events_of
from goblin_assistant.providers.anthropic.response import openai_usage, text_of
from goblin_assistant.providers.base import Progress, broken
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.schemas.surrogates import PairJoiner


class Translator(StreamObserver):
    """The state of one stream that is translated to OpenAI's. `include_usage`: the client asked for
    the usage chunk."""

    __slots__ = (
        "_argued",
        "_calls",
        "_created",
        "_include_usage",
        "_last_name",
        "_out",
        "_pairs",
        "_started",
        "_thinking",
        "_thoughts",
    )

    def __init__(
        self, provider: str, progress: Progress | None = None, *, include_usage: bool
    ) -> None:
        super().__init__(provider, progress)
        self._include_usage = include_usage
        self._pairs = PairJoiner()
        self._last_name = "content"
        self._created = int(time.time())
        self._calls: dict[Any, int] = {}  # index of the content block -> index of the tool call
        self._argued: set[int] = set()  # calls whose arguments have begun
        self._started: set[Any] = set()  # indexes of content blocks
        self._thinking: dict[Any, dict[str, Any]] = {}
        self._thoughts: dict[Any, list[str]] = {}  # their text: joined once
        self._out: list[bytes] = []

    def plain(self, block: bytes) -> bool:
        """False: every event is translated."""
        return False

    def feed(self, block: bytes) -> bytes:
        """The chunks for one or more events; b"" if there are none. Raises as StreamObserver."""
        out = self._out = []
        alone = True
        for event in events_of(self._provider, block):
            kind = event.get("type")
            self._note(kind, event)
            alone = alone and kind == "message_start"
            if kind == "content_block_delta":
                self._delta(event)
            elif kind == "content_block_start":
                self._start(event)
            elif kind == "content_block_stop":
                self._stopped(event)
            elif kind == "message_start":
                self._chunk({"role": "assistant", "content": ""})
            elif kind == "message_stop":
                self._ended()
        pieces = b"".join(out)
        return pieces if self._held is None else self._release(pieces, alone)

    def _start(self, event: dict[str, Any]) -> None:
        block, index = _object(event.get("content_block")), event.get("index")
        kind = block.get("type")
        self._started.add(index)
        if kind == "tool_use":
            number = self._calls[index] = len(self._calls)
            function = {"name": block.get("name"), "arguments": ""}
            self._chunk(
                {
                    "tool_calls": [
                        {
                            "index": number,
                            "id": block.get("id"),
                            "type": "function",
                            "function": function,
                        }
                    ]
                }
            )
            if block.get("input"):  # the format allows it, though Anthropic sends deltas
                self._arguments(number, encode(block["input"]).decode())
        elif kind in ("thinking", "redacted_thinking"):
            self._thinking[index] = dict(block)
            self._thoughts[index] = [text_of(block.get("thinking"))]
            if thought := text_of(block.get("thinking")):
                self._chunk({"reasoning_content": thought})
        elif kind == "text" and (said := text_of(block.get("text"))):
            self._chunk({"content": said})

    def _delta(self, event: dict[str, Any]) -> None:
        delta, index = _object(event.get("delta")), event.get("index")
        kind = delta.get("type")
        if kind == "text_delta":
            self._say("content", text_of(delta.get("text")))
        elif kind == "input_json_delta":
            if index not in self._started:
                raise broken(f"{self._provider} sent a part of a tool call that had not begun")
            if index in self._calls and (text := text_of(delta.get("partial_json"))):
                self._arguments(self._calls[index], text)
        elif kind == "thinking_delta":
            thought = text_of(delta.get("thinking"))
            if index in self._thinking:
                self._thoughts[index].append(thought)
            if thought:
                self._say("reasoning_content", thought)
        elif kind == "signature_delta" and index in self._thinking:
            self._thinking[index]["signature"] = delta.get("signature", "")

    def _say(self, name: str, text: str) -> None:
        self._last_name = name
        if (joined := self._pairs.join(text)) or not text:
            self._chunk({name: joined})

    def _stopped(self, event: dict[str, Any]) -> None:
        if rest := self._pairs.rest():
            self._chunk({self._last_name: rest})
        number = self._calls.get(event.get("index"))
        if number is not None and number not in self._argued:
            self._arguments(number, "{}")  # OpenAI's arguments are always an object
        if (block := self._thinking.pop(event.get("index"), None)) is not None:
            if text := "".join(self._thoughts.pop(event.get("index"))):
                block["thinking"] = text
            self._chunk({"thinking_blocks": [block]})

    def _ended(self) -> None:
        self._chunk({}, self.finish_reason or "stop")
        usage = self.usage()
        if self._include_usage and usage is not None:
            self._write({"choices": [], "usage": openai_usage(usage)})

    def _arguments(self, number: int, text: str) -> None:
        self._argued.add(number)
        self._chunk({"tool_calls": [{"index": number, "function": {"arguments": text}}]})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> None:
        self._write(
            {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        )

    def _write(self, rest: dict[str, Any]) -> None:
        head = {
            "id": self.message_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.model,
        }
        self._out.append(b"data: " + encode({**head, **rest}) + b"\n\n")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
