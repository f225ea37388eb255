"""Anthropic's event stream, observed as it passes: counts, end, errors.

The first event is held back until a second one has come. An overloaded service reports its error
right after message_start, and another attempt can be made while the client has received nothing.
Sources: https://platform.claude.com/docs/en/build-with-claude/streaming,
`anthropic.types.RawMessageStreamEvent` of the SDK, 2.12.0.
"""

from __future__ import annotations

from typing import Any

from goblin_assistant.providers.anthropic.errors import stream_error
from goblin_assistant.providers.anthropic.response import finish_reason, parse_usage, served_by
from goblin_assistant.providers.base import (
    BadResponse,
    Completed,
    Progress,
    Usage,
    broken,
    later_usage,
    token_count,
)
from goblin_assistant.providers.json_answers import parse_event
from goblin_assistant.providers.openai.wire import error_object
from goblin_assistant.providers.upstream.sse import ends_as_objects, event_data, split_events


class StreamObserver:
    """The state of one stream that passes untouched. `progress` gets the counts as they come."""

    __slots__ = (
        "_begun",
        "_held",
        "_progress",
        "_provider",
        "_usage",
        "done",
        "finish_reason",
        "message_id",
        "model",
    )

    def __init__(self, provider: str, progress: Progress | None = None) -> None:
        self._provider = provider
        self._progress = progress if progress is not None else Progress()
        self._held: bytes | None = b""  # None when an event has been passed on
        self._usage: dict[str, Any] = {}
        self._begun = False
        self.done = False
        self.model = ""
        self.message_id = ""
        self.finish_reason: str | None = None

    def plain(self, block: bytes) -> bool:
        """Whether a block of events can be passed on as it is. Otherwise feed its events one by
        one."""
        # Most events are deltas and pings. A text that holds one of these names costs no more than
        # parsing its block.
        return (
            self._held is None
            and not self._progress.final  # text may follow the count
            and b'"message_' not in block
            and b'"error"' not in block
            and ends_as_objects(block)
        )

    def feed(self, block: bytes) -> bytes:
        """The part of one or more events that the client gets. Raises ProviderError for an error in
        them, or for what is not a JSON object."""
        if self.plain(block):
            return block
        alone = True
        for event in events_of(self._provider, block):
            kind = event.get("type")
            self._note(kind, event)
            alone = alone and kind == "message_start"
        return block if self._held is None else self._release(block, alone)

    def usage(self) -> Usage | None:
        """The counts so far; None before message_start."""
        return self._progress.usage

    def completed(self) -> Completed:
        """The stream is over. Raises BadResponse if its end is missing."""
        if self.done and not self._begun:
            raise BadResponse(
                f"{self._provider}'s stream ended without an answer", provider=self._provider
            )
        if not self.done:
            raise broken(f"{self._provider}'s stream ended before its end", self._provider)
        return Completed(self.model, self.usage(), self.finish_reason)

    def _release(self, piece: bytes, alone: bool) -> bytes:
        held = (self._held or b"") + piece
        self._held = held if alone else None
        return b"" if alone else held

    def _note(self, kind: Any, event: dict[str, Any]) -> None:
        if kind == "message_start":
            self._begun = True
            message = event.get("message")
            if isinstance(message, dict):
                self._count(message.get("usage"))
                self.model, self.message_id = (
                    str(message.get("model") or ""),
                    str(message.get("id") or ""),
                )
                self._progress.model = self.model
        elif kind == "message_delta":
            usage, delta = event.get("usage"), event.get("delta")
            self._count(usage)
            if isinstance(delta, dict):
                self.finish_reason = finish_reason(delta.get("stop_reason")) or self.finish_reason
            if isinstance(usage, dict) and usage.get("output_tokens") is not None:
                self._progress.final = self.finish_reason is not None and bool(
                    token_count(usage["output_tokens"])
                )
        elif kind in ("content_block_start", "content_block_delta"):
            self._progress.final = False
        elif kind == "message_stop":
            self.done = True
        if kind == "error" or error_object(event) is not None:
            raise stream_error(self._provider, event)

    def _count(self, usage: Any) -> None:
        # Counts are totals. A count that is left out or null does not replace an earlier one.
        if isinstance(usage, dict):
            merged = {
                **self._usage,
                **{name: value for name, value in usage.items() if value is not None},
            }
            known, counted = self._progress.usage, parse_usage(merged) or Usage()
            if served := served_by(merged.get("iterations")):
                self.model = self._progress.model = served
            if served or counted.beside:
                # Counts apart. message_start's may be those of what has an entry of its own: of a
                # summary, or of a model that declined.
                known = None
            self._progress.usage = later_usage(known, counted)
            self._usage = merged


def events_of(provider: str, block: bytes) -> list[dict[str, Any]]:
    """The data of every event in a block. Raises BadResponse for what is not a JSON object.

    Only the data is read: its `type` repeats the name in `event:`.
    """
    found: list[dict[str, Any]] = []
    for event in split_events(block):
        data = event_data(event)
        if data is None:
            continue
        parsed = parse_event(provider, data)
        if not isinstance(parsed, dict):
            if error_object(parsed) is not None:
                raise stream_error(provider, parsed)
            raise broken(f"{provider} sent an event that is no object", provider)
        found.append(parsed)
    return found
