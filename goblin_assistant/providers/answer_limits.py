"""The limit on the length of answers that a request sets, under every name that a server may read.
Pure functions.

The same rule is used for what is reserved (usage/estimates.py) and for what is sent upstream.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

LIMIT_FIELDS = (
    "max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens", "n_predict",
)  # fmt: skip
"""Two names of OpenAI's chat API, the newer first; then those of OpenAI's Responses API, Hugging
Face's servers and llama.cpp. A server knows one or two. A body may hold several: the largest
counts."""

CHOICE_FIELDS = ("n", "best_of")
"""The number of answers to generate. `best_of` is from vLLM and OpenAI's older API."""


def completion_limit(body: Mapping[str, Any]) -> int | None:
    """The length that one answer may have, in tokens: the largest of the body's limits; None if it
    has none."""
    found = [limit for name in LIMIT_FIELDS if (limit := limit_in(body.get(name))) is not None]
    return max(found) if found else None


def own_name(param: str | None, fields: Container[str]) -> str | None:
    """The client's field that an error's `param` is about; None if it sent no such field. The
    limit may have been sent on under another name."""
    if param in LIMIT_FIELDS and param not in fields:
        return next((name for name in LIMIT_FIELDS if name in fields), None)
    return param if param is not None and param in fields else None


def choices(body: Mapping[str, Any]) -> int:
    """The number of answers that a server may generate."""
    return max(1, *(limit_in(body.get(name)) or 1 for name in CHOICE_FIELDS))


def limit_in(value: Any) -> int | None:
    """The limit that a server may read in a value; None for -1 (no limit) and for other types.

    The schema does not check every name. A server may accept 5e4 or "50000", so these count too.
    """
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and 0 <= value < 2**63:
        value = int(-(-value // 1))
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**63 else None
