"""OpenAI's stream as Anthropic's events, and the error event of Anthropic's streams.

    first chunk                     message_start, without counts: OpenAI sends them at the end, and
                                    message_delta has them too
    delta.reasoning_content         a thinking block
    delta.content, delta.refusal    a text block
    delta.tool_calls                a tool_use block for each call; its arguments as
                                    input_json_delta
    finish_reason, usage, the end   content_block_stop, message_delta, message_stop

One block is open at a time, as in Anthropic's own streams: a delta of another kind closes it.
Sources: https://platform.claude.com/docs/en/build-with-claude/streaming; `anthropic.lib.streaming`
of the SDK, 2.12.0, which reads these streams in the tests.
"""

from __future__ import annotations

import uuid
from typing import Any, Literal

import orjson

from goblin_assistant.dialects.anthropic.answer import STOP_REASONS, anthropic_usage, message_id
from goblin_assistant.dialects.error_bodies import anthropic_body
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import Completed, ProviderError, untranslatable
from goblin_assistant.providers.json_answers import parse_event
from goblin_assistant.providers.upstream.sse import event_data, split_events

Kind = Literal["thinking", "text", "tool_use"]

_START: dict[Kind, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}


def error_event(error: ProviderError | AppError, correlation_id: str) -> bytes:
    """The last event of a stream that broke."""
    return b"event: error\ndata: " + orjson.dumps(anthropic_body(error, correlation_id)) + b"\n\n"


class StreamTranslator:
    """The state of one stream. `model` is used until the provider names its own."""

    __slots__ = (
        "_call",
        "_calls_seen",
        "_index",
        "_message",
        "_open",
        "_out",
        "_pending",
        "_reason",
    )

    def __init__(self, model: str) -> None:
        self._message: dict[str, Any] | None = {"id": "", "model": model}
        self._open: Kind | None = None
        self._index = -1
        self._call: tuple[Any, Any] | None = None  # index and id of the open tool call
        self._calls_seen: set[Any] = set()
        self._pending = ""  # arguments that came before their function's name
        self._reason: str | None = None
        self._out: list[bytes] = []

    def feed(self, block: bytes) -> bytes:
        """The events for a block of whole events; b"" when it makes none.

        Raises BadResponse for what Anthropic's format cannot express.
        """
        self._out = []
        for event in split_events(block):
            data = event_data(event)
            if data is None or data.strip() == b"[DONE]":
                continue
            chunk = parse_event("the provider", data)
            if isinstance(chunk, dict):
                self._chunk(chunk)
        return b"".join(self._out)

    def finish(self, completed: Completed) -> bytes:
        """The last events of a stream that is complete."""
        self._out = []
        self._begin({})
        self._close()
        reason = STOP_REASONS.get(self._reason or completed.finish_reason or "", "end_turn")
        if self._calls_seen and reason == "end_turn":
            reason = "tool_use"  # some servers say stop for tool calls
        usage = anthropic_usage(completed.usage)
        self._event(
            "message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage
        )
        self._event("message_stop")
        return b"".join(self._out)

    # -- chunks -------------------------------------------------------------------------------
    def _chunk(self, chunk: dict[str, Any]) -> None:
        self._begin(chunk)
        choices = chunk.get("choices")
        choice = (
            choices[0]
            if isinstance(choices, list) and choices and isinstance(choices[0], dict)
            else {}
        )
        if isinstance(choice.get("finish_reason"), str):
            self._reason = choice["finish_reason"]
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        # The first is DeepSeek's and vLLM's, the second OpenRouter's.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            self._enter("thinking")
            self._delta({"type": "thinking_delta", "thinking": reasoning})
        for text in (delta.get("content"), delta.get("refusal")):
            if isinstance(text, str) and text:
                self._enter("text")
                self._delta({"type": "text_delta", "text": text})
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._tool_call(call)

    def _tool_call(self, call: dict[str, Any]) -> None:
        index, call_id = call.get("index", 0), call.get("id")
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else ""
        # A new index means a new call. So does a new id: Gemini gave every call the index 0.
        same = (
            self._call is not None
            and self._call[0] == index
            and (not call_id or call_id == self._call[1])
        )
        if not same or self._open != "tool_use":
            name = function.get("name")
            if not isinstance(name, str) or not name:
                if index in self._calls_seen:
                    raise untranslatable(
                        "the provider mixes the pieces of several tool calls, "
                        "which cannot be translated"
                    )
                self._pending += text
                return
            self._close()
            self._call = (index, call_id)
            self._calls_seen.add(index)
            self._start(
                "tool_use",
                {
                    "type": "tool_use",
                    "id": call_id or f"toolu_{uuid.uuid4().hex}",
                    "name": name,
                    "input": {},
                },
            )
            text, self._pending = self._pending + text, ""
        if text:
            self._delta({"type": "input_json_delta", "partial_json": text})

    # -- events -------------------------------------------------------------------------------
    def _begin(self, chunk: dict[str, Any]) -> None:
        if self._message is None:
            return
        model = chunk.get("model") or self._message["model"]
        self._message = None
        message = {
            "id": message_id(chunk.get("id")),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        self._event("message_start", message=message)

    def _enter(self, kind: Kind) -> None:
        if self._open != kind:
            self._close()
            self._start(kind, _START[kind])

    def _start(self, kind: Kind, block: dict[str, Any]) -> None:
        self._index += 1
        self._open = kind
        self._event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> None:
        if self._open is not None:
            self._event("content_block_stop", index=self._index)
            self._open = None

    def _delta(self, delta: dict[str, Any]) -> None:
        self._event("content_block_delta", index=self._index, delta=delta)

    def _event(self, kind: str, **fields: Any) -> None:
        self._out.append(
            b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
        )
