"""What providers that speak OpenAI's dialect write into a message, or into a stream and its deltas.
Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from goblin_assistant.providers.json_answers import parse_event
from goblin_assistant.providers.upstream.sse import event_data, split_events


def chunks_in(block: bytes) -> Iterator[dict[str, Any]]:
    """The chunks in a block of whole events. Raises BadResponse for what is not JSON."""
    for event in split_events(block):
        data = event_data(event)
        if data is None or data.strip() == b"[DONE]":
            continue
        chunk = parse_event("the provider", data)
        if isinstance(chunk, dict):
            yield chunk


def first_choice(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The choice of a chunk; {} if there is none. A stream that is translated has one."""
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def message_in(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The delta of a choice of a chunk. Some servers put a whole message into one."""
    for name in ("delta", "message"):
        if isinstance(found := choice.get(name), dict) and found:
            return found
    return {}


def calls_in(message: Mapping[str, Any]) -> list[Any]:
    """The tool calls of a message or a delta, or the one call of OpenAI's older form
    (https://platform.openai.com/docs/api-reference/chat/object: function_call, deprecated)."""
    calls, older = message.get("tool_calls"), message.get("function_call")
    if isinstance(calls, list) and calls:
        return calls
    return [{"type": "function", "function": older}] if isinstance(older, dict) else []


_LENGTH = frozenset({"max_tokens", "model_length"})
_FILTERED = frozenset({"safety", "recitation", "blocklist", "prohibited_content", "spii"})


def finish_reason(given: Any) -> str:
    """A finish_reason in OpenAI's words; "" if there is none. Mistral's model_length says that the
    model's window is full (its OpenAPI document of version 1.0.0, of which
    https://docs.rs/crate/mistral-openapi-client/0.1.0 is made; read on 2026-11-27). Gemini's own
    words come through some servers, with more after a colon."""
    if not isinstance(given, str):
        return ""
    word = given.partition(":")[0].strip().lower()
    if word in _LENGTH:
        return "length"
    return "content_filter" if word in _FILTERED else word


def reasoning_and_text(message: Mapping[str, Any]) -> tuple[str, str]:
    """The reasoning and the text of a message or a delta. Mistral's reasoning models write a list
    of both (https://docs.mistral.ai/capabilities/reasoning/)."""
    # The first is DeepSeek's and llama.cpp's, the second OpenRouter's, Groq's and vLLM's.
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    content = message.get("content")
    thoughts = [reasoning] if isinstance(reasoning, str) else []
    texts = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            inner = part.get("thinking") if part.get("type") == "thinking" else None
            thoughts += _texts(inner if isinstance(inner, list) else [])
            texts += _texts([part])
    return "".join(thoughts), "".join(texts)


def _texts(parts: Iterable[Any]) -> list[str]:
    return [
        part["text"]
        for part in parts
        if isinstance(part, dict) and part.get("type") == "text" and _is_text(part.get("text"))
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
