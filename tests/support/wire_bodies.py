"""Bodies exactly as the providers send them.

https://platform.openai.com/docs/api-reference/chat/object and /streaming
https://docs.anthropic.com/en/api/messages and /messages-streaming
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md (native completion)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

ToolCalls = Sequence[tuple[str, dict[str, Any]]]

CANARY = "canary-4f1d-upstream-secret-text"
"""A canary in every upstream error message: it must reach no client, log or metric."""


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# -- OpenAI -------------------------------------------------------------------------------------
def openai_usage(
    prompt: int, completion: int, cached: int = 0, reasoning: int = 0
) -> dict[str, Any]:
    """A usage object with its details."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }


def openai_chat(
    text: str | None = "Hello there, goblin.",
    tool_calls: ToolCalls = (),
    usage: dict[str, Any] | None = None,
    model: str = "gpt-4o-2024-08-06",
) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if tool_calls else text,
        "refusal": None,
    }
    if tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": name, "arguments": _dump(arguments)},
            }
            for i, (name, arguments) in enumerate(tool_calls)
        ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1764000000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "tool_calls" if tool_calls else "stop",
            }
        ],
        "usage": usage if usage is not None else openai_usage(12, 5, 4, 2),
        "system_fingerprint": "fp_1",
    }


def openai_events(
    text: str = "Hello there, goblin.",
    tool_calls: ToolCalls = (),
    usage: dict[str, Any] | None = None,
    model: str = "gpt-4o-2024-08-06",
    *,
    include_usage: bool = True,
    done: bool = True,
) -> list[bytes]:
    """A stream's events, one for each chunk, as with include_usage.

    Usage is its own chunk; the others have `"usage":null`.
    """

    def chunk(
        delta: dict[str, Any] | None, reason: str | None = None, counted: Any = None
    ) -> bytes:
        body: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1764000000,
            "model": model,
        }
        body["choices"] = (
            []
            if delta is None
            else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        )
        if include_usage:
            body["usage"] = counted
        return f"data: {_dump(body)}\n\n".encode()

    events = [chunk({"role": "assistant", "content": None if tool_calls else "", "refusal": None})]
    if not tool_calls:
        events += [chunk({"content": piece}) for piece in _pieces(text)]
    for i, (name, arguments) in enumerate(tool_calls):
        events.append(
            chunk(
                {
                    "tool_calls": [
                        {
                            "index": i,
                            "id": f"call_{i}",
                            "type": "function",
                            "function": {"name": name, "arguments": ""},
                        }
                    ]
                }
            )
        )
        events += [
            chunk({"tool_calls": [{"index": i, "function": {"arguments": p}}]})
            for p in _halves(_dump(arguments))
        ]
    events.append(chunk({}, "tool_calls" if tool_calls else "stop"))
    if include_usage:
        events.append(chunk(None, None, usage if usage is not None else openai_usage(12, 5, 4, 2)))
    if done:
        events.append(b"data: [DONE]\n\n")
    return events


def openai_error(
    kind: str = "server_error", code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error body with the canary in its message."""
    return {
        "error": {
            "message": f"{CANARY}: something about your prompt",
            "type": kind,
            "param": param,
            "code": code,
        }
    }


# -- Anthropic ----------------------------------------------------------------------------------
def anthropic_usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """`prompt` as OpenAI counts it: Anthropic leaves cached tokens out of input_tokens."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": completion,
    }


def anthropic_message(
    text: str = "Hello there, goblin.",
    tool_calls: ToolCalls = (),
    usage: dict[str, Any] | None = None,
    model: str = "claude-sonnet-4-5",
) -> dict[str, Any]:
    """A message."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if tool_calls:
        content = [
            {"type": "tool_use", "id": f"call_{i}", "name": name, "input": a}
            for i, (name, a) in enumerate(tool_calls)
        ]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if tool_calls else "end_turn",
        "stop_sequence": None,
        "usage": usage if usage is not None else anthropic_usage(12, 5, 4),
    }


def anthropic_events(
    text: str = "Hello there, goblin.",
    tool_calls: ToolCalls = (),
    usage: dict[str, Any] | None = None,
    model: str = "claude-sonnet-4-5",
    *,
    done: bool = True,
) -> list[bytes]:
    """A stream's events."""
    counted = usage if usage is not None else anthropic_usage(12, 5, 4)

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {_dump({'type': kind, **fields})}\n\n".encode()

    start = anthropic_message("", (), {**counted, "output_tokens": 1}, model) | {
        "content": [],
        "stop_reason": None,
    }
    events = [event("message_start", message=start)]
    if not tool_calls:
        events.append(
            event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        )
        events.append(event("ping"))
        events += [
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": p})
            for p in _pieces(text)
        ]
        events.append(event("content_block_stop", index=0))
    for i, (name, arguments) in enumerate(tool_calls):
        block = {"type": "tool_use", "id": f"call_{i}", "name": name, "input": {}}
        events.append(event("content_block_start", index=i, content_block=block))
        events += [
            event(
                "content_block_delta",
                index=i,
                delta={"type": "input_json_delta", "partial_json": p},
            )
            for p in ("", *_halves(_dump(arguments)))
        ]
        events.append(event("content_block_stop", index=i))
    if done:
        delta = {"stop_reason": "tool_use" if tool_calls else "end_turn", "stop_sequence": None}
        events.append(
            event("message_delta", delta=delta, usage={"output_tokens": counted["output_tokens"]})
        )
        events.append(event("message_stop"))
    return events


def anthropic_error(kind: str = "api_error") -> dict[str, Any]:
    """An error body with the canary in its message."""
    return {
        "type": "error",
        "error": {"type": kind, "message": f"{CANARY}: something about your prompt"},
        "request_id": "req_1",
    }


# -- llama.cpp's native completion --------------------------------------------------------------
def llama_answer(
    text: str = "Hello there, goblin.", prompt: int = 12, completion: int = 5
) -> dict[str, Any]:
    """A finished completion."""
    return {
        "content": text,
        "stop": True,
        "stop_type": "eos",
        "model": "llama-3.gguf",
        "tokens_evaluated": prompt,
        "tokens_predicted": completion,
    }


def llama_events(
    text: str = "Hello there, goblin.", prompt: int = 12, completion: int = 5, *, done: bool = True
) -> list[bytes]:
    """A stream's events."""
    bodies: list[dict[str, Any]] = [{"content": piece, "stop": False} for piece in _pieces(text)]
    if done:
        bodies.append(llama_answer("", prompt, completion))
    return [f"data: {_dump(body)}\n\n".encode() for body in bodies]


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word if i == 0 else f" {word}" for i, word in enumerate(words)]


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]
