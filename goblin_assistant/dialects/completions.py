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
