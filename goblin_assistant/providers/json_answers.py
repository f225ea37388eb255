"""Parses a provider's JSON. What cannot be parsed is the provider's failure."""

from __future__ import annotations

from typing import Any

from goblin_assistant.providers.base import BadResponse
from goblin_assistant.schemas import json_bounds


def parse_answer(provider: str, data: bytes) -> Any:
    """Parse a whole answer. Raises BadResponse."""
    return _parse(provider, data, json_bounds.ANSWER_PER_BYTE, "did not answer with JSON")


def parse_list(provider: str, data: bytes) -> Any:
    """Parse a list of models. Raises BadResponse, sooner than for an answer: lists are small."""
    return _parse(provider, data, 0, "did not answer with JSON")


def parse_event(provider: str, data: bytes) -> Any:
    """Parse one event of a stream. Raises BadResponse."""
    return _parse(provider, data, 0, "sent an event that is not JSON")


def _parse(provider: str, data: bytes, per_byte: int, otherwise: str) -> Any:
    try:
        return json_bounds.loads(data, per_byte=per_byte)
    except json_bounds.TooMuchStructure:
        raise BadResponse(f"{provider} sent JSON of too many values", provider=provider) from None
    except ValueError:
        raise BadResponse(f"{provider} {otherwise}", provider=provider) from None
