"""Parses JSON from a provider. JSON that cannot be parsed counts as the provider's failure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import orjson

from goblin_assistant.providers.base import (
    BadResponse,
    Progress,
    Usage,
    broken,
    later_usage,
    untranslatable,
)
from goblin_assistant.schemas import json_bounds

_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def parse_answer(
    provider: str,
    data: bytes,
    progress: Progress | None = None,
    parse_usage: Callable[[Any], Usage | None] | None = None,
) -> Any:
    """Parse a whole answer. Raises BadResponse.

    If an answer cannot be parsed but reports usage, it has been paid for. Then `progress` gets the
    counts, and the error is marked `untranslatable`.
    """
    try:
        return _parse(provider, data, json_bounds.ANSWER_PER_BYTE, "did not answer with JSON")
    except BadResponse as error:
        if progress is not None and parse_usage is not None:
            # A model may write such an object into a tool call too, so the largest count wins.
            for found in _USAGE.findall(data):
                try:
                    usage = parse_usage(orjson.loads(found))
                except orjson.JSONDecodeError:
                    continue
                if usage is not None:
                    progress.usage = later_usage(progress.usage, usage)
            error.untranslatable = error.untranslatable or progress.usage is not None
        raise


def parse_list(provider: str, data: bytes) -> Any:
    """Parse a list of models. Raises BadResponse. The bounds are tighter than for answers."""
    return _parse(provider, data, 0, "did not answer with JSON")


def parse_event(provider: str, data: bytes) -> Any:
    """Parse one event of a stream. Raises BadResponse."""
    return _parse(provider, data, 0, "sent an event that is not JSON")


def _parse(provider: str, data: bytes, per_byte: int, otherwise: str) -> Any:
    try:
        return read(data, per_byte=per_byte)
    except json_bounds.TooMuchStructure:
        raise untranslatable(f"{provider} sent JSON of too many values", provider) from None
    except (ValueError, RecursionError):
        raise broken(f"{provider} {otherwise}", provider) from None


def read(data: bytes, *, per_byte: int = json_bounds.ANSWER_PER_BYTE) -> Any:
    """Parse JSON from a provider. Raises ValueError or RecursionError.

    Also accepts what orjson refuses but other parsers accept: a byte order mark, NaN and -Infinity,
    half of a surrogate pair (RFC 8259, section 8.2, allows it).
    """
    try:
        return json_bounds.loads(data, per_byte=per_byte)
    except json_bounds.TooMuchStructure:
        raise
    except ValueError:
        return json.loads(data.removeprefix(b"\xef\xbb\xbf"))
