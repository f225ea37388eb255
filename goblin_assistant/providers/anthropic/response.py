"""Anthropic's answers and errors: usage, and their translation to OpenAI's. Pure functions; streams
are in stream.py.

    end_turn, stop_sequence, pause_turn         finish_reason stop
    max_tokens, model_context_window_exceeded   length
    tool_use                                    tool_calls
    refusal                                     content_filter

    usage: prompt_tokens       input_tokens + cache_creation_input_tokens + cache_read_input_tokens
                               (Anthropic counts them apart)
           completion_tokens   output_tokens, which includes thinking
           details             cache_read -> cached_tokens, cache_creation -> cache_write_tokens,
                               thinking_tokens -> reasoning_tokens

    400 invalid_request_error  InvalidRequest; ContextLengthExceeded by its sentence, because
                               Anthropic has no code for it
    401 403                    AuthenticationFailed; also 400 with an error_code about the account
    402 billing_error          RateLimited for an hour; also 429 with an error_code about money
    404 not_found_error        ModelNotFound; ResourceNotFound with an error_code
    413 request_too_large      InvalidRequest
    429 rate_limit_error       RateLimited, with Retry-After
    500 api_error              BadResponse
    504 timeout_error          Timeout
    529 overloaded_error       Overloaded

Sources: https://platform.claude.com/docs/en/api/errors,
https://platform.claude.com/docs/en/api/messages, `anthropic._error_classes`,
`anthropic.types.StopReason` and `Usage` of the SDK, 2.12.0.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import orjson

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    InvalidRequest,
    Progress,
    ProviderError,
    ResourceNotFound,
    Usage,
    broken,
    region_of,
    tier_of,
    token_count,
)
from goblin_assistant.providers.faults import UpstreamFailure, error_for
from goblin_assistant.providers.json_answers import parse_answer
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.overflow import overflow_of
from goblin_assistant.schemas import json_bounds

FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

ERROR_STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each error type, for errors inside a stream, which have none."""

ACCOUNT_CODES = frozenset(
    {
        "organization_on_hold",
        "organization_type_not_supported",
        "organization_not_enrolled_in_beta",
        "parent_organization_required",
        "cmek_key_disabled",
        "cmek_key_network_blocked",
        "cmek_feature_unsupported",
    }
)
"""`error.details.error_code` of 400s that only the operator can resolve, with Anthropic."""

MONEY_CODES = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached"})
"""`error_code` of 429s that last for longer than a retry can wait."""


def finish_reason(stop_reason: Any) -> str | None:
    """OpenAI's finish_reason for a stop_reason; None if there is none yet. An unknown one is
    "stop"."""
    return FINISH_REASONS.get(stop_reason, "stop") if isinstance(stop_reason, str) else None


def parse_usage(value: Any) -> Usage | None:
    """Parse a `usage` object; None if there is none. What is not a count is 0, and sets
    `absurd`."""
    if not isinstance(value, dict):
        return Usage(absurd=True) if value else None
    absurd = [name for name in (*_PROMPT, "output_tokens") if _is_absurd(value.get(name))]
    # Without one of its parts the prompt's sum is unknown.
    known = not any(name in absurd for name in _PROMPT)
    fresh, written, read = (_count(value.get(name)) if known else 0 for name in _PROMPT)
    details = value.get("output_tokens_details")
    kept = value.get("cache_creation")
    return Usage(
        prompt_tokens=fresh + written + read,
        completion_tokens=_count(value.get("output_tokens")),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_count(details.get("thinking_tokens")) if isinstance(details, dict) else 0,
        cache_write_1h_tokens=_count(kept.get("ephemeral_1h_input_tokens"))
        if isinstance(kept, dict)
        else 0,
        tier=tier_of(value.get("speed")),
        region=region_of(value.get("inference_geo")),
        absurd=bool(absurd),
    )


_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def _is_absurd(value: Any) -> bool:
    return value is not None and token_count(value) is None


def _count(value: Any) -> int:
    return token_count(value) or 0


