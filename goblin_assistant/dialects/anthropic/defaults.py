"""A user's chat defaults in an Anthropic request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def apply_defaults(body: dict[str, Any], settings: Mapping[str, Any]) -> bool:
    """Fill in what the request leaves out; return whether it changed.

    Only the system prompt: `max_tokens` is required, and since API version 2026-10-21 a temperature
    makes a request invalid.
    """
    prompt = settings.get("system_prompt")
    if not prompt or body.get("system"):
        return False
    body["system"] = prompt
    return True
