"""The end of a Responses stream that failed: `response.failed`, then `error`. Pure functions.

Codex and others read the first event. OpenAI's SDK raises an exception for the second, so a client
that checks neither does not mistake a partial answer for a complete one.
Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from goblin_assistant.dialects.error_bodies import openai_body
from goblin_assistant.dialects.responses.response import ResponseObject, failure
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import Completed, ProviderError
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.upstream.sse import event_data, split_events


def event(kind: str, sequence: int, fields: Mapping[str, Any]) -> bytes:
    """One event."""
    data = encode({"type": kind, "sequence_number": sequence, **fields})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def failed_events(
    response: Mapping[str, Any],
    sequence: int,
    error: ProviderError | AppError,
    correlation_id: str,
) -> bytes:
    """The last events of a stream that failed. `sequence` is the next sequence number."""
    failed = {**response, "status": "failed", "error": failure(error), "completed_at": None}
    body = openai_body(error, correlation_id)
    told = {name: body["error"][name] for name in ("code", "message", "param")}
    return event("response.failed", sequence, {"response": failed}) + event(
        "error", sequence + 1, {**told, **body}
    )


def error_event(error: ProviderError | AppError, correlation_id: str) -> bytes:
    """The last events of a stream that failed before its first event."""
    return failed_events(ResponseObject({}, {}, "").value, 0, error, correlation_id)


class PassedStream:
    """A stream that is passed on unchanged.

    It keeps the first and the last block. If the stream fails, they give the response object and
    the next sequence number for the last events.
    """

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first = self._last = b""

    def feed(self, block: bytes) -> bytes:
        """The same block."""
        self._first = self._first or block
        self._last = block
        return block

    def finish(self, completed: Completed) -> bytes:
        """Nothing: the provider's own end has passed."""
        return b""

    def fail(self, error: ProviderError | AppError, correlation_id: str) -> bytes:
        """The last events of the stream, which has failed."""
        response, sequence = ResponseObject({}, {}, "").value, -1
        for data in _events(self._first):
            if isinstance(data.get("response"), dict):
                response = data["response"]
                break
        for data in _events(self._last):
            if type(number := data.get("sequence_number")) is int:
                sequence = max(sequence, number)
        return failed_events(response, sequence + 1, error, correlation_id)


def _events(block: bytes) -> list[dict[str, Any]]:
    found = []
    for piece in split_events(block):
        try:
            value = orjson.loads(event_data(piece) or b"")
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
