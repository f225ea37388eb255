"""What a provider is, what it is given and what it may answer.

The canonical dialect inside the product is the OpenAI chat request and response
(https://platform.openai.com/docs/api-reference/chat). Bodies travel as the client's bytes together
with the parsed object, so a provider that speaks the same dialect can pass the bytes on untouched.

    ProviderError                  status  retry  meaning
    ├── InvalidRequest             400     no     the provider refused the request's content
    │   ├── ContextLengthExceeded  400     no     prompt (+ max_tokens) is longer than the window
    │   └── ContentFiltered        400     no     the provider's policy refused prompt or answer
    ├── ModelNotFound              404     no     the provider does not serve this model
    ├── AuthenticationFailed       502     no     the provider refused *our* key: the operator's problem
    ├── RateLimited                503     yes    the provider limits us; may carry retry_after
    ├── Overloaded                 503     yes    the provider says it is overloaded (529, 503)
    ├── Timeout                    504     yes    no connection, first token or next byte in time
    ├── ConnectionFailed           502     yes    refused, reset, closed before an answer, DNS, TLS
    └── BadResponse                502     yes    5xx, not JSON, wrong type, stream cut before its end

    CallCancelled                  the client has gone; nobody is left to answer. Not an error of anyone.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

Dialect = Literal["openai", "anthropic"]


class ProviderError(Exception):
    """A provider could not do what was asked. `str(error)` is safe to show: never an upstream body.

    `retry_after` is in seconds, as the provider gave it. `upstream_status` is its HTTP status, if any.
    `param` names the request field at fault, and only ever a field the client itself sent.
    """

    status: ClassVar[int] = 502
    code: ClassVar[str] = "provider_error"
    label: ClassVar[str] = "ProviderError"
    """The value of `error_type` in http_errors_total. A dashboard's, so no rename changes it."""
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        retry_after: float | None = None,
        upstream_status: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
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


class ModelNotFound(ProviderError):
    """The provider does not serve this model."""

    label = "ModelNotFound"
    status = 404
    code = "model_not_found"


class AuthenticationFailed(ProviderError):
    """The provider refused our key (401, 403). The client can do nothing about it."""

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
    """Nothing came in time: connect, first token, next byte or the whole call."""

    label = "Timeout"
    status = 504
    code = "provider_timeout"
    retryable = True


class ConnectionFailed(ProviderError):
    """No connection, or it was closed before an answer."""

    label = "ConnectionFailed"
    status = 502
    code = "provider_connection_failed"
    retryable = True


class BadResponse(ProviderError):
    """The answer was a 5xx or could not be understood, or a stream ended before its end."""

    label = "BadResponse"
    status = 502
    code = "provider_bad_response"
    retryable = True


PROVIDER_ERRORS: tuple[type[ProviderError], ...] = (
    InvalidRequest,
    ContextLengthExceeded,
    ContentFiltered,
    ModelNotFound,
    AuthenticationFailed,
    RateLimited,
    Overloaded,
    Timeout,
    ConnectionFailed,
    BadResponse,
)


class CallCancelled(Exception):
    """The client has gone while the provider was still at work; the upstream connection is closed."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a provider. `context_window` is in tokens, None when unknown."""

    id: str
    capabilities: frozenset[str] = frozenset({"chat"})  # chat, embeddings, vision, tools
    context_window: int | None = None


@dataclass(slots=True)
class Usage:
    """Tokens of one call. `prompt_tokens` includes cached ones, as in OpenAI's usage object;
    `completion_tokens` includes reasoning ones. `cache_write_1h_tokens` is the part of `cache_write_tokens` that is kept
    for an hour, which costs more; `tier` the service tier that was charged, where it is not the standard one.
    `source` says who counted. `absurd`: the provider's report held something that is no count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    source: Literal["provider", "estimated"] = "provider"
    cache_write_1h_tokens: int = 0
    tier: str = ""
    absurd: bool = field(default=False, compare=False)


def token_count(value: Any) -> int | None:
    """A count of tokens in a provider's report; None: it is none. 100.0 is 100, as a server writes
    it whose language has one type of number. A huge or negative one would spoil sums and
    budgets."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
        else None
    )


