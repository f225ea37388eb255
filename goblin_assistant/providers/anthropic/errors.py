"""Anthropic's errors as ours. Pure functions.

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

Sources: https://platform.claude.com/docs/en/api/errors, `anthropic._error_classes` of the SDK,
2.12.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    InvalidRequest,
    ProviderError,
    ResourceNotFound,
)
from goblin_assistant.providers.faults import UpstreamFailure, error_for
from goblin_assistant.providers.openai.wire import error_object
from goblin_assistant.providers.openai.wire import stream_error as openais_error
from goblin_assistant.providers.overflow import Overflow, overflow_of

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


def classify(failure: UpstreamFailure) -> ProviderError:
    """The error for an unsuccessful answer: by status, `error.type` and `error.details.error_code`,
    and by the sentence that says that a prompt is too long."""
    try:
        parsed = orjson.loads(failure.body)
    except orjson.JSONDecodeError:
        parsed = failure.body.decode("utf-8", "replace")
    found = _error_in(parsed)
    # Bedrock's errors have a message and nothing around it.
    return _classify(failure, found, overflow_of(found or parsed))


def stream_error(provider: str, event: Any) -> ProviderError:
    """The error for `event: error` in a stream, or for a whole answer with status 200. Some servers
    of this dialect write OpenAI's errors there."""
    found = _error_in(event)
    status = ERROR_STATUSES.get(_names(found)[0] or "")
    if status is None:
        return openais_error(provider, error_object(event) or {}, {})
    error = _classify(UpstreamFailure(provider, status, {}, b""), found, overflow_of(found))
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


def _classify(
    failure: UpstreamFailure, found: Mapping[str, Any], overflow: Overflow | None
) -> ProviderError:
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
    error: ProviderError
    if status == 404 and code is not None:
        error = ResourceNotFound(
            f"{provider} does not have what the request names", provider=provider
        )
    else:
        error = error_for(failure, code=code, kind=kind, overflow=overflow)
    error.upstream_status = status
    if isinstance(error, InvalidRequest):  # what is left concerns the operator's account
        error.details = _details(found)
    return error
