"""What can go wrong in a call to a provider.

    ProviderError                  status  retry  meaning
    ├── InvalidRequest             400     no     the provider refused the request's content
    │   ├── ContextLengthExceeded  400     no     prompt (+ max_tokens) is longer than the window
    │   ├── ContentFiltered        400     no     the provider's policy refused prompt or answer
    │   └── ResourceNotFound       404     no     what the request names (a thread, a file) is not
    │                                             there
    ├── ModelNotFound              404     no     the provider does not serve this model
    ├── AuthenticationFailed       502     no     the provider refused *our* key; for the operator
    ├── RateLimited                503     yes    the provider limits us; may carry retry_after
    ├── Overloaded                 503     yes    the provider says it is overloaded (529, 503)
    ├── Timeout                    504     yes    no connection, first token or next byte in time
    ├── ConnectionFailed           502     yes    refused, reset, closed before an answer, DNS, TLS
    └── BadResponse                502     yes    5xx, not JSON, wrong type, incomplete stream

    CallCancelled                  the client has disconnected; no error, and nobody to answer

`status` is what our client gets. `retry`: whether another attempt can succeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar


class Reach(Enum):
    """How far a failed call got. routing/retry_rules.py says what follows from it."""

    NOT_REACHED = "not_reached"
    """The request was not sent."""
    UNREAD = "unread"
    """The connection was closed so soon that the request was hardly read."""
    ANSWERED = "answered"
    """The provider says that it failed."""
    LASTING = "lasting"
    """The provider's answer would be the same again: a redirect, a 405, no credit of ours."""
    SILENT = "silent"
    """The request was sent, and no answer came: it may be generating."""
    BROKEN = "broken"
    """An answer began and is of no use: it may have been generated, or may be."""


class ProviderError(Exception):
    """A provider could not do what was asked. `str(error)` is safe to show: it holds no text of the
    provider's.

    `retry_after` is in seconds, as the provider gave it. `upstream_status` is its HTTP status, if
    any. `param` names the request field at fault, and only a field that the client sent. `details`
    is the machine-readable part of an error in Anthropic's dialect, which its SDKs act upon.
    """

    status: ClassVar[int] = 502
    code: ClassVar[str] = "provider_error"
    label: ClassVar[str] = "ProviderError"
    """The value of `error_type` in http_errors_total. Dashboards use it: a rename keeps it."""
    retryable: ClassVar[bool] = False
    untranslatable: bool = False
    """The provider finished its answer, which is paid for, but it cannot be passed on. It is not
    asked for again here, and is no failure of the provider's health."""
    reach: Reach = Reach.ANSWERED
    answer: bytes = b""
    """What the provider answered with status 200 instead of what was asked for. Never shown."""

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        retry_after: float | None = None,
        upstream_status: int | None = None,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = details
        self.provider = provider
        self.retry_after = retry_after
        self.upstream_status = upstream_status
        self.param = param


class InvalidRequest(ProviderError):
    """The provider refused the content of the request."""

    label = "InvalidRequest"
    status = 400
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or prompt and max_tokens together, exceed the model's window."""

    label = "ContextLengthExceeded"
    code = "context_length_exceeded"


class ContentFiltered(InvalidRequest):
    """The provider's content policy refused the request."""

    label = "ContentFiltered"
    code = "content_filtered"


class ResourceNotFound(InvalidRequest):
    """The request names something of the provider's that does not exist, such as a thread."""

    label = "ResourceNotFound"
    status = 404
    code = "resource_not_found"


class ModelNotFound(ProviderError):
    """The provider does not serve this model."""

    label = "ModelNotFound"
    status = 404
    code = "model_not_found"


class AuthenticationFailed(ProviderError):
    """The provider refused our key (401, 403). Only the operator can mend it."""

    label = "AuthenticationFailed"
    status = 502
    code = "provider_authentication_failed"


class RateLimited(ProviderError):
    """The provider limits our account (429)."""

    label = "RateLimited"
    status = 503
    code = "provider_rate_limited"
    retryable = True


class Overloaded(ProviderError):
    """The provider says that it is overloaded (503, 529)."""

    label = "Overloaded"
    status = 503
    code = "provider_overloaded"
    retryable = True


class Timeout(ProviderError):
    """A limit in time has passed: connect, first token, next byte or the whole call."""

    label = "Timeout"
    status = 504
    code = "provider_timeout"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        retry_after: float | None = None,
        upstream_status: int | None = None,
        param: str | None = None,
        reach: Reach | None = None,
    ) -> None:
        super().__init__(
            message,
            provider=provider,
            retry_after=retry_after,
            upstream_status=upstream_status,
            param=param,
        )
        # A plug-in's timeout without a status: the provider was silent.
        silent = Reach.SILENT if upstream_status is None else Reach.ANSWERED
        self.reach = silent if reach is None else reach


class ConnectionFailed(ProviderError):
    """No connection, or it was closed before an answer."""

    label = "ConnectionFailed"
    status = 502
    code = "provider_connection_failed"
    retryable = True


class BadResponse(ProviderError):
    """The answer was a 5xx, could not be understood, or was incomplete."""

    label = "BadResponse"
    status = 502
    code = "provider_bad_response"
    retryable = True


def broken(message: str, provider: str = "") -> BadResponse:
    """The error for an answer that breaks off, or that is not what was asked for."""
    error = BadResponse(message, provider=provider)
    error.reach = Reach.BROKEN
    return error


def untranslatable(message: str, provider: str = "") -> BadResponse:
    """The error for a provider's answer that cannot be passed on."""
    error = BadResponse(message, provider=provider)
    error.untranslatable = True
    return error


PROVIDER_ERRORS: tuple[type[ProviderError], ...] = (
    InvalidRequest,
    ContextLengthExceeded,
    ContentFiltered,
    ResourceNotFound,
    ModelNotFound,
    AuthenticationFailed,
    RateLimited,
    Overloaded,
    Timeout,
    ConnectionFailed,
    BadResponse,
)


class CallCancelled(Exception):
    """The client disconnected during the call. The upstream connection is closed."""
