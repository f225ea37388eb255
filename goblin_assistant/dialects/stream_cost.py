"""The cost of a streamed answer, in the usage that its stream reports. Pure functions.

The field is put into the event's bytes: everything else stays as the provider wrote it.
"""

from __future__ import annotations

import re
from typing import Any

from goblin_assistant.providers.json_answers import read
from goblin_assistant.providers.upstream.sse import event_data, single_events

FIELD = "cost_usd"
_MOST_PLACES = 8
"""Of the field, or of objects named `usage`, that are tried, from the last on. Tools' schemas can
hold some too."""
# Quotes inside a JSON string are escaped, so these cannot match within a text.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_COST = re.compile(rb'"cost_usd"\s*:\s*(?:"[^"\\]*"|[^\s,"}]+)')


def with_cost(block: bytes, path: tuple[str, ...], cost: str) -> bytes:
    """A block of whole events, with the cost in each usage that stands at `path` in an event."""
    if b'"usage"' not in block:
        return block
    return b"".join(_with_cost(event, path, cost) for event in single_events(block))


def _with_cost(event: bytes, path: tuple[str, ...], cost: str) -> bytes:
    usage = _usage(event, path)
    if not usage:
        return event
    field = b'"%b":"%b"' % (FIELD.encode(), cost.encode())
    if usage.get(FIELD) == cost:
        return event
    if FIELD in usage:  # another instance of this product, with its own prices
        places = [found.span() for found in _COST.finditer(event)]
    else:
        places = [(found.end(), found.end()) for found in _USAGE.finditer(event)]
        field += b","
    for start, end in reversed(places[-_MOST_PLACES:]):
        told = event[:start] + field + event[end:]
        if (_usage(told, path) or {}).get(FIELD) == cost:
            return told
    return event


def _usage(event: bytes, path: tuple[str, ...]) -> dict[str, Any] | None:
    data = event_data(event.replace(b"\r\n", b"\n").rstrip(b"\n"))
    try:
        value = read(data or b"null")
    except (ValueError, RecursionError):
        return None
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
