"""A chat's streamed answer, from its first piece to the end mark, the error event, or the client's leaving."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from goblin_assistant import metrics
from goblin_assistant.calls.request import Chat
from goblin_assistant.calls.settlement import Settlement
from goblin_assistant.dialects.table import DIALECTS, StreamTranslator
from goblin_assistant.errors import AppError, label_of
from goblin_assistant.logs.json_logging import correlation_id
from goblin_assistant.providers.base import (
    BadResponse,
    CallCancelled,
    Completed,
    ProviderError,
    StreamEvent,
)
from goblin_assistant.routing.attempt import Outcome
from goblin_assistant.routing.router import Router
from goblin_assistant.threads.reaper import reaper

logger = logging.getLogger("goblin_assistant.chat")


class ChatStream:
    """A streamed answer: iterate once, then `close()`; both are safe in any order and number.

    The first piece is there already when the object is: whatever fails before has raised. What fails later becomes an error event in the stream.
    `on_incomplete` is told the error's class name when the stream does not reach its end by our or the provider's fault.
    """

    _made = False

    def __init__(
        self,
        chat: Chat,
        settlement: Settlement,
        outcome: Outcome[tuple[StreamEvent, Iterator[StreamEvent]]],
        router: Router,
        translator: StreamTranslator | None,
        is_draining: Callable[[], bool],
    ) -> None:
        self.headers: dict[str, str] = {}
        self.on_incomplete: Callable[[str], None] | None = None
        self._chat = chat
        self._dialect = DIALECTS[chat.dialect]
        self._settlement = settlement
        self._outcome = outcome
        self._router = router
        self._translator = translator
        self._is_draining = is_draining
        self._completed = False
        reaper.start()
        assert settlement.delivered is not None
        self._deliver = settlement.delivered.add
        first = outcome.value[0]
        if type(first) is bytes:  # counted although the client may leave before it asks for it
            self._deliver(first)
        self._pieces = self._generate()
        self._began = time.perf_counter()
        self._made = True

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _generate(self) -> Iterator[bytes]:
        settlement = self._settlement
        event, events = self._outcome.value
        translator = self._translator
        deliver = self._deliver
        try:
            while True:
                if type(event) is bytes:
                    yield event if translator is None else translator.feed(event)
                else:
                    assert isinstance(event, Completed)
                    completed = event
                    break
                try:
                    event = next(events)
                except StopIteration:
                    raise BadResponse(
                        "the provider's stream ended before its end",
                        provider=settlement.entry.provider,
                    ) from None
                if type(event) is bytes:
                    deliver(event)
            if completed.model:
                settlement.entry.model = completed.model
            self._completed = True
            self._outcome.ticket.success()
            self._end_provider_time()
            settlement.succeeded(completed.usage)
            if translator is not None:
                yield translator.finish(completed)
            elif self._dialect.end_mark:
                yield self._dialect.end_mark
        except ProviderError as error:
            error.provider = error.provider or settlement.entry.provider
            self._end_provider_time()
            self._router.broke_off(error, self._outcome, settlement.trace)
            settlement.failed(error)
            reason = "timeout" if error.status == 504 else "provider"
            metrics.stream_incomplete_total.labels(reason).inc()
            if self.on_incomplete is not None:
                self.on_incomplete(label_of(error))
            yield self._dialect.error_event(error, self._chat.correlation_id)
        except CallCancelled:
            self._cut()
        except Exception as error:
            # A bug of ours: the status has gone out already, so the client is told inside the stream.
            logger.exception("stream_failed")
            self._end_provider_time()
            failure = AppError(
                "the stream broke off; the correlation id leads to the cause in the log"
            )
            settlement.failed(failure)
            metrics.stream_incomplete_total.labels("provider").inc()
            if self.on_incomplete is not None:
                self.on_incomplete(label_of(error))
            yield self._dialect.error_event(failure, self._chat.correlation_id)
        # Not in a `finally`: that runs when garbage collection ends the generator too, where no lock may be taken.
        # Whoever stops early calls close(), or else __del__ has it called.
        self._settle()

    def _end_provider_time(self) -> None:
        self._settlement.trace.provider_seconds += time.perf_counter() - self._began

    def _cut(self) -> None:
        if self._completed:  # only the end mark was not read: the answer is whole
            return
        self._end_provider_time()
        reason = "shutdown" if self._is_draining() else "client"
        metrics.stream_incomplete_total.labels(reason).inc()
        self._settlement.cut(reason, "streaming")

    def close(self) -> None:
        """End the stream wherever it is, close the provider's connection and settle the books."""
        if self._settlement.settled:
            return
        correlation_id.set(self._chat.correlation_id)  # the reaper's thread has none
        try:
            self._pieces.close()  # type: ignore[attr-defined]
            if self._settlement.answered_at is None:
                self._cut()
        finally:
            self._settle()

    def __del__(self) -> None:
        # A server that loses its client may never call close() (werkzeug's does not always).
        if self._made and not self._settlement.settled:
            reaper.hand_over(self.close)

    def _settle(self) -> None:
        try:
            close_events(self._outcome.value[1])
        finally:
            self._settlement.settle()


def close_events(events: Iterator[StreamEvent]) -> None:
    """End a provider's stream, with its connection. Harmless when repeated."""
    close = getattr(events, "close", None)
    if close is not None:
        close()
