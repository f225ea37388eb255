"""What a provider is, what it is given and what it may answer. Its errors are in errors.py, and can
be imported from here too, as plug-ins do.

Inside the product every chat is an OpenAI chat request and response
(https://platform.openai.com/docs/api-reference/chat). The parsed body travels with the client's
bytes, so that a provider of the same dialect can pass the bytes on untouched.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from goblin_assistant.providers.errors import (
    PROVIDER_ERRORS,
    AuthenticationFailed,
    BadResponse,
    CallCancelled,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderError,
    RateLimited,
    Reach,
    ResourceNotFound,
    Timeout,
    broken,
    untranslatable,
)
from goblin_assistant.providers.usage import (
    TIERS,
    Progress,
    Usage,
    later_usage,
    region_of,
    tier_of,
    token_count,
)
from goblin_assistant.tracing.context import TraceContext, log_ids

__all__ = [
    "AuthenticationFailed",
    "BadResponse",
    "Call",
    "CallCancelled",
    "ChatRequest",
    "ChatResponse",
    "Completed",
    "ConnectionFailed",
    "ContentFiltered",
    "ContextLengthExceeded",
    "Dialect",
    "InvalidRequest",
    "Model",
    "ModelNotFound",
    "Overloaded",
    "PROVIDER_ERRORS",
    "Progress",
    "Provider",
    "ProviderError",
    "RateLimited",
    "Reach",
    "ResourceNotFound",
    "StreamEvent",
    "TIERS",
    "Timeout",
    "Usage",
    "broken",
    "later_usage",
    "region_of",
    "tier_of",
    "token_count",
    "untranslatable",
]

Dialect = Literal["openai", "anthropic", "responses"]


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a provider. `context_window` is in tokens, None when unknown."""

    id: str
    capabilities: frozenset[str] = frozenset({"chat"})  # chat, embeddings, vision, tools
    context_window: int | None = None


@dataclass(slots=True)
class Call:
    """The circumstances of one call, the same for every attempt.

    `deadline` is on `time.monotonic()`'s clock, for all attempts together. `client_gone` returns at
    once and can be called from any thread; None when the server cannot tell. `alive` is called when
    a provider sends something ahead of its answer, such as a comment in a stream. The router sets
    it for each attempt, and `span_id`, the attempt's span in the trace.
    """

    correlation_id: str = ""
    deadline: float = field(default_factory=lambda: time.monotonic() + 300.0)
    client_gone: Callable[[], bool] | None = None
    alive: Callable[[], None] | None = None
    trace: TraceContext | None = None
    span_id: str = ""

    def remaining(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def ids(self) -> dict[str, str]:
        """The fields of a log line that tie it to the request, from any thread."""
        return log_ids(self.correlation_id, self.trace)

    def headers(self) -> dict[str, str]:
        """What ties the provider's request to ours: `X-Correlation-ID`, `traceparent`,
        `tracestate`."""
        headers = {"X-Correlation-ID": self.correlation_id} if self.correlation_id else {}
        if self.trace is not None:
            headers |= self.trace.headers_for(self.span_id or self.trace.span_id)
        return headers


@dataclass(slots=True)
class ChatRequest:
    """One chat for one target.

    `body` is the parsed request, in `dialect`; a provider never changes it. `raw` is the same as
    the client's bytes, if they can be sent as they are. `headers` are the client's that belong to
    its dialect, by lower-case name; never a credential. A provider notes the usage that is
    reported in `progress` as it comes, so that an answer without an end can be billed.
    `held_limit`: money or tokens are held for the answer, so its limit is sent under a name that
    the server reads. A provider adds the names of what it leaves out to `ignored`; the client reads
    them in X-Goblin-Ignored.
    """

    model: str  # the upstream's name for the model
    body: Mapping[str, Any]
    raw: bytes | None = None
    stream: bool = False
    dialect: Dialect = "openai"
    call: Call = field(default_factory=Call)
    headers: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    held_limit: bool = False
    ignored: set[str] = field(default_factory=set)
    prepared: Any = None
    """What `Provider.prepare` made of the body, for `complete` and `stream`."""


@dataclass(slots=True)
class ChatResponse:
    """A finished answer. `body` is JSON in the request's dialect; `usage` is None when the provider
    gave none."""

    body: bytes
    model: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


@dataclass(slots=True)
class Completed:
    """The last event of every complete stream."""

    model: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


StreamEvent = bytes | Completed
"""Bytes are one or more whole SSE events in the request's dialect (`data: {...}\\n\\n`), without
OpenAI's final `data: [DONE]`. The stream ends with exactly one Completed, or raises."""


class Provider(ABC):
    """A source of completions. Instances are shared by all threads and live as long as the
    application."""

    name: str
    dialects: frozenset[Dialect] = frozenset({"openai"})
    max_concurrency: int | None = None
    cache_marks: bool = False
    """Whether Anthropic's cache marks are read in a request of OpenAI's dialect."""
    listed: bool = True
    """False: it answers who names it, and stands in no list of models, providers or services."""
    address: tuple[str, int] | None = None
    """Host and port of its server, if it has one."""
    counts_prompts: bool = False
    """Whether `count_prompt` asks a server that counts."""

    @abstractmethod
    def models(self) -> Sequence[Model]:
        """The models known now, without I/O. `check()` may change them."""

    def serves(self, model: str) -> bool:
        """Whether a request that names this provider explicitly may ask for `model`."""
        return any(known.id == model for known in self.models())

    def prepare(self, request: ChatRequest) -> None:  # noqa: B027 -- optional hook
        """Raise InvalidRequest for a request whose form this provider cannot take, without I/O. A
        chain passes it over then."""

    @abstractmethod
    def complete(self, request: ChatRequest) -> ChatResponse:
        """Answer in one piece. Raises ProviderError or CallCancelled."""

    @abstractmethod
    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """Answer in pieces. Raises ProviderError or CallCancelled while it is read.

        The request is sent upstream by the first `next()`. Closing the iterator closes the
        connection.
        """

    def embed(self, request: ChatRequest) -> ChatResponse:
        """Embeddings, in OpenAI's format (`POST /v1/embeddings`). Raises as `complete`."""
        raise InvalidRequest(f"{self.name} does not offer embeddings", provider=self.name)

    def count_tokens(self, body: Mapping[str, Any]) -> int | None:
        """The tokens that this provider will report for a prompt, exactly and without I/O; None if
        it cannot tell beforehand."""
        return None

    def count_prompt(self, request: ChatRequest) -> bytes:
        """Have the server count a request of Anthropic's dialect; return its answer, JSON with
        `input_tokens`. Raises as `complete`."""
        raise InvalidRequest(f"{self.name} does not count tokens", provider=self.name)

    @abstractmethod
    def check(self, timeout: float = 3.0) -> None:
        """Raise ProviderError when the provider is unusable. Must cost nothing. `timeout` is in
        seconds."""

    def close(self) -> None:  # noqa: B027 -- optional hook
        """Release connections."""
