"""Anthropic's Messages dialect for clients, on providers that speak OpenAI's: the requests.

Pure functions. Answers are in answer.py, streams in stream.py.

    system                   a system message; a turn of role system stays where it is
    text, image, document    text, image_url, file (PDF) or text (plain text)
    tool_use                 tool_calls
    tool_result              a tool message before the rest of its turn. OpenAI's hold text only:
                             `is_error` becomes the prefix "Error: ", images follow as a user
                             message
    thinking, redacted_thinking
                             left out: only Anthropic can read its own signatures
    tools                    functions
    tool_choice              auto; any -> required; tool -> named; none;
                             disable_parallel_tool_use -> parallel_tool_calls: false
    max_tokens, temperature, top_p, stream
                             the same
    top_k                    the same; the provider says whether it knows it
    stop_sequences           stop
    metadata.user_id         user
    thinking: enabled        reasoning_effort, by the size of the budget; adaptive and disabled:
                             nothing
    output_config            effort -> reasoning_effort, format -> response_format

A field that cannot be translated is refused by name. Hints that cannot change an answer are left
out (IGNORED, TOOL_HINTS).

Sources: https://platform.claude.com/docs/en/api/messages, `anthropic.types` of the SDK, 2.12.0,
https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.anthropic.messages import messages_to_openai
from goblin_assistant.dialects.anthropic.tools import translate_thinking, translate_tools
from goblin_assistant.errors import BadRequest

TRANSLATED = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k",
        "stop_sequences", "tools", "tool_choice", "thinking", "output_config", "metadata",
    }
)  # fmt: skip

IGNORED = frozenset({"cache_control", "diagnostics", "inference_geo", "service_tier"})
"""Caching, diagnosis, and where or how soon Anthropic computes: no other provider has them."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "speed": ("standard",),
    "mcp_servers": ([],),
    "container": (),
}
"""Values that mean the same as leaving the field out."""


def request_to_openai(body: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAI chat request that means the same.

    Raises BadRequest with the name of what cannot be translated.
    """
    for name, value in body.items():
        if value is None or name in TRANSLATED or name in IGNORED or value in NEUTRAL.get(name, ()):
            continue
        raise BadRequest(
            f"{name} is known to Anthropic's models only; leave it out for this model", param=name
        )
    if body["max_tokens"] == 0:
        raise BadRequest(
            "max_tokens: 0 (filling the prompt cache) is known to Anthropic's models only",
            param="max_tokens",
        )
    request: dict[str, Any] = {
        "model": body.get("model"),
        "messages": messages_to_openai(body),
        "max_tokens": body["max_tokens"],
    }
    for name in ("stream", "temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            request[name] = body[name]
    if stop := body.get("stop_sequences"):
        request["stop"] = stop
    user = (body.get("metadata") or {}).get("user_id")
    if user is not None:
        request["user"] = user
    translate_tools(body, request)
    translate_thinking(body, request)
    return request
