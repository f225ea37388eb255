"""Models that a request names beside its `model`, and what it has generated beside its answer. Pure
functions.

Some providers let a request name others. To fall back on: OpenRouter's `models`
(https://openrouter.ai/docs/guides/routing/model-fallbacks) and Anthropic's `fallbacks`
(`anthropic.types.beta` of the SDK, 2.12.0). For tools that run there: Anthropic's and OpenRouter's
advisor, OpenAI's image generation. For parts of a system: Groq's `compound_custom`. Such a model
answers and is billed too, so a caller's list of models and its budget hold for it as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from goblin_assistant.errors import BadRequest

MOST = 32
"""More names than a request has. Each one's price is looked up, which takes 0.2 ms."""
_CONTENT = frozenset(
    {
        "model", "messages", "input", "system", "instructions", "metadata", "response_format",
        "text", "output_config", "prompt", "prediction", "documents", "functions", "logit_bias",
        "tool_choice", "guided_json", "structured_outputs", "chat_template_kwargs",
        "output_format", "trace", "moderation",
    }
)  # fmt: skip
"""Fields that hold texts and schemas: `model` in them is a word like any other. That of OpenAI's
`moderation` only judges, for nothing."""
_SCHEMAS = ("function", "input_schema")
_OF_CLIENTS = ("function", "custom")


def other_models(body: dict[str, Any]) -> list[str]:
    """The names, in the order in which they stand, each once. Raises BadRequest for too many."""
    names: dict[str, None] = {}
    for name in _found(body):
        names[name] = None
        if len(names) > MOST:
            raise BadRequest(f"the request names more than {MOST} other models", param="models")
    return list(names)


def fallbacks(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of `fallbacks` that may set a limit or a tier of their own."""
    entries = body.get("fallbacks")
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def compacts(body: Mapping[str, Any]) -> bool:
    """Whether Anthropic may summarise the conversation first, or only does that: the prompt is read
    for it too (https://platform.claude.com/docs/en/build-with-claude/compaction)."""
    if body.get("compaction") is not None:
        return True
    management = body.get("context_management")
    edits = management.get("edits") if isinstance(management, dict) else None
    return isinstance(edits, list) and any(
        isinstance(edit, dict) and str(edit.get("type")).startswith("compact") for edit in edits
    )


def _found(body: dict[str, Any]) -> Iterator[str]:
    if isinstance(preset := body.get("preset"), str):
        yield f"@preset/{preset}"  # as OpenRouter writes it in `model`
    # A stack, last first. Not recursive, because bodies may be deep.
    pending = [(name, body[name]) for name in reversed(body) if name not in _CONTENT]
    while pending:
        name, value = pending.pop()
        if isinstance(value, str):
            if name.endswith(("model", "models", "fallbacks")):
                yield value
        elif isinstance(value, list):
            pending.extend((name, item) for item in reversed(value))
        elif isinstance(value, dict) and not (name == "tools" and _is_clients(value)):
            pending.extend((key, value[key]) for key in reversed(value))


def _is_clients(tool: Mapping[str, Any]) -> bool:
    """Whether a tool runs at the client: its schema is its own."""
    # A server may overlook a schema beside a type of its own.
    kind = tool.get("type")
    return kind in _OF_CLIENTS or (kind is None and any(name in tool for name in _SCHEMAS))