def later_usage(known: Usage | None, usage: Usage) -> Usage:
    """The usage that holds after a further report of one stream: counts are totals, and a later one
    that is smaller or makes no sense does not take back what was reported."""
    if known is None:
        return usage
    if usage.prompt_tokens < known.prompt_tokens:
        usage = replace(
            usage,
            prompt_tokens=known.prompt_tokens,
            cached_tokens=known.cached_tokens,
            cache_write_tokens=known.cache_write_tokens,
            cache_write_1h_tokens=known.cache_write_1h_tokens,
        )
    if usage.completion_tokens < known.completion_tokens:
        usage = replace(
            usage,
            completion_tokens=known.completion_tokens,
            reasoning_tokens=known.reasoning_tokens,
        )
    return usage


@dataclass(slots=True)
class Progress:
    """What a provider has reported of a stream that is still running: the last counts, if there
    were any. `final`: they came at the end of the answer, so that nothing was said after them."""

    usage: Usage | None = None
    final: bool = False


TIERS = frozenset({"flex", "priority", "fast"})
"""Service tiers with prices of their own: OpenAI's and Google's `service_tier`, Anthropic's `speed`."""


def tier_of(value: Any) -> str:
    """The tier in a request or an answer; empty: the standard one (`default`, `auto`, `standard`, or nothing)."""
    return value if isinstance(value, str) and value in TIERS else ""


@dataclass(slots=True)
class Call:
    """The circumstances of one call, the same for every attempt.

    `deadline` is on `time.monotonic()`'s clock, for all attempts together. `client_gone` answers at once and from any thread; None when the
    server cannot tell. Timeouts are in seconds. `alive` is called when a provider sends something that is no answer yet,
    such as a comment in a stream; the router sets it for each attempt.
    """

    correlation_id: str = ""
    deadline: float = field(default_factory=lambda: time.monotonic() + 300.0)
    client_gone: Callable[[], bool] | None = None
    alive: Callable[[], None] | None = None

    def remaining(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(slots=True)
class ChatRequest:
    """One chat for one target. `body` is the request parsed, in `dialect`, and is never mutated by a
    provider; `raw` is the same as bytes where the client's own bytes can be sent as they are, else None.
    `headers` are those of the client's that belong to its dialect, by lower-case name; never a
    credential. A provider whose stream reports usage before its end notes it in `progress`: it is
    billed if the stream is cut."""

    model: str  # the upstream's name for the model
    body: Mapping[str, Any]
    raw: bytes | None = None
    stream: bool = False
    dialect: Dialect = "openai"
    call: Call = field(default_factory=Call)
    headers: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)


@dataclass(slots=True)
class ChatResponse:
    """A finished answer: `body` is JSON in the request's dialect, usage None when the provider gave none."""

    body: bytes
    model: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


@dataclass(slots=True)
class Completed:
    """The last event of every stream that ended properly."""

    model: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


StreamEvent = bytes | Completed
"""Bytes are one or more whole SSE events in the request's dialect, ready to be sent (`data: {...}\\n\\n`), without
OpenAI's final `data: [DONE]`. The stream ends with exactly one Completed, or raises."""


class Provider(ABC):
    """A source of completions. Instances are shared by all threads and outlive requests."""

    name: str
    dialects: frozenset[Dialect] = frozenset({"openai"})
    max_concurrency: int | None = None

    @abstractmethod
    def models(self) -> Sequence[Model]:
        """The models known now, without I/O; may grow after `check()`."""

    def serves(self, model: str) -> bool:
        """Whether a request that names this provider explicitly may ask for `model`."""
        return any(known.id == model for known in self.models())

    @abstractmethod
    def complete(self, request: ChatRequest) -> ChatResponse:
        """Answer in one piece, or raise ProviderError or CallCancelled."""

    @abstractmethod
    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """Answer in pieces. Nothing is sent upstream before the first `next()`; closing the iterator closes the connection."""

    def embed(self, request: ChatRequest) -> ChatResponse:
        """Embeddings, in OpenAI's shape (`POST /v1/embeddings`)."""
        raise InvalidRequest(f"{self.name} does not offer embeddings", provider=self.name)

    def count_tokens(self, body: Mapping[str, Any]) -> int | None:
        """Exactly the tokens that this provider will report for a prompt, without I/O; None: it cannot tell beforehand."""
        return None

    @abstractmethod
    def check(self, timeout: float = 3.0) -> None:
        """Raise ProviderError when unusable. Must be free of charge."""

    def close(self) -> None:  # noqa: B027 -- optional hook
        """Release connections."""
