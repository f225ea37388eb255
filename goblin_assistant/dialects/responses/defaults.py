"""Applies a user's chat defaults to a Responses request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def apply_defaults(body: dict[str, Any], settings: Mapping[str, Any]) -> bool:
    """Fill in what the request leaves out; return whether it changed."""
    changed = False
    for name, setting in (("temperature", "temperature"), ("max_output_tokens", "max_tokens")):
        if settings.get(setting) is not None and body.get(name) is None:
            body[name] = settings[setting]
            changed = True
    prompt = settings.get("system_prompt")
    if prompt and not body.get("instructions") and not _has_instructions(body.get("input")):
        body["instructions"] = prompt
        changed = True
    return changed


def _has_instructions(items: Any) -> bool:
    return isinstance(items, list) and any(
        isinstance(item, dict) and item.get("role") in ("system", "developer") for item in items
    )
