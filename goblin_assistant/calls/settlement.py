"""One chat from its admission to its record: what it holds, and how it ends.

However a chat ends (answered, failed, aborted), it is settled once: one usage record, one log line,
the metrics, and everything that it held is given back in reverse order. Settling waits until the
last byte of the answer has gone. Only the journal line is written before.

What it is charged is in charge.py.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from goblin_assistant import metrics
from goblin_assistant.calls import telemetry
from goblin_assistant.calls.charge import Charge
from goblin_assistant.calls.held import Held
from goblin_assistant.calls.request import Chat, TargetRequests
from goblin_assistant.calls.spans import chat_spans, moments, wants_keeping
from goblin_assistant.calls.telemetry import ModelMetrics
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import AppError, ClientGone, source_of
from goblin_assistant.metrics import BoundMetrics
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import (
    Call,
    CallCancelled,
    ChatResponse,
    ProviderError,
    Usage,
)
from goblin_assistant.routing.attempt import Outcome, Trace
from goblin_assistant.routing.targets import Target
from goblin_assistant.tracing.spans import RequestSpans
from goblin_assistant.usage.budgets import Reservation
from goblin_assistant.usage.checks import UsageChecks
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import UsageEntry, new_record_id
from goblin_assistant.usage.store import UsageStore

logger = logging.getLogger("goblin_assistant.chat")


@dataclass(slots=True)
class Books:
    """Where chats are settled. Shared by all threads."""

    usage: UsageStore
    registry: Registry
    checks: UsageChecks
    model_metrics: BoundMetrics[ModelMetrics]
    is_draining: Callable[[], bool]


class Settlement:
    """One chat and its books. Not shared between threads.

    Whatever is taken for the chat is put on `held` at once; `settle` gives it back.
    """

    def __init__(
        self,
        books: Books,
        prices: Prices,
        chat: Chat,
        call: Call,
        targets: list[Target],
        model: str,
    ) -> None:
        principal = chat.principal
        self.chat = chat
        self.call = call
        self.targets = targets
        self.prices = prices
        self.requests = TargetRequests(chat, call)
        self.trace = Trace(chat.started)
        self.entry = UsageEntry(
            id=new_record_id(),
            created_at=now_ms(),
            correlation_id=chat.correlation_id,
            trace_id=None if chat.trace is None else chat.trace.trace_id,
            user_id=principal.user_id,
            key_id=principal.key_id,
            operation=chat.operation,
            model_requested=model[:255],
            tags=chat.tags,
        )
        self.held = Held(chat.correlation_id)
        self.reservation: Reservation | None = None
        self.charge = Charge(chat, self.entry, books.checks, prices)
        self.answered_at: float | None = None
        self.settled = False
        self._books = books
        self._outcome: Outcome[Any] | None = None

    # -- what happens -------------------------------------------------------------------------
    def trying(self, target: Target) -> None:
        """A provider is called. From now on the chat may cost something, however it ends."""
        self.charge.trying(target)
        self.entry.provider = target.provider.name
        self.entry.model = target.model

    def answered(self, response: ChatResponse) -> None:
        """A provider has finished its answer, which is paid for, whatever becomes of it here."""
        self.charge.answered(response)

    def reached(self, outcome: Outcome[Any]) -> None:
        """A provider has answered, or begun to."""
        self.held.callback(outcome.release)
        self._outcome = outcome
        self.entry.provider = outcome.target.provider.name
        self.entry.model = outcome.target.model

    def succeeded(self, usage: Usage | None, answer: bytes = b"") -> None:
        """The answer is whole. `answer` is its body where it was not streamed.

        Writes the journal line: the record survives if the process is killed from here on.
        """
        self.charge.whole(usage, answer)
        self.answered_at = time.perf_counter()
        self._close_entry(completed=True)
        self._books.usage.journal(self.entry)

    def failed(self, error: ProviderError | AppError) -> None:
        """There is no answer, or a stream broke."""
        self.answered_at = time.perf_counter()
        entry = self.entry
        begun = entry.stream and self._outcome is not None
        entry.status_code = 200 if begun or self.chat.begun() else error.status
        entry.error_type = error.code
        entry.error_source = source_of(error)
        if isinstance(error, ProviderError) and not entry.provider:
            entry.provider = error.provider
        finished = isinstance(error, ProviderError) and error.untranslatable
        if self.charge.reported or finished or begun:
            self.charge.so_far()
        self._close_entry(completed=False)

    def aborted(self, phase: str) -> str:
        """The client has gone, or the server is stopping; return which: client or shutdown.

        `phase` is the label of client_disconnects_total.
        """
        self.answered_at = time.perf_counter()
        entry = self.entry
        if self._books.is_draining():
            reason, entry.error_type, entry.error_source = "shutdown", "shutdown", "gateway"
            self.trace.add("shutdown", phase=phase)
        else:
            reason, entry.error_type = "client", "client_closed_request"
            entry.error_source = "client"
            metrics.client_disconnects_total.labels(phase).inc()
            self.trace.add("disconnected", phase=phase)
        entry.status_code = 499
        if self.trace.attempts:
            # A provider was called: it has read the prompt, and charges for what it wrote.
            self.charge.so_far()
        self._close_entry(completed=False)
        return reason

    def ended_by(self, error: BaseException, phase: str) -> None:
        """The chat ends with `error`, without an answer. Have it settled after the response.

        Raises ClientGone for CallCancelled.
        """
        try:
            if isinstance(error, CallCancelled):
                self.aborted(phase)
                raise ClientGone("the client has gone") from None
            if isinstance(error, ProviderError) and not error.provider:
                error.provider = self.entry.provider or self.targets[-1].provider.name
            if not isinstance(error, ProviderError | AppError):
                error = AppError(type(error).__name__)
            self.failed(error)
        finally:
            self.chat.defer(self.settle)

    # -- the end ------------------------------------------------------------------------------
    def settle(self) -> None:
        """Write the record, the log line and the metrics, and give everything back.

        Later calls do nothing.
        """
        if self.settled:
            return
        self.settled = True
        entry = self.entry
        try:
            try:
                label = self._label()
            except Exception:  # the record matters more than its label
                logger.exception("label_failed", extra={"correlation_id": entry.correlation_id})
                label = metrics.OTHER_MODEL
            self._books.usage.finish(entry, self.reservation, model_label=label)
            exemplar = None
            if self.chat.spans is not None:
                self._end_spans(self.chat.spans)
                exemplar = self.chat.spans.exemplar()
            self._count(label, exemplar)
            telemetry.log(entry)
        finally:
            self.held.close()

    def _end_spans(self, spans: RequestSpans) -> None:
        entry, trace = self.entry, self.trace
        if entry.stream and trace.calls and not trace.calls[-1].error:
            trace.calls[-1].ended = self.answered_at
        spans.add_part(
            functools.partial(chat_spans, entry, trace, self.chat.body),
            events=functools.partial(moments, trace),
            keep=wants_keeping(entry, trace),
        )

    def _label(self) -> str:
        # `gpt-4o` answers as `gpt-4o-2024-08-06`, which may be in no catalogue. Then the label is
        # the name that it was called by.
        entry = self.entry
        if not entry.provider:
            return metrics.OTHER_MODEL
        label = self._books.registry.label(entry.provider, entry.model)
        target = self.charge.target
        if label == metrics.OTHER_MODEL and target is not None:
            label = self._books.registry.label(entry.provider, target.model)
        return label

    def _count(self, label: str, exemplar: dict[str, str] | None) -> None:
        entry, trace = self.entry, self.trace
        if not entry.provider:
            return
        bound = self._books.model_metrics.of(entry.provider, label)
        if self._outcome is not None:
            telemetry.count_answer(entry, bound, trace.provider_seconds, exemplar)
        if entry.completed and self.answered_at is not None:
            total = self.answered_at - trace.started
            telemetry.count_complete(entry, bound, total, trace.provider_seconds, exemplar)

    def _close_entry(self, *, completed: bool) -> None:
        entry, trace = self.entry, self.trace
        entry.completed = completed
        entry.attempts = trace.attempts
        entry.fallback = trace.fallback
        entry.duration_ms = round((time.perf_counter() - trace.started) * 1000)
        if trace.events:
            entry.timeline = orjson.dumps(trace.events).decode()
        self.charge.book()
