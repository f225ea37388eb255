"""Anthropic's Messages dialect for clients, on providers that speak OpenAI's: the requests.

Pure functions. Answers are in answer.py, streams in stream.py.

    system                   a system message; a turn of role system stays where it is
    text, image, document    text, image_url, file (PDF) or text (plain text)
    tool_use                 tool_calls
    tool_result              a tool message before the rest of its turn. OpenAI's hold text only:
                             `is_error` becomes the prefix "Error: ", images follow as a user
                             message
    thinking, redacted_thinking
                             reasoning_content, if another provider thought it (carried.py);
                             else left out: only Anthropic can read its own signatures
    tools                    functions
    tool_choice              auto; any -> required; tool -> named; none;
                             disable_parallel_tool_use -> parallel_tool_calls: false
    max_tokens, temperature, top_p, stream
                             the same
    top_k                    the same; the provider says whether it knows it
    stop_sequences           stop
    metadata.user_id         user; a hash of it if it is longer than OpenAI takes
    thinking: enabled        reasoning_effort, by the size of the budget; adaptive and disabled:
                             nothing
    output_config            effort -> reasoning_effort, format -> response_format
    cache_control            the same, for a server that reads it (cache_marks.py)

What would change the answer's meaning is refused by name. The rest is left out and named in
`ignored`: hints, what agents send along by default, and tools that Anthropic runs, as long as the
model has others and none of them is required.

Sources: https://platform.claude.com/docs/en/api/messages, `anthropic.types` of the SDK, 2.12.0,
https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.anthropic.cache_marks import MARK, without_marks
from goblin_assistant.dialects.anthropic.messages import messages_to_openai
from goblin_assistant.dialects.anthropic.tools import translate_thinking, translate_tools
from goblin_assistant.errors import BadRequest
from goblin_assistant.schemas.field_names import note_others

TRANSLATED = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k",
        "stop_sequences", "tools", "tool_choice", "thinking", "output_config", "output_format",
        "metadata", "context_management", "cache_control",
    }
)  # fmt: skip

IGNORED = frozenset(
    {
        "betas", "diagnostics", "fallback_credit_token", "fallbacks", "inference_geo",
        "service_tier", "speed",
    }
)  # fmt: skip
"""Diagnosis, where or how soon Anthropic computes, and its own fallbacks: no other
provider has them."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "mcp_servers": ([],),
    "container": (),
    "billing_policy": ({"type": "billing_policy", "bill_to": "self"},),
}
"""Values that mean the same as leaving the field out."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "stop": ("stop_sequences",),
    "user": ("metadata.user_id",),
    "reasoning_effort": ("output_config.effort", "thinking.budget_tokens"),
    "response_format": ("output_format", "output_config.format"),
    "parallel_tool_calls": ("tool_choice.disable_parallel_tool_use",),
}
"""Fields of OpenAI's chat: their names here."""

LONGEST_USER = 64
"""Characters of OpenAI's `user`
(https://platform.openai.com/docs/api-reference/chat/create#chat-create-user). Claude Code sends
150 of JSON."""


def request_to_openai(
    body: Mapping[str, Any], ignored: set[str], *, cache_marks: bool = False
) -> dict[str, Any]:
    """The OpenAI chat request that means the same. `ignored` gets the names of what is left out.
    `cache_marks`: the server reads Anthropic's.

    Raises BadRequest with the name of what cannot be translated.
    """
    if body.get("thread") is not None:
        raise _no_threads()
    for name, value in body.items():
        if value is None or name in TRANSLATED or value in NEUTRAL.get(name, ()):
            continue
        if name in IGNORED:
            if (name, value) not in (("speed", "standard"), ("service_tier", "auto")):
                ignored.add(name)
            continue
        raise BadRequest(_unknown(name), param=name)
    if body["max_tokens"] == 0:
        raise BadRequest(
            "max_tokens: 0 (filling the prompt cache) is known to Anthropic's models only",
            param="max_tokens",
        )
    request: dict[str, Any] = {
        "model": body.get("model"),
        "messages": messages_to_openai(body, ignored),
        "max_tokens": body["max_tokens"],
    }
    for name in ("stream", "temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            request[name] = body[name]
    if stop := body.get("stop_sequences"):
        request["stop"] = stop
    metadata = body.get("metadata") or {}
    note_others(metadata, ("user_id",), "metadata", ignored)
    user = metadata.get("user_id")
    if user is not None:
        request["user"] = fitting_user(user)
    _check_context_management(body.get("context_management"), ignored)
    translate_tools(body, request, ignored)
    translate_thinking(body, request, ignored)
    if body.get(MARK) is not None:
        request[MARK] = body[MARK]
    return request if cache_marks else without_marks(request, ignored)


def _unknown(name: str) -> str:
    if name in NAMES:  # a field of OpenAI's chat
        return f"{name} is called {NAMES[name][-1]} in this API"
    return f"{name} is not known in this API, or to Anthropic's models only; leave it out"


def fitting_user(user: str) -> str:
    """The name of an end user in OpenAI's length. The same name always gives the same hash."""
    if len(user) <= LONGEST_USER:
        return user
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()


def _check_context_management(value: Any, ignored: set[str]) -> None:
    """Edits of thinking blocks need nothing here: others' thinking is not sent anyway. Without the
    other edits the prompt is longer, no more."""
    if value is None:
        return
    edits = value.get("edits") or [] if isinstance(value, dict) and value.keys() <= {"edits"} else 0
    kinds = [
        str(edit.get("type")) if isinstance(edit, dict) else ""
        for edit in (edits if isinstance(edits, list) else [0])
    ]
    if not all(kind.startswith(_EDITS) for kind in kinds):
        raise BadRequest(
            "context_management: this model takes no edits but clear_thinking, clear_tool_uses "
            "and compact, which are left out",
            param="context_management",
        )
    if not all(kind.startswith("clear_thinking_") for kind in kinds):
        ignored.add("context_management")


_EDITS = ("clear_thinking_", "clear_tool_uses_", "compact_")


def _no_threads() -> BadRequest:
    # By this code Anthropic's tool runners (Python 2.12, TypeScript 1.2) send the whole
    # conversation instead: `anthropic.types.ThreadUnsupportedRequestErrorDetails`.
    details = {"error_code": "thread_unsupported_request", "unsupported": ["model"]}
    return BadRequest(
        "thread: this model keeps no conversations; send all messages, without thread",
        param="thread",
        extra={"details": details},
    )
