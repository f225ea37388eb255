"""What a provider wants back with the next turn, packed into a field that clients return unread.

    extra_content of a tool call   Google's thought signature, at the end of the tool call's id
    reasoning_details              OpenRouter's, packed into what each dialect has for it

Pure functions. Sources: https://ai.google.dev/gemini-api/docs/thought-signatures
(extra_content.google.thought_signature),
https://openrouter.ai/docs/use-cases/reasoning-tokens (reasoning_details).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import orjson

from goblin_assistant.schemas.json_bounds import check_together

ID_MARK = "__goblin_"
"""Stands between a tool call's id and what comes back with it. Anthropic takes letters, digits,
_ and - in an id."""


def joined_id(call_id: str, extra: Any) -> str:
    """A tool call's id that brings its `extra_content` back."""
    return f"{call_id}{ID_MARK}{packed(extra)}" if isinstance(extra, dict) and extra else call_id


def split_id(call_id: str) -> tuple[str, dict[str, Any] | None]:
    """A tool call's id and its `extra_content`."""
    own, mark, packed = call_id.partition(ID_MARK)
    if not mark:
        return call_id, None
    extra = unpacked(packed)
    return own, extra if isinstance(extra, dict) else None


def merge_details(known: list[dict[str, Any]], pieces: Any) -> None:
    """Add a delta's reasoning_details. Pieces of one item have its index and type."""
    for piece in pieces if isinstance(pieces, list) else ():
        if not isinstance(piece, dict):
            continue
        place = (piece.get("index"), piece.get("type"))
        same = next(
            (item for item in known if (item.get("index"), item.get("type")) == place), None
        )
        if same is None or place[0] is None:
            known.append(dict(piece))
            continue
        for name, value in piece.items():
            if name in ("text", "summary", "data") and isinstance(same.get(name), str):
                same[name] += value if isinstance(value, str) else ""
            elif value is not None:
                same[name] = value


def packed(value: Any) -> str:
    """A JSON value as letters, digits, _ and -."""
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def unpacked(text: str) -> Any:
    """What `packed` made a text of; None for another text."""
    try:
        return orjson.loads(_bytes_of(text))
    except ValueError:
        return None


def check_packed(texts: Iterable[str]) -> None:
    """Raise TooMuchStructure if what one request brings back has too many values together. The
    count of its body sees them as texts."""
    check_together(_bytes_of(text).decode("utf-8", "replace") for text in texts)


def packed_in_id(call_id: Any) -> str:
    """What is packed in a tool call's id; "" if nothing is."""
    return call_id.partition(ID_MARK)[2] if isinstance(call_id, str) else ""


def _bytes_of(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
