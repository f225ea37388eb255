"""What a provider wants back with the next turn, packed into a field that clients return unread.

    extra_content of a tool call   Google's thought signature, at the end of the tool call's id
    reasoning_details              OpenRouter's, packed into what each dialect has for it

Pure functions. Sources: https://ai.google.dev/gemini-api/docs/thought-signatures
(extra_content.google.thought_signature),
https://openrouter.ai/docs/use-cases/reasoning-tokens (reasoning_details).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.schemas.json_bounds import check_together

ID_MARK = "__goblin_"
"""Stands between a tool call's id and what comes back with it. Anthropic takes letters, digits,
_ and - in an id."""

OWN_ID = "goblin_id"
"""Beside `extra_content`: the provider's own id, where the client got another one."""


def joined_id(call_id: str, extra: Any) -> str:
    """A tool call's id that brings its `extra_content` back."""
    return f"{call_id}{ID_MARK}{packed(extra)}" if isinstance(extra, dict) and extra else call_id


def split_id(call_id: str) -> tuple[str, dict[str, Any] | None]:
    """A tool call's id and its `extra_content`."""
    own, mark, packed = call_id.partition(ID_MARK)
    if not mark:
        return call_id, None
    extra = unpacked(packed)
    if not isinstance(extra, dict):
        return own, None
    given = extra.pop(OWN_ID, None)
    return (given if isinstance(given, str) and given else own), extra or None


class Details:
    """The reasoning_details of one answer. Pieces of one item have its index and type."""

    __slots__ = ("_by_place", "_items")

    def __init__(self) -> None:
        self._items: list[_Detail] = []
        self._by_place: dict[tuple[Any, Any], _Detail] = {}

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, pieces: Any) -> None:
        """Add a delta's list, or that of a whole message."""
        for piece in pieces if isinstance(pieces, list) else ():
            if not isinstance(piece, dict):
                continue
            index, kind = place = (piece.get("index"), piece.get("type"))
            named = isinstance(index, int | str) and isinstance(kind, str | None)
            known = self._by_place.get(place) if named else None
            if known is not None:
                known.add(piece)
                continue
            self._items.append(item := _Detail(piece))
            if named:
                self._by_place[place] = item

    def whole(self) -> list[dict[str, Any]]:
        """The items so far."""
        return [item.whole() for item in self._items]


class _Detail:
    __slots__ = ("_texts", "_value")

    def __init__(self, piece: Mapping[str, Any]) -> None:
        self._value = dict(piece)
        # Joined once: to add to a text, all of it is copied.
        self._texts: dict[str, list[str]] = {
            name: [piece[name]] for name in _GROWING if isinstance(piece.get(name), str)
        }

    def add(self, piece: Mapping[str, Any]) -> None:
        for name, value in piece.items():
            if name in self._texts:
                self._texts[name] += [value] if isinstance(value, str) else []
            elif value is not None:
                self._value[name] = value
                if name in _GROWING and isinstance(value, str):
                    self._texts[name] = [value]

    def whole(self) -> dict[str, Any]:
        return self._value | {name: "".join(texts) for name, texts in self._texts.items()}


_GROWING = ("text", "summary", "data")
"""Fields whose pieces are joined. Of others the last counts."""


def packed(value: Any) -> str:
    """A JSON value as letters, digits, _ and -."""
    return base64.urlsafe_b64encode(encode(value)).decode().rstrip("=")


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
