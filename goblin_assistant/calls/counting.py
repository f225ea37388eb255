"""Counts the tokens of a request's prompt. Does not use Flask.

A provider that can count is asked, with the retries, fallbacks and circuit breakers of chats. In a
chain, targets that cannot count are skipped. Other models get an estimate, if GOBLIN_COUNT_TOKENS
allows it.

A count is free: it leaves no usage record, and uses no budget, no tokens per minute and none of the
key's concurrency. It takes a chat slot, because it holds a server thread while the provider counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import orjson

from goblin_assistant.calls.access import ModelAccess
from goblin_assistant.calls.request import Chat, ChatResult, TargetRequests, apply_defaults
from goblin_assistant.calls.spans import count_spans
from goblin_assistant.calls.tables import Tables
from goblin_assistant.config import Config
from goblin_assistant.errors import ClientGone, TokenCountUnavailable
from goblin_assistant.providers.base import Call, CallCancelled, ModelNotFound
from goblin_assistant.routing.attempt import Trace
from goblin_assistant.routing.router import Router
from goblin_assistant.routing.slots import ChatSlots
from goblin_assistant.routing.targets import Target
from goblin_assistant.schemas import json_bounds
from goblin_assistant.usage.token_counts import estimate_tokens

SOURCE = "X-Goblin-Token-Source"


class TokenCounts:
    """Counts tokens for requests in Anthropic's dialect. Shared by all threads."""

    def __init__(
        self, tables: Tables, router: Router, slots: ChatSlots, access: ModelAccess, config: Config
    ) -> None:
        self._tables = tables
        self._router = router
        self._slots = slots
        self._access = access
        self._timeout = config.timeout_total
        self._estimates = config.count_tokens == "estimate"

    def count(self, chat: Chat) -> ChatResult:
        """The answer to a count, in Anthropic's shape. Raises AppError or ProviderError."""
        raw = chat.raw
        requested = apply_defaults(chat, self._access.default_model)
        resolver, _ = self._tables.current
        allowed = self._access.check(
            chat.principal,
            requested,
            resolver.resolve(requested),
            named=resolver.is_name(requested),
        )
        targets = [target for target in allowed if target.provider.counts_prompts]
        if not targets and not self._estimates:
            raise TokenCountUnavailable(
                f"no provider of model {requested!r} counts tokens. An operator may allow "
                "estimates: GOBLIN_COUNT_TOKENS=estimate",
                param="model",
            )
        try:
            self._slots.acquire(chat.client_gone)
            try:
                return self._ask(chat, targets, raw) if targets else _estimate(chat, raw)
            finally:
                self._slots.release()
        except CallCancelled:
            raise ClientGone("the client has gone") from None

    def _ask(self, chat: Chat, targets: Sequence[Target], raw: bytes) -> ChatResult:
        deadline = time.monotonic() + self._timeout
        call = Call(chat.correlation_id, deadline, chat.client_gone, trace=chat.trace)
        requests, trace = TargetRequests(chat, call), Trace(chat.started)
        if chat.spans is not None:
            chat.spans.expect_part()
        try:
            outcome = self._router.run(
                targets,
                lambda target: target.provider.count_prompt(requests.for_target(target)),
                call,
                trace,
                prepare=requests.prepare,
                of_chat=False,
            )
        except ModelNotFound:
            # Some servers with Anthropic's API do not have this route.
            if not self._estimates:
                raise
            return _estimate(chat, raw)
        finally:
            if chat.spans is not None:
                chat.spans.add_part(functools.partial(count_spans, trace), keep=False)
        outcome.release()
        headers = {
            "X-Goblin-Provider": outcome.target.provider.name,
            "X-Goblin-Attempts": str(trace.attempts),
            SOURCE: "provider",
        }
        return ChatResult(outcome.value, headers)


def _estimate(chat: Chat, raw: bytes) -> ChatResult:
    with json_bounds.turn_of(raw):  # 20 MB need seconds of CPU
        tokens = estimate_tokens(chat.body)
    return ChatResult(orjson.dumps({"input_tokens": tokens}), {SOURCE: "estimated"})
