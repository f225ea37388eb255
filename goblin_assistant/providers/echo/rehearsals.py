"""Each fault of docs/faults.md as a model, so that an application rehearses it with its own SDK.

They are there in development, and where `GOBLIN_FAULT_MODELS=true` or a row of kind `faults` says
so.
`fault/stream_cut` streams some words and breaks off, `fault/rate_limited` is refused, and so on,
through the whole gateway: retries, limits, usage records, log and metrics are those of a real
fault. Only the circuit breaker stays closed. It makes no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ChatRequest,
    ChatResponse,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    Model,
    ModelNotFound,
    Overloaded,
    ProviderError,
    RateLimited,
    StreamEvent,
    Timeout,
)
from goblin_assistant.providers.echo.provider import EchoProvider
from goblin_assistant.providers.echo.simulation import wait
from goblin_assistant.providers.overflow import Overflow

SLOW_SECONDS = 3.0
RETRY_AFTER = 7.0
_EVENTS_BEFORE = 3
"""How much of a stream comes before it breaks."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One fault. `error`: what is raised, None if the answer comes after all. `midway`: streams
    begin first. `seconds`: the wait before."""

    error: Callable[[str], ProviderError] | None
    midway: bool = False
    seconds: float = 0.0


def _error(kind: type[ProviderError], **more: float) -> Callable[[str], ProviderError]:
    return lambda name: kind(
        f"{name} rehearses a fault", provider=name, retry_after=more.get("after")
    )


def _too_long(name: str) -> ProviderError:
    return ContextLengthExceeded(Overflow(213_462, None, 200_000).sentence, provider=name)


REHEARSALS: dict[str, Rehearsal] = {
    "bad_request": Rehearsal(_error(InvalidRequest)),
    "context_length": Rehearsal(_too_long),
    "overflow": Rehearsal(_too_long),
    "content_filter": Rehearsal(_error(ContentFiltered)),
    "unauthorized": Rehearsal(_error(AuthenticationFailed)),
    "model_not_found": Rehearsal(_error(ModelNotFound)),
    "rate_limited": Rehearsal(_error(RateLimited, after=RETRY_AFTER)),
    "rate_limited_bare": Rehearsal(_error(RateLimited)),
    "server_error": Rehearsal(_error(BadResponse)),
    "overloaded": Rehearsal(_error(Overloaded)),
    "html_error": Rehearsal(_error(BadResponse)),
    "malformed_json": Rehearsal(_error(BadResponse)),
    "wrong_type": Rehearsal(_error(BadResponse)),
    "reset": Rehearsal(_error(ConnectionFailed)),
    "refused": Rehearsal(_error(ConnectionFailed)),
    "slow_headers": Rehearsal(_error(Timeout), seconds=SLOW_SECONDS),
    "slow_first_token": Rehearsal(None, seconds=SLOW_SECONDS),
    "stream_server_error": Rehearsal(_error(BadResponse)),
    "stream_no_first_token": Rehearsal(_error(Timeout), seconds=SLOW_SECONDS),
    "stream_cut": Rehearsal(_error(BadResponse), midway=True),
    "stream_truncated_line": Rehearsal(_error(BadResponse), midway=True),
    "stream_silence": Rehearsal(_error(Timeout), midway=True, seconds=SLOW_SECONDS),
    "stream_error_event": Rehearsal(_error(BadResponse), midway=True),
}
"""By the names of docs/faults.md. Two of its rows are the client's own doing."""


class FaultProvider(EchoProvider):
    """Answers with the fault that the model names. Shared by all threads."""

    @classmethod
    def from_row(cls, name: str, row: ProviderRow, config: Config) -> FaultProvider:
        """The provider for a row of kind faults. What goblin.toml does not name is not listed."""
        models = [Model(fault) for fault in REHEARSALS]
        provider = cls(name, models=models, max_concurrency=row.max_concurrency)
        provider.listed = name in config.file.providers
        return provider

    def models(self) -> Sequence[Model]:
        """Every fault, where they are listed."""
        return super().models() if self.listed else ()

    def serves(self, model: str) -> bool:
        """Every fault by its name."""
        return model in REHEARSALS

    def complete(self, request: ChatRequest) -> ChatResponse:
        """The fault, or a late answer."""
        rehearsal = REHEARSALS[request.model]
        wait(rehearsal.seconds, request.call, self.name)
        if rehearsal.error is not None:
            raise rehearsal.error(self.name)
        return super().complete(request)

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """The fault before the first event or after some, or a late answer."""
        rehearsal = REHEARSALS[request.model]
        if not rehearsal.midway:
            wait(rehearsal.seconds, request.call, self.name)
            if rehearsal.error is not None:
                raise rehearsal.error(self.name)
            yield from super().stream(request)
            return
        for position, event in enumerate(super().stream(request)):
            if position == _EVENTS_BEFORE or not isinstance(event, bytes):
                break
            yield event
        wait(rehearsal.seconds, request.call, self.name)
        assert rehearsal.error is not None
        raise rehearsal.error(self.name)

    def embed(self, request: ChatRequest) -> ChatResponse:
        """The same for embeddings."""
        rehearsal = REHEARSALS[request.model]
        wait(rehearsal.seconds, request.call, self.name)
        if rehearsal.error is not None:
            raise rehearsal.error(self.name)
        return super().embed(request)
