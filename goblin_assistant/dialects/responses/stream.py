"""Translates a chat completion stream to the events of the Responses API.

    first chunk                  response.created, response.in_progress
    delta.reasoning_content      an item of type reasoning, with reasoning_text; summaries of
                                 OpenRouter as summary parts
    delta.content, delta.refusal a message with output_text or refusal parts
    delta.tool_calls             an item for each call. Several calls may be open: each event names
                                 its item
    finish_reason, usage, end    open items are done; then response.completed, or
                                 response.incomplete, with the whole answer

`event` and `data.type` are the same, and each event has the next `sequence_number`. OpenAI's SDK
checks the order: item added, parts added and done, item done. A custom tool's input is sent in one
piece, because the model writes it as JSON.
Sources: https://platform.openai.com/docs/api-reference/responses-streaming;
`openai.lib.streaming.responses` of the SDK, 3.54.0, which reads these streams in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.completions import (
    calls_in,
    chunks_in,
    finish_reason,
    first_choice,
    message_in,
    reasoning_and_text,
)
from goblin_assistant.dialects.responses.item_events import (
    Emit,
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)
from goblin_assistant.dialects.responses.reasoning import asks_for_encrypted
from goblin_assistant.dialects.responses.response import ResponseObject, is_incomplete
from goblin_assistant.dialects.responses.stream_failure import event, failed_events
from goblin_assistant.dialects.responses.tools import CallName, names_of
from goblin_assistant.dialects.tool_calls import ToolCall, ToolCalls
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import Completed, ProviderError


class StreamTranslator:
    """Translates one stream. `model` is used until the provider names one; `body` is the client's
    request."""

    __slots__ = (
        "_body",
        "_calls",
        "_encrypted",
        "_model",
        "_names",
        "_open",
        "_opened",
        "_out",
        "_output",
        "_reason",
        "_response",
        "_sequence",
    )

    def __init__(self, model: str, body: Mapping[str, Any]) -> None:
        self._model = model
        self._body = body
        self._names = names_of(body)
        self._encrypted = asks_for_encrypted(body)
        self._response: ResponseObject | None = None
        self._sequence = 0
        self._output: list[OpenItem] = []  # in the order in which they were added
        self._open: OpenReasoning | OpenMessage | None = None
        self._calls = ToolCalls()
        self._opened: dict[int, OpenCall] = {}  # by id() of the call
        self._reason: str | None = None
        self._out: list[bytes] = []

    def feed(self, block: bytes) -> bytes:
        """The events for a block of whole chunks; b"" if there are none. Raises BadResponse if a
        chunk is not JSON."""
        self._out = []
        for chunk in chunks_in(block):
            self._chunk(chunk)
        return b"".join(self._out)

    def finish(self, completed: Completed) -> bytes:
        """The last events of a stream that is complete."""
        self._out = []
        response = self._begin({})
        reason = self._reason or finish_reason(completed.finish_reason)
        if not self._output:
            self._message()  # an empty answer is still a message
        self._done("incomplete" if is_incomplete(reason) else "completed")
        whole = response.end(
            [item.value for item in self._output if item.value], completed.usage, reason
        )
        self._event(f"response.{whole['status']}", {"response": whole})
        return b"".join(self._out)

    def fail(self, error: ProviderError | AppError, correlation_id: str) -> bytes:
        """The last events of a stream that failed, with the part of the answer that has arrived."""
        self._out = []
        response = self._begin({}).value
        begun = b"".join(self._out)
        self._out = []
        sequence = self._sequence
        self._done("incomplete")  # fills the items; these events are not sent
        output = [item.value for item in self._output if item.value]
        return begun + failed_events(
            {**response, "output": output}, sequence, error, correlation_id
        )

    # -- chunks -------------------------------------------------------------------------------
    def _chunk(self, chunk: dict[str, Any]) -> None:
        self._begin(chunk)
        choice = first_choice(chunk)
        self._reason = finish_reason(choice.get("finish_reason")) or self._reason
        delta = message_in(choice)
        reasoning, said = reasoning_and_text(delta)
        if reasoning or delta.get("reasoning_details") or delta.get("thinking_blocks"):
            self._reasoning().add(reasoning, delta)
        if said:
            logprobs = choice.get("logprobs")
            scored = logprobs.get("content") if isinstance(logprobs, dict) else None
            self._message().add_text(said, scored)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._message().add_refusal(refusal)
        if delta.get("annotations"):
            self._message().annotate(delta["annotations"])
        for piece in calls_in(delta):
            if isinstance(piece, dict):
                self._call(self._calls.add(piece))

    def _call(self, call: ToolCall) -> None:
        if not call.name:
            return
        opened = self._opened.get(id(call))
        if opened is None:
            self._close()
            name = self._names.get(call.name) or CallName(call.name)
            opened = self._opened[id(call)] = OpenCall(self._emit(), call, name)
            self._output.append(opened)
        opened.write()

    # -- items --------------------------------------------------------------------------------
    def _reasoning(self) -> OpenReasoning:
        if not isinstance(self._open, OpenReasoning):
            self._close()
            self._open = OpenReasoning(self._emit(), encrypted=self._encrypted)
            self._output.append(self._open)
        return self._open

    def _message(self) -> OpenMessage:
        if not isinstance(self._open, OpenMessage):
            self._close()
            self._open = OpenMessage(self._emit())
            self._output.append(self._open)
        return self._open

    def _close(self, status: str = "completed") -> None:
        if self._open is not None:
            self._open.done(status)
            self._open = None

    def _done(self, status: str) -> None:
        self._close(status)
        for item in self._output:
            if item.value is None:
                item.done(status)

    # -- events -------------------------------------------------------------------------------
    def _begin(self, chunk: Mapping[str, Any]) -> ResponseObject:
        if self._response is None:
            self._response = ResponseObject(self._body, chunk, self._model)
            for kind in ("response.created", "response.in_progress"):
                self._event(kind, {"response": self._response.value})
        return self._response

    def _emit(self) -> Emit:
        return Emit(self._event, len(self._output))

    def _event(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._out.append(event(kind, self._sequence, fields))
        self._sequence += 1
