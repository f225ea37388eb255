"""Earlier turns as one server takes them: a conversation may have begun at another provider. Pure
functions.

A history may hold fields of this product (`thinking_blocks`) or of other servers
(`reasoning_content`), and tool call ids of another form. A row says what its server refuses.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from typing import Any

_LETTERS = string.digits + string.ascii_letters


def fitted(
    messages: Any, refused: frozenset[str], takes_id: Callable[[str], Any] | None
) -> list[Any] | None:
    """The messages without refused fields and with ids that `takes_id` accepts; None if nothing has
    to change."""
    if not isinstance(messages, list):
        return None
    changed = False
    found: list[Any] = []
    for message in messages:
        fitting = _message(message, refused, takes_id) if isinstance(message, dict) else message
        changed = changed or fitting is not message
        found.append(fitting)
    return found if changed else None


def _message(
    message: dict[str, Any], refused: frozenset[str], takes_id: Callable[[str], Any] | None
) -> dict[str, Any]:
    role = message.get("role")
    if role == "assistant" and not refused.isdisjoint(message):
        message = {name: value for name, value in message.items() if name not in refused}
    if takes_id is not None and role == "tool" and isinstance(message.get("tool_call_id"), str):
        given = message["tool_call_id"]
        if not takes_id(given):
            return {**message, "tool_call_id": short_id(given)}
    calls = message.get("tool_calls")
    if role == "assistant" and isinstance(calls, list):
        fitting = [_call(call, refused, takes_id) for call in calls]
        if any(new is not old for new, old in zip(fitting, calls, strict=True)):
            return {**message, "tool_calls": fitting}
    return message


def _call(call: Any, refused: frozenset[str], takes_id: Callable[[str], Any] | None) -> Any:
    if not isinstance(call, dict):
        return call
    if not refused.isdisjoint(call):
        call = {name: value for name, value in call.items() if name not in refused}
    given = call.get("id")
    if takes_id is not None and isinstance(given, str) and not takes_id(given):
        call = {**call, "id": short_id(given)}
    return call


def short_id(given: str) -> str:
    """Nine letters and digits for an id, always the same ones: call and result stay together."""
    number = int.from_bytes(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()[:8])
    letters = []
    for _ in range(9):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)
