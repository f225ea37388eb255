"""How long a request lets its answers be, in every name that a server may read. Pure functions.

The same rule holds for what is reserved (usage/estimates.py) and for what is sent upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIMIT_FIELDS = (
    "max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens", "n_predict",
)  # fmt: skip
"""The names of an answer's limit: OpenAI's newer and older one, those of OpenAI's Responses API, of
Hugging Face's servers, of llama.cpp. A server knows one or two of them; a body may hold several,
and the largest counts."""

CHOICE_FIELDS = ("n", "best_of")
"""How many answers are generated; `best_of` is vLLM's and of OpenAI's older API."""


def completion_limit(body: Mapping[str, Any]) -> int | None:
    """The longest that one answer may be, in tokens: the largest of the body's limits; None: it has
    none."""
    found = [limit for name in LIMIT_FIELDS if (limit := _whole(body.get(name))) is not None]
    return max(found) if found else None


def choices(body: Mapping[str, Any]) -> int:
    """How many answers are generated."""
    return max(1, *(_whole(body.get(name)) or 1 for name in CHOICE_FIELDS))


def _whole(value: Any) -> int | None:
    """A number that a server may read as a limit; -1 (no limit), other types and nonsense are none.

    Not every name is checked when a request comes in: a server that reads 5e4 or "50000" must not
    be had for less.
    """
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and 0 <= value < 2**63:
        value = int(-(-value // 1))
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
