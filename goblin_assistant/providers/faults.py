"""From an upstream's HTTP status and structured error code to the ProviderError tree.

The status counts first, then `code`, `type` and `param` of a structured body. The message's text is
not read: it changes without notice, and it may quote the prompt or a key. The one exception is a
prompt that is too long (overflow.py). Our own message never holds text of an upstream's body.

    400 413 422   InvalidRequest, or ContentFiltered by code, or ContextLengthExceeded by code or
                  sentence
    500           ContextLengthExceeded likewise, else BadResponse
    401 403       AuthenticationFailed (our key)
    402           RateLimited for an hour (our account has no credit)
    404 410       ModelNotFound
    408 504       Timeout
    429           RateLimited; for an hour by code
    503 529       Overloaded
    other 4xx     InvalidRequest by type, but for 409 and 425
    other         BadResponse

Sources: https://platform.openai.com/docs/guides/error-codes,
https://docs.anthropic.com/en/api/errors, RFC 9110 section 15.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderError,
    RateLimited,
    Reach,
    Timeout,
)
from goblin_assistant.providers.overflow import STATUSES, Overflow

CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"}
)
"""Two codes of OpenAI's, and a `type` of llama.cpp's
(https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md)."""

FILTER_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "moderation_blocked",
        "ResponsibleAIPolicyViolation",
    }
)
"""OpenAI's codes, and Azure's inner code
(https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter)."""

MODEL_CODES = frozenset({"model_not_found", "unknown_model", "invalid_model", "DeploymentNotFound"})

QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}
)

PASSING = frozenset({408, 409, 425, 429, 498})
"""Statuses below 500 after which the same request may succeed, whatever their body says. 498: the
flex tier of Groq is full (https://console.groq.com/docs/flex-processing)."""

QUOTA_RETRY_AFTER = 3600.0
"""Seconds to wait when our account at a provider has no credit. It exceeds the default of
GOBLIN_RETRY_AFTER_CAP, so the same target is not tried again."""


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """An unsuccessful answer. `headers` are by lower-case name, `body` is at most its first 64
    KiB."""

    provider: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or Retry-After (seconds or an HTTP date, RFC 9110 section
    10.2.3); None when absent or invalid."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return _plausible(float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return _plausible(float(value))
        except ValueError:
            return _plausible(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()))
    except (ValueError, TypeError, OverflowError):
        return None


def _plausible(seconds: float) -> float | None:
    # float() accepts nan and inf too. No client waits for more than a day.
    return min(seconds, 86400.0) if seconds >= 0 else None


def error_for(
    failure: UpstreamFailure,
    *,
    code: str | None = None,
    kind: str | None = None,
    param: str | None = None,
    overflow: Overflow | None = None,
) -> ProviderError:
    """The error for an unsuccessful answer. `code` and `kind` are the code and type of a structured
    body; `overflow` says that the prompt is too long.

    The error's `reach` says whether the failure may pass.

    UpstreamClient removes a `param` that is no field of the request.
    """
    provider, status = failure.provider, failure.status
    names = {code, kind}
    if status in STATUSES and (names & CONTEXT_CODES or overflow is not None):
        return ContextLengthExceeded(
            (overflow or Overflow()).sentence,
            provider=provider,
            upstream_status=status,
            param=param,
        )
    retry_after = parse_retry_after(failure.headers)
    passes = status in PASSING or 500 <= status < 600
    error: type[ProviderError]
    if status == 402 or (status == 429 and names & QUOTA_CODES):
        retry_after, passes = QUOTA_RETRY_AFTER, False
        error, message = RateLimited, "says that this server's account has no credit left"
    else:
        error, message = _meaning(status, names)
    found = error(
        f"{provider} {message}",
        provider=provider,
        retry_after=retry_after,
        upstream_status=status,
        param=param,
    )
    if not passes:
        found.reach = Reach.LASTING
    return found


def _meaning(status: int, names: set[str | None]) -> tuple[type[ProviderError], str]:
    """What a status says of an account with credit, and of a prompt that is not too long."""
    if status in (400, 413, 422):
        return _refusal(status, names)
    if status in (401, 403):
        return AuthenticationFailed, "refused the credentials that this server is configured with"
    if status in (404, 410):
        return ModelNotFound, "does not serve this model"
    if status == 429:
        return RateLimited, "limits the rate of this server's requests"
    if status in (408, 504):
        return Timeout, "gave up waiting"
    if status in (503, 529):
        return Overloaded, "is overloaded"
    if 400 <= status < 500 and status not in PASSING and "invalid_request_error" in names:
        # "This error type may also be used for other 4XX status codes" (Anthropic's errors page).
        return _refusal(status, names)
    if 300 <= status < 400:
        return BadResponse, "answered with a redirect; check its base URL"
    return BadResponse, f"answered with status {status}"


def _refusal(status: int, names: set[str | None]) -> tuple[type[ProviderError], str]:
    """Why a provider refused the request itself, apart from its length."""
    if names & FILTER_CODES:
        return ContentFiltered, "refused the content by its policy"
    if names & MODEL_CODES:
        return ModelNotFound, "does not serve this model"
    if status == 413:
        return InvalidRequest, "says that the request is too large"
    return InvalidRequest, "refused the request as invalid"
