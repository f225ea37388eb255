"""The list of models in Anthropic's shape. Pure functions.

Source: https://platform.claude.com/docs/en/api/models-list, `anthropic.types.ModelInfo` of the SDK,
2.12.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from goblin_assistant.errors import BadRequest

DEFAULT_LIMIT, MOST = 20, 1000
UNKNOWN_DATE = "1970-01-01T00:00:00Z"
"""Anthropic's own value where the date of release is unknown."""


class ModelRow(NamedTuple):
    """A model that a caller may ask for. `window` is in tokens."""

    name: str
    owner: str
    window: int | None


def anthropic_model(row: ModelRow) -> dict[str, Any]:
    """One model."""
    return {
        "type": "model",
        "id": row.name,
        "display_name": row.name,
        "created_at": UNKNOWN_DATE,
        "lifecycle": "active",
        "max_input_tokens": row.window,
    }


def page_of(rows: Sequence[ModelRow], query: Mapping[str, str]) -> dict[str, Any]:
    """The page that `limit`, `after_id` and `before_id` ask for. Raises BadRequest."""
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if (
        not limit.isdecimal()
        or not limit.isascii()
        or len(limit) > 4
        or not 1 <= int(limit) <= MOST
    ):
        raise BadRequest(f"limit: accepted: 1 to {MOST}", param="limit")
    names = [row.name for row in rows]
    size, first = int(limit), 0
    if (after := query.get("after_id")) is not None:
        first = _place(names, after, "after_id") + 1
        last = min(len(rows), first + size)
        more = last < len(rows)
    elif (before := query.get("before_id")) is not None:
        last = _place(names, before, "before_id")
        first = max(0, last - size)
        more = first > 0
    else:
        last = min(len(rows), size)
        more = last < len(rows)
    page = [anthropic_model(row) for row in rows[first:last]]
    return {
        "data": page,
        "has_more": more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _place(names: Sequence[str], name: str, param: str) -> int:
    if name not in names:
        raise BadRequest(f"{param}: there is no such model in the list", param=param)
    return names.index(name)
