"""Anthropic's answers: usage, and their translation to OpenAI's. Pure functions. Streams are in
stream.py, errors in errors.py.

    end_turn, stop_sequence, pause_turn         finish_reason stop
    max_tokens, model_context_window_exceeded   length
    tool_use                                    tool_calls
    refusal                                     content_filter

    usage: prompt_tokens       input_tokens + cache_creation_input_tokens + cache_read_input_tokens
                               (Anthropic counts them apart)
           completion_tokens   output_tokens, which includes thinking
           beside              iterations of the types compaction and advisor_message, and those
                               of models that declined after they had begun: the other fields do
                               not hold them
           details             cache_read -> cached_tokens, cache_creation -> cache_write_tokens,
                               thinking_tokens -> reasoning_tokens

Sources: https://platform.claude.com/docs/en/api/messages, `anthropic.types.StopReason`, `Usage` and
`beta.BetaUsage.iterations` of the SDK, 2.12.0,
https://platform.claude.com/docs/en/build-with-claude/compaction,
https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback,
https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from goblin_assistant.providers.anthropic.errors import stream_error
from goblin_assistant.providers.base import (
    Progress,
    Usage,
    broken,
    region_of,
    tier_of,
    token_count,
)
from goblin_assistant.providers.json_answers import parse_answer
from goblin_assistant.providers.openai.wire import encode, error_object
from goblin_assistant.schemas import json_bounds

FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def finish_reason(stop_reason: Any) -> str | None:
    """OpenAI's finish_reason for a stop_reason; None if there is none yet. An unknown one is
    "stop"."""
    return FINISH_REASONS.get(stop_reason, "stop") if isinstance(stop_reason, str) else None


def check_count(provider: str, data: bytes) -> None:
    """Raise BadResponse unless an answer says how many tokens a request has."""
    counted = parse_answer(provider, data)
    tokens = counted.get("input_tokens") if isinstance(counted, dict) else None
    if type(tokens) is not int or tokens < 0:
        raise broken(f"{provider} did not answer with a count of tokens", provider)


def parse_usage(value: Any) -> Usage | None:
    """Parse a `usage` object; None if there is none. What is not a count is 0, and sets
    `absurd`."""
    if not isinstance(value, dict):
        return Usage(absurd=True) if value else None
    absurd = [name for name in (*_PROMPT, "output_tokens") if _is_absurd(value.get(name))]
    # Without one of its parts the prompt's sum is unknown.
    known = not any(name in absurd for name in _PROMPT)
    fresh, written, read = (_count(value.get(name)) if known else 0 for name in _PROMPT)
    details = value.get("output_tokens_details")
    kept = value.get("cache_creation")
    kept = kept if isinstance(kept, dict) else {}
    hour = _count(kept.get("ephemeral_1h_input_tokens"))
    if known:  # some servers of this dialect give only the two parts
        written = max(written, hour + _count(kept.get("ephemeral_5m_input_tokens")))
    tier, region = tier_of(value.get("speed")), region_of(value.get("inference_geo"))
    return Usage(
        prompt_tokens=fresh + written + read,
        completion_tokens=_count(value.get("output_tokens")),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_count(details.get("thinking_tokens")) if isinstance(details, dict) else 0,
        cache_write_1h_tokens=hour,
        tier=tier,
        region=region,
        absurd=bool(absurd),
        beside=_beside(value.get("iterations"), tier, region),
    )


_BESIDE = ("compaction", "advisor_message")
_MOST_ITERATIONS = 1000


def _beside(iterations: Any, tier: str, region: str) -> tuple[tuple[str, Usage], ...]:
    found = []
    served = served_by(iterations)
    for entry in _entries(iterations):
        model, kind = entry.get("model"), entry.get("type")
        declined = kind == "message" and isinstance(model, str) and served not in ("", model)
        if kind not in _BESIDE and not declined:
            continue
        usage = parse_usage({**entry, "iterations": None, "inference_geo": region})
        if declined and usage is not None and not usage.completion_tokens:
            continue  # "An attempt that declined before producing output costs nothing"
        if usage is not None and isinstance(model, str):
            found.append((model, usage))
        elif usage is not None:  # a summary is written by the model of the answer, at its speed
            found.append(("", replace(usage, tier=tier)))
    return tuple(found)


def served_by(iterations: Any) -> str:
    """The model that answered in place of the one that was asked; "" if none did."""
    for entry in reversed(_entries(iterations)):
        if entry.get("type") == "fallback_message" and isinstance(entry.get("model"), str):
            return str(entry["model"])
    return ""


def _entries(iterations: Any) -> list[dict[str, Any]]:
    given = iterations[:_MOST_ITERATIONS] if isinstance(iterations, list) else []
    return [entry for entry in given if isinstance(entry, dict)]


_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def _is_absurd(value: Any) -> bool:
    return value is not None and token_count(value) is None


def _count(value: Any) -> int:
    return token_count(value) or 0


def openai_usage(usage: Usage) -> dict[str, Any]:
    """`usage` in OpenAI's format."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def parse_message(provider: str, data: bytes, progress: Progress | None = None) -> dict[str, Any]:
    """Parse the body of a successful answer; `progress` gets its usage. Raises BadResponse if it is
    not a message, and the error in it if there is one."""
    progress = progress if progress is not None else Progress()
    message = parse_answer(provider, data, progress, parse_usage)
    if isinstance(message, dict):
        message = json_bounds.exact(data, message)
        progress.usage = parse_usage(message.get("usage"))
        if isinstance(message.get("content"), list):
            return message
    if error_object(message) is not None:
        raise stream_error(provider, message)
    raise broken(f"{provider}'s answer is not what was asked for", provider)


def text_of(value: Any) -> str:
    """A text of an answer. Some servers of this dialect write null for none."""
    return value if isinstance(value, str) else ""


def to_openai(message: Mapping[str, Any], usage: Usage | None, model: str) -> dict[str, Any]:
    """A message as a chat completion. `reasoning_content` gets the text of the thinking,
    `thinking_blocks` its whole blocks with their signatures."""
    text: list[str] = []
    reasoning: list[str] = []
    thinking: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in message["content"]:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            text.append(text_of(block.get("text")))
        elif kind == "tool_use":
            arguments = encode(block.get("input") or {}).decode()
            calls.append(
                {
                    "id": block.get("id"),
                    "type": "function",
                    "function": {"name": block.get("name"), "arguments": arguments},
                }
            )
        elif kind in ("thinking", "redacted_thinking"):
            thinking.append(block)
            reasoning.append(text_of(block.get("thinking")))
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text) if text or not calls else None,
        "refusal": None,
    }
    if any(reasoning):
        answer["reasoning_content"] = "".join(reasoning)
    if thinking:
        answer["thinking_blocks"] = thinking
    if calls:
        answer["tool_calls"] = calls
    completion: dict[str, Any] = {
        "id": message.get("id", ""),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": answer,
                "logprobs": None,
                "finish_reason": finish_reason(message.get("stop_reason")) or "stop",
            }
        ],
    }
    if usage is not None:
        completion["usage"] = openai_usage(usage)
    return completion
