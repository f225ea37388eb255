"""Anthropic's cache marks (`cache_control`) in a translated request. Pure functions.

The translation keeps each mark, on OpenAI's part, tool or request. OpenRouter reads them there.
For every other server they are taken out, and parts that were needed for them become plain text
again.

Sources: https://platform.claude.com/docs/en/build-with-claude/prompt-caching,
https://openrouter.ai/docs/features/prompt-caching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Part = dict[str, Any]
"""A part of an OpenAI message's content."""

MARK = "cache_control"
SYSTEM_GAP = "\n\n"
"""Between the blocks of a system prompt that becomes one text."""


def keep_mark(block: Mapping[str, Any], parts: Sequence[Part], ignored: set[str]) -> None:
    """Put the mark of a block on the last of its parts. Without one, or for an empty text, it is
    left out and named."""
    mark = block.get(MARK)
    if mark is None:
        return
    if parts and parts[-1].get("text") != "":
        parts[-1][MARK] = mark
    else:
        ignored.add(f"messages.{MARK}")


def joined(texts: Sequence[Part], gap: str) -> str | list[Part]:
    """The content of a message of texts: one text, or parts where one has a mark."""
    if any(MARK in part for part in texts):
        return [part for part in texts if part["text"]]
    return gap.join([part["text"] for part in texts])


def without_marks(request: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    """A translated request for a server that reads no marks. Their names go to `ignored`."""
    if MARK in request:
        request = {name: value for name, value in request.items() if name != MARK}
        ignored.add(MARK)
    tools = request.get("tools") or ()
    if any(MARK in tool for tool in tools):
        ignored.add(f"tools.{MARK}")
        request = {**request, "tools": [_unmarked(tool) for tool in tools]}
    messages = [_plain_message(message, ignored) for message in request["messages"]]
    return {**request, "messages": messages}


def _plain_message(message: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    content = message.get("content")
    if type(content) is not list or not any(MARK in part for part in content):
        return message
    ignored.add(f"messages.{MARK}")
    parts = [_unmarked(part) for part in content]
    if message["role"] != "user":
        gap = SYSTEM_GAP if message["role"] == "system" else ""
        return {**message, "content": joined(parts, gap)}
    if len(parts) == 1 and parts[0]["type"] == "text":
        return {**message, "content": parts[0]["text"]}
    return {**message, "content": parts}


def _unmarked(value: dict[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name != MARK}
