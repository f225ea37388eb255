"""A chat request as one OpenAI-compatible server takes it. Pure functions.

The client's own bytes are sent unless something has to change: the model's name,
`stream_options.include_usage` (so that every stream is counted), the name of the token limit.
messages.py has fitted its messages before.
Source: https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import re
from typing import Any

from goblin_assistant.providers.answer_limits import LIMIT_FIELDS, completion_limit, limit_in
from goblin_assistant.providers.base import ChatRequest
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.wire import encode, wants_usage
from goblin_assistant.schemas.field_names import says_something


class RequestEncoder:
    """Encodes requests for a server with these quirks. Shared by all threads."""

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks
        self._renames = re.compile(quirks.max_tokens_models) if quirks.max_tokens_field else None

    def encode(self, request: ChatRequest, *, stream: bool | None) -> bytes:
        """The request's bytes. `stream` None: the operation has no such field."""
        source = request.body
        changes: dict[str, Any] = {}
        removed: list[str] = [name for name in self._quirks.drop_fields if name in source]
        request.ignored.update(name for name in removed if says_something(source[name]))
        if source.get("model") != request.model:
            changes["model"] = request.model
        if stream is not None:
            if bool(source.get("stream")) is not stream:
                changes["stream"] = stream
            options = source.get("stream_options")
            if not self._quirks.stream_options:
                if options is not None:
                    removed.append("stream_options")
                    # Usage is told all the same.
                    if isinstance(options, dict) and options.keys() - {"include_usage"}:
                        request.ignored.add("stream_options")
            elif stream and not wants_usage(source):
                changes["stream_options"] = (
                    {**options, "include_usage": True}
                    if isinstance(options, dict)
                    else {"include_usage": True}
                )
            self._one_limit(request, changes, removed)
        if not changes and not removed:
            return request.raw if request.raw is not None else encode(source)
        merged = {**source, **changes}
        for name in removed:
            merged.pop(name, None)
        return encode(merged)

    def _one_limit(self, request: ChatRequest, changes: dict[str, Any], removed: list[str]) -> None:
        """Send only one of several limits. Its own value is kept if it has one, because the largest
        of all was held."""
        source = request.body
        present = [name for name in LIMIT_FIELDS if name in source]
        if not present:
            return
        wanted = self._limit_field(request, present)
        if wanted is None:
            return
        if limit_in(source.get(wanted)) is None and (limit := completion_limit(source)) is not None:
            changes[wanted] = limit
        removed.extend(name for name in present if name != wanted)

    def _limit_field(self, request: ChatRequest, present: list[str]) -> str | None:
        """The name for the limit: the row's for this model, else the older one, which every server
        knows. None: the client's own, whatever the row reads, because nothing is held for it."""
        named: str | None = self._quirks.max_tokens_field
        if named is not None and self._renames is not None and self._renames.match(request.model):
            return named
        if request.held_limit:
            # A row of both names: its other models know the newer one too.
            return present[0] if present == [named] else "max_tokens"
        if len(present) == 1:
            return None
        readable = [name for name in present if limit_in(request.body[name]) is not None]
        return readable[0] if len(readable) == 1 else "max_tokens"
