"""The tool calls of one stream of OpenAI's, joined from their pieces.

Servers differ: pieces of several calls may be mixed, and have an index, an id or only a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.openai.wire import encode

_SPECIAL = re.compile(r'["{}\[\]]|\\.?', re.DOTALL)


def arguments_text(arguments: Any) -> str:
    """A call's arguments, or a piece of them, as JSON text. Some servers send them parsed."""
    if isinstance(arguments, str):
        return arguments
    return encode(arguments).decode() if arguments else ""


class ToolCall:
    """One tool call. `closed`: all of it went out."""

    __slots__ = ("_pieces", "_scan", "_sent", "closed", "extra", "id", "index", "name")

    def __init__(self, index: Any, call_id: str | None) -> None:
        self.index = index
        self.id = call_id
        self.name = ""
        self.extra: Any = None
        self.closed = False
        # Joined once: to add to a text, all of it is copied.
        self._pieces: list[str] = []
        self._sent = 0
        self._scan = _Scan()

    def add(self, text: str) -> None:
        """Add a piece of its arguments."""
        if text:
            self._pieces.append(text)

    def take(self) -> str:
        """What has come of its arguments and was not taken yet."""
        text = "".join(self._pieces[self._sent :])
        self._sent = len(self._pieces)
        return text

    @property
    def text(self) -> str:
        """Its arguments so far."""
        return "".join(self._pieces)

    @property
    def complete(self) -> bool:
        """Whether its arguments are a whole object."""
        return self._scan.closed(self._pieces)


class _Scan:
    """Follows the brackets of a JSON text that grows. Each piece is read once."""

    __slots__ = ("_depth", "_escaped", "_inside", "_read", "_whole")

    def __init__(self) -> None:
        self._read = self._depth = 0
        self._inside = self._escaped = self._whole = False

    def closed(self, pieces: list[str]) -> bool:
        """Whether the text begins an object and ends it."""
        for piece in pieces[self._read :]:
            self._add(piece)
        self._read = len(pieces)
        return self._whole and self._depth == 0 and not self._inside

    def _add(self, piece: str) -> None:
        start = 1 if self._escaped and piece else 0
        self._escaped = False
        for found in _SPECIAL.finditer(piece, start):
            mark = found[0]
            if mark[0] == "\\":
                self._escaped = mark == "\\"  # what it escapes is in the next piece
            elif mark == '"':
                self._inside = not self._inside
            elif not self._inside:
                self._depth += 1 if mark in "{[" else -1
                self._whole = self._whole or mark == "{"


class ToolCalls:
    """The calls of one stream, in the order in which they began."""

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: list[ToolCall] = []

    def add(self, piece: Mapping[str, Any]) -> ToolCall:
        """Add an item of a delta's `tool_calls` to its call, which is returned."""
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), arguments_text(function.get("arguments"))
        name = name if isinstance(name, str) else ""
        call = self._call_of(piece, name, bool(arguments))
        call.name = call.name or name
        call.id = call.id or piece.get("id")
        call.extra = call.extra or piece.get("extra_content")
        call.add(arguments)
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
    every call the index 0; some servers give no ids either, or another one with each piece."""
    if call_id and call.id:
        return bool(call_id != call.id) and (bool(name) or call.complete)
    if not name or not call.name:
        return False
    return name != call.name or (argued and call.complete)
