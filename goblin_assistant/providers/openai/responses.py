"""OpenAI's Responses API at a server that has it: requests, usage and answers. Pure functions.

A client's request is sent as it is but for: the model's name, `store: false` (nothing is kept,
here or there), other names of the limit, and what the server refuses of earlier turns. Those are
reasoning that it cannot read (encrypted.py) or does not remember, and ids of tool calls that hold
what another provider wants back.
Sources: https://platform.openai.com/docs/api-reference/responses/create, .../responses/object,
https://docs.x.ai/docs/guides/chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.answer_limits import LIMIT_FIELDS
from goblin_assistant.providers.base import (
    ChatRequest,
    ChatResponse,
    InvalidRequest,
    Usage,
    broken,
)
from goblin_assistant.providers.json_answers import parse_answer
from goblin_assistant.providers.openai.encrypted import MARK, mark_of, with_mark
from goblin_assistant.providers.openai.wire import encode, error_object, parse_usage, stream_error
from goblin_assistant.schemas.field_names import says_something

LIMIT = "max_output_tokens"
ID_MARK = "__goblin_"
"""Ends a tool call's id that this product made longer (dialects/carried.py)."""


class ResponsesWire:
    """Requests to and answers of one row. Shared by all threads."""

    def __init__(self, row: str, drop_fields: tuple[str, ...] = ()) -> None:
        self.mark = mark_of(row)
        self._row = row
        self._drop = drop_fields

    # -- requests -----------------------------------------------------------------------------
    def encode(self, request: ChatRequest, *, stream: bool) -> bytes:
        """The request's bytes. Raises InvalidRequest for a conversation that only another provider
        can continue."""
        source = request.body
        changes: dict[str, Any] = {}
        if source.get("model") != request.model:
            changes["model"] = request.model
        if bool(source.get("stream")) is not stream:
            changes["stream"] = stream
        if source.get("store") is not False:
            changes["store"] = False
            if source.get("store"):
                request.ignored.add("store")
        removed = [
            name
            for name in source
            if name in self._drop or (name in LIMIT_FIELDS and name != LIMIT)
        ]
        request.ignored.update(
            name for name in removed if name in self._drop and says_something(source[name])
        )
        items = source.get("input")
        # Most requests have no such item; a search in the client's bytes is cheaper than a look.
        if isinstance(items, list) and (request.raw is None or _may_change(request.raw)):
            fitted = self._fitted(items, request.ignored)
            if fitted is not None:
                changes["input"] = fitted
        if not changes and not removed and request.raw is not None:
            return request.raw
        merged = {**source, **changes}
        for name in removed:
            merged.pop(name, None)
        return encode(merged)

    def _fitted(self, items: list[Any], ignored: set[str]) -> list[Any] | None:
        found = [self._item(item, ignored) for item in items]
        if all(new is old for new, old in zip(found, items, strict=True)):
            return None
        return [item for item in found if item is not None]

    def _item(self, item: Any, ignored: set[str]) -> Any:
        """The item as the server takes it; None to leave it out."""
        if not isinstance(item, dict):
            return item
        kind, call_id = item.get("type"), item.get("call_id")
        if isinstance(call_id, str) and ID_MARK in call_id:
            return {**item, "call_id": call_id.partition(ID_MARK)[0]}
        if kind not in ("reasoning", "compaction"):
            return item
        content = item.get("encrypted_content")
        if isinstance(content, str) and content.startswith(self.mark):
            return {**item, "encrypted_content": content.removeprefix(self.mark)}
        if isinstance(content, str) and content and not content.startswith(MARK):
            return item  # the client had it from the server itself
        if kind == "compaction":
            raise InvalidRequest(
                f"{self._row} cannot read a compaction that another provider made",
                provider=self._row,
                param="input",
            )
        # Nothing is stored, so that without its content the server knows no such item.
        ignored.add("input.reasoning")
        return None

    # -- answers ------------------------------------------------------------------------------
    def answer(self, data: bytes, request: ChatRequest) -> ChatResponse:
        """A whole answer. Raises ProviderError for one that reports an error or is none."""
        parsed = self.parse(data, request)
        model = parsed.get("model")
        return ChatResponse(
            with_mark(data, self.mark.encode()),
            model if isinstance(model, str) and model else request.model,
            request.progress.usage,
            finish_reason(parsed),
        )

    def parse(self, data: bytes, request: ChatRequest) -> dict[str, Any]:
        """The response object in an answer. Its usage goes to the request's `progress`."""
        parsed = parse_answer(self._row, data, request.progress, responses_usage)
        if isinstance(parsed, dict):
            usage = usage_in_response(parsed)
            if usage is not None:
                request.progress.usage = usage
            if parsed.get("status") == "failed" or parsed.get("error"):
                raise stream_error(self._row, error_object(parsed) or {}, request.body)
            if isinstance(parsed.get("output"), list):
                return parsed
        raise broken(f"{self._row}'s answer is not what was asked for", self._row)


def _may_change(raw: bytes) -> bool:
    return b'"reasoning"' in raw or b'"compaction"' in raw or b"goblin" in raw or b"\\u00" in raw


def usage_in_response(response: Mapping[str, Any]) -> Usage | None:
    """The usage that a response object reports; None if it reports none. What is not a count is 0,
    and sets `absurd`."""
    reported = response.get("usage")
    if not reported:
        return None
    usage = responses_usage(reported, response.get("service_tier"))
    return usage if usage is not None else Usage(absurd=True)


def responses_usage(value: Any, service_tier: Any = None) -> Usage | None:
    """Parse a `usage` object; None if it holds no count. The same counts as in OpenAI's chat API,
    under other names."""
    if not isinstance(value, dict):
        return None
    if "input_tokens" not in value and "output_tokens" not in value:
        return parse_usage(value, service_tier)  # some servers keep the names of the chat API
    return parse_usage(
        {
            "prompt_tokens": value.get("input_tokens"),
            "completion_tokens": value.get("output_tokens"),
            "total_tokens": value.get("total_tokens"),
            "prompt_tokens_details": value.get("input_tokens_details"),
            "completion_tokens_details": value.get("output_tokens_details"),
        },
        service_tier,
    )


def finish_reason(response: Mapping[str, Any]) -> str:
    """Why an answer ended, in the words of OpenAI's chat API."""
    details = response.get("incomplete_details")
    why = details.get("reason") if isinstance(details, dict) else None
    if why == "content_filter":
        return "content_filter"
    if response.get("status") == "incomplete" or why:
        return "length"
    output = response.get("output")
    called = isinstance(output, list) and any(
        isinstance(item, dict) and str(item.get("type")).endswith("_call") for item in output
    )
    return "tool_calls" if called else "stop"
