"""Observes an event stream of the Responses API as it passes.

    response.created, in_progress, queued   held back until another event comes: a server that is
                                            full says so right after them, and another attempt can
                                            be made while the client has received nothing
    response.completed, .incomplete         the end: usage, model
    response.failed, error                  a ProviderError
    others                                  passed on; `encrypted_content` gets the row's mark

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.base import Completed, Progress, broken, later_usage
from goblin_assistant.providers.json_answers import parse_event
from goblin_assistant.providers.openai.encrypted import with_mark
from goblin_assistant.providers.openai.responses import finish_reason, usage_in_response
from goblin_assistant.providers.openai.wire import error_object, stream_error
from goblin_assistant.providers.upstream.sse import ends_as_objects, event_data, split_events

_BEGINNING = frozenset({"response.created", "response.in_progress", "response.queued"})
_END = frozenset({"response.completed", "response.incomplete"})


class ResponsesObserver:
    """The state of one stream. `fields` are the client's request fields: an error names no other.
    `progress` gets the counts as they come."""

    __slots__ = (
        "_fields",
        "_finish_reason",
        "_held",
        "_mark",
        "_progress",
        "_provider",
        "done",
        "model",
    )

    def __init__(
        self, provider: str, fields: Mapping[str, Any], mark: str, progress: Progress
    ) -> None:
        self._provider = provider
        self._fields = fields
        self._mark = mark.encode()
        self._progress = progress
        self._held: bytes | None = b""  # None when an event has been passed on
        self._finish_reason: str | None = None
        self.done = False
        self.model = ""

    def plain(self, block: bytes) -> bool:
        """Whether a block of events can be passed on as it is. Otherwise feed its events one by
        one."""
        # Most events are deltas. A text that holds one of these names costs no more than parsing
        # its block.
        return (
            self._held is None
            and b'"response"' not in block
            and b'"error"' not in block
            and b'"encrypted_content"' not in block
            and b"[DONE]" not in block
            and ends_as_objects(block)
        )

    def feed(self, event: bytes) -> bytes:
        """What the client gets for one or more events. Raises ProviderError for an error in them,
        or for what is not a JSON object."""
        if self.plain(event):
            return event
        kept: list[bytes] = []
        beginning = True
        for piece in split_events(event):
            data = event_data(piece)
            if data is not None:
                if data.strip() == b"[DONE]" or self.done:
                    continue
                beginning = self._note(data) and beginning
            kept.append(piece + b"\n\n")
        passed = with_mark(b"".join(kept), self._mark)
        if self._held is None:
            return passed
        held = self._held + passed
        self._held = held if beginning else None
        return b"" if beginning else held

    def completed(self) -> Completed:
        """The stream is over. Raises BadResponse if its end is missing."""
        if not self.done:
            raise broken(f"{self._provider}'s stream ended before its end", self._provider)
        return Completed(self.model, self._progress.usage, self._finish_reason)

    def _note(self, data: bytes) -> bool:
        """Read one event. Whether it only begins the stream."""
        event = parse_event(self._provider, data)
        if not isinstance(event, dict):
            raise broken(f"{self._provider} sent an event that is no object", self._provider)
        kind, response = event.get("type"), event.get("response")
        if isinstance(response, dict):
            self._response(response)
        if kind == "response.failed" or kind == "error" or event.get("error"):
            found = error_object(response) if isinstance(response, dict) else None
            found = found or error_object(event) or event  # OpenAI's `error` has its fields flat
            raise stream_error(self._provider, found, self._fields)
        if kind in _END:
            self.done = True
            self._progress.final = self._progress.usage is not None
            self._finish_reason = finish_reason(response if isinstance(response, dict) else {})
        return kind in _BEGINNING

    def _response(self, response: Mapping[str, Any]) -> None:
        usage = usage_in_response(response)
        if usage is not None:  # before an error beside it: it is paid for
            self._progress.usage = later_usage(self._progress.usage, usage)
        model = response.get("model")
        if isinstance(model, str) and model:
            self.model = self._progress.model = model
