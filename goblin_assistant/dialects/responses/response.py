"""Builds the response object, its items and its usage. Pure functions.

Source: `openai.types.responses.Response` of the SDK, 3.54.0; fields that Open Responses requires
(https://www.openresponses.org/specification) are present even when null.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.carried import joined_id
from goblin_assistant.dialects.responses.tools import CallName
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import ProviderError, Usage
from goblin_assistant.schemas import json_bounds

_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1,
    "tool_choice": "auto",
    "top_p": 1,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "truncation": "disabled",
    "user": None,
}
"""Request fields that the response repeats: their defaults."""

_INCOMPLETE: Mapping[str, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
"""OpenAI's finish_reason -> why a response is incomplete. With any other reason it is complete."""


def response_id(upstream: Any) -> str:
    """`resp_` and the upstream's id, or a random one."""
    name = upstream.removeprefix("chatcmpl-") if isinstance(upstream, str) else ""
    return f"resp_{name or uuid.uuid4().hex}"


def item_id(prefix: str) -> str:
    """The id of a new item, such as `msg_...`."""
    return f"{prefix}_{uuid.uuid4().hex}"


class ResponseObject:
    """One response. `value` is the object while it is in progress."""

    __slots__ = ("value",)

    def __init__(self, body: Mapping[str, Any], upstream: Mapping[str, Any], model: str) -> None:
        """`upstream` is the completion, or the first chunk of a stream."""
        reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
        created, named = upstream.get("created"), upstream.get("model")
        tier = upstream.get("service_tier")
        echoed = {
            name: body[name] if body.get(name) is not None else default
            for name, default in _ECHOED.items()
        }
        self.value: dict[str, Any] = {
            "id": response_id(upstream.get("id")),
            "object": "response",
            "created_at": created if type(created) is int else int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": named if isinstance(named, str) and named else model,
            "output": [],
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None, **reasoning},
            "service_tier": tier if isinstance(tier, str) else "default",
            "store": False,
            "text": {**text, "format": text.get("format") or {"type": "text"}},
            "tools": [_tool(tool) for tool in body.get("tools") or ()],
            "usage": None,
            "metadata": body.get("metadata") or {},
            **echoed,
        }

    def end(
        self, output: list[dict[str, Any]], usage: Usage | None, finish_reason: str | None
    ) -> dict[str, Any]:
        """The whole response: completed, or incomplete."""
        why = _INCOMPLETE.get(finish_reason or "")
        self.value |= {
            "output": output,
            "usage": usage_of(usage),
            "status": "incomplete" if why else "completed",
            "incomplete_details": {"reason": why} if why else None,
            "completed_at": None if why else int(time.time()),
        }
        return self.value


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def is_incomplete(finish_reason: str | None) -> bool:
    """Whether the answer was cut off."""
    return (finish_reason or "") in _INCOMPLETE


def usage_of(usage: Usage | None) -> dict[str, Any] | None:
    """Token counts in the form of the Responses API; None if the provider gave none."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def failure(error: ProviderError | AppError) -> dict[str, Any]:
    """The `error` of a response that failed."""
    return {"code": error.code, "message": str(error)}


# -- items ----------------------------------------------------------------------------------------
def message_item(
    own_id: str, content: list[dict[str, Any]], status: str = "completed"
) -> dict[str, Any]:
    """An assistant's message."""
    return {
        "id": own_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def text_part(text: str, annotations: Any = None, logprobs: Any = None) -> dict[str, Any]:
    """A text of a message. `annotations` are those of OpenAI's chat API."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": annotations_of(annotations),
        "logprobs": logprobs if isinstance(logprobs, list) else [],
    }


def annotations_of(given: Any) -> list[dict[str, Any]]:
    """A message's annotations: OpenAI's chat API has the fields of each under its type."""
    found = []
    for item in given if isinstance(given, list) else ():
        kind = item.get("type") if isinstance(item, dict) else None
        inner = item.get(kind) if isinstance(kind, str) else None
        if isinstance(inner, dict):
            found.append({"type": kind, **inner})
    return found


def call_item(
    own_id: str,
    call_id: str,
    name: CallName,
    arguments: str,
    status: str = "completed",
) -> dict[str, Any]:
    """A call of a function or a custom tool. `arguments` is JSON; for a custom tool, plain text."""
    item: dict[str, Any] = {"id": own_id, "call_id": call_id, "name": name.name, "status": status}
    if name.namespace:
        item["namespace"] = name.namespace
    if name.custom:
        return {**item, "type": "custom_tool_call", "input": arguments}
    return {**item, "type": "function_call", "arguments": arguments}


def call_id_of(given: Any, extra: Any) -> str:
    """A call's id for the client. It also carries what the provider needs back."""
    own = given if isinstance(given, str) and given else item_id("call")
    return joined_id(own, extra)


def custom_input(arguments: str) -> str:
    """The `input` text in a custom tool's arguments. The model calls the tool as a function.
    Arguments without that text are returned unchanged."""
    try:
        value = json_bounds.loads(arguments.encode("utf-8", "surrogatepass"))
    except ValueError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
