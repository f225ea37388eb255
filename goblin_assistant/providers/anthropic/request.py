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
    response_format:           output_config.format, with the schema as Anthropic takes it
    json_schema                (json_schemas.py)
    response_format:           a line in the system prompt: Anthropic has no such format
    json_object
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

import hashlib
from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.anthropic.content import invalid
from goblin_assistant.providers.anthropic.json_schemas import fits, narrowed
from goblin_assistant.providers.anthropic.messages import translate_messages
from goblin_assistant.providers.anthropic.models import Traits
from goblin_assistant.providers.anthropic.thinking import translate_sampling, translate_thinking
from goblin_assistant.schemas.field_names import note_others

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

ONLY_JSON = (
    "Answer with one JSON object and nothing else: no other text, no Markdown fence around it."
)
"""For json_object. No prefill of "{": 4.6 and later refuse a prefilled turn, and the answer would
lack its beginning."""

LONGEST_USER = 256
"""Characters of metadata.user_id (https://platform.claude.com/docs/en/api/messages)."""

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


def build_request(
    body: Mapping[str, Any],
    model: str,
    traits: Traits,
    *,
    max_tokens: int | None = None,
    drop_sampling: bool = False,
    ignored: set[str] | None = None,
) -> dict[str, Any]:
    """The request for `model`, without `stream`. Raises InvalidRequest with the field that cannot
    be translated. `ignored` gets the names of what is left out.

    `max_tokens` is the operator's default in place of the model's longest answer. `drop_sampling`:
    leave out sampling that the model refuses, instead of refusing the request.
    """
    ignored = set() if ignored is None else ignored
    _refuse_unknown(body, ignored)
    system, turns = translate_messages(body["messages"], ignored)
    limit = (
        body.get("max_completion_tokens")
        or body.get("max_tokens")
        or min(max_tokens or traits.max_tokens, traits.max_tokens)
    )
    request: dict[str, Any] = {"model": model, "max_tokens": limit, "messages": turns}
    if (body.get("response_format") or {}).get("type") == "json_object":
        system.append({"type": "text", "text": ONLY_JSON})
    if system:
        request["system"] = (
            system[0]["text"] if len(system) == 1 and len(system[0]) == 2 else system
        )
    if stop := body.get("stop"):
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        if not all(text.strip() for text in request["stop_sequences"]):
            raise invalid("stop: Anthropic takes no sequence of blanks only", "stop")
    _translate_tools(body, request, ignored)
    translate_thinking(body, request, traits)
    _translate_format(body, request, ignored)
    translate_sampling(body, request, traits, drop_sampling)
    user, identifier = body.get("user"), body.get("safety_identifier")
    if user or identifier:
        request["metadata"] = {"user_id": _fitting_user(user or identifier)}
    if user and identifier not in (None, user):
        ignored.add("safety_identifier")
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


def _fitting_user(user: Any) -> Any:
    if not isinstance(user, str) or len(user) <= LONGEST_USER:
        return user
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()


def _refuse_unknown(body: Mapping[str, Any], ignored: set[str]) -> None:
    for name, value in body.items():
        if value is None or name in TRANSLATED:
            continue
        if name in IGNORED:
            ignored.add(name)
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


def _translate_tools(body: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    tools = body.get("tools")
    if not tools:
        if body.get("tool_choice") not in (None, "auto", "none"):
            raise invalid("tool_choice: there are no tools to choose from", "tool_choice")
        return
    request["tools"] = [
        _tool(tool, f"tools[{position}]", ignored) for position, tool in enumerate(tools)
    ]
    if isinstance(chosen := body.get("tool_choice"), dict):
        note_others(chosen, ("type", "function"), "tool_choice", ignored)
        if isinstance(inner := chosen.get("function"), dict):
            note_others(inner, ("name",), "tool_choice", ignored)
    choice = _tool_choice(chosen)
    if body.get("parallel_tool_calls") is False and (choice is None or choice["type"] != "none"):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        request["tool_choice"] = choice


NO_PARAMETERS: Mapping[str, Any] = {
    "type": "object", "properties": {}, "additionalProperties": False,
}  # fmt: skip
"""The schema of a tool without one, as strict mode takes it too."""


def _tool(tool: Mapping[str, Any], where: str, ignored: set[str]) -> dict[str, Any]:
    function = tool.get("function")
    if (
        tool.get("type") != "function"
        or not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
    ):
        raise invalid(f"{where}: Anthropic's Messages API takes tools of type function", "tools")
    note_others(tool, ("type", "function", "cache_control"), "tools", ignored)
    note_others(function, ("name", "description", "parameters", "strict"), "tools", ignored)
    schema = function.get("parameters") or NO_PARAMETERS
    translated: dict[str, Any] = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        translated["description"] = function["description"]
    if function.get("strict"):
        if fits(schema):
            translated["strict"] = True
        else:
            ignored.add("tools.strict")
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


def _translate_format(body: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    wanted = body.get("response_format")
    if wanted is None or wanted.get("type") in ("text", "json_object"):
        return
    inner = wanted.get("json_schema")
    schema = (
        inner.get("schema")
        if wanted.get("type") == "json_schema" and isinstance(inner, dict)
        else None
    )
    if not isinstance(schema, dict):
        raise invalid(
            "response_format: accepted: text, json_object, and json_schema with a schema",
            "response_format",
        )
    # Its name, and strict, which Anthropic always is, say nothing more.
    note_others(wanted, ("type", "json_schema"), "response_format", ignored)
    note_others(inner, ("name", "schema", "strict"), "response_format", ignored)
    output = request.setdefault("output_config", {})
    output["format"] = {"type": "json_schema", "schema": narrowed(schema, ignored)}
