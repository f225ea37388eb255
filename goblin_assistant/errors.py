"""The errors that a client may receive: their status, code, label and source.

    AppError                       status  code
    ├── BadRequest                 400     invalid_request
    │   └── ValidationFailed       400     validation_failed     names the fields at fault
    ├── PriceUnknown               400     price_unknown         for a key with a budget
    ├── Unauthorized               401     unauthorized
    ├── BudgetExceeded             402     budget_exceeded
    ├── Forbidden                  403     forbidden
    │   └── RegistrationClosed     403     registration_closed   the operator creates accounts
    ├── NotFound                   404     not_found
    │   ├── UnknownModel           404     model_not_found
    │   └── TokenCountUnavailable  404     token_count_unavailable
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

The errors of providers have a tree of their own (`providers/errors.py`). What an error looks like
on the wire is in `dialects/error_bodies.py`.
`source` says where an error comes from: client, limit, gateway or provider.
"""

from __future__ import annotations

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


class TokenCountUnavailable(NotFound):
    """No provider of this model counts a request's tokens. The operator may allow estimates."""

    label = "TokenCountUnavailable"
    code = "token_count_unavailable"


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
    RegistrationClosed, NotFound, UnknownModel, TokenCountUnavailable, MethodNotAllowed, Conflict,
    PayloadTooLarge, UnsupportedMediaType, IdempotencyMismatch, RateLimitExceeded, ClientGone,
    InternalError, NoFreeSlot, Unavailable, CircuitOpen,
)  # fmt: skip


def label_of(error: BaseException) -> str:
    """The value of `error_type` in http_errors_total: a constant, or the exception's class name."""
    return error.label if isinstance(error, AppError | ProviderError) else type(error).__name__


def source_of(error: AppError | ProviderError) -> Source:
    """Where the error comes from."""
    return "provider" if isinstance(error, ProviderError) else error.source
