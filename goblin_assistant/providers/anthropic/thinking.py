"""Thinking and sampling of an OpenAI chat request, for one of Anthropic's models. Pure functions.

Both depend on the model (models.py), and a model that thinks does not sample freely. request.py has
the table and the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.anthropic.content import invalid
from goblin_assistant.providers.anthropic.models import Traits

BUDGETS = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
    "max": 32768,
}
"""Thinking tokens for each reasoning effort, for models before 4.6. Anthropic requires at least
1,024, and fewer than max_tokens."""

SMALLEST_BUDGET = 1024


def translate_thinking(body: Mapping[str, Any], request: dict[str, Any], traits: Traits) -> None:
    """Add `thinking` and `output_config.effort` for the body's `thinking` and `reasoning_effort`.

    `request` already has its messages, `max_tokens` and `tool_choice`. Raises InvalidRequest.
    """
    if (thinking := body.get("thinking")) is not None:
        if not isinstance(thinking, dict):
            raise invalid("thinking must be an object", "thinking")
        request["thinking"] = thinking
    effort = body.get("reasoning_effort")
    if effort is None:
        return
    if not isinstance(effort, str) or (effort not in BUDGETS and effort != "none"):
        raise invalid(f"reasoning_effort: accepted: none, {', '.join(BUDGETS)}", "reasoning_effort")
    if effort == "none":
        if traits.thinking == "always":
            raise invalid(
                "reasoning_effort: this model always thinks; the least is low", "reasoning_effort"
            )
        if traits.thinking == "adaptive":
            request.setdefault("thinking", {"type": "disabled"})
        return
    forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
    if traits.thinking == "none":
        raise invalid("reasoning_effort: this model does not think", "reasoning_effort")
    if traits.thinking == "budget":
        if forced:
            raise invalid(
                "reasoning_effort: this model cannot be made to call a tool while it thinks",
                "reasoning_effort",
            )
        budget = min(BUDGETS[effort], request["max_tokens"] - 1)
        # No thinking if max_tokens leaves no room for it. Nor after a tool call whose thinking was
        # not sent back: Anthropic would refuse that.
        if budget >= SMALLEST_BUDGET and not _lost_thinking(request["messages"]):
            request.setdefault("thinking", {"type": "enabled", "budget_tokens": budget})
        return
    level = "low" if effort == "minimal" else effort
    if level not in traits.efforts:
        raise invalid(
            f"reasoning_effort: this model knows {', '.join(traits.efforts)}", "reasoning_effort"
        )
    request["output_config"] = {"effort": level}
    if not forced:  # thinking is refused with a forced tool call; effort alone is not
        request.setdefault("thinking", {"type": "adaptive"})


def _lost_thinking(turns: list[dict[str, Any]]) -> bool:
    last: list[dict[str, Any]] = next(
        (turn["content"] for turn in reversed(turns) if turn["role"] == "assistant"), []
    )
    kinds = {block["type"] for block in last}
    return "tool_use" in kinds and not kinds & {"thinking", "redacted_thinking"}


def translate_sampling(
    body: Mapping[str, Any], request: dict[str, Any], traits: Traits, drop: bool
) -> None:
    """Add temperature, top_p and top_k, after `translate_thinking`. `drop`: leave out what the
    model refuses. Raises InvalidRequest."""
    wanted = {name: body[name] for name in ("temperature", "top_p") if body.get(name) is not None}
    if "temperature" in wanted:
        wanted["temperature"] = min(wanted["temperature"], 1)
    # 1 is the default of both. Left out it means the same, and every model accepts that.
    wanted = {name: value for name, value in wanted.items() if value != 1}
    if body.get("top_k") is not None:
        wanted["top_k"] = body["top_k"]
    refused = ""
    if traits.sampling == "none":
        refused = "this model samples at its defaults only"
    elif request.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        refused = "a model that thinks samples at its defaults only"
    if refused and wanted:
        if drop:
            return
        name = next(iter(wanted))
        raise invalid(f"{name}: {refused}; leave {name} out", name)
    if traits.sampling == "one" and {"temperature", "top_p"} <= wanted.keys():
        if not drop:
            raise invalid("top_p: this model takes temperature or top_p, not both", "top_p")
        del wanted["top_p"]
    request.update(wanted)
