"""The places of tool results in a chat, and what ties them to their calls. Pure functions.

Most servers, and Anthropic, require the results of a turn's calls directly behind that turn.
Clients put a user's message between them, or give the results of parallel calls in several turns:
the Responses API and Anthropic's (which joins turns of the user) accept that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Message = TypeVar("Message", bound=Mapping[str, Any])


def behind_their_calls(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with each tool result behind the last turn before it that has its call. The same
    object where nothing has to move; a result without a call stays."""
    if not any(message.get("role") == "tool" for message in messages):
        return messages
    moved = _misplaced(messages)
    if not moved:
        return messages
    taken = {place for places in moved.values() for place in places}
    ordered: list[Message] = []
    waiting: list[int] = []
    for place, message in enumerate(messages):
        if place in taken:
            continue
        if message.get("role") != "tool":
            ordered += [messages[other] for other in waiting]
            waiting = moved.get(place, [])
        ordered.append(message)
    return ordered + [messages[other] for other in waiting]


def with_ids(messages: Sequence[Any]) -> Sequence[Any]:
    """The messages with an id for each call that has an empty one, as some servers write it, and
    for its result: the first without an id. The same object where there is none."""
    if not any(map(_lacks_ids, messages)):
        return messages
    found: list[Any] = []
    waiting: deque[str] = deque()
    given = 0
    last = None
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role == "assistant" != last:
            waiting.clear()  # calls of an earlier turn get no result any more
        last = role
        if _lacks_ids(message):
            calls = []
            for call in message["tool_calls"]:
                if isinstance(call, dict) and call.get("id") == "":
                    waiting.append(f"call_{given}")
                    given += 1
                    call = {**call, "id": waiting[-1]}
                calls.append(call)
            message = {**message, "tool_calls": calls}
        elif _is_result(message) and message.get("tool_call_id") == "" and waiting:
            message = {**message, "tool_call_id": waiting.popleft()}
        found.append(message)
    return found


def _is_result(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "tool"


def _lacks_ids(message: Any) -> bool:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return isinstance(calls, list) and any(
        isinstance(call, dict) and call.get("id") == "" for call in calls
    )


def with_bridges(messages: Sequence[Any], said: str) -> list[Any]:
    """The messages with one of the assistant, which says `said`, between each tool result and a
    message of the user behind it; [] where there is none such."""
    found: list[Any] = []
    last = None
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role == "user" and last == "tool":
            found.append({"role": "assistant", "content": said})
        found.append(message)
        last = role
    return found if len(found) > len(messages) else []


def _misplaced(messages: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    """Place of a turn with calls -> places of their results that stand elsewhere."""
    home: dict[str, int] = {}
    moved: dict[int, list[int]] = {}
    owner = -1  # the last message that is no tool result
    for place, message in enumerate(messages):
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id")
            called = home.get(call_id, owner) if isinstance(call_id, str) else owner
            if called != owner:
                moved.setdefault(called, []).append(place)
            continue
        owner = place
        for call in message.get("tool_calls") or ():
            call_id = call.get("id") if isinstance(call, Mapping) else None
            if isinstance(call_id, str):
                home[call_id] = place
    return moved
