"""Anything that is logged, as JSON."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson
from pythonjsonlogger.orjson import orjson_default


def as_json(data: dict[str, Any]) -> str:
    """The object as JSON. Never raises: what is not JSON is written as text."""
    try:
        return orjson.dumps(data, default=_default, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps(_plain(data, 0)).decode()


def _default(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset, deque)):
        return list(value)
    try:
        return orjson_default(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    """Any value as JSON, also with lone surrogates, integers beyond 64 bits, cycles, or a `__str__`
    that raises."""
    if depth > 20:
        return "..."
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {
            str(_plain(str(key), depth)): _plain(item, depth + 1) for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [_plain(item, depth + 1) for item in value]
    try:
        return _plain(str(value), depth + 1)
    except Exception:
        return f"<{type(value).__name__}>"
