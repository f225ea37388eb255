"""Tokens of an answer where the provider does not report them: four bytes of text are a token.

All texts that a model writes count: content, reasoning, refusals, names and arguments of tool
calls. Ids, roles and signatures do not.

A stream's blocks are kept up to HELD_BYTES and parsed only when needed: most streams end with the
provider's count. Longer streams are parsed a piece of HELD_BYTES at a time, so that memory stays
bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.json_answers import read
from goblin_assistant.providers.openai.wire import encode

_PLAIN = re.compile(
    rb'"delta": ?\{(?:"type": ?"(?:text|thinking)_delta", ?)?'
    rb'"(?:content|reasoning_content|text|thinking)": ?"([^"\\]*)"\}'
).search
"""The only text of an event, without escapes: read at a third of the cost of parsing. A quotation
mark inside a text is escaped, so no text matches this."""

_OTHER_TEXT = re.compile(rb'"(?:text|message)"').search
"""A text of another choice of the same event."""

FAIR_BYTES_PER_TOKEN = 4
HELD_BYTES = 32_768

_NO_TEXT = frozenset({
    "role", "id", "type", "index", "finish_reason", "signature", "encrypted_content",
    "tool_call_id", "data", "logprobs", "cache_control", "extra_content", "annotations",
    "thinking_blocks", "status", "call_id",
})  # fmt: skip
"""Names, marks and sounds; and what repeats another field (annotations, thinking blocks)."""
_REASONING = frozenset({"reasoning_content", "reasoning", "reasoning_details"})


class DeliveredText:
    """The text of one streamed answer so far."""

    __slots__ = ("_bytes", "_events", "_held", "_size")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0
        self._events = 0
        self._bytes = 0

    def add(self, block: bytes) -> None:
        """Add a block of whole events that is sent to the client."""
        self._held.append(block)
        self._size += len(block)
        if self._size > HELD_BYTES:
            self._count()

    @property
    def events(self) -> int:
        """Events with data in them."""
        self._count()
        return self._events

    @property
    def tokens(self) -> int:
        """A quarter of the bytes, rounded up."""
        self._count()
        return -(-self._bytes // FAIR_BYTES_PER_TOKEN)

    def _count(self) -> None:
        if not self._held:
            return
        held, self._held, self._size = self._held, [], 0
        block = b"".join(held)
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                self._events += 1
                plain = _PLAIN(line)
                if (
                    plain is not None
                    and line.count(b'"delta"') == 1
                    and _OTHER_TEXT(line, 0, plain.start()) is None
                    and _OTHER_TEXT(line, plain.end()) is None
                ):
                    self._bytes += plain.end(1) - plain.start(1)
                    continue
                try:
                    chunk = read(line[5:], per_byte=0)
                except (ValueError, RecursionError):
                    if line[5:].strip() != b"[DONE]":  # an event may have several lines of data
                        self._bytes += len(line) - 5
                    continue
                if isinstance(chunk, dict):
                    self._bytes += _said_in_chunk(chunk)


def estimate_completion_tokens(answer: bytes) -> int:
    """Tokens of a whole answer in any dialect, by its text; 0 if it cannot be read."""
    try:
        parsed = read(answer)
    except (ValueError, RecursionError):
        return 0
    if not isinstance(parsed, dict):
        return 0
    said = _said(parsed.get("content")) + _said(parsed.get("output"))
    for choice in _list(parsed.get("choices")):
        if isinstance(choice, dict):
            said += _said(choice.get("message")) + _length(choice.get("text"))
    return -(-said // FAIR_BYTES_PER_TOKEN)


def _said_in_chunk(chunk: Mapping[str, Any]) -> int:
    found = chunk.get("choices")
    if isinstance(found, list):
        return sum(_said_in_choice(choice) for choice in found if isinstance(choice, dict))
    kind = chunk.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        return _said_in_response(kind, chunk)
    if kind == "content_block_delta":
        return _said(chunk.get("delta"))
    return _said(chunk.get("content_block")) if kind == "content_block_start" else 0


def _said_in_response(kind: str, event: Mapping[str, Any]) -> int:
    """The deltas of the Responses API are texts; a call's name stands in its item."""
    if kind.endswith(".delta"):
        return _length(event.get("delta"))
    item = event.get("item") if kind == "response.output_item.added" else None
    return _length(item.get("name")) if isinstance(item, dict) else 0


def _said_in_choice(choice: Mapping[str, Any]) -> int:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        content = delta.get("content")
        if isinstance(content, str) and len(delta) == 1:  # what almost every chunk is
            return _length(content) + _length(choice.get("text"))
    # Some servers put the whole message into a chunk, and the older API has a text.
    return _said(delta or choice.get("message")) + _length(choice.get("text"))


def _said(item: Any) -> int:
    """Bytes of the texts in a message, a delta, a block, or a list of blocks."""
    if isinstance(item, dict):
        # OpenRouter and some others send their reasoning under two or three names.
        names = [name for name in _REASONING if item.get(name)]
        if len(names) > 1:
            names.remove(max(names, key=lambda name: _all_said(item[name])))
            item = {name: inner for name, inner in item.items() if name not in names}
    return _all_said(item)


def _all_said(item: Any) -> int:
    length = 0
    pending: list[Any] = [item]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            length += _length(value)
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict) and not str(value.get("type")).endswith("_tool_result"):
            for name, inner in value.items():
                if name in _NO_TEXT:
                    continue
                if name == "input" and isinstance(inner, dict):
                    length += _encoded(inner)  # a tool's arguments, parsed
                else:
                    pending.append(inner)
    return length


def _encoded(value: dict[str, Any]) -> int:
    if not value:
        return 0
    try:
        return len(encode(value))
    except RecursionError:
        pass
    length = 0
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        length += 2  # its quotation marks, its brackets or its comma
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        else:
            length += _length(item if isinstance(item, str) else str(item))
    return length


def _length(text: Any) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
