"""What an error looks like on the wire: its body in each dialect, and the seconds of Retry-After.

Pure functions. web/error_handlers.py and server/tasks.py send whole responses, streams their last
event.
"""

from __future__ import annotations

import math
from typing import Any

from goblin_assistant.errors import AppError, source_of
from goblin_assistant.providers.errors import ProviderError

# The `type` of OpenAI's errors: for people. Its SDK picks the exception class by status.
OPENAI_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}

# https://docs.anthropic.com/en/api/errors
ANTHROPIC_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def retry_after_of(error: AppError | ProviderError) -> int | None:
    """Whole seconds for Retry-After, at least 1, on 429 and 503. Else None."""
    if error.status not in (429, 503):
        return None
    return max(1, math.ceil(error.retry_after if error.retry_after is not None else 1))


def native_body(error: AppError | ProviderError, correlation_id: str) -> dict[str, Any]:
    """`{"error": code, "message", "correlation_id", "source", ...}`: the native format.

    With `retry_after` on 429 and 503, and `provider` where one failed.
    """
    body: dict[str, Any] = {
        "error": error.code,
        "message": str(error),
        "correlation_id": correlation_id,
    }
    if (seconds := retry_after_of(error)) is not None:
        body["retry_after"] = seconds
    body["source"] = source_of(error)
    if isinstance(error, ProviderError):
        body["provider"] = error.provider
    elif error.extra:
        body.update(error.extra)
    if error.param:
        body["param"] = error.param
    return body


def openai_body(error: AppError | ProviderError, correlation_id: str) -> dict[str, Any]:
    """`{"error": {"message", "type", "code", "param", ...}}`: OpenAI's format."""
    inner: dict[str, Any] = {
        "message": str(error),
        "type": OPENAI_TYPES.get(error.status, "server_error"),
        "code": error.code,
        "param": error.param,
        "source": source_of(error),
        "correlation_id": correlation_id,
    }
    if isinstance(error, ProviderError):
        inner["provider"] = error.provider
    elif error.extra:
        inner.update(error.extra)
    if (seconds := retry_after_of(error)) is not None:
        inner["retry_after"] = seconds
    return {"error": inner}


def anthropic_body(error: AppError | ProviderError, correlation_id: str) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message", ...}, "request_id"}`: Anthropic's format.

    With `details` where there are some: its SDKs branch on `details.error_code`.
    """
    inner: dict[str, Any] = {
        "type": ANTHROPIC_TYPES.get(
            error.status, "api_error" if error.status >= 500 else "invalid_request_error"
        ),
        "message": str(error),
        "code": error.code,
        "source": source_of(error),
    }
    details = error.extra.get("details") if isinstance(error, AppError) else error.details
    if details:
        inner["details"] = dict(details)
    if isinstance(error, ProviderError):
        inner["provider"] = error.provider
    return {"type": "error", "error": inner, "request_id": correlation_id}


def is_anthropics(path: str, *, versioned: bool = False) -> bool:
    """Whether errors of `path` have Anthropic's format. `versioned`: the request has the header
    anthropic-version. The list of models is in either format."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return True
    return versioned and (path == "/v1/models" or path.startswith("/v1/models/"))


def body_for(
    path: str, error: AppError | ProviderError, correlation_id: str, *, versioned: bool = False
) -> dict[str, Any]:
    """The error in the dialect of `path`, as `is_anthropics` says."""
    if is_anthropics(path, versioned=versioned):
        return anthropic_body(error, correlation_id)
    if path == "/v1" or path.startswith("/v1/"):
        return openai_body(error, correlation_id)
    return native_body(error, correlation_id)
