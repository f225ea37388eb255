"""The models in `GET /models` of an OpenAI-compatible server. Pure functions.

Source: https://platform.openai.com/docs/api-reference/models/list. It gives ids only; the context
window is under the names that other servers use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from goblin_assistant.providers.base import Model

MAX_LEARNED_MODELS = 2000

_NOT_CHAT = re.compile(
    r"(^|[-_/.])(whisper|tts|dall-e|moderation|transcribe|realtime|sora|image|davinci|babbage)"
    r"([-_/.]|$)"
)
_WINDOWS = ("context_length", "context_window", "max_model_len", "max_context_length")
"""OpenRouter and Together, Groq, vLLM, Mistral."""


def learned(rows: Sequence[Any], prefix: str) -> tuple[Model, ...]:
    """The usable models of a list, at most MAX_LEARNED_MODELS. `prefix` is removed from each id."""
    found: dict[str, Model] = {}
    for row in rows[:MAX_LEARNED_MODELS]:
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            model = model_of(row["id"].removeprefix(prefix), row)
            if 0 < len(model.id) <= 200 and model.id.isprintable() and model.capabilities:
                found[model.id] = model
    return tuple(found.values())


def model_of(model_id: str, row: Mapping[str, Any] | None = None) -> Model:
    """A model by its id and its row in the list, if any. No capabilities: it serves neither chat
    nor embeddings."""
    lowered = model_id.lower()
    capabilities: frozenset[str] = frozenset({"chat"})
    if "embed" in lowered:
        capabilities = frozenset({"embeddings"})
    elif _NOT_CHAT.search(lowered):
        capabilities = frozenset()
    window = (
        next((row[name] for name in _WINDOWS if isinstance(row.get(name), int)), None)
        if row
        else None
    )
    return Model(model_id, capabilities, window)
