"""A chat's streamed answer: to the end mark, an error event, or the client's leaving.

The usage that a stream reports says what it cost: as much as would be booked if the answer ended
there. Nothing waits for the provider's end, which some servers leave out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from goblin_assistant import metrics
from goblin_assistant.calls.request import name_as_sent, translation_for
from goblin_assistant.calls.settlement import Settlement
from goblin_assistant.dialects.stream_cost import with_cost
from goblin_assistant.dialects.table import DIALECTS, StreamTranslator
from goblin_assistant.errors import AppError, label_of
from goblin_assistant.logs.json_logging import correlation_id, trace_id
from goblin_assistant.money import from_microusd
from goblin_assistant.providers.base import (
    BadResponse,
    CallCancelled,
    Completed,
    Progress,
    ProviderError,
    StreamEvent,
)
from goblin_assistant.routing.attempt import Outcome
from goblin_assistant.routing.router import Router
from goblin_assistant.threads.reaper import reaper

logger = logging.getLogger("goblin_assistant.chat")


class ChatStream:
    """A streamed answer. Iterate once, then `close()`; closing early or twice is safe.

    The first piece is there when the object is: a failure before it was raised. A later failure
    becomes an error event in the stream, and `on_incomplete` gets its label for http_errors_total.
    """

    _made = False

    def __init__(
        self,
        settlement: Settlement,
        outcome: Outcome[tuple[StreamEvent, Iterator[StreamEvent]]],
        router: Router,
        headers: dict[str, str],
    ) -> None:
        chat = settlement.chat
        self.headers = headers
        self.on_incomplete: Callable[[str], None] | None = None
        self._settlement = settlement
        self._outcome = outcome
        self._router = router
        self._correlation_id = chat.correlation_id
        self._trace_id = settlement.entry.trace_id or ""
        self._dialect = DIALECTS[chat.dialect]
        translation = translation_for(chat, outcome.target)
        self._translator: StreamTranslator | None = None
        if translation is not None:
            self._translator = translation.stream(settlement.entry.model, chat.body)
        elif self._dialect.watcher is not None:
            self._translator = self._dialect.watcher()
        self._completed = False
        self._tells_cost = self._dialect.reports_usage(chat.body)
        self._progress = settlement.charge.progress or Progress()
        reaper.start()
        assert settlement.charge.delivered is not None
        self._deliver = settlement.charge.delivered.add
        first = outcome.value[0]
        if type(first) is bytes:  # charged even if the client leaves before it reads
            self._deliver(first)
        self._pieces = self._generate()
        self._began = time.perf_counter()
        self._made = True

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _generate(self) -> Iterator[bytes]:
        event: StreamEvent | None
        event, events = self._outcome.value
        translator, deliver = self._translator, self._deliver
        progress, tells_cost = self._progress, self._tells_cost
        try:
            while type(event) is bytes:
                piece = event if translator is None else translator.feed(event)
                yield self._told(piece) if tells_cost and progress.final else piece
                event = next(events, None)
                if type(event) is bytes:
                    deliver(event)
            if last := self._complete(event):
                yield last
        except CallCancelled:
            self._abort()
        except Exception as error:
            yield self._fail(error)
        # Not in a `finally`: garbage collection may end the generator, and must not wait for a
        # lock. Whoever stops early calls close(), or __del__ has it called.
        self._settle()

    def _complete(self, completed: Completed | bytes | None) -> bytes:
        """The provider's stream has ended; return what follows its last piece."""
        if not isinstance(completed, Completed):
            raise BadResponse(
                "the provider's stream ended before its end",
                provider=self._settlement.entry.provider,
            )
        if completed.model:
            self._settlement.entry.model = completed.model
        self._completed = True
        self._outcome.ticket.success()
        self._end_provider_time()
        self._settlement.succeeded(completed.usage)
        if self._translator is None:
            return self._dialect.end_mark
        last = self._translator.finish(completed)
        cost = self._settlement.entry.cost_microusd
        if not self._tells_cost or cost is None:
            return last
        return with_cost(last, self._dialect.usage_path, from_microusd(cost))

    def _told(self, piece: bytes) -> bytes:
        """A piece with the last count in it, or after it, with the cost beside the count."""
        if b'"usage"' not in piece or (cost := self._settlement.charge.cost_so_far()) is None:
            return piece
        return with_cost(piece, self._dialect.usage_path, from_microusd(cost))

    def _fail(self, error: Exception) -> bytes:
        """The stream broke; return its error event."""
        settlement = self._settlement
        self._end_provider_time()
        if isinstance(error, ProviderError):
            error.provider = error.provider or settlement.entry.provider
            name_as_sent(error, settlement.chat)
            self._router.broke_off(error, self._outcome, settlement.trace)
        told = broken_off(error)
        settlement.failed(told)
        if self.on_incomplete is not None:
            self.on_incomplete(label_of(error))
        if self._translator is not None:
            return self._translator.fail(told, self._correlation_id)
        return self._dialect.error_event(told, self._correlation_id)

    def _abort(self) -> None:
        if self._completed:  # only the end mark was not read: the answer is whole
            return
        self._end_provider_time()
        reason = self._settlement.aborted("streaming")
        metrics.stream_incomplete_total.labels(reason).inc()

    def _end_provider_time(self) -> None:
        self._settlement.trace.provider_seconds += time.perf_counter() - self._began

    def close(self) -> None:
        """End the stream, close the provider's connection, and settle the chat."""
        if self._settlement.settled:
            return
        correlation_id.set(self._correlation_id)  # the reaper's thread has none
        trace_id.set(self._trace_id)
        try:
            self._pieces.close()  # type: ignore[attr-defined]
            if self._settlement.answered_at is None:
                self._abort()
        finally:
            self._settle()

    def __del__(self) -> None:
        # A server that loses its client may never call close(): werkzeug's sometimes does not.
        if self._made and not self._settlement.settled:
            reaper.hand_over(self.close)

    def _settle(self) -> None:
        try:
            close_events(self._outcome.value[1])
        finally:
            self._settlement.settle()


def broken_off(error: Exception) -> ProviderError | AppError:
    """What the client is told of a stream that this error ended; counts it. A fault of our own is
    logged."""
    told: ProviderError | AppError
    if isinstance(error, ProviderError | AppError):
        told = error
    else:
        logger.exception("stream_failed")
        told = AppError("the stream broke off; the correlation id leads to the cause in the log")
    reason = "timeout" if told.status == 504 else "provider"
    metrics.stream_incomplete_total.labels(reason).inc()
    return told


def close_events(events: Iterator[StreamEvent]) -> None:
    """End a provider's stream and its connection. Later calls do nothing."""
    close = getattr(events, "close", None)
    if close is not None:
        close()
