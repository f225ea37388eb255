"""OpenAI's stream as Anthropic's events, and the error event of Anthropic's streams.

    first chunk                     message_start, without counts: OpenAI sends them at the end, and
                                    message_delta has them too
    delta.reasoning_content         a thinking block
    delta.content, delta.refusal    a text block
    delta.tool_calls                a tool_use block for each call; its arguments as
                                    input_json_delta. While one is open, pieces of others wait,
                                    and so do text and reasoning
    finish_reason, usage, the end   content_block_stop, message_delta, message_stop

One block is open at a time, as in Anthropic's own streams: a delta of another kind closes it. A
thinking block ends with a signature of ours, by which it comes back (carried.py).
Sources: https://platform.claude.com/docs/en/build-with-claude/streaming; `anthropic.lib.streaming`
of the SDK, 2.12.0, which reads these streams in the tests.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

from goblin_assistant.dialects.anthropic.answer import STOP_REASONS, anthropic_usage, message_id
from goblin_assistant.dialects.anthropic.carried import signature_for, tool_use_id
from goblin_assistant.dialects.carried import Details
from goblin_assistant.dialects.completions import (
    calls_in,
    chunks_in,
    finish_reason,
    first_choice,
    message_in,
    reasoning_and_text,
)
from goblin_assistant.dialects.error_bodies import anthropic_body
from goblin_assistant.dialects.tool_calls import ToolCall, ToolCalls
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import Completed, ProviderError, untranslatable
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.schemas.surrogates import PairJoiner

Kind = Literal["thinking", "text", "tool_use"]

_START: dict[Kind, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}


def error_event(error: ProviderError | AppError, correlation_id: str) -> bytes:
    """The last event of a stream that broke."""
    return b"event: error\ndata: " + orjson.dumps(anthropic_body(error, correlation_id)) + b"\n\n"


KEEP_ALIVE = b'event: ping\ndata: {"type": "ping"}\n\n'
"""https://docs.anthropic.com/en/api/messages-streaming: any number of them, anywhere."""


class StreamTranslator:
    """The state of one stream. `model` is used until the provider names its own."""

    __slots__ = (
        "_calls",
        "_current",
        "_details",
        "_held",
        "_index",
        "_last",
        "_last_name",
        "_message",
        "_open",
        "_out",
        "_pairs",
        "_reason",
    )

    def __init__(self, model: str) -> None:
        self._message: dict[str, Any] | None = {"id": "", "model": model}
        self._open: Kind | None = None
        self._index = -1
        self._calls = ToolCalls()
        self._current: ToolCall | None = None  # the call whose block is open
        self._details = Details()  # reasoning_details that did not go out yet
        self._held: list[tuple[Kind, str]] = []  # said while a call was open
        self._pairs = PairJoiner()
        self._last: dict[str, Any] = {}
        self._last_name = ""
        self._reason: str | None = None
        self._out: list[bytes] = []

    def feed(self, block: bytes) -> bytes:
        """The events for a block of whole events; b"" when it makes none.

        Raises BadResponse for what Anthropic's format cannot express.
        """
        self._out = []
        for chunk in chunks_in(block):
            self._chunk(chunk)
        out, self._out = self._out, []
        return b"".join(out)

    def finish(self, completed: Completed) -> bytes:
        """The last events of a stream that is complete."""
        self._out = []
        self._begin({})
        self._close()
        self._flush_calls()
        self._say_held()
        self._close()
        if self._details:
            self._enter("thinking")
            self._close()
        reason = self._reason or finish_reason(completed.finish_reason) or ""
        reason = STOP_REASONS.get(reason, "end_turn")
        if self._calls.all and reason == "end_turn":
            reason = "tool_use"  # some servers say stop for tool calls
        usage = anthropic_usage(completed.usage)
        self._event(
            "message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage
        )
        self._event("message_stop")
        return b"".join(self._out)

    def fail(self, error: ProviderError | AppError, correlation_id: str) -> bytes:
        """What waited, and the last event of a stream that broke."""
        if self._held:
            self._close()
            self._say_held()
        return b"".join(self._out) + error_event(error, correlation_id)

    # -- chunks -------------------------------------------------------------------------------
    def _chunk(self, chunk: dict[str, Any]) -> None:
        self._begin(chunk)
        choice = first_choice(chunk)
        self._reason = finish_reason(choice.get("finish_reason")) or self._reason
        delta = message_in(choice)
        self._details.add(delta.get("reasoning_details"))
        reasoning, said = reasoning_and_text(delta)
        if reasoning:
            self._say("thinking", reasoning)
        for text in (said, delta.get("refusal")):
            if isinstance(text, str) and text:
                self._say("text", text)
        for piece in calls_in(delta):
            if isinstance(piece, dict):
                self._tool_call(piece)

    def _say(self, kind: Kind, text: str) -> None:
        # A block that was closed cannot go on, and the open call may have more to come.
        if self._held or (self._current is not None and not self._current.complete):
            self._held.append((kind, text))
            return
        self._enter(kind)
        self._delta({"type": f"{kind}_delta", kind: text})

    def _say_held(self) -> None:
        held, self._held = self._held, []
        for kind, text in held:
            self._say(kind, text)

    def _tool_call(self, piece: dict[str, Any]) -> None:
        call = self._calls.add(piece)
        if call.closed and call.take().strip():
            raise untranslatable(
                "the provider added to a tool call that was complete, which cannot be translated"
            )
        self._write_calls()
        if self._held and (self._current is None or self._current.complete):
            self._say_held()

    def _write_calls(self) -> None:
        """Write what can go out now: all of the open call, then the next one."""
        while True:
            call = self._current
            if call is None or self._open != "tool_use":
                call = next((item for item in self._calls.all if not item.closed), None)
                if call is None or not call.name:
                    return
                self._start_call(call)
            self._write_arguments(call)
            waiting = self._calls.all[-1] is not call
            if not waiting or not call.complete:
                return
            self._close()

    def _flush_calls(self) -> None:
        for call in self._calls.all:
            if not call.closed and call.name:
                self._start_call(call)
                self._write_arguments(call)
                self._close()

    def _start_call(self, call: ToolCall) -> None:
        self._close()
        call_id = tool_use_id(call.id, call.extra)
        block = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
        self._start("tool_use", block)
        self._current = call

    def _write_arguments(self, call: ToolCall) -> None:
        if text := call.take():
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
        if self._open is None:
            return
        if rest := self._pairs.rest():
            self._delta({**self._last, self._last_name: rest}, whole=True)
        if self._open == "thinking":
            signature = signature_for(self._details.whole())
            self._details = Details()
            self._delta({"type": "signature_delta", "signature": signature}, whole=True)
        self._event("content_block_stop", index=self._index)
        self._open = None
        if self._current is not None:
            self._current.closed = True
            self._current = None

    def _delta(self, delta: dict[str, Any], *, whole: bool = False) -> None:
        if not whole:
            name = next(name for name in delta if name != "type")
            text = self._pairs.join(delta[name])
            self._last, self._last_name = delta, name
            if not text:
                return
            if text is not delta[name]:
                delta = {**delta, name: text}
        self._event("content_block_delta", index=self._index, delta=delta)

    def _event(self, kind: str, **fields: Any) -> None:
        self._out.append(
            b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))
        )
