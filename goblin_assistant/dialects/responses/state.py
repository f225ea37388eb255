"""Refuses requests that need stored responses: this product stores none.

Providers store none either: every request is sent with `store: false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.errors import BadRequest, ValidationFailed

_REFUSED: Mapping[str, str] = {
    "previous_response_id": "send the whole conversation as `input`",
    "conversation": "send the whole conversation as `input`",
    "prompt": "send its text as `instructions` or `input`",
}


def refuse_state(body: Mapping[str, Any]) -> None:
    """Raise BadRequest if a field or an item needs a stored response, or if there is no input;
    names it."""
    for name, instead in _REFUSED.items():
        if body.get(name) is not None:
            raise BadRequest(f"{name}: no responses are kept here; {instead}", param=name)
    if body.get("background"):
        raise BadRequest(
            "background: no responses are kept here; leave it out, and set `stream` for long "
            "answers",
            param="background",
        )
    items = body.get("input")
    if items is None:  # told last: a client that names a stored prompt need not send any
        message = "Field required"
        if body.get("messages") is not None:
            message += "; what the chat API calls messages is called input in this API"
        problem = {"field": "input", "message": message}
        raise ValidationFailed(f"input: {message}", param="input", extra={"fields": [problem]})
    for position, item in enumerate(items if isinstance(items, list) else ()):
        kind = item.get("type")
        # In the SDK, a reference requires only its id; its type may be missing.
        bare = kind is None and "role" not in item and "content" not in item
        if kind == "item_reference" or bare:
            raise BadRequest(
                f"input[{position}]: no items are kept here; send the item itself, not a "
                "reference to it",
                param="input",
            )
