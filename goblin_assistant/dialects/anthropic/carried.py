"""What another provider wants back with the next turn, in the fields that Anthropic's clients
return unread: a thinking block's signature, and a tool call's id. Pure functions.

    reasoning_content, reasoning   a thinking block; its signature begins with SIGNATURE
    reasoning_details              OpenRouter's, within that signature
    extra_content of a tool call   Google's thought signature, at the end of the tool call's id

Sources: https://api-docs.deepseek.com/guides/thinking_mode (reasoning_content has to come back
after a tool call), https://openrouter.ai/docs/use-cases/reasoning-tokens (reasoning_details),
https://ai.google.dev/gemini-api/docs/thought-signatures (extra_content.google.thought_signature).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson

from goblin_assistant.providers.anthropic.foreign import SIGNATURE

ID_MARK = "__goblin_"
"""Stands between a tool call's id and what comes back with it. Anthropic takes letters, digits,
_ and - in an id."""


def signature_for(details: Any) -> str:
    """The signature of a thinking block that is not Anthropic's. `details`: OpenRouter's
    reasoning_details, if any."""
    return SIGNATURE + (_packed({"reasoning_details": details}) if details else "")


def take_back(block: Mapping[str, Any], message: dict[str, Any]) -> bool:
    """Put a thinking block that another provider thought into an assistant's message. False: it is
    Anthropic's own, or redacted."""
    text, signature = block.get("thinking"), block.get("signature")
    if not isinstance(text, str) or not isinstance(signature, str):
        return False
    if signature and not signature.startswith(SIGNATURE):
        return False
    if text:
        message["reasoning_content"] = message.get("reasoning_content", "") + text
    kept = _unpacked(signature.removeprefix(SIGNATURE))
    if isinstance(kept, dict) and isinstance(kept.get("reasoning_details"), list):
        message.setdefault("reasoning_details", []).extend(kept["reasoning_details"])
    return True


def joined_id(call_id: str, extra: Any) -> str:
    """A tool call's id that brings its `extra_content` back."""
    return f"{call_id}{ID_MARK}{_packed(extra)}" if isinstance(extra, dict) and extra else call_id


def split_id(call_id: str) -> tuple[str, dict[str, Any] | None]:
    """A tool call's id and its `extra_content`."""
    own, mark, packed = call_id.partition(ID_MARK)
    if not mark:
        return call_id, None
    extra = _unpacked(packed)
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


def _packed(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def _unpacked(text: str) -> Any:
    try:
        return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        return None
