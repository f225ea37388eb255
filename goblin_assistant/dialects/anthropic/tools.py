"""Anthropic's tools, thinking and output format as OpenAI's. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from goblin_assistant.dialects.anthropic.cache_marks import MARK
from goblin_assistant.errors import BadRequest
from goblin_assistant.providers.anthropic.json_schemas import FORMATS
from goblin_assistant.schemas.field_names import note_others

TOOL_HINTS = frozenset(
    {"allowed_callers", "defer_loading", "eager_input_streaming", "input_examples"}
)
"""Fields of a tool that cannot change what an answer means: left out and named."""

EFFORTS: Mapping[str, str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}
"""Anthropic's output_config.effort -> OpenAI's reasoning_effort."""


def translate_tools(body: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    """Put `tools` and `tool_choice` into the OpenAI request. Raises BadRequest."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not tools:
        if choice is not None and choice.get("type") not in ("auto", "none"):
            raise BadRequest("tool_choice: there are no tools to choose from", param="tool_choice")
        return
    kept = _usable(tools, choice, ignored)
    if not kept:
        return
    request["tools"] = [_tool(tool, f"tools[{position}]", ignored) for position, tool in kept]
    if choice is None:
        return
    kind = choice.get("type")
    note_others(choice, ("type", "name", "disable_parallel_tool_use"), "tool_choice", ignored)
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


def _usable(
    tools: Sequence[Mapping[str, Any]], choice: Any, ignored: set[str]
) -> list[tuple[int, Mapping[str, Any]]]:
    """The tools that every model can call, with their positions. Those that Anthropic runs or
    defines are left out; without the one that is required, or without any, the model would
    invent, unless it may call none."""
    kept = []
    required = choice.get("name") if isinstance(choice, dict) else None
    for position, tool in enumerate(tools):
        if tool.get("type") in (None, "custom"):
            kept.append((position, tool))
            continue
        name = tool.get("name")
        if isinstance(name, str) and name == required:
            raise _anthropics_tool(position, tool)
        kind = tool.get("type")
        ignored.add(f"tools.{kind if isinstance(kind, str) and _WORD.fullmatch(kind) else '?'}")
    if not kept and not (isinstance(choice, dict) and choice.get("type") == "none"):
        raise _anthropics_tool(0, tools[0])
    return kept


_WORD = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def _anthropics_tool(position: int, tool: Mapping[str, Any]) -> BadRequest:
    if isinstance(tool.get("function"), dict):
        return BadRequest(
            f"tools[{position}]: this is a tool of OpenAI's API; in this one it is "
            "{name, description, input_schema}",
            param="tools",
        )
    name = tool.get("name") or tool.get("type")
    shown = f" ({name})" if isinstance(name, str) and _WORD.fullmatch(name) else ""
    return BadRequest(
        f"tools[{position}]{shown}: tools that Anthropic runs or defines are known to its models "
        "only",
        param="tools",
    )


def _tool(tool: Mapping[str, Any], where: str, ignored: set[str]) -> dict[str, Any]:
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not isinstance(schema, dict):
        raise BadRequest(f"{where}: a tool needs a name and an input_schema", param="tools")
    function: dict[str, Any] = {"name": name, "parameters": schema}
    mark: dict[str, Any] = {}
    for key, value in tool.items():
        if key in ("description", "strict"):
            function[key] = value
        elif key in ("name", "input_schema", "type") or value in (None, False, ["direct"]):
            continue
        elif key == MARK:
            mark[MARK] = value
        elif key in TOOL_HINTS:
            ignored.add(f"tools.{key}")
        else:
            raise BadRequest(f"{where}.{key} is known to Anthropic's models only", param="tools")
    if function.get("strict") and not fits_strict_mode(schema):
        del function["strict"]
        ignored.add("tools.strict")
    return {"type": "function", "function": function, **mark}


def translate_thinking(body: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    """Put `thinking` and `output_config` into the OpenAI request. Raises BadRequest."""
    thinking, output = body.get("thinking") or {}, body.get("output_config") or {}
    note_others(thinking, ("type", "budget_tokens"), "thinking", ignored)
    note_others(output, ("effort", "format"), "output_config", ignored)
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
    # The second is the field's name in the beta of structured outputs.
    wanted = output.get("format") or body.get("output_format")
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
        note_others(wanted, ("type", "schema"), "output_config.format", ignored)
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": schema,
                "strict": fits_strict_mode(schema),
            },
        }


def fits_strict_mode(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema: an object at its root, each object closed, each
    property required, a type wherever there is no anyOf or $ref, a $ref alone, and no other
    keywords (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas;
    `openai.lib._pydantic` of the SDK, 3.54.0, makes schemas of this form)."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return False
    pending: list[Any] = [schema]
    while pending:
        item = pending.pop()
        if not isinstance(item, dict) or not _is_strict(item):
            return False
        for name in ("properties", "$defs", "definitions"):
            if isinstance(inner := item.get(name), dict):
                pending.extend(inner.values())
        if "items" in item:
            pending.append(item["items"])
        if isinstance(options := item.get("anyOf"), list):
            pending.extend(options)
    return True


def _is_strict(item: Mapping[str, Any]) -> bool:
    if "$ref" in item:
        return len(item) == 1
    kind, properties = item.get("type"), item.get("properties")
    if not item.keys() <= _STRICT or ("type" not in item and "anyOf" not in item):
        return False
    kinds = kind if isinstance(kind, list) else [kind]
    if ("array" in kinds and "items" not in item) or item.get("format", "date") not in _FORMATS:
        return False
    if "object" not in kinds and not isinstance(properties, dict):
        return True
    names = set(properties) if isinstance(properties, dict) else set()
    required = item.get("required")
    listed = set(filter(_is_text, required)) if isinstance(required, list) else set()
    return item.get("additionalProperties") is False and names == listed


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_STRICT = frozenset(
    {"type", "title", "description", "properties", "required", "additionalProperties", "items",
     "anyOf", "enum", "const", "$defs", "definitions", "$schema", "pattern", "format",
     "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems",
     "maxItems"}
)  # fmt: skip
"""Keywords that strict mode takes."""
_FORMATS = [*FORMATS - {"uri"}]
"""https://github.com/cyanheads/git-mcp-server/issues/47: `uri`, which Anthropic takes, is
refused."""
