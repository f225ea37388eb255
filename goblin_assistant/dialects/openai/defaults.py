"""A user's chat defaults in an OpenAI request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def apply_defaults(body: dict[str, Any], settings: Mapping[str, Any]) -> bool:
    """Fill in what the request leaves out; return whether it changed."""
    changed = False
    if settings.get("temperature") is not None and body.get("temperature") is None:
        body["temperature"] = settings["temperature"]
        changed = True
    if (
        settings.get("max_tokens") is not None
        and body.get("max_tokens") is None
        and body.get("max_completion_tokens") is None
    ):
        body["max_tokens"] = settings["max_tokens"]
        changed = True
    prompt, messages = settings.get("system_prompt"), body["messages"]
    if prompt and not any(message.get("role") in ("system", "developer") for message in messages):
        body["messages"] = [{"role": "system", "content": prompt}, *messages]
        changed = True
    return changed
