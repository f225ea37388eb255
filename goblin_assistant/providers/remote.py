"""The base of all providers that use HTTP: the list of models, and the loop over a stream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from goblin_assistant.providers.base import (
    BadResponse,
    ChatRequest,
    Completed,
    Model,
    Provider,
    StreamEvent,
)
from goblin_assistant.providers.upstream.client import UpstreamClient
from goblin_assistant.providers.upstream.event_stream import EventStream
from goblin_assistant.providers.upstream.sse import single_events


class Observer(Protocol):
    """Reads one stream as it passes. `done`: the protocol's end marker has arrived."""

    done: bool

    def plain(self, block: bytes) -> bool:
        """Whether a block of whole events can be passed on as it is."""

    def feed(self, event: bytes) -> bytes:
        """What the client gets for an event; b"" if nothing. Raises ProviderError."""

    def completed(self) -> Completed:
        """The stream is over. Raises BadResponse if its end is missing."""


class RemoteProvider(Provider):
    """A provider on a server that lists its models and streams events. Shared by all threads."""

    def __init__(
        self,
        name: str,
        client: UpstreamClient,
        *,
        models: Sequence[Model] | None,
        fallback_models: Sequence[Model],
        max_concurrency: int | None,
    ) -> None:
        """`models` is the declared catalogue. None: `check()` learns it from the server, and
        `fallback_models` are served until then."""
        self.name = name
        self.max_concurrency = max_concurrency
        self.address = client.address
        self._client = client
        self._declared = models is not None
        self._models = tuple(models if models is not None else fallback_models)

    def models(self) -> Sequence[Model]:
        """The declared models, else those of the last check, else the fallback."""
        return self._models

    def serves(self, model: str) -> bool:
        """Any model, unless the row declares its models: servers accept unlisted names."""
        return bool(model) and (
            not self._declared or any(known.id == model for known in self._models)
        )

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """POST the chat. Events are passed on as they come, unless the observer changes them."""
        events, observer = self._open_stream(request)
        feed = observer.feed
        try:
            for block in events:
                if observer.plain(block):
                    yield block
                    continue
                for event in single_events(block):
                    if passed := feed(event):
                        yield passed
                    if observer.done:
                        break
                if observer.done:
                    events.finish()
                    break
            completed = observer.completed()
        finally:
            events.close()
        if not completed.model:
            completed.model = request.model
        yield completed

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    @abstractmethod
    def _open_stream(self, request: ChatRequest) -> tuple[EventStream, Observer]:
        """Send the request. Raises ProviderError or CallCancelled."""

    def _listed(self, rows: Any) -> list[Any]:
        """The items of a list of models. Raises BadResponse if it is none."""
        if not isinstance(rows, list):
            raise BadResponse(
                f"{self.name} did not answer with a list of models", provider=self.name
            )
        return rows

    def _learn(self, found: tuple[Model, ...]) -> None:
        # The registry caches ids by the identity of the tuple: the same models keep theirs.
        if found != self._models:
            self._models = found