def openai_usage(usage: Usage) -> dict[str, Any]:
    """`usage` in OpenAI's format."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def parse_message(provider: str, data: bytes, progress: Progress | None = None) -> dict[str, Any]:
    """Parse the body of a successful answer; `progress` gets its usage. Raises BadResponse if it is
    not a message, and the error in it if there is one."""
    progress = progress if progress is not None else Progress()
    message = parse_answer(provider, data, progress, parse_usage)
    if isinstance(message, dict):
        message = json_bounds.exact(data, message)
        progress.usage = parse_usage(message.get("usage"))
        if isinstance(message.get("content"), list):
            return message
        if message.get("type") == "error":
            raise stream_error(provider, message)
    raise broken(f"{provider}'s answer is not what was asked for", provider)


def to_openai(message: Mapping[str, Any], usage: Usage | None, model: str) -> dict[str, Any]:
    """A message as a chat completion. `reasoning_content` gets the text of the thinking,
    `thinking_blocks` its whole blocks with their signatures."""
    text: list[str] = []
    reasoning: list[str] = []
    thinking: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in message["content"]:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            text.append(str(block.get("text", "")))
        elif kind == "tool_use":
            arguments = encode(block.get("input") or {}).decode()
            calls.append(
                {
                    "id": block.get("id"),
                    "type": "function",
                    "function": {"name": block.get("name"), "arguments": arguments},
                }
            )
        elif kind in ("thinking", "redacted_thinking"):
            thinking.append(block)
            reasoning.append(str(block.get("thinking", "")))
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text) if text or not calls else None,
        "refusal": None,
    }
    if any(reasoning):
        answer["reasoning_content"] = "".join(reasoning)
    if thinking:
        answer["thinking_blocks"] = thinking
    if calls:
        answer["tool_calls"] = calls
    completion: dict[str, Any] = {
        "id": message.get("id", ""),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": answer,
                "logprobs": None,
                "finish_reason": finish_reason(message.get("stop_reason")) or "stop",
            }
        ],
    }
    if usage is not None:
        completion["usage"] = openai_usage(usage)
    return completion


# -- errors ---------------------------------------------------------------------------------------
def classify(failure: UpstreamFailure) -> ProviderError:
    """The error for an unsuccessful answer: by status, `error.type` and `error.details.error_code`,
    and by the sentence that says that a prompt is too long."""
    try:
        parsed = orjson.loads(failure.body)
    except orjson.JSONDecodeError:
        parsed = None
    return _classify(failure, _error_in(parsed))


def stream_error(provider: str, event: Any) -> ProviderError:
    """The error for `event: error` in a stream."""
    found = _error_in(event)
    status = ERROR_STATUSES.get(_names(found)[0] or "", 500)
    error = _classify(UpstreamFailure(provider, status, {}, b""), found)
    error.upstream_status = None  # the answer's own status was a success
    if type(error) is BadResponse:
        return BadResponse(f"{provider} reported an error in its stream", provider=provider)
    return error


def _error_in(body: Any) -> Mapping[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _names(error: Mapping[str, Any]) -> tuple[str | None, str | None]:
    kind, details = error.get("type"), error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    return (kind if isinstance(kind, str) else None), (code if isinstance(code, str) else None)


def _details(error: Mapping[str, Any]) -> dict[str, Any] | None:
    """`error.details` as far as it is for programs: an error_code, numbers, and short names.
    Sentences are left out."""
    given = error.get("details")
    if not isinstance(given, dict):
        return None
    found = {
        name: value
        for name, value in given.items()
        if _NAME.fullmatch(name) and (_is_for_programs(value) or _is_short_list(value))
    }
    return found if "error_code" in found else None


_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def _is_for_programs(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int)) or _is_word(value)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_short_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 50 and all(map(_is_for_programs, value))


def _classify(failure: UpstreamFailure, found: Mapping[str, Any]) -> ProviderError:
    provider, status = failure.provider, failure.status
    kind, code = _names(found)
    if status == 400 and code in ACCOUNT_CODES:
        return AuthenticationFailed(
            f"{provider} has put this server's account on hold or restricts it",
            provider=provider,
            upstream_status=status,
        )
    if status == 429 and code in MONEY_CODES:
        code = "insufficient_quota"
    if (
        status not in ERROR_STATUSES.values()
        and 400 <= status < 500
        and kind == "invalid_request_error"
    ):
        # "This error type may also be used for other 4XX status codes" (the errors page).
        failure = UpstreamFailure(provider, 400, failure.headers, b"")
    error: ProviderError
    if status == 404 and code is not None:
        error = ResourceNotFound(
            f"{provider} does not have what the request names", provider=provider
        )
    else:
        error = error_for(failure, code=code, kind=kind, overflow=overflow_of(found))
    error.upstream_status = status
    if isinstance(error, InvalidRequest):  # what is left concerns the operator's account
        error.details = _details(found)
    return error
