"""What Anthropic refuses in a conversation that began with another provider. Pure functions.

A thinking block of another model carries a signature of ours (dialects/anthropic/carried.py).
Anthropic checks signatures, and refuses the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIGNATURE = "goblin."
"""How a signature of ours begins. Anthropic's are base64, which has no full stop."""

FOREIGN_SIGNATURE = b'"goblin.'
"""The same in a client's bytes, where a search is cheaper than a look at each block."""


def without_foreign_thinking(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body without other models' thinking; the same object if it has none."""
    found = False
    turns = []
    for turn in body["messages"]:
        content = turn.get("content")
        if isinstance(content, list) and any(map(_is_foreign, content)):
            found = True
            kept = [block for block in content if not _is_foreign(block)]
            if not kept:
                continue
            turn = {**turn, "content": kept}
        turns.append(turn)
    return {**body, "messages": turns} if found else body


def _is_foreign(block: Any) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") == "thinking"
        and isinstance(signature := block.get("signature"), str)
        and signature.startswith(SIGNATURE)
    )
