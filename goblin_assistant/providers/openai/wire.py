"""OpenAI's chat format: usage, errors, and encoding. Pure functions.

Sources: https://platform.openai.com/docs/api-reference/chat/object, .../chat/streaming,
.../guides/error-codes. What other servers do differently is named where it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from goblin_assistant.providers.answer_limits import own_name
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ProviderError,
    Reach,
    Timeout,
    Usage,
    tier_of,
    token_count,
)
from goblin_assistant.providers.faults import CONTEXT_CODES, UpstreamFailure, error_for
from goblin_assistant.providers.overflow import STATUSES, Overflow, numbers_of, overflow_of
from goblin_assistant.schemas.json_bounds import long_float

AUTHENTICATION_CODES = frozenset(
    {"invalid_api_key", "API_KEY_INVALID", "authentication_error", "permission_error"}
)
"""Codes and types of refused keys: OpenAI's, Gemini's (with status 400), and those in event
streams."""

STREAM_STATUSES = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
    "overloaded": 529,
    "service_unavailable": 503,
    "invalid_request_error": 400,
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "invalid_prompt": 400,
    "provider_rate_limited": 429,
    "provider_overloaded": 503,
}
"""The status for the code or type of an error inside a stream, which has no HTTP status. The last
two are this product's own."""


def encode(body: Any) -> bytes:
    """A body as JSON. json encodes integers beyond 64 bits and half surrogate pairs, which orjson
    refuses. Floats of many digits stay as they were written, but not beside those."""
    try:
        return orjson.dumps(body, default=long_float)
    except TypeError:
        return json.dumps(body, separators=(",", ":")).encode()


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether the client asked for the usage chunk of a stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def usage_in(answer: Mapping[str, Any]) -> Usage | None:
    """The usage that an answer or a chunk reports; None if it reports none. What is not a count is
    0, and sets `absurd`."""
    reported = answer.get("usage") or _usage_elsewhere(answer)
    if not reported:
        return None
    usage = parse_usage(reported, answer.get("service_tier"))
    return usage if usage is not None else Usage(absurd=True)


def _usage_elsewhere(answer: Mapping[str, Any]) -> Any:
    """Usage beside a stream's finish reason: Groq's `x_groq`, and Moonshot's within the choice
    (https://github.com/higress-group/higress/pull/1568)."""
    groq = answer.get("x_groq")
    if isinstance(groq, dict) and groq.get("usage"):
        return groq["usage"]
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("usage"):
            return choice["usage"]
    return None


def parse_usage(value: Any, service_tier: Any = None) -> Usage | None:
    """Parse a `usage` object; None if it holds no count. `service_tier` is the answer's field of
    that name. providers/wire_forms.py has what differs from server to server.

    `completion_tokens` includes what was generated beside it: where `total_tokens` exceeds prompt
    and completion, the difference was generated too (the reasoning of xAI and Gemini), and so were
    reasoning tokens that are more than the completion.
    """
    if not isinstance(value, dict):
        return None
    given = (value.get("prompt_tokens"), value.get("completion_tokens"))
    prompt, completion = map(token_count, given)
    if prompt is None and completion is None:
        return None
    absurd = (prompt is None and given[0] is not None) or (
        completion is None and given[1] is not None
    )
    of_prompt, of_completion = (
        details if isinstance(details := value.get(name), dict) else {}
        for name in ("prompt_tokens_details", "completion_tokens_details")
    )
    reasoning = token_count(of_completion.get("reasoning_tokens")) or 0
    if not absurd:
        completion = _generated(prompt or 0, completion or 0, value.get("total_tokens"), reasoning)
    return Usage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion or 0,
        cached_tokens=min(_first_count(_CACHED, of_prompt, value), prompt or 0),
        cache_write_tokens=_first_count(_WRITTEN, of_prompt, value),
        reasoning_tokens=reasoning,
        audio_prompt_tokens=token_count(of_prompt.get("audio_tokens")) or 0,
        audio_completion_tokens=token_count(of_completion.get("audio_tokens")) or 0,
        tier=tier_of(service_tier),
        absurd=absurd,
    )


_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
"""OpenAI's name, DeepSeek's (https://api-docs.deepseek.com/guides/kv_cache), and that of gateways
in front of Anthropic."""
_WRITTEN = ("cache_write_tokens", "cache_creation_input_tokens")
"""The name of OpenAI and OpenRouter, and that of gateways in front of Anthropic."""


def _first_count(
    names: tuple[str, ...], details: Mapping[str, Any], usage: Mapping[str, Any]
) -> int:
    for place in (details, usage):
        for name in names:
            if (count := token_count(place.get(name))) is not None:
                return count
    return 0


def _generated(prompt: int, completion: int, total: Any, reasoning: int) -> int:
    counted = token_count(total)
    if counted:
        return max(completion, counted - prompt)
    return completion + reasoning if reasoning > completion else completion


