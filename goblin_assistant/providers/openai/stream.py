"""Observes an OpenAI-compatible event stream as it passes.

Almost every block is passed on unparsed: a few searches in about 200 bytes show that it needs no
attention. A block is parsed if it is the first (for the model's name), or holds usage, a finish
reason, an error or `[DONE]`, if an event in it does not end as a JSON object, or if it follows the
count of the whole answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.base import (
    BadResponse,
    Completed,
    Progress,
    Usage,
    broken,
    later_usage,
)
from goblin_assistant.providers.json_answers import parse_event
from goblin_assistant.providers.openai.wire import (
    choice_error,
    error_object,
    stream_error,
    usage_in,
)
from goblin_assistant.providers.upstream.sse import ends_as_objects, event_data, split_events


class StreamObserver:
    """The state of one stream. `fields` are the client's request fields: an error names no other.
    `drop_usage`: we asked for the usage chunk, not the client. `progress` gets the counts as they
    come."""

    __slots__ = (
        "_drop_usage",
        "_fields",
        "_progress",
        "_provider",
        "_seen",
        "done",
        "finish_reason",
        "model",
        "usage",
    )

    def __init__(
        self,
        provider: str,
        fields: Mapping[str, Any],
        *,
        drop_usage: bool,
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress if progress is not None else Progress()
        self._provider = provider
        self._fields = fields
        self._drop_usage = drop_usage
        self._seen = False  # a chunk with a choice
        self.done = False
        self.model = ""
        self.usage: Usage | None = None
        self.finish_reason: str | None = None

    def plain(self, block: bytes) -> bool:
        """Whether a block of events can be passed on as it is. Otherwise feed its events one by
        one, so that those before an error arrive."""
        return (
            self._seen
            and not self._progress.final  # text may follow the count
            and ends_as_objects(block)
            and (b'"usage"' not in block or _all_null(block, b'"usage"'))
            and (b'"finish_reason"' not in block or _all_null(block, b'"finish_reason"'))
            and b'"error"' not in block
            and b"[DONE]" not in block
        )

    def feed(self, event: bytes) -> bytes:
        """The part of one or more events that the client gets. Raises ProviderError for an error in
        them, or for what is not a chunk."""
        return event if self.plain(event) else self._read(event)

    def completed(self) -> Completed:
        """The stream is over. Raises BadResponse if its end is missing."""
        if self.done and not self._seen:
            raise BadResponse(
                f"{self._provider}'s stream ended without an answer", provider=self._provider
            )
        if not self.done and self.finish_reason is None:
            raise broken(f"{self._provider}'s stream ended before its end", self._provider)
        return Completed(self.model, self.usage, self.finish_reason)

    def _read(self, block: bytes) -> bytes:
        kept: list[bytes] = []
        dropped = False
        for event in split_events(block):
            if self.done:
                dropped = True
                break
            data = event_data(event)
            if data is None:
                kept.append(event)  # a comment
            elif data.strip() == b"[DONE]":
                self.done = dropped = True
            elif self._keeps(data):
                kept.append(event)
            else:
                dropped = True
        if not dropped:
            return block
        return b"".join(event + b"\n\n" for event in kept)

    def _keeps(self, data: bytes) -> bool:
        chunk = parse_event(self._provider, data)
        if not isinstance(chunk, dict):
            if (error := error_object(chunk)) is not None:  # Gemini's are in a list
                raise stream_error(self._provider, error, self._fields)
            raise broken(f"{self._provider} sent an event that is no chunk", self._provider)
        usage = usage_in(chunk)
        if usage is not None:  # before an error beside it: it is paid for
            self.usage = self._progress.usage = later_usage(self.usage, usage)
        choices = chunk.get("choices")
        if chunk.get("error") or (not isinstance(choices, list) and chunk.get("object") == "error"):
            raise stream_error(self._provider, error_object(chunk) or {}, self._fields)
        if (error := choice_error(choices)) is not None:
            raise stream_error(self._provider, error, self._fields)
        if not self.model and isinstance(chunk.get("model"), str):
            self.model = self._progress.model = chunk["model"]
        if not isinstance(choices, list):
            return True  # not a chunk that we know: passed on
        self._seen = self._seen or bool(choices)
        ends = not choices
        for choice in choices:
            reason = choice.get("finish_reason") if isinstance(choice, dict) else None
            if isinstance(reason, str) and reason:  # some servers write "" until the end
                self.finish_reason = reason
                ends = True
        if usage is not None:
            # Of several choices one ends before the others: text of these is no end.
            ends = ends or (self.finish_reason is not None and not any(map(_adds_text, choices)))
            self._progress.final = ends and usage.completion_tokens > 0
        elif self._progress.final and any(map(_adds_text, choices)):
            self._progress.final = False
        return not (self._drop_usage and usage is not None and not choices)


def _all_null(block: bytes, name: bytes) -> bool:
    """Whether every field of that name is null, as it is in most chunks. With blanks in unusual
    places it is read instead."""
    fields = block.count(name)
    found = block.count(name + b":null")
    return found == fields or found + block.count(name + b": null") == fields


def _adds_text(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta") or choice.get("message")
    return bool(choice.get("text")) or (
        isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
    )
