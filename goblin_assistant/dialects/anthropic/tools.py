"""Anthropic's tools, thinking and output format as OpenAI's. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.errors import BadRequest

TOOL_HINTS = frozenset({"cache_control", "eager_input_streaming", "input_examples", "type"})
"""Fields of a tool that cannot change an answer: left out."""

EFFORTS: Mapping[str, str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}
"""Anthropic's output_config.effort -> OpenAI's reasoning_effort."""


def translate_tools(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    """Put `tools` and `tool_choice` into the OpenAI request. Raises BadRequest."""
    tools = body.get("tools")
    if not tools:
        return
    request["tools"] = [_tool(tool, f"tools[{position}]") for position, tool in enumerate(tools)]
    choice = body.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type")
    if kind == "tool":
        name = choice.get("name")
        if not isinstance(name, str):
            raise BadRequest("tool_choice.name must be text", param="tool_choice")
        request["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in ("auto", "any", "none"):
        request["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise BadRequest("tool_choice.type: accepted: auto, any, tool, none", param="tool_choice")
    if choice.get("disable_parallel_tool_use"):
        request["parallel_tool_calls"] = False


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise BadRequest(
            f"{where}: tools that Anthropic runs or defines are known to its models only",
            param="tools",
        )
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not isinstance(schema, dict):
        raise BadRequest(f"{where}: a tool needs a name and an input_schema", param="tools")
    function: dict[str, Any] = {"name": name, "parameters": schema}
    for key, value in tool.items():
        if key in ("description", "strict"):
            function[key] = value
        elif (
            key not in TOOL_HINTS
            and key not in ("name", "input_schema")
            and value not in (None, False, ["direct"])
        ):
            raise BadRequest(f"{where}.{key} is known to Anthropic's models only", param="tools")
    return {"type": "function", "function": function}


def translate_thinking(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    """Put `thinking` and `output_config` into the OpenAI request. Raises BadRequest."""
    thinking, output = body.get("thinking") or {}, body.get("output_config") or {}
    effort = output.get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in EFFORTS:
            raise BadRequest(
                f"output_config.effort: accepted: {', '.join(EFFORTS)}", param="output_config"
            )
        request["reasoning_effort"] = EFFORTS[effort]
    elif thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int):
            raise BadRequest("thinking.budget_tokens must be a whole number", param="thinking")
        request["reasoning_effort"] = (
            "low" if budget <= 4096 else "medium" if budget <= 16384 else "high"
        )
    wanted = output.get("format")
    if wanted is not None:
        schema = (
            wanted.get("schema")
            if isinstance(wanted, dict) and wanted.get("type") == "json_schema"
            else None
        )
        if not isinstance(schema, dict):
            raise BadRequest(
                "output_config.format: accepted: json_schema with a schema", param="output_config"
            )
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
