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
    BadResponse,
    ChatRequest,
    ChatResponse,
    ConnectionFailed,
    ContextLengthExceeded,
    Model,
    ProviderError,
    StreamEvent,
    Timeout,
)
from goblin_assistant.providers.echo.provider import EchoProvider
from goblin_assistant.providers.echo.simulation import wait
from goblin_assistant.providers.errors import Reach
from goblin_assistant.providers.faults import UpstreamFailure, error_for
from goblin_assistant.providers.overflow import Overflow

SLOW_SECONDS = 3.0
RETRY_AFTER = 7.0
_EVENTS_BEFORE = 3
"""How much of a stream comes before it breaks."""


Make = Callable[[str], ProviderError]
"""Makes the error, for a provider of this name."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One fault. `error`: what is raised, None if the answer comes after all. `midway`: streams
    begin first. `seconds`: the wait before."""

    error: Make | None
    midway: bool = False
    seconds: float = 0.0


def _answer(status: int, code: str | None = None, retry_after: float | None = None) -> Make:
    """An answer with this status: the error is made as for a real provider's."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return lambda name: error_for(UpstreamFailure(name, status, headers, b""), code=code)


def _fault(kind: type[ProviderError], message: str, reach: Reach) -> Make:
    """A fault of the transport. `reach` decides whether the call is repeated, as for a real one."""

    def make(name: str) -> ProviderError:
        error = kind(message.format(name), provider=name)
        error.reach = reach
        return error

    return make


def _too_long(name: str) -> ProviderError:
    return ContextLengthExceeded(
        Overflow(213_462, None, 200_000).sentence, provider=name, upstream_status=400
    )


_CUT = _fault(BadResponse, "{}'s answer ended before its end", Reach.BROKEN)
_SILENT = _fault(Timeout, "{} sent nothing in time", Reach.SILENT)

REHEARSALS: dict[str, Rehearsal] = {
    "bad_request": Rehearsal(_answer(400)),
    "context_length": Rehearsal(_too_long),
    "overflow": Rehearsal(_too_long),
    "content_filter": Rehearsal(_answer(400, "content_filter")),
    "unauthorized": Rehearsal(_answer(401)),
    "model_not_found": Rehearsal(_answer(404)),
    "rate_limited": Rehearsal(_answer(429, retry_after=RETRY_AFTER)),
    "rate_limited_bare": Rehearsal(_answer(429)),
    "server_error": Rehearsal(_answer(500)),
    "overloaded": Rehearsal(_answer(529)),
    "html_error": Rehearsal(_answer(502)),
    "malformed_json": Rehearsal(_fault(BadResponse, "{} did not answer with JSON", Reach.BROKEN)),
    "wrong_type": Rehearsal(_fault(BadResponse, "{} did not answer with JSON", Reach.BROKEN)),
    "reset": Rehearsal(
        _fault(ConnectionFailed, "{} closed the connection without an answer", Reach.UNREAD)
    ),
    "refused": Rehearsal(
        _fault(ConnectionFailed, "{} cannot be reached: no connection", Reach.NOT_REACHED)
    ),
    "slow_headers": Rehearsal(_SILENT, seconds=SLOW_SECONDS),
    "slow_first_token": Rehearsal(None, seconds=SLOW_SECONDS),
    "stream_server_error": Rehearsal(_answer(500)),
    "stream_no_first_token": Rehearsal(_SILENT, seconds=SLOW_SECONDS),
    "stream_cut": Rehearsal(_CUT, midway=True),
    "stream_truncated_line": Rehearsal(_CUT, midway=True),
    "stream_silence": Rehearsal(
        _fault(Timeout, "{} was silent for too long", Reach.SILENT),
        midway=True,
        seconds=SLOW_SECONDS,
    ),
    "stream_error_event": Rehearsal(
        _fault(BadResponse, "{} reported an error in its stream", Reach.ANSWERED), midway=True
    ),
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
