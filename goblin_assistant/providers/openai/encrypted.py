"""Whose encrypted reasoning it is: `encrypted_content` of the Responses API. Pure functions.

Only the server that encrypted it can read it, and others refuse the request. So it goes to the
client with a mark of its row in front, and comes back without it; what has another row's mark is
not sent.
Source: https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items.
"""

from __future__ import annotations

import re

MARK = "goblin."
"""How every mark begins. The content itself is base64, which has no full stop."""

CARRIED = MARK + "t."
"""The mark of what this product packs itself, for providers of OpenAI's chat API
(dialects/responses/reasoning.py)."""

_FIELD = re.compile(rb'("encrypted_content"\s*:\s*")(?=[^"])')
"""The field in JSON. Within a text its quotation marks are escaped, so that no text matches."""


def mark_of(row: str) -> str:
    """The mark of a row. No row's name has a colon."""
    return f"{MARK}r.{row}:"


def with_mark(data: bytes, mark: bytes) -> bytes:
    """An answer, or whole events of a stream, with the mark in each `encrypted_content`."""
    if b'"encrypted_content"' not in data:
        return data
    return _FIELD.sub(lambda found: found[1] + mark, data)
