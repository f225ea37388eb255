"""Translates Responses requests to chat requests, for providers without the Responses API.

Pure functions. answer.py translates answers, stream.py streams.

    input, instructions          messages (input_items.py)
    tools, tool_choice, parallel_tool_calls
                                 functions (tools.py)
    max_output_tokens            max_tokens
    temperature, top_p, presence_penalty, frequency_penalty, stream
                                 the same
    reasoning.effort             reasoning_effort
    text.format                  response_format
    include message.output_text.logprobs, top_logprobs
                                 logprobs, top_logprobs
    user, safety_identifier      user
    metadata                     not sent; repeated in the answer, as `store: false` is

A field that would change the meaning of the answer is refused by name. Others are left out and
named in `ignored`: hints, and where or how soon OpenAI computes. state.py has already refused what
needs stored responses.

Sources: `openai.types.responses.ResponseCreateParams` of the SDK, 3.54.0;
https://platform.openai.com/docs/api-reference/responses/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.responses.input_items import messages_of
from goblin_assistant.dialects.responses.reasoning import ENCRYPTED
from goblin_assistant.dialects.responses.tools import translate_tools
from goblin_assistant.errors import BadRequest
from goblin_assistant.schemas.field_names import note_others, shown

LOGPROBS = "message.output_text.logprobs"
"""The name in `include`."""

SAME = ("stream", "temperature", "top_p", "presence_penalty", "frequency_penalty")

TRANSLATED = frozenset(
    {
        *SAME, "background", "include", "input", "instructions", "max_output_tokens", "metadata",
        "model", "parallel_tool_calls", "reasoning", "safety_identifier", "store", "text",
        "tool_choice", "tools", "top_logprobs", "user",
    }
)  # fmt: skip

IGNORED = frozenset(
    {
        "access_programs", "background_options", "client_metadata", "context_management", "image",
        "max_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "service_tier", "stream_options", "truncation",
    }
)  # fmt: skip
"""Caching, service tiers, limits of tools that OpenAI runs, and truncation. Without truncation, a
conversation that is too long is refused."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "context_management": ([],),
    "service_tier": ("auto", "default"),
    "stream_options": ({"include_obfuscation": False}, {}),
    "truncation": ("disabled",),
}
"""Values that mean the same as leaving the field out."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "messages": ("input",),
    "max_tokens": ("max_output_tokens",),
    "max_completion_tokens": ("max_output_tokens",),
    "user": ("safety_identifier",),
    "reasoning_effort": ("reasoning.effort",),
    "response_format": ("text.format",),
    "logprobs": ("include",),
}
"""Fields of the chat API: their names in the Responses API."""


def request_to_openai(
    body: Mapping[str, Any], ignored: set[str], *, cache_marks: bool = False
) -> dict[str, Any]:
    """The OpenAI chat request that means the same. `ignored` gets the names of what is left out.
    The Responses API has no cache marks, so `cache_marks` changes nothing.

    Raises BadRequest with the name of what cannot be translated.
    """
    for name, value in body.items():
        if value is None or name in TRANSLATED or value in NEUTRAL.get(name, ()):
            continue
        if name not in IGNORED:
            raise BadRequest(_unknown(name), param=name)
        ignored.add(name)
    if body.get("store"):
        ignored.add("store")
    messages = messages_of(body, ignored)
    if not messages:
        raise BadRequest("input: there is nothing to answer", param="input")
    request: dict[str, Any] = {"model": body.get("model"), "messages": messages}
    if body.get("max_output_tokens") is not None:
        request["max_tokens"] = body["max_output_tokens"]
    for name in SAME:
        if body.get(name) is not None:
            request[name] = body[name]
    user, identifier = body.get("user"), body.get("safety_identifier")
    if user or identifier:
        request["user"] = user or identifier
    if user and identifier not in (None, user):
        ignored.add("safety_identifier")
    translate_tools(body, request, ignored)
    _translate_reasoning(body.get("reasoning") or {}, request, ignored)
    _translate_text(body.get("text") or {}, request, ignored)
    _translate_include(body, request, ignored)
    return request


def _unknown(name: str) -> str:
    if name in NAMES:  # a field of the chat API
        return f"{name} is called {NAMES[name][-1]} in this API"
    return f"{name} is not known in this API, or to OpenAI's models only; leave it out"


def _translate_reasoning(
    reasoning: Mapping[str, Any], request: dict[str, Any], ignored: set[str]
) -> None:
    for name, value in reasoning.items():
        if value is None or (name, value) == ("summary", "auto"):
            continue
        if name == "effort":
            request["reasoning_effort"] = value
        else:
            ignored.add(shown("reasoning", name))


def _translate_text(text: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    note_others(text, ("verbosity", "format"), "text", ignored)
    if text.get("verbosity") not in (None, "medium"):
        ignored.add("text.verbosity")
    wanted = text.get("format")
    if wanted is None:
        return
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind is not None:
        known = ("type", "name", "description", "schema", "strict")
        note_others(wanted, known if kind == "json_schema" else ("type",), "text.format", ignored)
    if kind == "json_object":
        request["response_format"] = {"type": "json_object"}
    elif kind == "json_schema" and isinstance(wanted.get("schema"), dict):
        schema = {
            name: wanted[name]
            for name in ("name", "description", "schema", "strict")
            if wanted.get(name) is not None
        }
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", **schema},
        }
    elif kind != "text":
        raise BadRequest(
            "text.format: accepted: text, json_object, json_schema with a schema", param="text"
        )


def _translate_include(body: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    include = body.get("include") or []
    if LOGPROBS in include:
        request["logprobs"] = True
        if body.get("top_logprobs"):
            request["top_logprobs"] = body["top_logprobs"]
    elif body.get("top_logprobs"):
        ignored.add("top_logprobs")  # OpenAI sends them only if `include` asks for them
    if set(include) - {LOGPROBS, ENCRYPTED}:
        ignored.add("include")
