"""An OpenAI chat request as a request to Anthropic's Messages API. Pure functions; messages are in
content.py.

    max_completion_tokens,     max_tokens. Anthropic requires it: where both are missing, it is the
    max_tokens                 model's longest answer
    temperature, top_p         unchanged; above 1 is 1 (Anthropic's rule for OpenAI clients); the
                               default, 1, is left out. Newer models take one of the two, or (4.7
                               and later) only the defaults: InvalidRequest
    stop                       stop_sequences
    tools, tool_choice         input_schema; auto, none, required -> any, named -> tool
    parallel_tool_calls: false tool_choice.disable_parallel_tool_use
    response_format:           output_config.format, with closed objects (additionalProperties:
    json_schema                false), as Anthropic requires
    reasoning_effort           4.6 and later: thinking adaptive and output_config.effort; before:
                               thinking enabled with a budget
    user, safety_identifier    metadata.user_id
    service_tier               auto -> auto, default -> standard_only
    thinking, top_k,           Anthropic's own, for clients that know them: unchanged
    cache_control

What cannot be translated is refused by name (`InvalidRequest.param`). Only hints that promise
nothing are left out (IGNORED).
Sources: https://platform.claude.com/docs/en/api/messages, `anthropic.types.message_create_params`
of the SDK, 2.12.0,
https://platform.claude.com/docs/en/cli-sdks-libraries/libraries/openai-sdk (Anthropic's own
translation of OpenAI requests), https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.anthropic.content import invalid, translate_messages
from goblin_assistant.providers.anthropic.models import Traits

TRANSLATED = frozenset(
    {
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "stop", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "reasoning_effort", "user", "safety_identifier", "service_tier",
        "thinking", "top_k", "cache_control",
    }
)  # fmt: skip

IGNORED = frozenset(
    {
        "seed",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)
"""Hints, by OpenAI's own description: best effort, bookkeeping or speed. An answer without them is
as valid."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}
"""Fields without a counterpart, and those of their values that change nothing."""

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


def build_request(
    body: Mapping[str, Any],
    model: str,
    traits: Traits,
    *,
    max_tokens: int | None = None,
    drop_sampling: bool = False,
) -> dict[str, Any]:
    """The request for `model`, without `stream`. Raises InvalidRequest with the field that cannot
    be translated.

    `max_tokens` is the operator's default in place of the model's longest answer. `drop_sampling`:
    leave out sampling that the model refuses, instead of refusing the request.
    """
    _refuse_unknown(body)
    system, turns = translate_messages(body["messages"])
    limit = (
        body.get("max_completion_tokens")
        or body.get("max_tokens")
        or min(max_tokens or traits.max_tokens, traits.max_tokens)
    )
    request: dict[str, Any] = {"model": model, "max_tokens": limit, "messages": turns}
    if system:
        request["system"] = (
            system[0]["text"] if len(system) == 1 and len(system[0]) == 2 else system
        )
    if stop := body.get("stop"):
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    _translate_tools(body, request)
    _translate_thinking(body, request, traits)
    _translate_format(body, request)
    _translate_sampling(body, request, traits, drop_sampling)
    if user := body.get("user") or body.get("safety_identifier"):
        request["metadata"] = {"user_id": user}
    tier = body.get("service_tier")
    if tier is not None:
        if tier not in ("auto", "default"):
            raise invalid(
                "service_tier: Anthropic's Messages API knows auto and default", "service_tier"
            )
        request["service_tier"] = "auto" if tier == "auto" else "standard_only"
    if body.get("cache_control") is not None:
        request["cache_control"] = body["cache_control"]
    return request


def _refuse_unknown(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if value is None or name in TRANSLATED or name in IGNORED:
            continue
        if name in NEUTRAL and value in NEUTRAL[name]:
            continue
        if name in ("functions", "function_call"):
            raise invalid(
                f"{name} is OpenAI's old form, which has no counterpart here: "
                "use tools and tool_choice",
                name,
            )
        raise invalid(
            f"{name} has no counterpart in Anthropic's Messages API; leave it out for this model",
            name,
        )


def _translate_tools(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    tools = body.get("tools")
    if not tools:
        return
    request["tools"] = [_tool(tool, f"tools[{position}]") for position, tool in enumerate(tools)]
    choice = _tool_choice(body.get("tool_choice"))
    if body.get("parallel_tool_calls") is False and (choice is None or choice["type"] != "none"):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        request["tool_choice"] = choice


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = tool.get("function")
    if (
        tool.get("type") != "function"
        or not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
    ):
        raise invalid(f"{where}: Anthropic's Messages API takes tools of type function", "tools")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    translated: dict[str, Any] = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        translated["description"] = function["description"]
    if function.get("strict"):
        translated["strict"] = True
    if tool.get("cache_control") is not None:
        translated["cache_control"] = tool["cache_control"]
    return translated


def _tool_choice(choice: Any) -> dict[str, Any] | None:
    if choice is None:
        return None
    if choice in ("auto", "none"):
        return {"type": choice}
    if choice == "required":
        return {"type": "any"}
    function = (
        choice.get("function")
        if isinstance(choice, dict) and choice.get("type") == "function"
        else None
    )
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return {"type": "tool", "name": function["name"]}
    raise invalid("tool_choice: accepted: none, auto, required or one function", "tool_choice")


def _translate_thinking(body: Mapping[str, Any], request: dict[str, Any], traits: Traits) -> None:
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


def _translate_format(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    wanted = body.get("response_format")
    if wanted is None or wanted.get("type") == "text":
        return
    inner = wanted.get("json_schema")
    schema = (
        inner.get("schema")
        if wanted.get("type") == "json_schema" and isinstance(inner, dict)
        else None
    )
    if not isinstance(schema, dict):
        raise invalid(
            "response_format: Anthropic's Messages API knows text and json_schema with a schema, "
            "no free json_object",
            "response_format",
        )
    output = request.setdefault("output_config", {})
    output["format"] = {"type": "json_schema", "schema": _closed(schema)}


def _closed(schema: Any) -> Any:
    """The schema with every object closed. Anthropic accepts no open ones, nor does OpenAI's strict
    mode."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: value if key in ("enum", "const", "default", "examples") else _closed(value)
        for key, value in schema.items()
    }
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        closed["additionalProperties"] = False
    return closed


def _translate_sampling(
    body: Mapping[str, Any], request: dict[str, Any], traits: Traits, drop: bool
) -> None:
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
