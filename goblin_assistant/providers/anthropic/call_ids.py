"""Ids of tool calls as Anthropic takes them. Pure functions, but for the state of one conversation.

Anthropic refuses an id with other characters than letters, digits, _ and -, an empty one, and one
that another call of the conversation has. Other servers write such ids: Kimi's are
`functions.bash:0`, and some begin to count again with each turn
(https://github.com/anomalyco/opencode/issues/1279, read on 2026-11-27).
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from goblin_assistant.providers.anthropic.content import invalid

_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")


class CallIds:
    """The ids of one conversation, in its order. The same conversation always gets the same ids."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}  # each with how often it was asked for
        self._waiting: dict[str, deque[str]] = {}  # the client's id -> ours without a result
        self._last: dict[str, str] = {}

    def of_call(self, given: Any, where: str) -> str:
        """The id of a call. Raises InvalidRequest if it has none."""
        given = _text(given, where)
        plain = _NOT_IN_IDS.sub("_", given) or "call"
        own = plain
        while own in self._used:
            self._used[plain] += 1
            own = f"{plain}_{self._used[plain]}"
        self._used[own] = 1
        self._waiting.setdefault(given, deque()).append(own)
        self._last[given] = own
        return own

    def of_result(self, given: Any, where: str) -> str:
        """The id of the call that a result answers: of several, the first without a result."""
        given = _text(given, where)
        if waiting := self._waiting.get(given):
            return waiting.popleft()
        return self._last.get(given) or _NOT_IN_IDS.sub("_", given) or "call"


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{where} has no tool call id", "messages")
    return value
