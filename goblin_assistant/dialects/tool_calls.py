"""The tool calls of one stream of OpenAI's, joined from their pieces.

Servers differ: pieces of several calls may be mixed, and have an index, an id or only a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(slots=True)
class ToolCall:
    """One tool call. `text`: its arguments so far; `sent`: how many characters of them went out.
    `closed`: all of it went out."""

    index: Any
    id: str | None
    name: str = ""
    text: str = ""
    sent: int = 0
    extra: Any = None
    closed: bool = False

    @property
    def complete(self) -> bool:
        """Whether its arguments are a whole object."""
        if not self.text.rstrip().endswith("}"):
            return False
        try:
            return isinstance(orjson.loads(self.text), dict)
        except orjson.JSONDecodeError:
            return False


class ToolCalls:
    """The calls of one stream, in the order in which they began."""

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: list[ToolCall] = []

    def add(self, piece: Mapping[str, Any]) -> ToolCall:
        """Add an item of a delta's `tool_calls` to its call, which is returned."""
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        name = name if isinstance(name, str) else ""
        call = self._call_of(piece, name, bool(arguments))
        call.name = call.name or name
        call.id = call.id or piece.get("id")
        call.extra = call.extra or piece.get("extra_content")
        if isinstance(arguments, str):
            call.text += arguments
        return call

    def _call_of(self, piece: Mapping[str, Any], name: str, argued: bool) -> ToolCall:
        """The call that a piece belongs to: by index, else by id, else by name."""
        index, call_id = piece.get("index"), piece.get("id")
        known = self.all
        if index is not None:
            known = [call for call in known if call.index == index]
        elif call_id:
            known = [call for call in known if call.id == call_id]
        call = known[-1] if known else None
        if call is None or _is_another(call, call_id, name, argued):
            call = ToolCall(index, call_id)
            self.all.append(call)
        return call


def _is_another(call: ToolCall, call_id: Any, name: str, argued: bool) -> bool:
    """Whether a piece begins a new call, although its index is `call`'s or it has none. Gemini gave
    every call the index 0; some servers give no ids either."""
    if call_id and call.id:
        return bool(call_id != call.id)
    if not name or not call.name:
        return False
    return name != call.name or (argued and call.complete)