def error_object(parsed: Any) -> Mapping[str, Any] | None:
    """The error in a body, or None. Its forms: `{"error": {...}}`, Gemini's list of one of these,
    and the flat object of Mistral and older vLLM."""
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return None
    inner = parsed.get("error")
    if isinstance(inner, dict):
        return inner
    if inner is not None:
        # A bare text, from llama.cpp's proxies and Ollama's native routes. It may be a code.
        return {"code": inner, "message": inner}
    return parsed if parsed.get("object") == "error" else None


FAILED_REASONS = frozenset({"error", "insufficient_system_resource", "abort", "aborted"})
"""Finish reasons of an answer that its server gave up: those of OpenRouter and Mistral, of DeepSeek
(https://api-docs.deepseek.com/api/create-chat-completion), and `abort` of vLLM and SGLang, with
status 200 and `[DONE]` (https://github.com/vllm-project/vllm/issues/57082,
https://github.com/radixark/miles/pull/3337; read on 2026-11-27)."""


def choice_error(choices: Any) -> Mapping[str, Any] | None:
    """The error in a choice, or None. OpenRouter reports its provider's failure so, with status 200
    (https://openrouter.ai/docs/api-reference/errors-and-debugging)."""
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            error = choice.get("error")
            reason = choice.get("finish_reason")
            if error or (isinstance(reason, str) and reason in FAILED_REASONS):
                return error if isinstance(error, dict) else {"code": error}
    return None


def _names(error: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """The error's code, type and the top-level field of its `param`."""
    code, kind, param = error.get("code"), error.get("type"), error.get("param")
    inner = error.get("innererror")
    if isinstance(inner, dict) and isinstance(inner.get("code"), str):
        code = inner["code"]  # Azure's reason for filtering a prompt
    details = error.get("details")
    if isinstance(details, list):
        for detail in details:
            if isinstance(detail, dict) and detail.get("reason") == "API_KEY_INVALID":
                code = "API_KEY_INVALID"
    if code == "string_above_max_length" and isinstance(param, str) and not _is_prompt(param):
        code = None  # of a name, an id or `user`: a shorter conversation would not help
    return (
        code if isinstance(code, str) else None,
        kind if isinstance(kind, str) else None,
        param.split(".")[0].split("[")[0] if isinstance(param, str) else None,
    )


def _is_prompt(param: str) -> bool:
    return param in ("messages", "input", "prompt") or "content" in param


def classify(failure: UpstreamFailure) -> ProviderError:
    """The error for an unsuccessful answer of an OpenAI-compatible server."""
    try:
        parsed = orjson.loads(failure.body)
    except orjson.JSONDecodeError:
        parsed = failure.body.decode("utf-8", "replace")
    error = error_object(parsed)
    if error is None:
        return error_for(failure, overflow=overflow_of(parsed))
    code, kind, param = _names(error)
    if failure.status == 400 and code in AUTHENTICATION_CODES:
        failure = UpstreamFailure(failure.provider, 401, failure.headers, b"")
    overflow = _overflow(error, code, kind)
    return error_for(failure, code=code, kind=kind, param=param, overflow=overflow)


def _overflow(error: Mapping[str, Any], code: str | None, kind: str | None) -> Overflow | None:
    if {code, kind} & CONTEXT_CODES:
        return numbers_of(error)
    return overflow_of(error)


def _status_in(error: Mapping[str, Any]) -> int | None:
    """The HTTP status in an error object: a number, or its three digits."""
    for name in ("code", "status_code", "status"):
        value = error.get(name)
        if isinstance(value, str) and len(value) == 3 and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def stream_error(
    provider: str, error: Mapping[str, Any], fields: Mapping[str, Any]
) -> ProviderError:
    """The error for `data: {"error": {...}}` in a stream. A numeric code is an HTTP status
    (OpenRouter, vLLM). `fields` are the client's request fields: the error names no other."""
    code, kind, param = _names(error)
    overflow = _overflow(error, code, kind)
    status = _status_in(error)
    if overflow is not None and status in STATUSES:
        status = 400
    if status is None:
        status = STREAM_STATUSES.get(code or "") or STREAM_STATUSES.get(kind or "")
        if status is None and {code, kind} & AUTHENTICATION_CODES:
            status = 401
        if status is None and overflow is not None:
            status = 400
    result: ProviderError
    if status in (401, 403):
        result = AuthenticationFailed(
            f"{provider} refused the credentials that this server is configured with",
            provider=provider,
        )
    elif status == 504 or {code, kind} & {"timeout", "provider_timeout"}:
        result = Timeout(f"{provider} gave up waiting", provider=provider, reach=Reach.ANSWERED)
    elif status is None or status == 500:
        result = BadResponse(f"{provider} reported an error in its stream", provider=provider)
    else:
        result = error_for(
            UpstreamFailure(provider, status, {}, b""),
            code=code,
            kind=kind,
            param=param,
            overflow=overflow,
        )
        result.upstream_status = None  # the answer's own status was a success
    result.param = own_name(result.param, fields)
    return result
