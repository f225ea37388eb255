"""Anthropic's cache marks (`cache_control`), for servers that refuse them. Pure functions.

Clients of several gateways write them on parts, messages, tool calls and tools, and on the request
itself. They are left out and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARK = "cache_control"
GONE = object()
"""The value of a field that is left out."""


def unmark(
    message: Mapping[str, Any], changes: dict[str, Any], removed: set[str], ignored: set[str]
) -> None:
    """Take the marks out of a message: its own by `removed`, others by `changes`."""
    if MARK in message:
        removed.add(MARK)
        ignored.add(f"messages.{MARK}")
    for name in ("content", "tool_calls"):
        items = changes.get(name, message.get(name))
        if isinstance(items, list) and any(map(_is_marked, items)):
            ignored.add(f"messages.{MARK}")
            changes[name] = [_plain(item) for item in items]


def unmarked_fields(body: Mapping[str, Any], ignored: set[str]) -> dict[str, Any]:
    """The fields of a request that change without marks. Those of messages are not looked at."""
    changes: dict[str, Any] = {}
    if MARK in body:
        changes[MARK] = GONE
        ignored.add(MARK)
    tools = body.get("tools")
    if isinstance(tools, list) and any(map(_is_marked, tools)):
        changes["tools"] = [_plain(tool) for tool in tools]
        ignored.add(f"tools.{MARK}")
    return changes


def _is_marked(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    function = item.get("function")
    return MARK in item or (isinstance(function, dict) and MARK in function)


def _plain(item: Any) -> Any:
    if not _is_marked(item):
        return item
    plain = {name: value for name, value in item.items() if name != MARK}
    if isinstance(function := plain.get("function"), dict):
        plain["function"] = {name: value for name, value in function.items() if name != MARK}
    return plain
