"""The errors that a client may receive: their status, their code, and their body by dialect.

    AppError                       status  code
    ├── BadRequest                 400     invalid_request
    │   └── ValidationFailed       400     validation_failed     names the fields at fault
    ├── PriceUnknown               400     price_unknown         for a key with a budget
    ├── Unauthorized               401     unauthorized
    ├── BudgetExceeded             402     budget_exceeded
    ├── Forbidden                  403     forbidden
    │   └── RegistrationClosed     403     registration_closed   the operator creates accounts
    ├── NotFound                   404     not_found
    │   └── UnknownModel           404     model_not_found
    ├── MethodNotAllowed           405     method_not_allowed
    ├── Conflict                   409     conflict
    ├── PayloadTooLarge            413     payload_too_large
    ├── UnsupportedMediaType       415     unsupported_media_type
    ├── IdempotencyMismatch        422     idempotency_key_reused
    ├── RateLimitExceeded          429     rate_limit_exceeded
    ├── ClientGone                 499     client_closed_request for log, metrics and usage only
    ├── InternalError              500     internal_error
    ├── NoFreeSlot                 503     overloaded            no chat slot, or shutting down
    └── Unavailable                503     unavailable           the database does not answer
        └── CircuitOpen            503     provider_unavailable  every provider's circuit is open

The errors of providers have a tree of their own (`providers/base.py`) and the same bodies.
`source` says where an error comes from: client, limit, gateway or provider.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, ClassVar, Literal

from goblin_assistant.providers.base import ProviderError

Source = Literal["client", "limit", "gateway", "provider"]


class AuthFailure(StrEnum):
    """Why a credential was refused: the values of `reason` in auth_failures_total."""

    BAD_CREDENTIALS = "bad_credentials"
    BAD_TOKEN = "bad_token"
    EXPIRED_TOKEN = "expired_token"
    DISABLED = "disabled"
    BAD_KEY = "bad_key"
    REVOKED_KEY = "revoked_key"
    EXPIRED_KEY = "expired_key"
    REFRESH_UNKNOWN = "refresh_unknown"
    REFRESH_EXPIRED = "refresh_expired"
    REFRESH_REUSED = "refresh_reused"
    BAD_METRICS_TOKEN = "bad_metrics_token"


class AppError(Exception):
    """An error that the client receives. `message` must be safe to show. `retry_after` is in
    seconds."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    source: ClassVar[Source] = "gateway"
    label: ClassVar[str] = "AppError"
    """The value of `error_type` in http_errors_total. A dashboard's, so no rename changes it."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        param: str | None = None,
        reason: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.param = param
        self.reason = reason
        self.headers = headers or {}
        self.extra = extra or {}


class BadRequest(AppError):
    """The request is malformed."""

    label = "BadRequest"
    status, code, source = 400, "invalid_request", "client"


class ValidationFailed(BadRequest):
    """Fields are missing, of the wrong type or out of range."""

    label = "ValidationFailed"
    code = "validation_failed"


class PriceUnknown(AppError):
    """The key has a budget, and the model no known price. The operator sets it in goblin.toml."""

    label = "PriceUnknown"
    status, code, source = 400, "price_unknown", "limit"


class Unauthorized(AppError):
    """No credential, or one that is not valid. `reason` is an AuthFailure: a metric's label."""

    label = "Unauthorized"
    status, code, source = 401, "unauthorized", "client"


class BudgetExceeded(AppError):
    """The key's monthly budget does not cover this request."""

    label = "BudgetExceeded"
    status, code, source = 402, "budget_exceeded", "limit"


class Forbidden(AppError):
    """The credential is valid, but may not do this."""

    label = "Forbidden"
    status, code, source = 403, "forbidden", "client"


class RegistrationClosed(Forbidden):
    """Only the operator creates accounts."""

    label = "RegistrationClosed"
    code = "registration_closed"


class NotFound(AppError):
    """No such route or resource."""

    label = "NotFound"
    status, code, source = 404, "not_found", "client"


class UnknownModel(NotFound):
    """No configured provider serves this model."""

    label = "UnknownModel"
    code = "model_not_found"


class MethodNotAllowed(AppError):
    """The route exists, the method does not."""

    label = "MethodNotAllowed"
    status, code, source = 405, "method_not_allowed", "client"


class Conflict(AppError):
    """The request collides with the state, e.g. a taken e-mail or an Idempotency-Key in flight."""

    label = "Conflict"
    status, code, source = 409, "conflict", "client"


class PayloadTooLarge(AppError):
    """The body exceeds GOBLIN_MAX_BODY_BYTES."""

    label = "PayloadTooLarge"
    status, code, source = 413, "payload_too_large", "client"


class UnsupportedMediaType(AppError):
    """The Content-Type is not JSON."""

    label = "UnsupportedMediaType"
    status, code, source = 415, "unsupported_media_type", "client"


class IdempotencyMismatch(AppError):
    """The Idempotency-Key was used with another body."""

    label = "IdempotencyMismatch"
    status, code, source = 422, "idempotency_key_reused", "client"


class RateLimitExceeded(AppError):
    """A rate limit of this gateway."""

    label = "RateLimitExceeded"
    status, code, source = 429, "rate_limit_exceeded", "limit"


class ClientGone(AppError):
    """The client left before its answer. 499 is nginx's number for it; no client receives it."""

    label = "ClientGone"
    status, code, source = 499, "client_closed_request", "client"


class InternalError(AppError):
    """A bug of ours; the log has the stack trace under the correlation id."""

    label = "InternalError"


class NoFreeSlot(AppError):
    """No slot, thread or place is free, or the instance is shutting down."""

    label = "OverloadedHere"
    status, code = 503, "overloaded"


class Unavailable(AppError):
    """Something is unavailable that the request needs."""

    label = "Unavailable"
    status, code = 503, "unavailable"


class CircuitOpen(Unavailable):
    """The circuit breaker of every provider of the model is open."""

    label = "CircuitOpen"
    code, source = "provider_unavailable", "provider"


APP_ERRORS: tuple[type[AppError], ...] = (
    BadRequest, ValidationFailed, PriceUnknown, Unauthorized, BudgetExceeded, Forbidden,
    RegistrationClosed, NotFound, UnknownModel, MethodNotAllowed, Conflict, PayloadTooLarge,
    UnsupportedMediaType, IdempotencyMismatch, RateLimitExceeded, ClientGone, InternalError,
    NoFreeSlot, Unavailable, CircuitOpen,
)  # fmt: skip

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


def label_of(error: BaseException) -> str:
    """The value of `error_type` in http_errors_total: a constant, or the exception's class name."""
    return error.label if isinstance(error, AppError | ProviderError) else type(error).__name__


def source_of(error: AppError | ProviderError) -> Source:
    """Where the error comes from."""
    return "provider" if isinstance(error, ProviderError) else error.source


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
    """`{"type": "error", "error": {"type", "message", ...}, "request_id"}`: Anthropic's format."""
    inner: dict[str, Any] = {
        "type": ANTHROPIC_TYPES.get(
            error.status, "api_error" if error.status >= 500 else "invalid_request_error"
        ),
        "message": str(error),
        "code": error.code,
        "source": source_of(error),
    }
    if isinstance(error, ProviderError):
        inner["provider"] = error.provider
    return {"type": "error", "error": inner, "request_id": correlation_id}


def body_for(path: str, error: AppError | ProviderError, correlation_id: str) -> dict[str, Any]:
    """The error in the dialect of `path`."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return anthropic_body(error, correlation_id)
    if path == "/v1" or path.startswith("/v1/"):
        return openai_body(error, correlation_id)
    return native_body(error, correlation_id)
