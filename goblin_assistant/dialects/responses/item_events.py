"""The output items of a streamed response, and their events, such as `response.output_text.delta`.

An item is open from `output_item.added` to `output_item.done`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from goblin_assistant.dialects.responses.reasoning import Thoughts
from goblin_assistant.dialects.responses.response import (
    annotations_of,
    call_id_of,
    call_item,
    custom_input,
    item_id,
    message_item,
    text_part,
)
from goblin_assistant.dialects.responses.tools import CallName
from goblin_assistant.dialects.tool_calls import ToolCall
from goblin_assistant.schemas.surrogates import PairJoiner

Part = dict[str, Any]


class Emit:
    """Writes the events of one item. `index` is its place in the output."""

    __slots__ = ("_event", "index")

    def __init__(self, event: Callable[[str, Mapping[str, Any]], None], index: int) -> None:
        self._event = event
        self.index = index

    def item(self, kind: str, item: Mapping[str, Any]) -> None:
        """An event with the whole item."""
        self._event(f"response.output_item.{kind}", {"output_index": self.index, "item": item})

    def __call__(self, kind: str, own_id: str, **fields: Any) -> None:
        """Another event of the item."""
        self._event(f"response.{kind}", {"item_id": own_id, "output_index": self.index, **fields})


class OpenItem:
    """One output item. `value` is the complete item, or None while the item is open."""

    __slots__ = ("_emit", "id", "value")

    def __init__(self, emit: Emit, prefix: str) -> None:
        self._emit = emit
        self.id = item_id(prefix)
        self.value: dict[str, Any] | None = None

    def done(self, status: str) -> None:
        """Close the item: it is complete, or the answer ends here."""
        raise NotImplementedError

    def _end(self, value: dict[str, Any]) -> None:
        self.value = value
        self._emit.item("done", value)


class _OpenPart:
    """One text part of an item, while it grows. `_PARTS` has the names of its events and field."""

    __slots__ = ("_emit", "_event", "_extra", "_field", "_pairs", "_pieces", "_place", "id", "kind")

    def __init__(self, emit: Emit, own_id: str, kind: str, place: dict[str, int]) -> None:
        self.id = own_id
        self.kind = kind
        self._emit = emit
        self._place = place
        self._event, self._field, self._extra = _PARTS[kind]
        self._pieces: list[str] = []
        self._pairs = PairJoiner()

    def add(self, text: str, **fields: Any) -> None:
        if text := self._pairs.join(text):
            self._write(text, fields)

    def text(self) -> str:
        """The whole text."""
        if rest := self._pairs.rest():
            self._write(rest, {})
        return "".join(self._pieces)

    def end(self, text: str, **fields: Any) -> None:
        told = {**self._place, self._field: text, **self._extra, **fields}
        self._emit(f"{self._event}.done", self.id, **told)

    def _write(self, text: str, fields: Mapping[str, Any]) -> None:
        self._pieces.append(text)
        told = {**self._place, "delta": text, **self._extra, **fields}
        self._emit(f"{self._event}.delta", self.id, **told)


_PARTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    # type of the part: (event, field, other fields that OpenAI's SDK requires)
    "output_text": ("output_text", "text", {"logprobs": []}),
    "refusal": ("refusal", "refusal", {}),
    "reasoning_text": ("reasoning_text", "text", {}),
    "summary_text": ("reasoning_summary_text", "text", {}),
}


class OpenMessage(OpenItem):
    """An assistant's message."""

    __slots__ = ("_annotations", "_content", "_logprobs", "_part")

    def __init__(self, emit: Emit) -> None:
        super().__init__(emit, "msg")
        self._content: list[Part] = []
        self._part: _OpenPart | None = None
        self._annotations: list[Part] = []
        self._logprobs: list[Any] = []
        emit.item("added", message_item(self.id, [], "in_progress"))

    def add_text(self, text: str, logprobs: Any = None) -> None:
        """More text."""
        part = self._enter("output_text")
        if isinstance(logprobs, list):
            self._logprobs += logprobs
            part.add(text, logprobs=logprobs)
        else:
            part.add(text)

    def add_refusal(self, text: str) -> None:
        """More of a refusal."""
        self._enter("refusal").add(text)

    def annotate(self, annotations: Any) -> None:
        """Annotations of the text, in the form of OpenAI's chat API."""
        self._enter("output_text")
        for annotation in annotations_of(annotations):
            self._emit(
                "output_text.annotation.added",
                self.id,
                content_index=len(self._content),
                annotation_index=len(self._annotations),
                annotation=annotation,
            )
            self._annotations.append(annotation)

    def done(self, status: str) -> None:
        """Close the message."""
        if not self._content:
            self._part = self._part or self._enter("output_text")
        self._leave()
        self._end(message_item(self.id, self._content, status))

    def _enter(self, kind: str) -> _OpenPart:
        if self._part is not None and self._part.kind == kind:
            return self._part
        self._leave()
        place = {"content_index": len(self._content)}
        self._part = _OpenPart(self._emit, self.id, kind, place)
        empty = text_part("") if kind == "output_text" else {"type": kind, kind: ""}
        self._emit("content_part.added", self.id, **place, part=empty)
        return self._part

    def _leave(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        text = part.text()
        value: Part = {"type": part.kind, part.kind: text}
        fields: dict[str, Any] = {}
        if part.kind == "output_text":
            value = {**text_part(text, None, self._logprobs), "annotations": self._annotations}
            fields = {"logprobs": self._logprobs} if self._logprobs else {}
            self._annotations, self._logprobs = [], []
        part.end(text, **fields)
        self._emit("content_part.done", self.id, content_index=len(self._content), part=value)
        self._content.append(value)


class OpenReasoning(OpenItem):
    """The model's reasoning: its text, or a summary of it."""

    __slots__ = ("_encrypted", "_part", "_thoughts")

    def __init__(self, emit: Emit, *, encrypted: bool) -> None:
        super().__init__(emit, "rs")
        self._encrypted = encrypted
        self._thoughts = Thoughts()
        self._part: _OpenPart | None = None
        emit.item(
            "added",
            {
                "id": self.id,
                "type": "reasoning",
                "summary": [],
                "content": [],
                "status": "in_progress",
            },
        )

    def add(self, text: str, delta: Mapping[str, Any]) -> None:
        """More reasoning. `delta` may also hold what the provider needs back with the next turn."""
        self._thoughts.add_hidden(delta)
        self._thoughts.texts.append(text)
        summary = _summary_in(delta)
        if summary:
            self._enter("summary_text").add(summary)
        elif text and (self._part is None or self._part.kind == "reasoning_text"):
            self._enter("reasoning_text").add(text)

    def done(self, status: str) -> None:
        """Close the reasoning."""
        self._leave()
        self._end(self._thoughts.item(self.id, encrypted=self._encrypted, status=status))

    def _enter(self, kind: str) -> _OpenPart:
        if self._part is not None and self._part.kind == kind:
            return self._part
        self._leave()
        summary = kind == "summary_text"
        place = {"summary_index" if summary else "content_index": 0}
        self._part = _OpenPart(self._emit, self.id, kind, place)
        self._emit(_around(kind, "added"), self.id, **place, part={"type": kind, "text": ""})
        return self._part

    def _leave(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        text = part.text()
        part.end(text)
        place = {"summary_index" if part.kind == "summary_text" else "content_index": 0}
        shown = {"type": part.kind, "text": text}
        self._emit(_around(part.kind, "done"), self.id, **place, part=shown)


def _around(kind: str, what: str) -> str:
    return f"{'reasoning_summary_part' if kind == 'summary_text' else 'content_part'}.{what}"


def _summary_in(delta: Mapping[str, Any]) -> str:
    details = delta.get("reasoning_details")
    return "".join(
        text
        for item in (details if isinstance(details, list) else ())
        if isinstance(item, dict)
        and item.get("type") == "reasoning.summary"
        and isinstance(text := item.get("summary"), str)
    )


class OpenCall(OpenItem):
    """A tool call. `write` sends the arguments that have arrived."""

    __slots__ = ("_call", "_call_id", "_name", "_pairs")

    def __init__(self, emit: Emit, call: ToolCall, name: CallName) -> None:
        super().__init__(emit, "ctc" if name.custom else "fc")
        self._call = call
        self._name = name
        self._call_id = call_id_of(call.id, call.extra)
        self._pairs = PairJoiner()
        emit.item("added", self._item("", "in_progress"))

    def write(self) -> None:
        """Send the new arguments. A custom tool's input is sent only when complete."""
        if self._name.custom:
            return
        if text := self._pairs.join(self._call.take()):
            self._emit("function_call_arguments.delta", self.id, delta=text)

    def done(self, status: str) -> None:
        """Close the call."""
        if self._name.custom:
            text = custom_input(self._call.text)
            self._emit("custom_tool_call_input.delta", self.id, delta=text)
            self._emit("custom_tool_call_input.done", self.id, input=text)
        else:
            text = self._arguments()
            self._emit(
                "function_call_arguments.done", self.id, name=self._name.name, arguments=text
            )
        self._end(self._item(text, status))

    def _arguments(self) -> str:
        self.write()
        if rest := self._pairs.rest():
            self._emit("function_call_arguments.delta", self.id, delta=rest)
        if (text := self._call.text).strip():
            return text
        self._emit("function_call_arguments.delta", self.id, delta="{}")
        return "{}"

    def _item(self, text: str, status: str) -> dict[str, Any]:
        return call_item(self.id, self._call_id, self._name, text, status)
