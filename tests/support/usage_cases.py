"""What each preset reports as usage, and what that means: for tests of providers and of prices."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.providers.presets import PRESETS

PRICES = {
    f"{name}/*": PriceRow(
        input=Decimal(10), output=Decimal(100), cached_input=Decimal(1), cache_write=Decimal(13)
    )
    for name in PRESETS
}


def details(cached: int = 0, written: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """OpenAI's two objects of details."""
    return {
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def counted(prompt: int, completion: int, total: int, **more: Any) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more
    }  # fmt: skip


LLAMA = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
OWN_CHUNK, BESIDE_THE_REASON, EVERY_CHUNK, X_GROQ = "own", "beside", "every", "x_groq"

CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int, int, int]]] = {
    # where it stands in the stream, usage, and prompt, completion, cached, written, reasoning
    "openai": (OWN_CHUNK, counted(100, 50, 150, **details(40, 20, 30)), (100, 50, 40, 20, 30)),
    "gemini": (OWN_CHUNK, counted(20, 198, 623, **details(8)), (20, 603, 8, 0, 0)),
    "mistral": (
        BESIDE_THE_REASON, counted(1013, 12, 1025, **details(1008)), (1013, 12, 1008, 0, 0)
    ),
    "groq": (X_GROQ, counted(23, 19, 42, **details(7), total_time=0.02), (23, 19, 7, 0, 0)),
    "deepseek": (
        OWN_CHUNK,
        counted(90, 60, 150, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=26,
                completion_tokens_details={"reasoning_tokens": 45}),
        (90, 60, 64, 0, 45),
    ),
    "openrouter": (
        OWN_CHUNK, counted(194, 2, 196, **details(0, 100), cost=0.95), (194, 2, 0, 100, 0)
    ),
    "together": (OWN_CHUNK, counted(70, 9, 79, cached_tokens=64), (70, 9, 64, 0, 0)),
    "fireworks": (OWN_CHUNK, counted(70, 9, 79, **details(32)), (70, 9, 32, 0, 0)),
    "xai": (
        EVERY_CHUNK,
        counted(10120, 1499, 14428, **details(128, 0, 2809)),
        (10120, 4308, 128, 0, 2809),
    ),
    "azure": (OWN_CHUNK, counted(100, 50, 150, **details(40, 0, 30)), (100, 50, 40, 0, 30)),
    "ollama": (OWN_CHUNK, counted(31, 20, 51), (31, 20, 0, 0, 0)),
    "vllm": (
        EVERY_CHUNK, counted(5, 12, 17, prompt_tokens_details=None), (5, 12, 0, 0, 0)
    ),
    "llamacpp": (OWN_CHUNK, counted(75, 31, 106, **details(30)), (75, 31, 30, 0, 0)),
    "lmstudio": (OWN_CHUNK, counted(30, 19, 49, **details(0, 0, 4)), (30, 19, 0, 0, 4)),
}  # fmt: skip


def streamed(
    place: str,
    usage: dict[str, Any],
    pieces: Iterable[dict[str, Any]] = ({"content": "hi"},),
    reason: str = "stop",
) -> list[bytes]:
    """A stream of these deltas, with its usage at one of these places."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "logprobs": None}
    events: list[dict[str, Any]] = [
        {**chunk, "choices": [{**choice, "delta": delta, "finish_reason": None}]}
        for delta in pieces
    ]
    last: dict[str, Any] = {**chunk, "choices": [{**choice, "delta": {}, "finish_reason": reason}]}
    first = events[0]
    events.append(last)
    if place == BESIDE_THE_REASON:
        last["usage"] = usage
    elif place == X_GROQ:
        last["x_groq"] = {"id": "req_1", "usage": usage}
    else:
        events.append({**chunk, "choices": [], "usage": usage})
    if place == EVERY_CHUNK:
        half = {**usage, "completion_tokens": 1, "total_tokens": usage["prompt_tokens"] + 1}
        first["usage"] = {**half, "completion_tokens_details": None}
        last["usage"] = usage
    return [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]
