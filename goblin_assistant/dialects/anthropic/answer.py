"""OpenAI's whole answers in Anthropic's dialect, for providers that speak OpenAI's.

Pure functions. finish_reason becomes stop_reason; `reasoning_content` becomes a thinking block
with a signature of ours (carried.py); the prompt's tokens are split into fresh, cached and written.
Sources: https://platform.claude.com/docs/en/api/messages, `anthropic.types.Message` of the SDK,
2.12.0.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.anthropic.carried import signature_for, tool_use_id
from goblin_assistant.dialects.completions import calls_in, finish_reason, reasoning_and_text
from goblin_assistant.dialects.tool_calls import arguments_text
from goblin_assistant.providers.base import ChatResponse, Usage
from goblin_assistant.providers.json_answers import read
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.schemas import json_bounds
from goblin_assistant.schemas.json_bounds import check_together

STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",  # or a stop sequence: OpenAI does not say which
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""OpenAI's finish_reason -> Anthropic's stop_reason; anything else is end_turn."""


def anthropic_usage(usage: Usage | None) -> dict[str, Any]:
    """Tokens as Anthropic writes them: the prompt in three parts.

    None becomes zeros: the format has no "unknown".
    """
    usage = usage or Usage()
    cached = usage.cached_tokens + usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - cached),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def message_id(upstream: Any) -> str:
    """`msg_...`, with the upstream's own id in it where there is one."""
    name = upstream.removeprefix("chatcmpl-") if isinstance(upstream, str) else ""
    return f"msg_{name or uuid.uuid4().hex}"


def response_from_openai(response: ChatResponse) -> bytes:
    """A chat completion as a Message.

    Raises AttributeError, IndexError, KeyError, TypeError or ValueError for a body that is none,
    and RecursionError for arguments that are nested too deeply.
    """
    completion = read(response.body)
    choices = completion.get("choices") or [{}]
    message = choices[0].get("message") or {}
    content: list[dict[str, Any]] = []
    reasoning, said = reasoning_and_text(message)
    details = message.get("reasoning_details")
    if reasoning or details:
        content.append(
            {"type": "thinking", "thinking": reasoning, "signature": signature_for(details)}
        )
    if said:
        content.append({"type": "text", "text": said})
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        content.append({"type": "text", "text": refusal})
    calls = calls_in(message)
    check_together(
        text
        for call in calls
        if isinstance(text := (call.get("function") or {}).get("arguments"), str)
    )
    for call in calls:
        function = call.get("function") or {}
        content.append(
            {
                "type": "tool_use",
                "id": tool_use_id(call.get("id"), call.get("extra_content")),
                "name": function.get("name", ""),
                "input": _arguments(function.get("arguments")),
            }
        )
    reason = STOP_REASONS.get(finish_reason(choices[0].get("finish_reason")), "end_turn")
    if calls and reason == "end_turn":
        reason = "tool_use"  # some servers say stop for tool calls
    return encode(
        {
            "id": message_id(completion.get("id")),
            "type": "message",
            "role": "assistant",
            "model": completion.get("model") or response.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": anthropic_usage(response.usage),
        }
    )


def _arguments(given: Any) -> dict[str, Any]:
    text = arguments_text(given)
    try:
        value = json_bounds.read_text(text or "{}")
    except ValueError:
        value = None
    # A model may write anything, but `input` is an object. The client sees what was written.
    return value if isinstance(value, dict) else {"arguments": text}
