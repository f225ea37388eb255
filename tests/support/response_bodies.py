"""Responses and their events exactly as OpenAI sends them.

https://platform.openai.com/docs/api-reference/responses/object and /responses-streaming
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

SECRET = "gAAAAABencrypted-by-the-provider"


def usage(prompt: int = 12, completion: int = 5, cached: int = 4, reasoning: int = 2) -> Any:
    """A usage object with its details."""
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def message(text: str = "Hello there, goblin.", status: str = "completed") -> dict[str, Any]:
    """An assistant's message."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    content = [part] if status == "completed" else []
    return {
        "id": "msg_1",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def function_call(name: str, arguments: str, number: int = 0) -> dict[str, Any]:
    """A call of a function."""
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{number}",
        "name": name,
        "arguments": arguments,
    }


def reasoning(encrypted: str | None = SECRET) -> dict[str, Any]:
    """Reasoning that only its provider can read."""
    item: dict[str, Any] = {"id": "rs_1", "type": "reasoning", "summary": []}
    return item if encrypted is None else {**item, "encrypted_content": encrypted}


def response(*output: Mapping[str, Any], status: str = "completed", **fields: Any) -> Any:
    """A response object, with a text if no items are given."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1764000000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-4o-2024-08-06",
        "output": list(output) if output else [message()],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage(),
        "metadata": {},
        **fields,
    }


def event(kind: str, number: int, **fields: Any) -> bytes:
    """One event."""
    data = json.dumps({"type": kind, "sequence_number": number, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def response_events(
    text: str = "Hello there, goblin.", *, end: str = "response.completed", **fields: Any
) -> list[bytes]:
    """A stream of a text."""
    begun = response(status="in_progress", output=[], usage=None)
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    pieces: Sequence[str] = [text[: len(text) // 2], text[len(text) // 2 :]]
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": message("", "in_progress")}),
        ("response.content_part.added", {**place, "part": empty}),
        *(
            ("response.output_text.delta", {**place, "delta": piece, "logprobs": []})
            for piece in pieces
        ),
        ("response.output_text.done", {**place, "text": text, "logprobs": []}),
        ("response.content_part.done", {**place, "part": {**empty, "text": text}}),
        ("response.output_item.done", {"output_index": 0, "item": message(text)}),
        (end, {"response": response(message(text), **fields)}),
    ]
    return [event(kind, number, **data) for number, (kind, data) in enumerate(events)]


def call_events(*calls: tuple[str, Mapping[str, Any]]) -> list[bytes]:
    """A stream of calls of functions, one after the other."""
    begun = response(status="in_progress", output=[], usage=None)
    whole = [
        function_call(name, json.dumps(arguments), number)
        for number, (name, arguments) in enumerate(calls)
    ]
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for index, item in enumerate(whole):
        text, at = item["arguments"], {"output_index": index}
        place = {"item_id": item["id"], **at}
        opened = {**item, "arguments": "", "status": "in_progress"}
        deltas = [
            ("response.function_call_arguments.delta", {**place, "delta": piece})
            for piece in (text[: len(text) // 2], text[len(text) // 2 :])
        ]
        told = {**place, "name": item["name"], "arguments": text}
        events += [
            ("response.output_item.added", {**at, "item": opened}),
            *deltas,
            ("response.function_call_arguments.done", told),
            ("response.output_item.done", {**at, "item": item}),
        ]
    events.append(("response.completed", {"response": response(*whole)}))
    return [event(kind, number, **data) for number, (kind, data) in enumerate(events)]
