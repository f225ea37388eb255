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
_SEES = re.compile(
    r"(^|[-_/.:])(chatgpt-4o|gpt-4o|gpt-4-turbo|gpt-4\.[15]|gpt-[5-9]|o1|o3|o4|claude|gemini|"
    r"gemma-?3|pixtral|llava|llama-?4|mistral-(small|medium|large)-(3|latest|25)|qwen[\d.]*-?vl|"
    r"[\w.]*-?vl|vision|internvl|grok-[4-9])([-_/.:]|$)"
)
_BLIND = re.compile(r"o1-(mini|preview)|o3-mini|search|audio")
"""Families of models that take images, and their members that do not. Most servers' lists give ids
only. A family that is missing here costs no chat anything: a row of goblin.toml can declare it, and
what a client sends is passed on either way."""

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
    elif _sees(lowered, row or {}):
        capabilities = frozenset({"chat", "vision"})
    window = (
        next((row[name] for name in _WINDOWS if isinstance(row.get(name), int)), None)
        if row
        else None
    )
    return Model(model_id, capabilities, window)


def _sees(lowered: str, row: Mapping[str, Any]) -> bool:
    """Whether the model takes images: as the row says, else by its name."""
    # https://openrouter.ai/docs/api-reference/list-available-models
    architecture = row.get("architecture")
    if isinstance(architecture, dict) and isinstance(architecture.get("input_modalities"), list):
        return "image" in architecture["input_modalities"]
    # https://docs.mistral.ai/api/#tag/models
    capabilities = row.get("capabilities")
    if isinstance(capabilities, dict) and isinstance(capabilities.get("vision"), bool):
        return bool(capabilities["vision"])
    return bool(_SEES.search(lowered)) and not _BLIND.search(lowered)
