"""Anthropic's event stream, observed as it passes or translated to OpenAI's chunks.

    message_start         the role chunk; usage of the prompt
    content_block_start   tool_use: a tool call's index, id and name
    content_block_delta   text_delta -> content, thinking_delta -> reasoning_content,
                          input_json_delta -> a tool call's arguments
    content_block_stop    of thinking: the block with its signature, as `thinking_blocks`
    message_delta         finish_reason; usage so far, cumulative
    message_stop          the end; a stream without it is incomplete
    ping, unknown events  passed on or left out; Anthropic may add events and deltas at any time
    error                 a ProviderError

The first event is held back until a second one has come. An overloaded service reports its error
right after message_start, and another attempt can be made while the client has received nothing.
Sources: https://platform.claude.com/docs/en/build-with-claude/streaming,
`anthropic.types.RawMessageStreamEvent` of the SDK, 2.12.0.
"""

from __future__ import annotations

import time
from typing import Any

from goblin_assistant.providers.anthropic.response import (
    finish_reason,
    openai_usage,
    parse_usage,
    stream_error,
)
from goblin_assistant.providers.base import (
    BadResponse,
    Completed,
    Progress,
    Usage,
    broken,
    later_usage,
    token_count,
)
from goblin_assistant.providers.json_answers import parse_event
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.upstream.sse import ends_as_objects, event_data, split_events
from goblin_assistant.schemas.surrogates import PairJoiner


class StreamObserver:
    """The state of one stream that passes untouched. `progress` gets the counts as they come."""

    __slots__ = (
        "_begun",
        "_held",
        "_progress",
        "_provider",
        "_usage",
        "done",
        "finish_reason",
        "message_id",
        "model",
    )

    def __init__(self, provider: str, progress: Progress | None = None) -> None:
        self._provider = provider
        self._progress = progress if progress is not None else Progress()
        self._held: bytes | None = b""  # None when an event has been passed on
        self._usage: dict[str, Any] = {}
        self._begun = False
        self.done = False
        self.model = ""
        self.message_id = ""
        self.finish_reason: str | None = None

    def plain(self, block: bytes) -> bool:
        """Whether a block of events can be passed on as it is. Otherwise feed its events one by
        one."""
        # Most events are deltas and pings. A text that holds one of these names costs no more than
        # parsing its block.
        return (
            self._held is None
            and not self._progress.final  # text may follow the count
            and b'"message_' not in block
            and b'"error"' not in block
            and ends_as_objects(block)
        )

    def feed(self, block: bytes) -> bytes:
        """The part of one or more events that the client gets. Raises ProviderError for an error in
        them, or for what is not a JSON object."""
        if self.plain(block):
            return block
        alone = True
        for event in events_of(self._provider, block):
            kind = event.get("type")
            self._note(kind, event)
            alone = alone and kind == "message_start"
        return block if self._held is None else self._release(block, alone)

    def usage(self) -> Usage | None:
        """The counts so far; None before message_start."""
        return self._progress.usage

    def completed(self) -> Completed:
        """The stream is over. Raises BadResponse if its end is missing."""
        if self.done and not self._begun:
            raise BadResponse(
                f"{self._provider}'s stream ended without an answer", provider=self._provider
            )
        if not self.done:
            raise broken(f"{self._provider}'s stream ended before its end", self._provider)
        return Completed(self.model, self.usage(), self.finish_reason)

    def _release(self, piece: bytes, alone: bool) -> bytes:
        held = (self._held or b"") + piece
        self._held = held if alone else None
        return b"" if alone else held

    def _note(self, kind: Any, event: dict[str, Any]) -> None:
        if kind == "message_start":
            self._begun = True
            message = event.get("message")
            if isinstance(message, dict):
                self._count(message.get("usage"))
                self.model, self.message_id = (
                    str(message.get("model") or ""),
                    str(message.get("id") or ""),
                )
        elif kind == "message_delta":
            usage, delta = event.get("usage"), event.get("delta")
            self._count(usage)
            if isinstance(delta, dict):
                self.finish_reason = finish_reason(delta.get("stop_reason")) or self.finish_reason
            if isinstance(usage, dict) and usage.get("output_tokens") is not None:
                self._progress.final = self.finish_reason is not None and bool(
                    token_count(usage["output_tokens"])
                )
        elif kind in ("content_block_start", "content_block_delta"):
            self._progress.final = False
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            raise stream_error(self._provider, event)

    def _count(self, usage: Any) -> None:
        # Counts are totals. A count that is left out or null does not replace an earlier one.
        if isinstance(usage, dict):
            merged = {
                **self._usage,
                **{name: value for name, value in usage.items() if value is not None},
            }
            self._progress.usage = later_usage(self._progress.usage, parse_usage(merged) or Usage())
            self._usage = merged


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
        "_thinking",
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
        self._thinking: dict[Any, dict[str, Any]] = {}
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
                self._started(event)
            elif kind == "content_block_stop":
                self._stopped(event)
            elif kind == "message_start":
                self._chunk({"role": "assistant", "content": ""})
            elif kind == "message_stop":
                self._ended()
        pieces = b"".join(out)
        return pieces if self._held is None else self._release(pieces, alone)

    def _started(self, event: dict[str, Any]) -> None:
        block, index = _object(event.get("content_block")), event.get("index")
        kind = block.get("type")
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
            if block.get("thinking"):
                self._chunk({"reasoning_content": block["thinking"]})
        elif kind == "text" and block.get("text"):
            self._chunk({"content": block["text"]})

    def _delta(self, event: dict[str, Any]) -> None:
        delta, index = _object(event.get("delta")), event.get("index")
        kind = delta.get("type")
        if kind == "text_delta":
            self._say("content", delta.get("text", ""))
        elif kind == "input_json_delta":
            if index in self._calls and delta.get("partial_json"):
                self._arguments(self._calls[index], delta["partial_json"])
        elif kind == "thinking_delta":
            if index in self._thinking:
                self._thinking[index]["thinking"] = self._thinking[index].get(
                    "thinking", ""
                ) + delta.get("thinking", "")
            if delta.get("thinking"):
                self._say("reasoning_content", delta["thinking"])
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


def events_of(provider: str, block: bytes) -> list[dict[str, Any]]:
    """The data of every event in a block. Raises BadResponse for what is not a JSON object.

    Only the data is read: its `type` repeats the name in `event:`.
    """
    found: list[dict[str, Any]] = []
    for event in split_events(block):
        data = event_data(event)
        if data is None:
            continue
        parsed = parse_event(provider, data)
        if not isinstance(parsed, dict):
            raise BadResponse(f"{provider} sent an event that is no object", provider=provider)
        found.append(parsed)
    return found
