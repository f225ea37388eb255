"""Reads the OTEL_* variables, begins traces, and starts and stops the sender of spans.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from goblin_assistant.tracing.context import TraceContext, context_from
from goblin_assistant.tracing.spans import Clock, RequestSpans, Span

if TYPE_CHECKING:
    from goblin_assistant.tracing.otlp import OtlpSender

logger = logging.getLogger("goblin_assistant.tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
INSTALL = "pip install 'goblin-assistant[otel]'"


class Tracing:
    """Begins the trace of each request. Sends spans if an OTLP endpoint is set.

    `environ` holds the variables of the process and of `.env`.
    """

    def __init__(self, environ: Mapping[str, str], instance: str) -> None:
        self._environ = {name: value for name, value in environ.items() if name[:5] == "OTEL_"}
        self._instance = instance
        self._sender: OtlpSender | None = None
        self.wanted = self._is_wanted()
        sampler = self._environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").strip().lower()
        self._follows_caller = not self.wanted or sampler.startswith("parentbased")
        self.share = self._share(sampler) if self.wanted else 1.0

    def begin(
        self, parent: str | None, state: str | None
    ) -> tuple[TraceContext, RequestSpans | None]:
        """The context of a request with these headers, and the collector of its spans; None if
        spans are not sent."""
        context = context_from(parent, state, share=self.share, follow=self._follows_caller)
        if self._sender is None:
            return context, None
        return context, RequestSpans(context, self)

    def start(self) -> None:
        """Start the sender, if an endpoint is set."""
        if not self.wanted or self._sender is not None:
            return
        for name in _PROTOCOLS:
            given = self._environ.get(name, "").strip().lower()
            if given == "http/protobuf":  # the first one that is set wins
                break
            if given:
                logger.warning("traces_not_sent", extra={"reason": f"{name}: only http/protobuf"})
                return
        try:
            from goblin_assistant.tracing.otlp import OtlpSender  # 15 MB of memory
        except ImportError:
            logger.warning("traces_not_sent", extra={"reason": f"not installed: {INSTALL}"})
            return
        for name, value in self._environ.items():  # the SDK reads its settings itself
            os.environ.setdefault(name, value)
        try:
            self._sender = OtlpSender(self._instance)
        except Exception as error:
            logger.warning("traces_not_sent", extra={"reason": f"{type(error).__name__}: {error}"})

    def take(self, context: TraceContext, spans: Sequence[Span], clock: Clock) -> None:
        """Implements SpanSink."""
        sender = self._sender
        if sender is not None:
            try:
                sender.send(context, spans, clock)
            except Exception:
                logger.exception("span_failed")

    def stop(self) -> None:
        """Send the queued spans, for at most two seconds."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    def _is_wanted(self) -> bool:
        environ = self._environ
        if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
            return False
        return any(environ.get(name, "").strip() for name in ENDPOINTS)

    def _share(self, sampler: str) -> float:
        kind = sampler.removeprefix("parentbased_")
        if kind == "always_off":
            return 0.0
        if kind != "traceidratio":
            return 1.0
        try:
            share = float(self._environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
        except ValueError:
            logger.warning("sampler_arg_ignored", extra={"reason": "not a number from 0 to 1"})
            return 1.0
        return min(1.0, max(0.0, share))
