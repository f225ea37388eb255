"""Names of a client's fields in the header X-Goblin-Ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

LONGEST = 40
MOST_TEXT = 1000
"""Characters of the header. Proxies take 4 to 8 KB of headers, and clients choose the names."""


def shown(place: str, name: str) -> str:
    """`messages.citations`; `messages.?` for a name that looks like none. A header holds ASCII."""
    known = name.isascii() and name.isidentifier() and len(name) < LONGEST
    return f"{place}.{name if known else '?'}"


def listed(names: Collection[str]) -> str:
    """The header's text: the names in their order, "..." in place of those that are too many."""
    text = ", ".join(sorted(names))
    if len(text) <= MOST_TEXT:
        return text
    return text[:MOST_TEXT].rpartition(", ")[0] + ", ..."


def note_others(
    value: Mapping[str, Any], known: Collection[str], place: str, ignored: set[str]
) -> None:
    """Name the fields beside the known ones. Those that are empty say nothing."""
    for name, given in value.items():
        if name not in known and says_something(given):
            ignored.add(shown(place, name))


def of_kind(
    table: Mapping[str, Collection[str]], kind: Any, otherwise: Collection[str]
) -> Collection[str]:
    """The fields of a kind. A client may send anything as a type, also what cannot be looked up."""
    return table.get(kind, otherwise) if isinstance(kind, str) else otherwise


def says_something(value: Any) -> bool:
    """Whether a field's value is more than its absence."""
    return value is not None and value is not False and value not in ("", [], {})
