"""Names of a client's fields in the header X-Goblin-Ignored."""

from __future__ import annotations

LONGEST = 40


def shown(place: str, name: str) -> str:
    """`messages.citations`; `messages.?` for a name that looks like none. A header holds ASCII."""
    known = name.isascii() and name.isidentifier() and len(name) < LONGEST
    return f"{place}.{name if known else '?'}"
